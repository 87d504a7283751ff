"""What a stream gains over one image after the other, and what it costs an image in latency.

    python -m yolor_edge.benchmarks.studies.streams bundles/demo SOURCE --out benchmarks/results/streams.json

`predict` in a loop, and streams with 1, 2 and more images in flight, take the same source in turns, in one process
with one model; what counts is the ratio within a round, of which the median is reported with the smallest and largest.
Latency is from the start of work on an image to its answer ("total"), and from the image read to its answer taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...runtime.captions.captioning import CaptionOptions
from ...runtime.files import write_atomically
from ...runtime.model import Model, load
from ...runtime.sources.sources import open_source
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file


def one_by_one(model: Model, source: Path, caption: CaptionOptions) -> dict[str, float]:
    """`predict` for every image of the source."""
    latencies, totals = [], []
    started = time.perf_counter()
    for frame in open_source(source):
        if frame.image is not None:
            read = time.perf_counter()
            totals.append(model.predict(frame.image, caption=caption).timings_ms["total"])
            latencies.append((time.perf_counter() - read) * 1e3)
    seconds = time.perf_counter() - started
    return {
        "frames_per_second": len(totals) / seconds,
        "total_ms": statistics.median(totals),
        "latency_ms": statistics.median(latencies),
    }


def streamed(model: Model, source: Path, caption: CaptionOptions, in_flight: int, every: int) -> dict[str, float]:
    """A stream over the source."""
    started = time.perf_counter()
    with model.stream(source, in_flight=in_flight, caption_every=every, caption=caption) as stream:
        frames = sum(answer.result is not None for answer in stream)
    seconds = time.perf_counter() - started
    stages = stream.statistics.stages_ms
    return {
        "frames_per_second": frames / seconds,
        "total_ms": stages["total"],
        "latency_ms": stages["latency"],
    }


def compare(
    model: Model, source: Path, in_flights: Sequence[int], rounds: int, beam_size: int, every: int
) -> list[dict[str, Any]]:
    """One row for `predict`, and one for a stream of each number in flight."""
    caption = CaptionOptions(beam_size=beam_size)
    ways = {
        "predict": lambda: one_by_one(model, source, caption),
        **{f"stream, {n} in flight": lambda n=n: streamed(model, source, caption, n, 1) for n in in_flights},
        f"stream, {in_flights[-1]} in flight, a caption every {every}": lambda: streamed(
            model, source, caption, in_flights[-1], every
        ),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    rows = []
    for name, runs in found.items():
        gains = [
            run["frames_per_second"] / base["frames_per_second"]
            for run, base in zip(runs, found["predict"], strict=True)
        ]
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        spread = [round(min(gains), 3), round(max(gains), 3)]
        rows.append({"way": name, **medians, "gain": round(statistics.median(gains), 3), "gain_spread": spread})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="streams", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", type=Path, help="a folder of images or a video")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="of the network, for each image in flight")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--caption-every", type=int, default=5)
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    before = describe_state()
    with load(chosen.bundle, chosen.backend, chosen.precision, chosen.threads) as model:
        rows = compare(model, chosen.source, chosen.in_flight, chosen.rounds, chosen.beam_size, chosen.caption_every)
    for row in rows:
        print(
            f"{row['way']:45} {row['frames_per_second']:8.1f} frames/s, {row['gain']:.2f} of predict "
            f"({row['gain_spread'][0]:.2f} to {row['gain_spread'][1]:.2f}); an image {row['total_ms']:.2f} ms, "
            f"read to answer {row['latency_ms']:.2f} ms"
        )
    if chosen.out is not None:
        report = {
            "command": " ".join(["python -m yolor_edge.benchmarks.studies.streams", *(arguments or sys.argv[1:])]),
            "commit": source_commit(),
            "rows": rows,
            "state": {"before": before, "after": describe_state()},
            "machine": describe_machine(),
        }
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
