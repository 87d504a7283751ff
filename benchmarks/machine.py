"""What machine a measurement was taken on; what cannot be read is "unknown", never left out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"

_ROOT = Path("/")
_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "sve"),
)
_CONTAINER_WORDS = ("docker", "containerd", "kubepods", "podman", "libpod", "lxc")


def describe_machine(root: Path = _ROOT) -> dict[str, Any]:
    """Hardware, system and software that a latency depends on; only text, numbers, lists and dicts of them.

    Args:
        root: Where /proc, /sys and /etc are read from; another folder only in tests.
    """
    info = _cpu_info(root)
    return {
        "board": _board(root),
        "cpu": {
            "model": info["model"],
            "architecture": platform.machine() or UNKNOWN,
            "logical_cores": os.cpu_count() or UNKNOWN,
            "physical_cores": info["physical_cores"],
            "usable_cores": usable_cores(),
            "quota": _cpu_quota(root),
            "features": info["features"],
        },
        "memory_bytes": _memory_bytes(root),
        "accelerator": "none used",
        "is_virtual_machine": info["is_virtual_machine"],
        "container": _container(root),
        "os": _os_name(),
        "kernel": platform.release() or UNKNOWN,
        "l4t": _l4t(root),
        "jetpack": _jetpack(root),
        "nvpmodel": _nvpmodel(root),
        "versions": {
            "python": platform.python_version(),
            **{
                name: _version(distribution)
                for name, distribution in (
                    ("yolor-edge", "yolor-edge"),
                    ("numpy", "numpy"),
                    ("opencv", "opencv-python-headless"),
                    ("onnxruntime", "onnxruntime"),
                )
            },
        },
    }


def describe_state(root: Path = _ROOT) -> dict[str, Any]:
    """What changes while a measurement runs: clocks, governor, temperature, load."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    governors = sorted({text for p in policies if (text := _text(p / "scaling_governor"))})
    clocks = [round(int(khz) / 1000) for p in policies if (khz := _text(p / "scaling_cur_freq")).isdigit()]
    if not clocks:
        found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo"), re.MULTILINE)
        clocks = [round(float(mhz)) for mhz in found]
    temperatures: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _text(zone / "temp")
        if re.fullmatch(r"-?\d+", value):
            temperatures[f"{zone.name} {_text(zone / 'type')}".strip()] = int(value) / 1000
    load: Any = UNKNOWN
    with contextlib.suppress(OSError):
        load = round(os.getloadavg()[0], 2)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "governor": ", ".join(governors) or UNKNOWN,
        "cpu_mhz": clocks or UNKNOWN,
        "temperature_celsius": temperatures or UNKNOWN,
        "load_average_1min": load,
    }


def busy_share(seconds: float = 0.25, root: Path = _ROOT) -> float | str:
    """Share of all cores' time that others use, 0..1, looked at for `seconds` while this process sleeps."""
    before = _cpu_times(root)
    time.sleep(seconds)
    after = _cpu_times(root)
    if before is None or after is None or after[1] <= before[1]:
        return UNKNOWN
    return round((after[0] - before[0]) / (after[1] - before[1]), 2)


def usable_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int | str:
    """Most physical memory this process has held so far."""
    try:
        import resource
    except ImportError:  # not on this system
        return UNKNOWN
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def source_commit() -> str:
    """The git commit of the source, "-dirty" if it was changed; "unknown" for an installed package."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return UNKNOWN
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return UNKNOWN
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit + ("-dirty" if changed else "")


def _cpu_times(root: Path) -> tuple[int, int] | None:
    """Ticks of all cores since the start: those that were used, and all."""
    found = re.match(r"cpu +((?:\d+ ?){8,})", _text(root / "proc/stat"))
    if found is None:
        return None
    user, nice, system, idle, waiting, interrupts, soft, stolen = (int(x) for x in found[1].split()[:8])
    used = user + nice + system + interrupts + soft + stolen
    return used, used + idle + waiting


def _cpu_info(root: Path) -> dict[str, Any]:
    text = _text(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Hardware|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor()
    if not name and (part := re.search(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)):
        maker = re.search(r"^CPU implementer\s*:\s*(\S+)$", text, re.MULTILINE)
        name = f"ARM implementer {maker[1] if maker else UNKNOWN}, part {part[1]}"
    pair = r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$"
    cores = set(re.findall(pair, text, re.MULTILINE | re.DOTALL))
    flags_line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(flags_line[1].split()) if flags_line else set()
    return {
        "model": name or UNKNOWN,
        "physical_cores": len(cores) or UNKNOWN,
        "features": [flag for flag in _FEATURES if flag in flags] if flags else UNKNOWN,
        "is_virtual_machine": "hypervisor" in flags if "sse2" in flags else UNKNOWN,  # only x86 tells
    }


def _cpu_quota(root: Path) -> float | str:
    """CPUs that the control group grants; "none" where it sets no limit."""
    limit = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(limit) == 2:
        return "none" if limit[0] == "max" else round(int(limit[0]) / int(limit[1]), 2)
    quota = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if re.fullmatch(r"-?\d+", quota) and period.isdigit() and int(period):
        return "none" if int(quota) < 0 else round(int(quota) / int(period), 2)
    return UNKNOWN


def _memory_bytes(root: Path) -> int | str:
    total = re.search(r"^MemTotal:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(total[1]) * 1024 if total else UNKNOWN


def _container(root: Path) -> str:
    """Either "yes" with its kind, or "no sign of one"."""
    if (root / ".dockerenv").exists():
        return "yes (docker)"
    if (root / "run/.containerenv").exists():
        return "yes (podman)"
    groups = _text(root / "proc/1/cgroup")
    for word in _CONTAINER_WORDS:
        if word in groups:
            return f"yes ({word})"
    return "no sign of one" if groups else UNKNOWN


def _board(root: Path) -> str:
    model = _text(root / "proc/device-tree/model").rstrip("\0").strip()
    if model:
        return model
    vendor, product = (_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return f"{vendor} {product}".strip() or UNKNOWN


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME") or platform.system() or UNKNOWN
    except OSError:
        return platform.platform() or UNKNOWN


def _is_jetson(root: Path) -> bool:
    return (root / "etc/nv_tegra_release").exists() or "nvidia" in _text(root / "proc/device-tree/compatible")


def _l4t(root: Path) -> str:
    """The Jetson Linux release, such as "R36.4.3"; "none" on another board."""
    if not _is_jetson(root):
        return "none"
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"R{found[1]}.{found[2]}" if found else UNKNOWN


def _jetpack(root: Path) -> str:
    """The installed JetPack, by its package; "none" on another board."""
    if not _is_jetson(root):
        return "none"
    packages = _text(root / "var/lib/dpkg/status")
    found = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)$", packages, re.MULTILINE)
    return found[1] if found else UNKNOWN


def _nvpmodel(root: Path) -> str:
    """A Jetson's power mode; "none" on another board."""
    if not _is_jetson(root):
        return "none"
    if shutil.which("nvpmodel") is None:
        return UNKNOWN
    return " ".join(_output(["nvpmodel", "-q"]).split()) or UNKNOWN


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _text(path: Path) -> str:
    """The file's text without the last line end; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
