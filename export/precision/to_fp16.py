"""FP16 as a typed graph: every float tensor in 16 bits, but where the values seen on real images do not fit.

What stays in fp32 is found by looking. Every tensor of the fp32 graph is read on real images: one that may reach the
largest fp16 number on others, or lies altogether where fp16 has lost its precision, keeps the node that gives it and
the nodes that read it in fp32. What is fed and what leaves the graph stays float32, so that all precisions have one
contract.

What an int8 graph leaves in float becomes fp16 the same way, with float16 scales in its Q/DQ pairs: so nothing stands
between a DequantizeLinear and the convolution that TensorRT folds it into, as a Cast would (NVIDIA Model Optimizer
takes such Casts out for that reason).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...runtime.backends.base import Array
from ...runtime.bundle.spec import BOX_HEADS
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.probe import open_probe

LARGEST = 65504.0
# Other images than those looked at go further: by a bit at least, and by what the spread between images foretells for
# one in a million of them, with the largest values of a tensor taken to be log-normal.
_ROOM = 2.0
_QUANTILE = 4.75
# Few images say little of the spread: to what they show comes as much as so many images with this spread would say.
_USUAL_SPREAD, _USUAL_IMAGES = 0.4, 6
# Under 2^-14 fp16 counts in steps of 2^-24: a tensor that reaches no higher than this keeps fewer than 8 bits.
SMALLEST = 2.0**-17
# Inputs that an operation wants in float32 or as whole numbers, whatever the type of its data.
_UNTYPED_INPUTS = {"Resize": (1, 2), "Reshape": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Slice": (1, 2, 3, 4)}
_FLOATS = (TensorProto.FLOAT,)
# What gives a prediction, which decoding turns into boxes.
_PREDICTING = ("Conv", "MatMul", "Gemm", "Softmax")
# Operations that give the values they take: one whose values are rounded already may stay in fp16.
_MOVERS = frozenset({"Reshape", "Slice", "Split", "Transpose", "Concat", "Squeeze", "Unsqueeze", "Identity"})
# The output that holds corners in pixels: in fp16 they would count in halves beyond 512 and wholes beyond 1024.
_PIXELS = BOX_HEADS["xyxy"]
# From here on a scale may be float16, which makes what a DequantizeLinear gives float16.
_OPSET_OF_HALF_SCALES = 19


@dataclass(frozen=True)
class Halved:
    """A graph in FP16.

    Attributes:
        model: The graph.
        kept: For each node that stays in fp32, why.
    """

    model: onnx.ModelProto
    kept: Mapping[str, str]


def to_fp16(model: onnx.ModelProto, out_of_range: Mapping[str, str], keep_float: Collection[str] = ()) -> Halved:
    """Convert an fp32 graph.

    Args:
        model: The fp32 graph; not changed.
        out_of_range: Nodes to keep in fp32, each with the reason, as `nodes_out_of_range` finds them.
        keep_float: Nodes to keep in fp32 whatever their range, by name or by the start of it.
    """
    kept = dict(out_of_range)
    for node in model.graph.node:
        if any(node.name == entry or node.name.startswith((f"{entry}.", f"{entry}/")) for entry in keep_float):
            kept.setdefault(node.name, "asked for")
    return Halved(convert(model, kept), kept)


def halve_around_int8(model: onnx.ModelProto, out_of_range: Collection[str]) -> onnx.ModelProto:
    """Write what is not int8 in a graph with signed Q/DQ pairs in FP16, scales too.

    Args:
        model: A graph as `to_int8.quantize` writes it in s8s8, whose scales are float16 numbers; not changed.
        out_of_range: Nodes to keep in fp32, as `nodes_out_of_range` finds them in the fp32 graph. What quantises for
            them alone stays in fp32 with them.
    """
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    for opset in raised.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, _OPSET_OF_HALF_SCALES)
    view = GraphView(raised)
    kept = set(out_of_range)
    for node in raised.graph.node:
        if node.op_type == "DequantizeLinear":
            if all(reader.name in kept for reader in view.consumers.get(node.output[0], ())):
                kept.add(node.name)
        elif node.op_type == "QuantizeLinear":
            producer = view.producers.get(node.input[0])
            if producer is not None and producer.name in out_of_range:
                kept.add(node.name)
    return convert(raised, kept)


def nodes_out_of_range(model: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]]) -> dict[str, str]:
    """Nodes that are to stay in fp32, each with the reason: what does not fit into fp16 on these inputs, and pixels."""
    floats = _float_tensors(model)
    names = [output for node in model.graph.node for output in node.output if output in floats]
    seen: dict[str, list[float]] = {name: [] for name in names}
    with open_probe(model, names) as probe:
        for feed in feeds:
            for name, value in probe.run(feed, names).items():
                if value.size:
                    seen[name].append(float(max(-value.min(), value.max())))
    highest = {name: max(values, default=0.0) for name, values in seen.items()}
    foreseen = {name: foreseen_reach(values) for name, values in seen.items()}
    for weight in model.graph.initializer:
        if weight.data_type in _FLOATS:
            highest[weight.name] = float(np.abs(numpy_helper.to_array(weight)).max(initial=0))
    kept = dict.fromkeys(_nodes_of_pixels(model, floats), "boxes in pixels need more digits than fp16 has")
    for node in model.graph.node:
        for name in (*node.output, *node.input):
            most = highest.get(name)
            if most is None or most == 0:
                continue
            if not most <= LARGEST / _ROOM:
                kept.setdefault(node.name, f"{name} reaches {most:.3g}, fp16 ends at 65504")
            elif foreseen.get(name, 0.0) > LARGEST:
                other = f"its spread over {len(seen[name])} images foretells {foreseen[name]:.3g}"
                kept.setdefault(node.name, f"{name} reaches {most:.3g} and {other}, fp16 ends at 65504")
            elif most < SMALLEST:
                kept.setdefault(node.name, f"{name} stays below {most:.3g}, where fp16 has no precision")
    return kept


def foreseen_reach(largest: Sequence[float]) -> float:
    """The magnitude that a tensor will not pass on other images, from its largest one on each image looked at."""
    if not np.isfinite(largest).all():
        return math.inf
    logs = np.log([value for value in largest if value > 0])
    if not len(logs):
        return 0.0
    squares = float(np.square(logs - logs.mean()).sum()) + _USUAL_IMAGES * _USUAL_SPREAD**2
    spread = math.sqrt(squares / (len(logs) - 1 + _USUAL_IMAGES))
    return max(_ROOM * max(largest), math.exp(min(700.0, float(logs.mean()) + _QUANTILE * spread)))


def as_computed_in_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """An fp16 graph in float32 with the numbers that a device in fp16 gives: sums in float32, every tensor rounded.

    ONNX Runtime has next to no fp16 on a CPU: it computes such graphs in float32, and leaves out part of the rounding,
    and of what overflows. This one it computes as it stands there.

    Args:
        model: As `to_fp16` or `halve_around_int8` writes it; not changed.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    for weight in exact.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    nodes: list[onnx.NodeProto] = []
    for node in exact.graph.node:
        given = [name for name in node.output if name in halves]
        if node.op_type == "Cast" and given:
            node.attribute[0].i = TensorProto.FLOAT
        node.output[:] = [f"{name}/exact" if name in halves else name for name in node.output]
        nodes.append(node)
        for name in given:
            nodes += [
                helper.make_node(
                    "Cast", [f"{name}/exact"], [f"{name}/rounded"], f"{name}/round", to=TensorProto.FLOAT16
                ),
                helper.make_node("Cast", [f"{name}/rounded"], [name], f"{name}/widen", to=TensorProto.FLOAT),
            ]
    copied = [onnx.NodeProto() for _ in nodes]
    for target, node in zip(copied, nodes, strict=True):
        target.CopyFrom(node)
    del exact.graph.node[:]
    exact.graph.node.extend(copied)
    del exact.graph.value_info[:]
    return exact


def _nodes_of_pixels(model: onnx.ModelProto, floats: set[str]) -> list[str]:
    """What lies between the last predictions and the boxes, but for what only moves the predictions' values."""
    view = GraphView(model)
    producers = view.producers
    behind = {node.name for node in view.leading_to([_PIXELS], _PREDICTING)[0] if floats.intersection(node.output)}
    kept: list[str] = []
    for node in model.graph.node:
        makers = {producers[name].name for name in node.input if name in producers}
        if node.name in behind and (node.op_type not in _MOVERS or makers.intersection(kept)):
            kept.append(node.name)
    return kept


def convert(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """Write `model` in FP16 but for the nodes named in `kept`; float32 tensors keep their names."""
    floats = _float_tensors(model)
    graph_outputs = {value.name for value in model.graph.output}
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    weights = {weight.name: weight for weight in graph.initializer}
    in_fp16: set[str] = set()  # tensors of the new graph that hold fp16 under the name of the fp32 one
    casts: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []
    used_constants: dict[str, onnx.TensorProto] = {}

    def cast(name: str, to: int) -> str:
        """The tensor `name` in another type; each is cast once."""
        key = (name, to)
        if key not in casts:
            casts[key] = f"{name}/{'fp16' if to == TensorProto.FLOAT16 else 'fp32'}"
            nodes.append(helper.make_node("Cast", [name], [casts[key]], f"{casts[key]}/Cast", to=to))
        return casts[key]

    def constant(name: str, is_half: bool) -> str:
        if not is_half or weights[name].data_type not in _FLOATS:
            used_constants[name] = weights[name]
            return name
        given = f"{name}/fp16"
        if given not in used_constants:
            with np.errstate(over="ignore"):  # a weight beyond fp16 is kept in fp32 unless the caller insists
                values = numpy_helper.to_array(weights[name]).astype(np.float16)
            used_constants[given] = numpy_helper.from_array(values, given)
        return given

    for node in graph.node:
        if node.op_type == "Cast":  # takes any type, and gives the one that it names
            node.input[:] = [constant(name, is_half=False) if name in weights else name for name in node.input]
            nodes.append(node)
            continue
        computes_half = node.name not in kept
        untyped = _UNTYPED_INPUTS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if not name:
                continue
            if name in weights:
                node.input[i] = constant(name, computes_half and i not in untyped)
            elif name in floats:
                is_half = name in in_fp16
                if computes_half and not is_half:
                    node.input[i] = cast(name, TensorProto.FLOAT16)
                elif not computes_half and is_half:
                    node.input[i] = cast(name, TensorProto.FLOAT)
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name not in floats or not computes_half:
                continue
            if name in graph_outputs:
                # The name belongs to the float32 that leaves the graph; what the node gives gets another.
                node.output[i] = f"{name}/half"
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/Cast", to=TensorProto.FLOAT))
                casts[(name, TensorProto.FLOAT16)] = f"{name}/half"
            else:
                in_fp16.add(name)
    copied = [onnx.NodeProto() for _ in nodes]
    for target, node in zip(copied, nodes, strict=True):
        target.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copied)
    del graph.initializer[:]
    graph.initializer.extend(used_constants.values())
    del graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors that nodes give or the graph is fed."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name for value in values if value.type.tensor_type.elem_type in _FLOATS}
