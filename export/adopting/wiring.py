"""A foreign graph with the inputs and outputs of the contract: a few nodes before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...runtime.backends.base import Array
from ...runtime.bundle.tensors import MASK_STRIDE
from ..onnx_graphs.graph_cleanup import drop_unread
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.probe import open_probe
from .foreign import Foreign
from .layouts import Layout, Said, Slot, candidates

CONTRACT = ("images", "boxes", "class_scores", "class_logits", "mask_coefficients", "prototypes")
# How many boxes these let through depends on the image, so that no engine can be built for what follows.
DATA_DEPENDENT = ("NonMaxSuppression", "NonZero")
# What computes; between the heads and the end of post-processing there is only what selects.
_COMPUTING = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LayerNormalization", "Softmax"}
_MOST_LOOKED_AT = 64


class _Writer:
    """Adds nodes and constants to a graph, in order."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def constant(self, values: Array) -> str:
        name = f"{self._prefix}/constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operation: str, *inputs: str | Array, **attributes: Any) -> str:
        """A node; arrays among its inputs become constants. Returns the tensor that it gives."""
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        name = f"{self._prefix}/{operation}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, names, [name], name, **attributes))
        return name

    def finish(self, tensor: str, name: str) -> None:
        """Give `tensor` the name of an input or output of the contract."""
        last = next((node for node in self.nodes if node.output[0] == tensor), None)
        if last is None:
            self.nodes.append(helper.make_node("Identity", [tensor], [name], f"{self._prefix}/{name}"))
        else:
            last.output[0] = name


def rewired(foreign: Foreign, layout: Layout, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """The vision graph of a bundle: `images` in, the heads of the contract out.

    Args:
        foreign: The detector.
        layout: What its outputs mean.
        mean, std: Of the three channels, in the units and the order of the network's input; subtracted and divided by.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph = model.graph
    names = _with_free_names(graph)
    before, behind = _Writer("adopted/input"), _Writer("adopted")
    _write_input(before, foreign, names(foreign.image), mean, std)
    heads = _write_heads(behind, layout, names)
    nodes = [*before.nodes, *graph.node, *behind.nodes]
    copied = [onnx.NodeProto() for _ in nodes]
    for target, node in zip(copied, nodes, strict=True):
        target.CopyFrom(node)
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(copied)
    graph.initializer.extend([*before.constants, *behind.constants])
    batch = foreign.batch or "batch"
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *foreign.size]))
    for name, shape in heads.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))
    drop_unread(model)
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    graph.name, graph.doc_string = "vision", ""
    model.producer_name, model.producer_version, model.doc_string = "yolor-edge", "", ""
    onnx.checker.check_model(model, full_check=True)
    return model


def _with_free_names(graph: onnx.GraphProto) -> Callable[[str], str]:
    """Rename tensors inside that have a name of the contract; returns what any tensor is called now."""
    renamed = {name: f"{name}/foreign" for name in CONTRACT}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for weight in graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    return lambda name: renamed.get(name, name)


def _write_input(writer: _Writer, foreign: Foreign, image: str, mean: Sequence[float], std: Sequence[float]) -> None:
    tensor = "images"
    if any(mean):
        tensor = writer.add("Sub", tensor, np.array(mean, np.float32).reshape(1, 3, 1, 1))
    if any(value != 1 for value in std):
        tensor = writer.add("Mul", tensor, (1 / np.array(std, np.float64)).astype(np.float32).reshape(1, 3, 1, 1))
    if foreign.layout == "nhwc":
        tensor = writer.add("Transpose", tensor, perm=[0, 2, 3, 1])
    if foreign.dtype == np.uint8:
        tensor = writer.add("Cast", tensor, to=TensorProto.UINT8)
    writer.finish(tensor, image)


def _write_heads(writer: _Writer, layout: Layout, names: Callable[[str], str]) -> dict[str, list[int]]:
    """The nodes behind the graph; the shapes of its outputs, batch left out."""

    def rows(slot: Slot) -> str:
        tensor = names(slot.tensor)
        if slot.is_4d:
            tensor = writer.add("Squeeze", tensor, np.array([2]))
        if slot.axis == 2:
            tensor = writer.add("Transpose", tensor, perm=[0, 2, 1])
        return _slice(writer, tensor, slot.begin, slot.end)

    boxes = rows(layout.boxes)
    if layout.coding == "cxcywh":
        centre, side = _slice(writer, boxes, 0, 2), _slice(writer, boxes, 2, 4)
        half = writer.add("Mul", side, np.array(0.5, np.float32))
        boxes = writer.add("Concat", writer.add("Sub", centre, half), writer.add("Add", centre, half), axis=1)
    elif layout.coding == "yxyx":
        boxes = writer.add("Gather", boxes, np.array([1, 0, 3, 2]), axis=1)
    if layout.units == "normalised":
        height, width = layout.size
        boxes = writer.add("Mul", boxes, np.array([width, height, width, height], np.float32).reshape(1, 4, 1))
    scores = rows(layout.class_scores)
    if layout.class_ids is not None:
        numbers = np.arange(layout.classes, dtype=np.float32).reshape(1, -1, 1)
        is_it = writer.add("Cast", writer.add("Equal", rows(layout.class_ids), numbers), to=TensorProto.FLOAT)
        scores = writer.add("Mul", scores, is_it)
    if layout.objectness is not None:
        pair = [scores, rows(layout.objectness)]
        if layout.scores == "logits":
            pair = [writer.add("Sigmoid", part) for part in pair]
        scores = writer.add("Mul", *pair)
    score_head = "class_logits" if layout.score_coding == "logits" else "class_scores"
    writer.finish(scores, score_head)
    writer.finish(boxes, "boxes")
    shapes = {score_head: [layout.classes, layout.count], "boxes": [4, layout.count]}
    if layout.coefficients is not None and layout.prototypes is not None:
        masks = layout.coefficients.end - layout.coefficients.begin
        writer.finish(rows(layout.coefficients), "mask_coefficients")
        writer.finish(names(layout.prototypes), "prototypes")
        shapes["mask_coefficients"] = [masks, layout.count]
        shapes["prototypes"] = [masks, *(side // MASK_STRIDE for side in layout.size)]
    return shapes


def _slice(writer: _Writer, tensor: str, begin: int, end: int) -> str:
    return writer.add("Slice", tensor, np.array([begin]), np.array([end]), np.array([1]))


def before_selection(
    foreign: Foreign, images: Sequence[Mapping[str, Array]], classes: int, said: Said
) -> Layout | None:
    """What the network gives before its own suppression or ranking selects from it; None where that is not found.

    Between there and the outputs lies only what selects and moves values; a tensor inside that is read in exactly one
    way is taken, and of several the first that the graph computes.

    Args:
        foreign: The detector.
        images: Its inputs for a few images.
        classes: How many names of classes there are.
        said: What is said of the layout; its form is that of the outputs, and not looked at.
    """
    model = foreign.model
    shapes = {v.name: _shape(v) for v in model.graph.value_info}
    prototypes = {v.name: _shape(v) for v in model.graph.output if len(_shape(v)) == 4}
    wanted = [name for name in _selected_from(model) if len(shapes.get(name, ())) == 3 and all(shapes[name][1:])][
        -_MOST_LOOKED_AT:
    ]
    if not wanted:
        return None
    said = Said(None, said.coding, said.units, said.scores, None)
    values = run_all(model, images, [*wanted, *prototypes])
    maps = {name: values[name] for name in prototypes if name in values}
    pair = next(_suppressed(foreign), None)
    if pair is not None and all(name in values for name in pair[:2]):
        own = Said("pair", said.coding or pair[2], said.units, said.scores, pair[0])
        found, _ = candidates({**{n: values[n] for n in pair[:2]}, **maps}, classes, foreign.size, own)
        if len(found) == 1 and not maps:
            return found[0]
    for name in wanted:
        found, _ = candidates({name: values[name], **maps} if name in values else {}, classes, foreign.size, said)
        if len(found) == 1 and found[0].form != "detections":
            return found[0]
    return None


def run_all(model: onnx.ModelProto, images: Sequence[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    """Tensors of a graph on several inputs, joined along axis 0; without those whose shape changes."""
    found: dict[str, list[Array]] = {}
    with open_probe(model, names) as probe:
        for feed in images:
            for name, value in probe.run(feed, names).items():
                found.setdefault(name, []).append(value)
    batch = len(next(iter(images[0].values())))
    alike = {n: v for n, v in found.items() if len({x.shape for x in v}) == 1 and v[0].ndim and len(v[0]) == batch}
    return {name: np.concatenate(parts) for name, parts in alike.items()}


def _selected_from(model: onnx.ModelProto) -> list[str]:
    """Tensors from which nothing but selection leads to an output, in the order of the graph."""
    view = GraphView(model)
    pending, seen = list(view.outputs), set()
    while pending:
        name = pending.pop()
        node = view.producers.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type not in _COMPUTING:
            pending += node.input
    return [output for node in model.graph.node for output in node.output if output in seen]


def _suppressed(foreign: Foreign) -> Iterator[tuple[str, str, str]]:
    """For each NonMaxSuppression its boxes, its scores, and how the boxes are coded."""
    for node in foreign.model.graph.node:
        if node.op_type == "NonMaxSuppression":
            is_centre = any(a.name == "center_point_box" and a.i == 1 for a in node.attribute)
            corners = "yxyx" if "tf" in foreign.original.producer_name.lower() else "xyxy"
            yield node.input[0], node.input[1], "cxcywh" if is_centre else corners


def depends_on_data(model: onnx.ModelProto) -> list[str]:
    """Operators in a graph whose results have another shape for every image."""
    return sorted({node.op_type for node in model.graph.node if node.op_type in DATA_DEPENDENT})


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Its axes, 0 where free."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
