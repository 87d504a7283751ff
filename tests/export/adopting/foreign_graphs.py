"""Small detectors as other exporters write them: one network, and a tail for each layout.

The network has three levels at strides 8, 16 and 32. Its class scores depend on colour, so that drawn scenes give boxes
that clearly differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
CLASSES = 3
MASKS = 5
NAMES = ("disc", "star", "ring")


class Builder:
    """Nodes and weights of a graph in the making."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, stride: int = 1, kernel: int = 3, act: bool = True) -> str:
        scale = 1.4 / np.sqrt(inputs * kernel * kernel)
        weight = self.const(self.random.normal(0, scale, (outputs, inputs, kernel, kernel)))
        bias = self.const(self.random.normal(0, 0.1, outputs))
        y = self.add("Conv", x, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
        return self.add("Mul", y, self.add("Sigmoid", y)) if act else y

    def rows(self, x: str, begin: int, end: int) -> str:
        """Rows `begin` to `end` of axis 1."""
        bounds = [self.const([value], np.int64) for value in (begin, end, 1)]
        return self.add("Slice", x, *bounds)


def network(
    b: Builder, image: str, batch: str | int = "batch", extra: int = 0, prototypes: bool = False
) -> tuple[str, str, str | None]:
    """(boxes (B, 4, N) cxcywh in pixels, logits (B, C + extra, N), prototypes (B, MASKS, H / 4, W / 4) or None)."""
    x = b.conv(b.conv(image, 3, 8, 2), 8, 12, 2)
    maps = b.conv(x, 12, MASKS, act=False) if prototypes else None
    rows = 4 + CLASSES + extra
    parts, centres, strides = [], [], []
    for stride in (8, 16, 32):
        x = b.conv(x, 12, 12, 2)
        head = b.conv(x, 12, rows, kernel=1, act=False)
        parts.append(b.add("Reshape", head, b.const([0, rows, -1], np.int64)))
        ys, xs = np.mgrid[0 : SIZE[0] // stride, 0 : SIZE[1] // stride]
        centres.append((np.stack([xs, ys]).reshape(2, -1) + 0.5) * stride)
        strides.append(np.full(xs.size, stride))
    raw = b.add("Concat", *parts, axis=2)
    stride = b.const(np.concatenate(strides)[None, None])
    offset = b.add("Mul", b.add("Tanh", b.rows(raw, 0, 2)), stride)
    centre = b.add("Add", offset, b.const(np.concatenate(centres, 1)[None]))
    side = b.add("Mul", b.add("Exp", b.add("Tanh", b.rows(raw, 2, 4))), stride)
    # Few boxes score, so that next to none is at the edge of a suppression.
    logits = b.add("Sub", b.add("Mul", b.rows(raw, 4, rows), b.const(3.0)), b.const(4.0))
    return b.add("Concat", centre, side, axis=1), logits, maps


def corners(b: Builder, boxes: str) -> str:
    """cxcywh to xyxy, (B, 4, N)."""
    half = b.add("Mul", b.rows(boxes, 2, 4), b.const(0.5))
    centre = b.rows(boxes, 0, 2)
    return b.add("Concat", b.add("Sub", centre, half), b.add("Add", centre, half), axis=1)


def normalised(b: Builder, boxes: str) -> str:
    """Pixels to shares of the image."""
    return b.add("Div", boxes, b.const(np.array([SIZE[1], SIZE[0]] * 2).reshape(1, 4, 1)))


def model_of(
    b: Builder,
    outputs: Sequence[str],
    shape: Sequence[str | int] = ("batch", 3, *SIZE),
    image: str = "input.1",
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    metadata: dict[str, str] | None = None,
    producer: str = "pytorch",
) -> onnx.ModelProto:
    values = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(
        b.nodes, "main graph/of torch", [helper.make_tensor_value_info(image, kind, list(shape))], values, b.weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name=producer)
    model.ir_version = 8
    helper.set_model_props(model, metadata or {})
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def detector(
    form: str = "classes",
    coding: str = "cxcywh",
    units: str = "pixels",
    scores: str = "probabilities",
    masks: bool = False,
    transposed: bool | None = None,
    seed: int = 0,
    **options: Any,
) -> onnx.ModelProto:
    """A detector in one of the layouts.

    Args:
        form: "classes", "objectness", "detections", "pair", or "pair4d" with boxes (B, N, 1, 4).
        coding, units, scores: As the words of a layout.
        masks: Whether coefficients follow the scores, and prototypes are a second output.
        transposed: Whether rows are the last axis; by default as exporters have it.
        seed: Of the weights.
        options: Of `model_of`.
    """
    b = Builder(seed)
    is_objectness, extra = form == "objectness", MASKS if masks else 0
    boxes, logits, maps = network(b, "input.1", extra=extra + is_objectness, prototypes=masks)
    if coding != "cxcywh":
        boxes = corners(b, boxes)
    if coding == "yxyx":
        boxes = b.add("Gather", boxes, b.const([1, 0, 3, 2], np.int64), axis=1)
    if units == "normalised":
        boxes = normalised(b, boxes)
    count = CLASSES + is_objectness
    found = b.rows(logits, 0, count)
    if scores == "probabilities":
        found = b.add("Sigmoid", found)
    weights = [b.rows(logits, count, count + extra)] if masks else []
    outputs = [maps] if maps else []
    if form in ("pair", "pair4d"):
        parts = [boxes, found, *weights]
        if transposed is None or transposed:
            parts = [b.add("Transpose", part, perm=[0, 2, 1]) for part in parts]
        if form == "pair4d":
            parts[0] = b.add("Unsqueeze", parts[0], b.const([2], np.int64))
        return model_of(b, [*parts, *outputs], **options)
    if form == "detections":
        best = b.add("ReduceMax", found, b.const([1], np.int64), keepdims=1)
        kind = b.add("Cast", b.add("ArgMax", found, axis=1, keepdims=1), to=TensorProto.FLOAT)
        whole = b.add("Transpose", b.add("Concat", boxes, best, kind, *weights, axis=1), perm=[0, 2, 1])
        order = b.add("Transpose", best, perm=[0, 2, 1])
        b.nodes.append(helper.make_node("TopK", [order, b.const([20], np.int64)], ["top", "where"], axis=1))
        where = b.add("Expand", "where", b.const([1, 1, 6 + extra], np.int64))
        return model_of(b, [b.add("GatherElements", whole, where, axis=1), *outputs], **options)
    whole = b.add("Concat", boxes, found, *weights, axis=1)
    if transposed or (transposed is None and is_objectness):
        whole = b.add("Transpose", whole, perm=[0, 2, 1])
    return model_of(b, [whole, *outputs], **options)


def saved(model: onnx.ModelProto, folder: Path, name: str = "foreign.onnx") -> Path:
    onnx.checker.check_model(model)
    onnx.save(model, folder / name)
    return folder / name


def decoded(model: onnx.ModelProto, strides: Sequence[int], size: tuple[int, int], **options: Any) -> onnx.ModelProto:
    """A vision graph of our own as another exporter would write it: decoded boxes, (B, 4 + C + K, N) and prototypes.

    The expectation over bins is a convolution over a Softmax, as exporters write it.
    """
    shapes = {v.name: [a.dim_value for a in v.type.tensor_type.shape.dim] for v in model.graph.output}
    b = Builder()
    b.nodes += model.graph.node
    b.weights += model.graph.initializer
    bins, count = shapes["box_bins"][1] // 4, shapes["box_bins"][2]
    by_side = b.add("Reshape", "box_bins", b.const([0, 4, bins, count], np.int64), out="by_side")
    shares = b.add("Softmax", b.add("Transpose", by_side, perm=[0, 2, 1, 3], out="bins"), axis=1, out="shares")
    steps = b.const(np.arange(bins).reshape(1, bins, 1, 1))
    far = b.add("Reshape", b.add("Conv", shares, steps, out="far4"), b.const([0, 4, count], np.int64), out="far")
    grid = [np.mgrid[0 : size[0] // s, 0 : size[1] // s][::-1].reshape(2, -1) + 0.5 for s in strides]
    centres = b.const(np.concatenate(grid, 1)[np.newaxis])
    step = b.const(np.concatenate([np.full((1, 1, g.shape[1]), s) for g, s in zip(grid, strides, strict=True)], 2))
    low = b.add("Sub", centres, b.rows(far, 0, 2), out="low")
    high = b.add("Add", centres, b.rows(far, 2, 4), out="high")
    middle = b.add("Mul", b.add("Add", low, high, out="sum"), b.const(0.5), out="middle")
    boxes = b.add("Concat", middle, b.add("Sub", high, low, out="side"), axis=1, out="cells")
    pixels = b.add("Mul", boxes, step, out="in_pixels")
    scores = b.add("Sigmoid", "class_logits", out="scores")
    b.add("Concat", pixels, scores, "mask_coefficients", axis=1, out="output0")
    b.add("Identity", "prototypes", out="output1")
    shape = ["batch", *(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    return model_of(b, ["output0", "output1"], shape, "images", **options)
