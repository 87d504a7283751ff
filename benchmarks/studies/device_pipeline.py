"""The pipeline on a GPU beside its engine alone, and each of its stages beside the CPU's kernels, on real images.

    python -m yolor_edge.benchmarks.studies.device_pipeline BUNDLE --images DIR --precision fp16 --out report.json

Engine and pipeline take turns on one image after the other, so that clocks and heat hit them alike. A stage's time on
the GPU is that between two events around many launches of it; on the CPU it is that of `HostVision` on the very same
heads, on one thread. Both sides' answers are compared, and the report counts what differs: nothing should.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.base import Array, DeviceGraph, TensorInfo
from ...runtime.backends.registry import open_graphs
from ...runtime.bundle.bundle import Bundle
from ...runtime.cuda import open_device
from ...runtime.errors import UsageError, YolorEdgeError
from ...runtime.files import write_atomically
from ...runtime.images.image_files import read_image
from ...runtime.options import PredictOptions
from ...runtime.vision.contexts import ExecutionContext, Request
from ...runtime.vision.device_context import DeviceContext
from ...runtime.vision.device_vision import DeviceVision
from ...runtime.vision.host_vision import HostVision
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

SCHEMA_VERSION = 1
LAUNCHES = 20  # of a stage between two events
STAGES = ("letterbox", "network", "boxes", "masks", "semantic")


def measure(
    bundle: Bundle,
    pictures: Mapping[str, NDArray[np.uint8]],
    backend: str = "tensorrt",
    precision: str = "fp32",
    runs: int = 200,
    warmup: int = 20,
    score_threshold: float | None = None,
) -> dict[str, Any]:
    """Everything but the command and the machine.

    Args:
        bundle: With an engine for this GPU.
        pictures: (h, w, 3) BGR by name.
        backend: One whose graphs run on the GPU.
        precision: Of the engine.
        runs: Of the pipeline, over all images in turn.
        warmup: Runs before, which are not counted.
        score_threshold: None for the model's.

    Returns:
        "end_to_end", "engine" and "prepare" to "finish" in milliseconds, "ratio", "stages", "differences" and "memory".

    Raises:
        UsageError: If there are no images, or the backend's graphs are not on a GPU.
        BackendError: If there is no GPU, no engine, or it fails.
    """
    if not pictures:
        raise UsageError("there are no images to measure on")
    with open_device() as device:
        free_before, total = _memory(device)
        graph = open_graphs(bundle, backend, precision, parts=("vision",))["vision"]
        if not isinstance(graph, DeviceGraph):
            graph.close()
            raise UsageError(f"backend {backend!r} hands its graph's memory to nobody; choose tensorrt")
        vision = DeviceVision(bundle.spec, graph)
        try:
            context = vision.context()
            tasks = tuple(task for task in bundle.spec.tasks if task != "caption")
            request = Request.of(bundle.spec, PredictOptions(tasks, score_threshold))
            report = {
                "device": vars(device.info) | {"binding": device.binding},
                "tasks": list(tasks),
                **_pipeline(context, graph, list(pictures.values()), request, runs, warmup),
                **_stages(bundle, context, pictures, request),
            }
            free_after, _ = _memory(device)
        finally:
            vision.close()
    report["memory"] = {"total_bytes": total, "free_before_bytes": free_before, "used_bytes": free_before - free_after}
    return report


def _pipeline(
    context: DeviceContext,
    graph: DeviceGraph,
    pictures: Sequence[NDArray[np.uint8]],
    request: Request,
    runs: int,
    warmup: int,
) -> dict[str, Any]:
    """One image after the other, and the engine alone in between."""
    engine = context.stages(request)["network"]
    samples: dict[str, list[float]] = {name: [] for name in ("end_to_end", "prepare", "infer", "finish", "engine")}
    for i in range(warmup + runs):
        image = pictures[i % len(pictures)]
        moments = [time.perf_counter_ns()]
        for step in (
            lambda image=image: context.prepare(image),
            lambda: context.infer(request.tasks),
            lambda: context.finish(request, lambda stage: None),
        ):
            step()
            moments.append(time.perf_counter_ns())
        started = time.perf_counter_ns()
        engine()
        context.stream.synchronize()
        alone = time.perf_counter_ns() - started
        if i < warmup:
            continue
        spans = [moments[-1] - moments[0], *np.diff(moments).tolist(), alone]
        for name, span in zip(samples, spans, strict=True):
            samples[name].append(span / 1e6)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "median_ms": medians,
        "ratio": medians["end_to_end"] / medians["engine"],
        "samples_ms": samples,
    }


def _stages(
    bundle: Bundle, context: DeviceContext, pictures: Mapping[str, NDArray[np.uint8]], request: Request
) -> dict[str, Any]:
    """Each stage on both sides on every image, and where their answers differ."""
    recorded = _Recorded(bundle)
    host = HostVision(bundle.spec, recorded)
    twin = host.context()
    gpu: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    differences: list[str] = []
    for name, image in pictures.items():
        _answers(context, image, request)
        found = _answers(context, image, request)  # captured; what follows is launched
        recorded.heads = {head: value.astype(value.dtype) for head, value in context.heads().items()}
        for stage, put in context.stages(request).items():
            gpu.setdefault(stage, []).append(_device_ms(context, put))
        expected: dict[str, Any] = {}
        for _ in range(3):
            laps: list[tuple[str, int]] = [("", time.perf_counter_ns())]
            expected = _answers(twin, image, request, lambda stage, laps=laps: laps.append((stage, _now())))
            for (_, start), (stage, end) in itertools.pairwise(laps):
                if stage != "network":
                    cpu.setdefault(stage, []).append((end - start) / 1e6)
        differences += [f"{name}: {what}" for what in _differences(found, expected)]
    return {
        "stages": {
            stage: {
                "gpu_median_ms": statistics.median(gpu[stage]),
                "cpu_median_ms": statistics.median(cpu[stage]) if stage in cpu else None,
            }
            for stage in STAGES
            if stage in gpu
        },
        "differences": differences,
    }


class _Recorded:
    """A graph on the host that gives heads computed elsewhere."""

    def __init__(self, bundle: Bundle):
        height, width = bundle.spec.input_size
        self.inputs = {"images": TensorInfo("images", (1, 3, height, width), "float32")}
        self.outputs: dict[str, TensorInfo] = {}
        self.heads: dict[str, Array] = {}

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        return {name: self.heads[name] for name in (wanted or self.heads)}

    def close(self) -> None:
        self.heads = {}


def _answers(
    context: ExecutionContext,
    image: NDArray[np.uint8],
    request: Request,
    lap: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    context.prepare(image)
    lap("letterbox")
    context.infer(request.tasks)
    lap("network")
    return context.finish(request, lap)


def _device_ms(context: DeviceContext, put: Callable[[], object]) -> float:
    """Of one launch among many in a row."""
    device = context.stream.device
    with device.event() as start, device.event() as end:
        put()
        start.record(context.stream)
        for _ in range(LAUNCHES):
            put()
        end.record(context.stream)
        context.stream.synchronize()
        return end.elapsed_ms(start) / LAUNCHES


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What is not equal to the bit, in words."""
    told = []
    for name in ("boxes", "scores", "class_ids", "semantic_map"):
        if name not in expected:
            continue
        ours, theirs = found[name], expected[name]
        if ours.shape != theirs.shape:
            told.append(f"{name} has shape {ours.shape} on the GPU, {theirs.shape} on the CPU")
        elif not np.array_equal(ours, theirs):
            told.append(f"{name} differs in {int((ours != theirs).sum())} of {ours.size} values")
    if "masks" in expected and len(found["masks"]) != len(expected["masks"]):
        told.append(f"{len(found['masks'])} masks on the GPU, {len(expected['masks'])} on the CPU")
    elif "masks" in expected:
        pairs = list(zip(found["masks"].crops(), expected["masks"].crops(), strict=True))
        count = sum(a[:2] != b[:2] or not np.array_equal(a[2], b[2]) for a, b in pairs)
        if count:
            told.append(f"{count} of {len(pairs)} masks differ")
    return told


def _memory(device: Any) -> tuple[int, int]:
    with device.current() as driver:
        return driver.memory()


def _now() -> int:
    return time.perf_counter_ns()


def report_text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    medians = report["median_ms"]
    lines = [
        f"{report['device']['name']}, {report['backend']} {report['precision']}: "
        f"{medians['end_to_end']:.3f} ms an image, the engine alone {medians['engine']:.3f} ms, "
        f"ratio {report['ratio']:.3f}; {report['memory']['used_bytes'] / (1 << 20):.0f} MiB of GPU memory",
        "",
        "| stage | GPU, ms | CPU, one thread, ms |",
        "| --- | --- | --- |",
    ]
    for stage, times in report["stages"].items():
        on_cpu = "" if times["cpu_median_ms"] is None else f"{times['cpu_median_ms']:.3f}"
        lines.append(f"| {stage} | {times['gpu_median_ms']:.3f} | {on_cpu} |")
    lines += ["", *(report["differences"] or ["All answers are equal to the CPU's, bit for bit."])]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report; 1 if answers differ."""
    parser = argparse.ArgumentParser(
        prog="python -m yolor_edge.benchmarks.studies.device_pipeline", description=__doc__
    )
    parser.add_argument("bundle", type=Path, help="with an engine for this GPU, see yolor-edge build")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--backend", default="tensorrt", help="one whose graphs run on the GPU")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--score-threshold", type=float)
    parser.add_argument("--out", type=output_file, help="where to write the report as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.warmup < 0:
        parser.error("--runs must be at least 1, --warmup at least 0")
    try:
        pictures = {
            path.name: read_image(path)
            for path in sorted(options.images.glob("*"))
            if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        }
        before = describe_state()
        bundle = Bundle.open(options.bundle)
        measured = measure(
            bundle,
            pictures,
            options.backend,
            options.precision,
            options.runs,
            options.warmup,
            options.score_threshold,
        )
    except YolorEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = f"{parser.prog} {' '.join(arguments if arguments is not None else sys.argv[1:])}"
    report = {
        "schema": SCHEMA_VERSION,
        "command": command,
        "source": source_commit(),
        "machine": describe_machine(),
        "state_before": before,
        "state_after": describe_state(),
        "backend": options.backend,
        "precision": options.precision,
        "pictures": {name: list(image.shape) for name, image in pictures.items()},
        **measured,
    }
    if options.out is not None:
        write_atomically(options.out, json.dumps(report, indent=1) + "\n")
    print(report_text(report))
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
