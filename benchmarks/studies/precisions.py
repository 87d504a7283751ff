"""What int8 earns on this CPU: the vision graph in every precision and backend, interleaved in one process.

    python -m yolor_edge.benchmarks.studies.precisions --sizes n,s --out benchmarks/results/precisions-cpu

The networks have random weights and the classes of COCO: speed does not depend on what they learnt. Every graph runs on
the same image in turn, so that whatever else the machine does hits them alike; writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch

from ...evaluation.scenes.scene_files import write_scenes
from ...export.onnx_graphs.fold import fold
from ...export.precision.calibration import CalibrationSet, calibrate
from ...export.precision.to_fp16 import convert, halve_around_int8
from ...export.precision.to_int8 import quantize
from ...export.to_onnx import export_part
from ...runtime.backends.base import Graph
from ...runtime.backends.onnxruntime_backend import open_graph
from ...runtime.bundle.bundle import INT8_DIALECTS
from ...runtime.errors import UsageError
from ...runtime.images.preprocess import PreprocessRule
from ...train.network.config import NetworkConfig, Size, check_input_size
from ...train.network.network import Network
from ...train.torch_backend import parts_of
from ..report.machine import busy_share, describe_machine, source_commit
from ..report.report_files import output_stem, write_both

SCHEMA_VERSION = 1
WARMUP = 3
CLASSES, SEMANTIC_CLASSES = 80, 133
_CALIBRATION_PICTURES = 4

Opener = Callable[[Path, int | None], Graph]


def measure(size: Size, input_size: tuple[int, int], runs: int, folder: Path) -> list[dict[str, Any]]:
    """Time one network size; a row for each precision and backend, the first of them fp32 in ONNX Runtime."""
    files = write_graphs(size, input_size, folder)
    openers: list[tuple[str, str, Opener]] = [
        ("fp32", "onnxruntime", open_graph),
        *((f"int8-{dialect}", "onnxruntime", open_graph) for dialect in INT8_DIALECTS),
    ]
    if find_spec("openvino") is not None:
        from ...runtime.backends.openvino_backend import open_graph as open_in_openvino

        openers += [("fp32", "openvino", open_in_openvino), ("int8-openvino", "openvino", open_in_openvino)]
    graphs = [opener(files[kind], 1) for kind, _, opener in openers]
    image = np.random.default_rng(0).random((1, 3, *input_size), dtype=np.float32)
    samples: list[list[float]] = [[] for _ in graphs]
    for _ in range(WARMUP + runs):
        for graph, taken in zip(graphs, samples, strict=True):
            started = time.perf_counter_ns()
            graph.run({"images": image})
            taken.append((time.perf_counter_ns() - started) / 1e6)
    base = float(np.median(samples[0][WARMUP:]))
    rows = []
    for (kind, backend, _), taken in zip(openers, samples, strict=True):
        median = float(np.median(taken[WARMUP:]))
        rows.append(
            {
                "size": size,
                "precision": kind,
                "backend": backend,
                "median_ms": round(median, 3),
                "minimum_ms": round(min(taken[WARMUP:]), 3),
                "times_as_fast_as_fp32_onnxruntime": round(base / median, 3),
                "graph_bytes": files[kind].stat().st_size,
                "samples_ms": [round(value, 3) for value in taken],
            }
        )
    for graph in graphs:
        graph.close()
    return rows


def write_graphs(size: Size, input_size: tuple[int, int], folder: Path) -> dict[str, Path]:
    """The vision graph of a random network in fp32, fp16 and both dialects of int8, by kind."""
    torch.manual_seed(0)
    config = NetworkConfig(
        size=size,
        tasks=("boxes", "masks", "semantic", "caption"),
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        category_ids=tuple(range(CLASSES)),
        semantic_names=tuple(f"stuff {i}" for i in range(SEMANTIC_CLASSES)),
        semantic_category_ids=tuple(range(SEMANTIC_CLASSES)),
        vocabulary=("<pad>", "<unk>", "<bos>", "<eos>", "word"),
        input_size=input_size,
    )
    vision = export_part("vision", parts_of(fold(Network(config).eval()))["vision"])
    scenes = write_scenes(folder / f"scenes-{size}", _CALIBRATION_PICTURES, seed=0, size=input_size)
    pictures = CalibrationSet(sorted((scenes / "train").iterdir()), PreprocessRule(input_size))
    ranges = calibrate(vision, pictures, "minmax").ranges
    models = {"fp32": vision, **{f"int8-{d}": quantize(vision, ranges, d).model for d in INT8_DIALECTS}}
    # Nothing stays in fp32 for its range: what was never trained fades out, as no trained network does.
    models["int8-s8s8"] = halve_around_int8(models["int8-s8s8"], ())
    models["fp16"] = convert(vision, ())
    files = {}
    for kind, model in models.items():
        files[kind] = folder / f"{size}.{kind}.onnx"
        onnx.save(model, files[kind])
    return files


def parse_networks(sizes: str, input_size: str) -> tuple[list[Size], tuple[int, int]]:
    """Network sizes from "n,s" and (height, width) from "640x640".

    Raises:
        ValueError: If there is no such size, or no network takes the input.
    """
    height, width = (int(side) for side in input_size.lower().split("x"))
    checked = check_input_size((height, width))
    names: list[Any] = sizes.split(",")
    if any(name not in get_args(Size) for name in names):
        raise UsageError(f"sizes are some of {', '.join(get_args(Size))}, got {sizes!r}")
    return names, checked


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    height, width = report["input_size"]
    lines = [
        f"# The vision graph at {height} x {width} by precision, one thread, CPU only",
        "",
        f"`{report['command']}`",
        "",
        f"{report['machine']['cpu']['model']}; {report['runs']} interleaved runs; {report['busy_before']} busy before.",
        "",
        "| size | precision | backend | median ms | least ms | times as fast as fp32 in ONNX Runtime | graph MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['size']} | {row['precision']} | {row['backend']} | {row['median_ms']:.1f} | {row['minimum_ms']:.1f} "
        f"| {row['times_as_fast_as_fp32_onnxruntime']:.2f} | {row['graph_bytes'] / 1e6:.1f} |"
        for row in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the vision graph in every precision on this CPU.")
    parser.add_argument("--sizes", default="n,s", help="network sizes (default: n,s)")
    parser.add_argument("--input-size", default="640x640", help="HxW (default: 640x640)")
    parser.add_argument("--runs", type=int, default=30, help="runs of each graph (default: 30)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    try:
        sizes, input_size = parse_networks(given.sizes, given.input_size)
        if given.runs < 1:
            raise UsageError(f"runs must be at least 1, got {given.runs}")
    except ValueError as error:
        parser.error(str(error))
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(
            ["python", "-m", "yolor_edge.benchmarks.studies.precisions", *(arguments or sys.argv[1:])]
        ),
        "commit": source_commit(),
        "machine": describe_machine(),
        "busy_before": busy_share(),
        "input_size": list(input_size),
        "runs": given.runs,
        "warmup": WARMUP,
        "rows": [],
    }
    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        for size in sizes:
            report["rows"] += measure(size, input_size, given.runs, Path(folder))
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
