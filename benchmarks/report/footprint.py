"""What importing the runtime costs over Python and numpy, and what the installed package weighs.

    python -m yolor_edge.benchmarks.report.footprint --out benchmarks/results/footprint.json

Every import happens in an interpreter of its own. Bytecode lies ready except for `first_ms`, where all of it has to be
compiled, as at the first start after an installation without it. Memory is physical memory; `private` leaves out what
other processes share, such as the pages of libraries.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...runtime.files import write_atomically
from .machine import busy_share, describe_machine, source_commit
from .report_files import output_file

SCHEMA_VERSION = 1
ROUNDS = 15
# What is imported, after what: its cost is the difference.
CASES = (
    ("numpy", "", "numpy"),
    ("runtime", "numpy", "yolor_edge.runtime.model"),  # what `from yolor_edge.runtime import load` imports
    ("opencv", "numpy, yolor_edge.runtime.model", "cv2"),
)
PACKAGE = Path(__file__).resolve().parents[2]
_PROBE = """
import sys, time
for name in sys.argv[1].split(", "):
    if name:
        __import__(name)
def memory():
    with open("/proc/self/smaps_rollup") as file:
        sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in file if line.endswith("kB\\n")}
    return sizes["Rss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"]
before, modules = memory(), len(sys.modules)
started = time.perf_counter_ns()
__import__(sys.argv[2])
elapsed = time.perf_counter_ns() - started
after = memory()
print(elapsed, after[0] - before[0], after[1] - before[1], len(sys.modules) - modules)
"""


def import_cost(before: str, name: str, rounds: int = ROUNDS) -> dict[str, Any]:
    """What one import costs in fresh interpreters that have imported `before`.

    Returns:
        `ms`, every round's time; `first_ms`, the time without bytecode; medians of `memory_bytes`, `private_bytes`
        and `modules`.
    """
    samples = [_probe(before, name) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as empty:
        first = _probe(before, name, PYTHONPYCACHEPREFIX=empty)
    return {
        "ms": [round(ns / 1e6, 2) for ns, *_ in samples],
        "median_ms": round(statistics.median(ns for ns, *_ in samples) / 1e6, 2),
        "first_ms": round(first[0] / 1e6, 2),
        "memory_bytes": int(statistics.median(sample[1] for sample in samples)),
        "private_bytes": int(statistics.median(sample[2] for sample in samples)),
        "modules": int(statistics.median(sample[3] for sample in samples)),
    }


def _probe(before: str, name: str, **environment: str) -> tuple[int, int, int, int]:
    """Nanoseconds, bytes, private bytes and modules of one import."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, before, name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    elapsed, memory, private, modules = map(int, done.stdout.split())
    return elapsed, memory, private, modules


def package_files() -> list[Path]:
    """The files of the package that a wheel holds: Python, types, and the extension of this Python."""
    folders = {PACKAGE} | {PACKAGE / stage for stage in ("train", "evaluation", "export", "runtime", "benchmarks")}
    if (PACKAGE / "pyproject.toml").is_file():  # the source tree, whose stages lie beside the package's face
        folders = {PACKAGE / "cli"} | {folder for folder in folders if folder != PACKAGE}
    found: Iterable[Path] = (path for folder in folders for path in folder.rglob("*"))
    wanted = [path for path in found if path.suffix in (".py", ".pyi", ".typed", ".so") and path.is_file()]
    own = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
    return sorted(path for path in wanted if path.suffix != ".so" or own in path.name)


def packed_bytes(files: Iterable[Path]) -> int:
    """The size of an archive of `files`, compressed as wheels are."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            packed.write(path)
    return archive.getbuffer().nbytes


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Costs of all imports, and sizes of the package."""
    files = package_files()
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source_commit": source_commit(),
        "machine": describe_machine(),
        "busy_share": busy_share(),
        "imports": {
            label: {"after": before or "Python alone", **import_cost(before, name, rounds)}
            for label, before, name in CASES
        },
        "package": {
            "files": len(files),
            "installed_bytes": sum(path.stat().st_size for path in files),
            "extension_bytes": sum(path.stat().st_size for path in files if path.suffix == ".so"),
            "packed_bytes": packed_bytes(files),
        },
    }
    return report


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["| import | median | first, without bytecode | memory | of it private | modules |", "| --- " * 6 + "|"]
    for label, cost in report["imports"].items():
        memory, private = (f"{cost[key] / 1e6:.1f} MB" for key in ("memory_bytes", "private_bytes"))
        times = f"{cost['median_ms']:.0f} ms | {cost['first_ms']:.0f} ms"
        lines.append(f"| {label}, after {cost['after']} | {times} | {memory} | {private} | {cost['modules']} |")
    package = report["package"]
    sizes = ", ".join(f"{package[key] / 1e6:.2f} MB {key.partition('_')[0]}" for key in package if key != "files")
    return "\n".join([*lines, f"package: {package['files']} files, {sizes}"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interpreters an import")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    report = measure(chosen.rounds)
    given = sys.argv[1:] if arguments is None else arguments
    report["command"] = " ".join(["python -m yolor_edge.benchmarks.report.footprint", *given])
    print(table(report))
    if chosen.out is not None:
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
