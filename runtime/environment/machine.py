"""What machine this is, read from its files: processor, memory, limits, board; what cannot be read is "unknown"."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .cores import usable_cores

UNKNOWN = "unknown"
ROOT = Path("/")
WITHOUT_VNNI = "without VNNI"

_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "sve"),
)
_CONTAINER_WORDS = ("docker", "containerd", "kubepods", "podman", "libpod", "lxc")
# A limit that version 1 of control groups writes where there is none: the largest multiple of a page.
_NO_LIMIT = 1 << 60


def describe_hardware(root: Path = ROOT) -> dict[str, Any]:
    """Board, processor, memory and system; only text, numbers, lists and dicts of them.

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
        "is_virtual_machine": info["is_virtual_machine"],
        "container": _container(root),
        "os": _os_name(),
        "kernel": platform.release() or UNKNOWN,
        "l4t": _l4t(root),
        "jetpack": _jetpack(root),
        "nvpmodel": _nvpmodel(root),
    }


def cpu_kind(root: Path = ROOT) -> str:
    """What decides how int8 is computed here: "AVX-512 with VNNI", "AVX2 without VNNI", or another architecture's name.

    Without VNNI, products of unsigned and signed bytes are added in 16 bits, which may saturate.
    """
    features = _cpu_info(root)["features"]
    if platform.machine() not in ("x86_64", "AMD64") or features == UNKNOWN:
        return platform.machine() or UNKNOWN
    widest = "AVX-512" if "avx512f" in features else "AVX2" if "avx2" in features else "SSE"
    has_vnni = {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(features)
    return f"{widest} {'with VNNI' if has_vnni else WITHOUT_VNNI}"


def governors(root: Path = ROOT) -> str:
    """How the processor's clocks are governed, such as "schedutil"; of several, all with commas between."""
    policies = (root / "sys/devices/system/cpu/cpufreq").glob("policy*")
    found = sorted({text for policy in policies if (text := text_of(policy / "scaling_governor"))})
    return ", ".join(found) or UNKNOWN


def memory_limit(root: Path = ROOT) -> int | str:
    """Bytes that the control group grants; "none" where it sets no limit."""
    groups = root / "sys/fs/cgroup"
    limit = text_of(groups / "memory.max") or text_of(groups / "memory/memory.limit_in_bytes")
    if limit == "max" or (limit.isdigit() and int(limit) >= _NO_LIMIT):
        return "none"
    return int(limit) if limit.isdigit() else UNKNOWN


def is_jetson(root: Path = ROOT) -> bool:
    """Whether this is one of NVIDIA's Jetson boards."""
    return (root / "etc/nv_tegra_release").exists() or "nvidia" in text_of(root / "proc/device-tree/compatible")


def text_of(path: Path) -> str:
    """The file's text without the last line end; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""


def output_of(command: list[str]) -> str:
    """What a command prints, stripped; empty where it is not there, fails or takes more than ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_info(root: Path) -> dict[str, Any]:
    text = text_of(root / "proc/cpuinfo")
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
    limit = text_of(root / "sys/fs/cgroup/cpu.max").split()
    if len(limit) == 2:
        return "none" if limit[0] == "max" else round(int(limit[0]) / int(limit[1]), 2)
    quota = text_of(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = text_of(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if re.fullmatch(r"-?\d+", quota) and period.isdigit() and int(period):
        return "none" if int(quota) < 0 else round(int(quota) / int(period), 2)
    return UNKNOWN


def _memory_bytes(root: Path) -> int | str:
    total = re.search(r"^MemTotal:\s*(\d+) kB$", text_of(root / "proc/meminfo"), re.MULTILINE)
    return int(total[1]) * 1024 if total else UNKNOWN


def _container(root: Path) -> str:
    """Either "yes" with its kind, or "no sign of one"."""
    if (root / ".dockerenv").exists():
        return "yes (docker)"
    if (root / "run/.containerenv").exists():
        return "yes (podman)"
    groups = text_of(root / "proc/1/cgroup")
    for word in _CONTAINER_WORDS:
        if word in groups:
            return f"yes ({word})"
    return "no sign of one" if groups else UNKNOWN


def _board(root: Path) -> str:
    model = text_of(root / "proc/device-tree/model").rstrip("\0").strip()
    if model:
        return model
    vendor, product = (text_of(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return f"{vendor} {product}".strip() or UNKNOWN


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME") or platform.system() or UNKNOWN
    except OSError:
        return platform.platform() or UNKNOWN


def _l4t(root: Path) -> str:
    """The Jetson Linux release, such as "R36.4.3"; "none" on another board."""
    if not is_jetson(root):
        return "none"
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text_of(root / "etc/nv_tegra_release"))
    return f"R{found[1]}.{found[2]}" if found else UNKNOWN


def _jetpack(root: Path) -> str:
    """The installed JetPack, by its package; "none" on another board."""
    if not is_jetson(root):
        return "none"
    packages = text_of(root / "var/lib/dpkg/status")
    found = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)$", packages, re.MULTILINE)
    return found[1] if found else UNKNOWN


def _nvpmodel(root: Path) -> str:
    """A Jetson's power mode; "none" on another board."""
    if not is_jetson(root):
        return "none"
    if shutil.which("nvpmodel") is None:
        return UNKNOWN
    return " ".join(output_of(["nvpmodel", "-q"]).split()) or UNKNOWN
