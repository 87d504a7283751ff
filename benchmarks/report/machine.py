"""What machine a measurement was taken on; what cannot be read is "unknown", never left out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ...runtime.environment.machine import ROOT, UNKNOWN, describe_hardware, governors, output_of, text_of


def describe_machine(root: Path = ROOT) -> dict[str, Any]:
    """Hardware, system and software that a latency depends on; only text, numbers, lists and dicts of them.

    Args:
        root: Where /proc, /sys and /etc are read from; another folder only in tests.
    """
    return {
        **describe_hardware(root),
        "accelerator": "none used",
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


def describe_state(root: Path = ROOT) -> dict[str, Any]:
    """What changes while a measurement runs: clocks, governor, temperature, load."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    clocks = [round(int(khz) / 1000) for p in policies if (khz := text_of(p / "scaling_cur_freq")).isdigit()]
    if not clocks:
        found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text_of(root / "proc/cpuinfo"), re.MULTILINE)
        clocks = [round(float(mhz)) for mhz in found]
    temperatures: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = text_of(zone / "temp")
        if re.fullmatch(r"-?\d+", value):
            temperatures[f"{zone.name} {text_of(zone / 'type')}".strip()] = int(value) / 1000
    load: Any = UNKNOWN
    with contextlib.suppress(OSError):
        load = round(os.getloadavg()[0], 2)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "governor": governors(root),
        "cpu_mhz": clocks or UNKNOWN,
        "temperature_celsius": temperatures or UNKNOWN,
        "load_average_1min": load,
    }


def busy_share(seconds: float = 0.25, root: Path = ROOT) -> float | str:
    """Share of all cores' time that others use, 0..1, looked at for `seconds` while this process sleeps."""
    before = _cpu_times(root)
    time.sleep(seconds)
    after = _cpu_times(root)
    if before is None or after is None or after[1] <= before[1]:
        return UNKNOWN
    return round((after[0] - before[0]) / (after[1] - before[1]), 2)


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
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return UNKNOWN
    commit = output_of(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return UNKNOWN
    changed = output_of(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit + ("-dirty" if changed else "")


def _cpu_times(root: Path) -> tuple[int, int] | None:
    """Ticks of all cores since the start: those that were used, and all."""
    found = re.match(r"cpu +((?:\d+ ?){8,})", text_of(root / "proc/stat"))
    if found is None:
        return None
    user, nice, system, idle, waiting, interrupts, soft, stolen = (int(x) for x in found[1].split()[:8])
    used = user + nice + system + interrupts + soft + stolen
    return used, used + idle + waiting


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
