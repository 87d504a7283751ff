"""An imported network beside what its users run on a CPU today, from an image to boxes, in turn, in one process.

    python -m yolor_edge.benchmarks.studies.imported_latency --network yolov7-training-yolov7-tiny --out OUT

The peers are the two ways of the official ONNX export, on the same folded weights: the decoded prediction (1, N, 5 + C)
or (1, 4 + C, N) with post-processing in Python (numpy, and OpenCV's NMS in C++ for torchvision's), and the end-to-end
graph with ONNX's NonMaxSuppression in it, which keeps the best class of a cell only. Both take images through OpenCV's
letterbox. All suppress boxes of one class only, with the same thresholds; the boxes of the first are held against ours
on every image. Weights are random, shifted so that some boxes score. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import compose, parser
from torch import Tensor, nn

from ...export.onnx_graphs.quiet import quietly
from ...export.precision.precisions import PrecisionOptions
from ...export.to_onnx import export_bundle
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.spec import Thresholds
from ...runtime.errors import YolorEdgeError
from ...runtime.model import load
from ...runtime.sources.sources import open_source
from ...train.checkpoint import write_checkpoint
from ...train.network.layers import LayerNetwork
from ...train.network.layers_fold import fold
from ..report.machine import busy_share, describe_machine, source_commit
from ..report.report_files import output_stem, write_both
from .full_size_networks import full_size_network, lively
from .imported_networks import IMAGES, MANIFESTS

SCHEMA_VERSION = 1
WARMUP = 3
Boxes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""(n, 4) xyxy in pixels of the image, (n,) scores, (n,) classes."""


class OfficialForm(nn.Module):
    """A network whose output is decoded as the official export has it: centre and size in pixels, then scores."""

    def __init__(self, network: LayerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        boxes = self.network.config.boxes
        levels = self.network.raw_levels(self.network.features(images))
        found = []
        for index, (raw, stride) in enumerate(zip(levels, boxes["strides"], strict=True)):
            height, width = (raw.shape[2], raw.shape[3])
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            grid = torch.stack((columns, rows), -1).float()
            if boxes["coding"] == "anchors":
                part = raw.sigmoid()
                anchors = torch.tensor(boxes["anchors"][index], dtype=torch.float32)[:, None, None]
                centre = (part[..., :2] * 2 - 0.5 + grid) * stride
                size = (part[..., 2:4] * 2) ** 2 * anchors
                found.append(torch.cat((centre, size, part[..., 4:]), -1).flatten(1, 3))
            else:
                bins = raw[:, : 4 * boxes["reg_max"]].unflatten(1, (4, boxes["reg_max"])).softmax(2)
                sides = (bins * torch.arange(boxes["reg_max"], dtype=torch.float32)[:, None, None]).sum(2)
                cells = (grid + 0.5).permute(2, 0, 1)[None]
                first, second = cells - sides[:, :2], cells + sides[:, 2:]
                box = torch.cat(((first + second) / 2, second - first), 1) * stride
                found.append(torch.cat((box, raw[:, 4 * boxes["reg_max"] :].sigmoid()), 1).flatten(2))
        return torch.cat(found, 1 if boxes["coding"] == "anchors" else 2)


def official_graph(network: LayerNetwork) -> onnx.ModelProto:
    """The ONNX graph from `images` to `prediction`."""
    images = torch.zeros(1, 3, *network.config.input_size)
    with quietly():
        program = torch.onnx.export(
            OfficialForm(network).eval(),
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["prediction"],
            opset_version=18,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def end_to_end(graph: onnx.ModelProto, has_objectness: bool, limits: Thresholds) -> onnx.ModelProto:
    """`graph` with the suppression behind it: boxes (n, 4) centre and size, scores (n,), classes (n,)."""
    rows = "Identity(prediction)" if has_objectness else "Transpose<perm: ints = [0, 2, 1]>(prediction)"
    start = 5 if has_objectness else 4
    scores = "Mul(classes, objectness)" if has_objectness else "Identity(classes)"
    text = f"""
        <ir_version: 8, opset_import: ["" : 18]>
        suppression (float[1, a, b] prediction) => (float[n, 4] boxes, float[n] scores, int64[n] classes_kept)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
         int64[1] four = {{4}}, int64[1] five = {{5}}, int64[1] start = {{{start}}}, int64[1] end = {{1000000}},
         int64[1] most = {{{limits.max_detections}}}, float[1] iou = {{{limits.iou}}},
         float[1] least = {{{limits.score}}}, float[1] apart = {{4096}}>
        {{
            rows = {rows}
            box = Slice(rows, zero, four, two)
            objectness = Slice(rows, four, five, two)
            classes = Slice(rows, start, end, two)
            each = {scores}
            best = ReduceMax<keepdims: int = 0>(each, two)
            kind = ArgMax<axis: int = 2, keepdims: int = 0>(each)
            kind_float = Cast<to: int = 1>(kind)
            shift = Mul(kind_float, apart)
            shift_column = Unsqueeze(shift, two)
            shifted = Add(box, shift_column)
            centre = Slice(shifted, zero, two, two)
            size = Slice(box, two, four, two)
            apart_boxes = Concat<axis: int = 2>(centre, size)
            best_row = Unsqueeze(best, one)
            chosen = NonMaxSuppression<center_point_box: int = 1>(apart_boxes, best_row, most, iou, least)
            column = Slice(chosen, two, three, one)
            index = Squeeze(column, one)
            box_rows = Squeeze(box, zero)
            boxes = Gather(box_rows, index)
            best_flat = Squeeze(best, zero)
            scores = Gather(best_flat, index)
            kind_flat = Squeeze(kind, zero)
            classes_kept = Gather(kind_flat, index)
        }}
    """
    behind = parser.parse_model(text)
    behind.ir_version = graph.ir_version
    behind = compose.add_prefix(behind, "behind_")
    return compose.merge_models(graph, behind, io_map=[("prediction", "behind_prediction")])


class Official:
    """The official way: OpenCV's letterbox, ONNX Runtime, and boxes by one of the two exports."""

    def __init__(self, graph: onnx.ModelProto, has_objectness: bool | None, size: tuple[int, int], limits: Thresholds):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        content = graph.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._has_objectness, self._size, self._limits = has_objectness, size, limits

    def __call__(self, image: NDArray[np.uint8]) -> Boxes:
        height, width = self._size
        gain = min(height / image.shape[0], width / image.shape[1])
        inner = round(image.shape[1] * gain), round(image.shape[0] * gain)
        resized = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)
        top, left = round((height - inner[1]) / 2 - 0.1), round((width - inner[0]) / 2 - 0.1)
        sides = (top, height - inner[1] - top, left, width - inner[0] - left)
        padded = cv2.copyMakeBorder(resized, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
        tensor = np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1))[None].astype(np.float32) / 255
        found: Any = self._session.run(None, {"images": tensor})
        if self._has_objectness is None:
            centres, scores, classes = found
        else:
            centres, scores, classes = self._suppressed(found[0][0])
        half = centres[:, 2:] / 2
        boxes: Any = np.concatenate((centres[:, :2] - half, centres[:, :2] + half), 1)
        boxes = (boxes - np.array([left, top, left, top], np.float32)) / np.float32(gain)
        boxes[:, ::2] = boxes[:, ::2].clip(0, image.shape[1])
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, image.shape[0])
        return boxes, scores, classes

    def _suppressed(self, prediction: NDArray[np.float32]) -> Boxes:
        limits = self._limits
        if self._has_objectness:
            rows = prediction[prediction[:, 4] > limits.score]
            scores, boxes = rows[:, 5:] * rows[:, 4:5], rows[:, :4]
        else:
            rows = prediction.T[prediction[4:].max(0) > limits.score]
            scores, boxes = rows[:, 4:], rows[:, :4]
        cells, classes = (scores > limits.score).nonzero()
        boxes, best = boxes[cells], scores[cells, classes]
        corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]), 1)  # as OpenCV takes them
        kept = cv2.dnn.NMSBoxesBatched(
            corners.tolist(), best.tolist(), classes.tolist(), limits.score, limits.iou, top_k=limits.max_detections
        )
        kept = np.asarray(kept, np.int64).reshape(-1)[: limits.max_detections]
        return boxes[kept], best[kept], classes[kept]


def unmatched(ours: Boxes, theirs: Boxes) -> int:
    """Boxes of either side without one of the other within a pixel, 1e-3 of score and of the same class."""
    if not len(ours[0]) or not len(theirs[0]):
        return len(ours[0]) + len(theirs[0])
    near = np.abs(ours[0][:, None] - theirs[0][None]).max(2) < 1
    near &= np.abs(ours[1][:, None] - theirs[1][None]) < 1e-3
    near &= ours[2][:, None] == theirs[2][None]
    return int((~near.any(1)).sum() + (~near.any(0)).sum())


def measure(
    bundle: Bundle, network: LayerNetwork, images: str, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of the two official ways and of ours, with times and ratios to the first; and how its boxes compare."""
    frames = [frame.image for frame in open_source(images) if frame.image is not None]
    spec = bundle.spec
    limits = spec.thresholds
    has_objectness = network.config.boxes["coding"] == "anchors"
    graph = official_graph(network)
    size = spec.input_size
    rows: dict[str, Callable[[NDArray[np.uint8]], Boxes]] = {
        "official ONNX, post-processing in Python": Official(graph, has_objectness, size, limits),
        "official ONNX, end to end": Official(end_to_end(graph, has_objectness, limits), None, size, limits),
    }
    models = []
    try:
        for precision in ("fp32", "int8"):
            model = load(bundle, precision=precision, threads=1)
            models.append(model)

            def predict(image: NDArray[np.uint8], model: Any = model) -> Boxes:
                result = model.predict(image, ("boxes",))
                return result.boxes, result.scores, result.class_ids

            rows[f"yolor-edge, {precision}"] = predict
        samples: dict[str, list[float]] = {name: [] for name in rows}
        first, fp32 = next(iter(rows)), "yolor-edge, fp32"
        count = unlike = 0
        for turn in range(WARMUP + rounds):
            names = list(rows)[turn % len(rows) :] + list(rows)[: turn % len(rows)]
            image, found = frames[turn % len(frames)], {}
            for name in names:
                started = time.perf_counter_ns()
                found[name] = rows[name](image)
                samples[name].append((time.perf_counter_ns() - started) / 1e6)
            if turn < len(frames):
                count += len(found[fp32][0])
                unlike += unmatched(found[fp32], found[first])
    finally:
        for model in models:
            model.close()
    base = np.array(samples[first][WARMUP:])
    found_rows = [
        {
            "name": name,
            "median_ms": round(float(np.median(values[WARMUP:])), 2),
            "of_the_first": round(float(np.median(np.array(values[WARMUP:]) / base)), 3),
            "samples_ms": [round(value, 2) for value in values[WARMUP:]],
        }
        for name, values in samples.items()
    ]
    return found_rows, {"boxes": count, "unlike_the_first": unlike}


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    height, width = report["input_size"]
    lines = [
        f"# {report['network']}, {height} x {width}, from an image to boxes, one thread",
        "",
        f"`{report['command']}`",
        "",
        f"{report['machine']['cpu']['model']}; {report['rounds']} interleaved rounds; "
        f"{report['busy_before']} busy before. The ratio is the median over rounds. "
        f"{report['agreement']['unlike_the_first']} of the {report['agreement']['boxes']} boxes of yolor-edge in fp32 "
        "are not those of the first row to a pixel, 0.001 of score and the class.",
        "",
        "| what | median ms | of the first |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {row['name']} | {row['median_ms']:.1f} | {row['of_the_first']:.2f} |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    command = argparse.ArgumentParser(description="Time an imported network beside the official ONNX export.")
    command.add_argument("--manifests", type=Path, default=MANIFESTS, metavar="DIR", help=f"default: {MANIFESTS}")
    command.add_argument("--network", required=True, help="name of a manifest, such as yolov7-training-yolov7-tiny")
    command.add_argument("--images", default=str(IMAGES), help="images to take in turn (default: the demo's)")
    command.add_argument("--rounds", type=int, default=30, help="runs of each row (default: 30)")
    command.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = command.parse_args(arguments)
    manifest = given.manifests / f"{given.network}.json.xz"
    if not manifest.is_file():
        command.error(f"{manifest}: no such manifest")
    torch.set_num_threads(1)
    busy = busy_share()
    network = lively(full_size_network(manifest, seed=7).network().eval())
    try:
        with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
            checkpoint = write_checkpoint(Path(folder, "checkpoint"), network, {"weights": "random"})
            bundle = export_bundle(
                checkpoint,
                Path(folder, "bundle"),
                tasks=("boxes",),
                precisions=PrecisionOptions(("int8",), calibration=IMAGES),
            )
            rows, agreement = measure(bundle, fold(network), given.images, given.rounds)
            size = bundle.spec.input_size
    except YolorEdgeError as error:
        print(f"{given.network}: {error}", file=sys.stderr)
        return 1
    options = f"--network {given.network} --rounds {given.rounds} --out {given.out}"
    report = {
        "schema_version": SCHEMA_VERSION,
        "command": f"python -m yolor_edge.benchmarks.studies.imported_latency {options}",
        "commit": source_commit(),
        "machine": describe_machine(),
        "network": given.network,
        "input_size": list(size),
        "rounds": given.rounds,
        "busy_before": busy,
        "agreement": agreement,
        "rows": rows,
    }
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
