"""What chosen heads, sizes and graph options cost and save on this machine, interleaved in one process.

    python -m yolor_edge.benchmarks.studies.graph_options CHECKPOINT --images DIR --out report.json

Every variant's vision graph is exported as `yolor-edge export` would, without its proofs. Then the whole pipeline runs
on one image after the other, all variants in turn, so that whatever else the machine does hits them alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...export.onnx_graphs.fold import fold
from ...export.onnx_graphs.graph_options import GraphOptions, spec_with_options, vision_with_options
from ...export.to_onnx import export_part
from ...runtime.backends.base import Graph
from ...runtime.backends.onnxruntime_backend import open_graph
from ...runtime.bundle.json_files import readable_json
from ...runtime.bundle.spec import ModelSpec
from ...runtime.files import write_atomically
from ...runtime.images.image_files import read_image
from ...runtime.model import Model
from ...runtime.results import Result
from ...runtime.sources.sources import open_source
from ...train.checkpoint import Checkpoint
from ...train.network.config import Task
from ...train.network.network import Network
from ...train.torch_backend import parts_of
from ..report.machine import busy_share, describe_machine, source_commit
from ..report.report_files import output_file

SCHEMA_VERSION = 1
WARMUP = 3
_COMPARED = ("network", "total", "total_cpu", "network_per_image_of_full_batch_cpu")


@dataclass(frozen=True)
class Variant:
    """One way to export a network; None stands for what the network has."""

    name: str
    tasks: tuple[Task, ...] | None = None
    input_size: tuple[int, int] | None = None
    options: GraphOptions = field(default_factory=GraphOptions)


VARIANTS = (
    Variant("all heads, free batch"),
    Variant("--tasks boxes", ("boxes",)),
    Variant("--tasks boxes,caption", ("boxes", "caption")),
    Variant("--input-size 384x640", None, (384, 640)),
    Variant("--batch 1", options=GraphOptions(batch=1)),
    Variant("--batch 4", options=GraphOptions(batch=4)),
    Variant("--top-k 300", options=GraphOptions(top_k=300)),
    Variant("--semantic-map", options=GraphOptions(semantic_map=True)),
    Variant("--batch 1 --top-k 300 --semantic-map", options=GraphOptions(1, 300, True)),
)


def measure_variants(
    network: Network,
    pictures: Mapping[str, NDArray[np.uint8]],
    variants: Sequence[Variant] = VARIANTS,
    runs: int = 30,
    threads: int = 1,
) -> dict[str, Any]:
    """Latency, bytes and agreement of every variant; the first is what the others are compared with.

    Args:
        network: In evaluation mode.
        pictures: BGR images by name.
        variants: Those whose heads the network lacks are left out.
        runs: Of the pipeline for each variant, over the images in turn.
        threads: Of ONNX Runtime.

    Returns:
        What `report.json` holds: raw samples in milliseconds and figures made of them.
    """
    variants = [
        one for one in variants if set(one.tasks or ()) <= set(network.config.tasks) and _has_heads(one, network)
    ]
    with tempfile.TemporaryDirectory(prefix="yolor-edge-options-") as folder:
        models: list[Model] = []
        visions: list[Graph] = []
        rows: list[dict[str, Any]] = []
        try:
            for i, variant in enumerate(variants):
                spec, graphs, row = _opened(network, variant, Path(folder) / str(i), threads)
                models.append(Model(spec, graphs))
                visions.append(graphs["vision"])
                rows.append(row)
            _time(models, visions, rows, list(pictures.values()), runs)
            _compare(models, rows, pictures)
        finally:
            for model in models:
                model.close()
    first = rows[0]["median_ms"]
    for row in rows:
        row["times_first"] = {stage: row["median_ms"][stage] / first[stage] for stage in _COMPARED}
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": source_commit(),
        "machine": describe_machine(),
        "cpu_busy_share": busy_share(),
        "network": {"name": network.config.name, "size": network.config.size, "input_size": network.config.input_size},
        "pictures": list(pictures),
        "runs": runs,
        "threads": threads,
        "variants": rows,
    }


def _has_heads(variant: Variant, network: Network) -> bool:
    needs = [*("boxes",) * (variant.options.top_k is not None), *("semantic",) * variant.options.semantic_map]
    return set(needs) <= set(network.config.tasks)


def _opened(
    network: Network, variant: Variant, folder: Path, threads: int
) -> tuple[ModelSpec, dict[str, Graph], dict[str, Any]]:
    """Spec and graphs of a variant, and the beginning of its row: what it is and how large."""
    config = replace(
        network.config,
        tasks=variant.tasks or network.config.tasks,
        input_size=variant.input_size or network.config.input_size,
    )
    chosen = Network(config)
    chosen.load_state_dict({name: network.state_dict()[name] for name in chosen.state_dict()})
    spec = spec_with_options(config, variant.options)
    folded = fold(chosen.eval())
    folder.mkdir(parents=True)
    graphs: dict[str, Graph] = {}
    files = {}
    for name, part in parts_of(folded).items():
        part = vision_with_options(part, folded, variant.options) if name == "vision" else part
        files[name] = folder / f"{name}.onnx"
        onnx.save(export_part(name, part), files[name])
        graphs[name] = open_graph(files[name], threads)
    outputs = graphs["vision"].run({"images": _images(graphs["vision"])})
    batch = len(next(iter(outputs.values())))
    return (
        spec,
        graphs,
        {
            "variant": variant.name,
            "tasks": list(config.tasks),
            "input_size": list(config.input_size),
            "graph_bytes": {name: file.stat().st_size for name, file in files.items()},
            "vision_nodes": len(onnx.load(files["vision"]).graph.node),
            "output_bytes_per_image": sum(value.nbytes for value in outputs.values()) // batch,
            "batch": batch,
        },
    )


def _images(vision: Graph) -> NDArray[np.float32]:
    batch, *rest = vision.inputs["images"].shape
    shape = (batch if isinstance(batch, int) else 1, *(int(axis) for axis in rest))
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _time(
    models: Sequence[Model],
    visions: Sequence[Graph],
    rows: Sequence[dict[str, Any]],
    pictures: Sequence[NDArray[np.uint8]],
    runs: int,
) -> None:
    feeds = [_images(vision) for vision in visions]
    for row in rows:
        row["samples_ms"] = {}
    for run in range(WARMUP + runs):
        for model, vision, feed, row in zip(models, visions, feeds, rows, strict=True):
            started, worked = time.perf_counter_ns(), time.process_time_ns()
            vision.run({"images": feed})
            full_ms = (time.perf_counter_ns() - started) / 1e6 / len(feed)
            full_cpu_ms = (time.process_time_ns() - worked) / 1e6 / len(feed)
            worked = time.process_time_ns()
            stages = dict(model.predict(pictures[run % len(pictures)]).timings_ms)
            # Of all threads: on a machine with other work this says more than the time on the clock.
            stages["total_cpu"] = (time.process_time_ns() - worked) / 1e6
            stages["network_per_image_of_full_batch"] = full_ms
            stages["network_per_image_of_full_batch_cpu"] = full_cpu_ms
            if run >= WARMUP:
                for stage, value in stages.items():
                    row["samples_ms"].setdefault(stage, []).append(round(value, 4))
    for row in rows:
        row["median_ms"] = {stage: float(np.median(values)) for stage, values in row["samples_ms"].items()}


def _compare(
    models: Sequence[Model], rows: Sequence[dict[str, Any]], pictures: Mapping[str, NDArray[np.uint8]]
) -> None:
    """How the answers of each variant at the first one's input size agree with its answers."""
    expected = [models[0].predict(picture) for picture in pictures.values()]
    for model, row in zip(models, rows, strict=True):
        if model.spec.input_size == models[0].spec.input_size:
            found = [model.predict(picture) for picture in pictures.values()]
            pairs = list(zip(expected, found, strict=True))
            row["agreement"] = {
                "boxes": all(_same_boxes(a, b) for a, b in pairs),
                "boxes_found": sum(len(b.boxes) for b in found if b.boxes is not None),
                "captions": all(
                    a.caption is None or b.caption is None or a.caption.token_ids == b.caption.token_ids
                    for a, b in pairs
                ),
                "semantic": _agreement(pairs),
            }


def _same_boxes(a: Result, b: Result) -> bool:
    if a.boxes is None or b.boxes is None or a.class_ids is None or b.class_ids is None:
        return True
    same = len(a.boxes) == len(b.boxes) and np.array_equal(a.class_ids, b.class_ids)
    return bool(same and np.allclose(a.boxes, b.boxes, atol=0.02))


def _agreement(pairs: Sequence[tuple[Result, Result]]) -> float | None:
    shares = [
        float(np.mean(a.semantic_map == b.semantic_map))
        for a, b in pairs
        if a.semantic_map is not None and b.semantic_map is not None
    ]
    return float(np.mean(shares)) if shares else None


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    stages = ("network", "boxes", "semantic", "total", "total_cpu", "network_per_image_of_full_batch_cpu")
    lines = [
        f"{'variant':<38}{'vision':>9}{'outputs':>10}"
        + "".join(f"{stage.replace('_per_image_of_full_batch', '/image'):>18}" for stage in stages)
    ]
    for row in report["variants"]:
        cells = "".join(f"{row['median_ms'][s]:>15.2f} ms" if s in row["median_ms"] else f"{'-':>18}" for s in stages)
        size, outputs = row["graph_bytes"]["vision"] / 1e6, row["output_bytes_per_image"] / 1e3
        lines.append(f"{row['variant']:<38}{size:>6.2f} MB{outputs:>7.0f} KB{cells}")
    return "\n".join(lines)


def main() -> None:
    """The command in this file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--images", required=True, metavar="DIR", help="images to answer for")
    parser.add_argument("--out", required=True, type=output_file, metavar="FILE", help="the JSON to write")
    parser.add_argument("--input-size", metavar="HxW", help="of all variants that name none")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    network = Checkpoint.open(arguments.checkpoint).network()
    if not isinstance(network, Network):
        parser.error(f"{arguments.checkpoint}: is an imported network; the study is for those of yolor-edge's own plan")
    if arguments.input_size:
        height, width = (int(side) for side in arguments.input_size.split("x"))
        network.config = replace(network.config, input_size=(height, width))
    pictures = {path.name: read_image(path) for path in open_source(arguments.images).files}
    report = measure_variants(network, pictures, runs=arguments.runs, threads=arguments.threads)
    write_atomically(arguments.out, readable_json(report) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
