"""What everything around the network costs: `Model.predict` beside the bare ONNX Runtime call, in turn, in one process.

    python -m yolor_edge.benchmarks.studies.overhead BUNDLE --images demo/images --out benchmarks/results/overhead-demo

The bare call is an inference session of ONNX Runtime's own on the same vision graph, threads and input, which knows
nothing of this package. Every round takes the next image, read beforehand, and runs each row once on it. Writes
OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from ...runtime.backends.registry import graph_files
from ...runtime.bundle.bundle import Bundle
from ...runtime.errors import UsageError, YolorEdgeError
from ...runtime.images.preprocess import preprocess
from ...runtime.model import load
from ...runtime.sources.sources import open_source
from ..report.machine import busy_share, describe_machine, source_commit
from ..report.report_files import output_stem, write_both

SCHEMA_VERSION = 1
WARMUP = 5
BARE = "ONNX Runtime call alone"


def measure(bundle: Bundle, images: str, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time the bare call and `predict` for growing sets of tasks.

    Returns:
        A row for each, the bare call first: "name", "median_ms", "minimum_ms", the median of "over_the_bare_call" taken
        round by round, and "samples_ms".

    Raises:
        UsageError: If there is no image.
    """
    frames = [frame.image for frame in open_source(images) if frame.image is not None]
    if not frames:
        raise UsageError(f"{images}: holds no image that can be read")
    spec = bundle.spec
    inputs = [np.ascontiguousarray(preprocess(image, spec.preprocess)[0][np.newaxis]) for image in frames]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        os.fspath(graph_files(bundle)["vision"]), options, providers=["CPUExecutionProvider"]
    )
    with load(bundle, threads=threads) as model:
        rows: dict[str, Callable[[int], object]] = {BARE: lambda i: session.run(None, {"images": inputs[i]})}
        for tasks in _task_sets(spec.tasks):
            rows[" + ".join(tasks)] = lambda i, tasks=tasks: model.predict(frames[i], tasks)
        samples: dict[str, list[float]] = {name: [] for name in rows}
        for turn in range(WARMUP + rounds):
            # From round to round another row begins, so that none always follows the same neighbour.
            names = list(rows)[turn % len(rows) :] + list(rows)[: turn % len(rows)]
            for name in names:
                started = time.perf_counter_ns()
                rows[name](turn % len(frames))
                samples[name].append((time.perf_counter_ns() - started) / 1e6)
    bare = np.array(samples[BARE][WARMUP:])
    found = []
    for name, values in samples.items():
        taken = np.array(values[WARMUP:])
        found.append(
            {
                "name": name,
                "median_ms": round(float(np.median(taken)), 3),
                "minimum_ms": round(float(taken.min()), 3),
                "over_the_bare_call": round(float(np.median(taken / bare)), 4),
                "samples_ms": [round(value, 3) for value in taken.tolist()],
            }
        )
    return found


def _task_sets(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """The tasks of a model one by one more, in the order of the spec."""
    return [tuple(tasks[: count + 1]) for count in range(len(tasks))]


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    height, width = report["input_size"]
    lines = [
        f"# predict beside the bare ONNX Runtime call, input {height} x {width}, fp32, {report['threads']} thread(s)",
        "",
        f"`{report['command']}`",
        "",
        f"{report['machine']['cpu']['model']}; {report['rounds']} interleaved rounds; "
        f"{report['busy_before']} busy before. The ratio is the median over rounds.",
        "",
        "| what | median ms | least ms | over the bare call |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['name']} | {row['median_ms']:.2f} | {row['minimum_ms']:.2f} | {row['over_the_bare_call']:.3f} |"
        for row in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Time predict beside the bare ONNX Runtime call on this CPU.")
    parser.add_argument("bundle", help="folder of a bundle")
    parser.add_argument("--images", required=True, help="images to take in turn")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each row (default: 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the network (default: 1)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    busy = busy_share()
    try:
        bundle = Bundle.open(given.bundle)
        rows = measure(bundle, given.images, given.rounds, given.threads)
    except YolorEdgeError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return error.exit_code
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(["python", "-m", "yolor_edge.benchmarks.studies.overhead", *(arguments or sys.argv[1:])]),
        "commit": source_commit(),
        "machine": describe_machine(),
        "busy_before": busy,
        "bundle": bundle.spec.name,
        "input_size": list(bundle.spec.input_size),
        "rounds": given.rounds,
        "warmup": WARMUP,
        "threads": given.threads,
        "rows": rows,
    }
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
