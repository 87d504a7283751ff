"""What the loader of training costs: images a second and core at 640 with mosaic, memory of its processes.

    python -m yolor_edge.benchmarks.studies.training_loader DATA --out benchmarks/results/training-loader

The photographs are repeated, as links to the files under new names, until there are as many as asked for. Samples are
made in this process, one core, in rounds that take turns, and joined into batches; what counts is the processor's time,
which other work on the machine takes no part of. Memory is what four processes forked from one that has read the
annotations have of their own once each has looked at the truth of all images: as Python's objects, and packed as the
loader has them. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...evaluation.dataset.coco import CocoDataset
from ...runtime.errors import YolorEdgeError
from ...train.batches import TrainingViews, collate
from ...train.config import TrainConfig
from ...train.network_for_data import describe_network
from ...train.packed_truths import PackedTruths
from ..report.machine import busy_share, describe_machine, source_commit
from ..report.report_files import output_stem, write_both

SCHEMA_VERSION = 1
BATCH, WORKERS = 16, 4
MOSAICS = {"default": 0.75, "always": 1.0}


def repeat(data: Path, split: str, count: int, out: Path) -> None:
    """Write a data set of `count` images to the folder `out`, the files of `data` again and again."""
    (out / "annotations").mkdir(parents=True)
    ids: list[int] = []
    for kind in ("instances", "captions", "panoptic"):
        if not (data / "annotations" / f"{kind}_{split}.json").exists():
            continue
        document = json.loads((data / "annotations" / f"{kind}_{split}.json").read_bytes())
        ids = ids or [image["id"] for image in document["images"]]
        entries: dict[str, list[Any]] = {"images": [], "annotations": []}
        by_image: dict[int, list[Any]] = {}
        for entry in document["annotations"]:
            by_image.setdefault(entry["image_id"], []).append(entry)
        images = {image["id"]: image for image in document["images"]}
        for number in range(count):
            old = ids[number % len(ids)]
            name = f"{number:08d}"
            entries["images"].append(images[old] | {"id": number, "file_name": name + ".jpg"})
            for entry in by_image.get(old, ()):
                changes: dict[str, Any] = {"image_id": number}
                if kind == "panoptic":
                    changes["file_name"] = name + ".png"
                    _link(data / "annotations" / f"panoptic_{split}" / entry["file_name"], out, name + ".png", split)
                else:
                    changes["id"] = len(entries["annotations"])
                entries["annotations"].append(entry | changes)
            if kind == "instances":
                _link(data / split / images[old]["file_name"], out, name + ".jpg", split)
        path = out / "annotations" / f"{kind}_{split}.json"
        path.write_text(json.dumps(document | entries), encoding="utf-8")


def _link(source: Path, out: Path, name: str, split: str) -> None:
    folder = out / split if name.endswith(".jpg") else out / "annotations" / f"panoptic_{split}"
    folder.mkdir(exist_ok=True)
    (folder / name).symlink_to(source.resolve())


def measure_speed(data: CocoDataset, input_size: int, rounds: int, caches: Sequence[str], work: Path) -> list[Any]:
    """A row for each cache and mosaic: median processor time of a sample in a batch, and images/s from it."""
    base = TrainConfig(batch_size=BATCH)
    network = describe_network(data, "n", base, (input_size, input_size), None, "loader")
    rows: list[dict[str, Any]] = []
    views: list[TrainingViews] = []
    for cache in caches:
        started = time.perf_counter()
        made = TrainingViews(data, network, replace(base, cache=cache), work / "cache")
        took = round(time.perf_counter() - started, 1)
        for name, mosaic in MOSAICS.items():
            rows.append({"cache": cache, "mosaic": name, "images": len(data), "opening_s": took, "samples_ms": []})
            other = object.__new__(TrainingViews)
            other.__dict__ |= made.__dict__ | {"train": replace(made.train, mosaic=mosaic)}
            views.append(other)
    rng = np.random.default_rng(0)
    for turn in range(rounds + 1):
        for row, one in zip(rows, views, strict=True):
            indices = rng.integers(len(data), size=BATCH)
            started = time.process_time()
            collate([one[0, int(index)] for index in indices])
            if turn:  # The first is for warming up.
                row["samples_ms"].append(round((time.process_time() - started) / BATCH * 1e3, 2))
    for row in rows:
        row["median_ms"] = round(float(np.median(row["samples_ms"])), 2)
        row["minimum_ms"] = min(row["samples_ms"])
        row["images_per_second_and_core"] = round(1000 / row["median_ms"], 1)
    return rows


def measure_memory(data: CocoDataset) -> list[dict[str, Any]]:
    """What `WORKERS` processes have of their own after a pass over all truths, MB each."""
    packed = PackedTruths(data)
    rows = []
    for name, truths in (("not looked at", None), ("Python's objects", data), ("packed", packed)):
        rows.append({"truths": name, "own_mb": _in_forks(truths, len(data))})
    return rows


def _in_forks(truths: CocoDataset | PackedTruths | None, count: int) -> list[float]:
    """Private memory, in MB, of processes forked here that look at all truths, while all of them are there."""
    context = multiprocessing.get_context("fork")
    looked, barrier = context.SimpleQueue(), context.Barrier(WORKERS)

    def work() -> None:
        gc.freeze()
        for truth in () if truths is None else map(truths.__getitem__, range(count)):
            _ = [len(text) for text in truth.captions or ()]
            for outline in truth.segmentations or ():
                if outline is None:
                    continue
                _ = len(outline["counts"]) if isinstance(outline, dict) else [polygon.max() for polygon in outline]
        barrier.wait()
        looked.put(round(_private_bytes() / 1e6, 1))
        barrier.wait()

    processes = [context.Process(target=work) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    found = [looked.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))


def report_text(report: dict[str, Any]) -> str:
    """The rows as Markdown tables, with the command that made them."""
    size = report["input_size"]
    lines = [
        f"# The loader of training at {size} x {size}",
        "",
        f"`{report['command']}`",
        "",
        f"{report['machine']['cpu']['model']}; {report['rounds']} batches of {BATCH} each, in turn; "
        f"{report['busy_before']} busy before. Processor time, strong and weak view, all labels, joined into a batch.",
        "",
        "| cache | mosaic | images | ms an image | least | images/s and core | opening s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['cache']} | {row['mosaic']} | {row['images']} | {row['median_ms']} | {row['minimum_ms']} | "
        f"{row['images_per_second_and_core']} | {row['opening_s']} |"
        for row in report["speed"]
    ]
    lines += ["", f"| truths of {report['images']} images | own memory of {WORKERS} processes, MB |", "| --- | --- |"]
    lines += [f"| {row['truths']} | {', '.join(map(str, row['own_mb']))} |" for row in report["memory"]]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Time the loader of training, and weigh its processes.")
    parser.add_argument("data", type=Path, help="folder of a data set in COCO's layout with all kinds of truth")
    parser.add_argument("--split", default="train2017", help="default: train2017")
    parser.add_argument("--images", type=int, default=10_000, help="repeated to so many (default: 10000)")
    parser.add_argument("--input-size", type=int, default=640, help="default: 640")
    parser.add_argument("--rounds", type=int, default=12, help="batches of each row (default: 12)")
    parser.add_argument("--caches", default="off,ram,disk", help="which to measure (default: off,ram,disk)")
    parser.add_argument("--work", type=Path, help="folder for links and cache (default: a temporary one)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    busy = busy_share()
    cv2.setNumThreads(0)
    try:
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            work = Path(folder)
            CocoDataset.open(given.data, given.split)  # which says what is wrong with it
            repeat(given.data, given.split, given.images, work / "data")
            data = CocoDataset.open(work / "data", given.split)
            memory = measure_memory(data)
            speed = measure_speed(data, given.input_size, given.rounds, given.caches.split(","), work)
    except YolorEdgeError as error:
        print(f"training_loader: {error}", file=sys.stderr)
        return error.exit_code
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(
            ["python", "-m", "yolor_edge.benchmarks.studies.training_loader", *(arguments or sys.argv[1:])]
        ),
        "commit": source_commit(),
        "machine": describe_machine(),
        "busy_before": busy,
        "images": given.images,
        "input_size": given.input_size,
        "rounds": given.rounds,
        "speed": speed,
        "memory": memory,
    }
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
