"""What an engine of the vision graph costs to build and to carry, by network size and precision; nothing is run.

    python -m yolor_edge.benchmarks.studies.engines --sizes n,s,m --target sm_86 --out benchmarks/results/engines-640

The networks have random weights and the classes of COCO: an engine's size does not depend on what they learnt. Writes
OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from ...export.engines.tensorrt_flavours import FLAVOURS, BuildJob, Toolkit, load_toolkit
from ...runtime.errors import YolorEdgeError
from ...train.network.config import Size
from ..report.machine import describe_machine, source_commit
from ..report.report_files import output_stem, write_both
from .precisions import parse_networks, write_graphs

SCHEMA_VERSION = 1
KINDS = ("fp32", "fp16", "int8-s8s8")


def measure(
    size: Size, input_size: tuple[int, int], toolkit: Toolkit, targets: Sequence[str], folder: Path
) -> list[dict[str, Any]]:
    """Build one network size; a row for each of `KINDS`."""
    files = write_graphs(size, input_size, folder)
    rows = []
    for kind in KINDS:
        outputs = [value.name for value in onnx.load(files[kind], load_external_data=False).graph.output]
        job = BuildJob(
            graph=str(files[kind]),
            outputs=outputs,
            targets=targets,
            ranges=[{"images": [(1, 1, 1), None, None, None]}],
            exact_float32=kind == "fp32",
        )
        started = time.perf_counter()
        built = toolkit.build(job, lambda phase, done, total: None)
        rows.append(
            {
                "size": size,
                "precision": kind,
                "graph_bytes": files[kind].stat().st_size,
                "engine_bytes": memoryview(built.plan).nbytes,
                "seconds": round(time.perf_counter() - started, 2),
                "layers": built.layers,
            }
        )
    return rows


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    height, width = report["input_size"]
    lines = [
        f"# Engines of the vision graph at {height} x {width}, batch 1, built and not run",
        "",
        f"`{report['command']}`",
        "",
        f"{report['flavour']} {report['version']} for {', '.join(report['targets'])}, random weights.",
        "",
        "| size | precision | graph MB | engine MB | build seconds | convolutions by input type |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['size']} | {row['precision']} | {row['graph_bytes'] / 1e6:.1f} | {row['engine_bytes'] / 1e6:.1f} "
        f"| {row['seconds']:.1f} | {', '.join(f'{n} {kind}' for kind, n in sorted(row['layers'].items())) or '-'} |"
        for row in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build engines of the vision graph in every size and precision.")
    parser.add_argument("--sizes", default="n,s,m", help="network sizes (default: n,s,m)")
    parser.add_argument("--input-size", default="640x640", help="HxW (default: 640x640)")
    parser.add_argument("--flavour", default="tensorrt-rtx", choices=list(FLAVOURS), help="default: tensorrt-rtx")
    parser.add_argument("--target", default="sm_86", help="compute capabilities (default: sm_86)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    try:
        sizes, input_size = parse_networks(given.sizes, given.input_size)
        toolkit = load_toolkit(given.flavour)
        targets = toolkit.check_targets(given.target.split(","))
    except (ValueError, YolorEdgeError) as error:
        parser.error(str(error))
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(["python", "-m", "yolor_edge.benchmarks.studies.engines", *(arguments or sys.argv[1:])]),
        "commit": source_commit(),
        "machine": describe_machine(),
        "state": "built only, not run on a device",
        "flavour": toolkit.flavour,
        "version": toolkit.version,
        "targets": list(targets),
        "input_size": list(input_size),
        "rows": [],
    }
    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        for size in sizes:
            report["rows"] += measure(size, input_size, toolkit, targets, Path(folder))
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
