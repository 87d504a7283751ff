"""What int8 costs, layer by layer: the error that a layer alone makes, and how much of it arrives at each head.

A layer's own error is computed at what its activation gives, from what it reads in fp32. Then only the part of the
graph behind the layer runs again, with that error added; layers with nearly the same part behind them share a session.
Noise at a head counts where it matters, at cells that hold objects, and in units of the head's own spread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...runtime.backends.base import Array
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeGraph
from ...runtime.bundle.spec import BOX_HEADS, SCORE_HEADS
from ...runtime.progress import Count
from ..onnx_graphs.choices import choices_of, chosen, with_choices_given, with_choices_shown
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.probe import Probe, open_model, open_probe
from .to_int8 import activation_scales, weight_levels

Ranges = Mapping[str, tuple[float, float]]
Floats = NDArray[np.float32]

_ERROR = "@error"
_SUM = "@sum"
_NO_ERROR = np.zeros((1, 1, 1, 1), np.float32)
# Layers share a session while none runs more than this share of all FLOPs beyond what it would alone.
_SHARED = 0.04
_SIGMOID_STEP = np.float32(1 / 255)
# Cells are weighed by their score squared, and a little, so that a picture without objects counts too.
_BACKGROUND = 1e-6


def layer_noise(
    model: onnx.ModelProto,
    ranges: Ranges,
    dialect: str,
    inputs: Sequence[Floats],
    keep_float: Collection[str] = (),
    progress: Count | None = None,
) -> dict[str, dict[str, float]]:
    """How much noise each layer that may run in int8 brings to each head when it alone does.

    Noise is the mean square of the error, weighed by cells that hold objects, relative to the head's variance.

    Args:
        model: The fp32 vision graph.
        ranges: From `calibrate`.
        dialect: Of `INT8_DIALECTS`.
        inputs: A few calibration images as the network's input.
        keep_float: Layers that stay in float in any case.
        progress: Called with images done and in all.
    """
    with contextlib.ExitStack() as stack:
        exact = stack.enter_context(contextlib.closing(ExactRuns(model)))
        layers = stack.enter_context(contextlib.closing(_Layers(exact.model, ranges, dialect, keep_float)))
        found = {name: dict.fromkeys(exact.heads, 0.0) for name in layers.names}
        if not found:
            return {}
        segments = _segments(exact.model, layers)
        for segment in segments:
            stack.callback(segment.close)
        tensors = {*layers.tensors, *exact.heads, *(name for segment in segments for name in segment.taken)}
        probe = stack.enter_context(open_probe(exact.model, sorted(tensors - exact.fed)))
        for done, image in enumerate(inputs, 1):
            values = exact.values(probe, image, tensors)
            heads = {head: HeadNoise(head, values) for head in exact.heads}
            errors = layers.errors(values)
            for segment in segments:
                for name, answers in segment.answers(errors, values):
                    for head in answers.keys() & heads.keys():
                        found[name][head] += heads[head].of(answers[head]) / len(inputs)
            if progress:
                progress("ranking layers", done, len(inputs))
    return found


def graph_noise(
    model: onnx.ModelProto, others: Sequence[onnx.ModelProto], inputs: Sequence[Floats]
) -> list[dict[str, float]]:
    """The noise of whole graphs at each head, in the units of `Sensitivity.noise`.

    Args:
        model: The fp32 vision graph, without choices between cells inside it.
        others: Graphs with the same outputs.
        inputs: A few images as the network's input.
    """
    exact = open_model(model)
    heads = [value.name for value in model.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    noises = []
    for image in inputs:
        values = exact.run({"images": image}, heads)
        noises.append({head: HeadNoise(head, values) for head in heads})
    exact.close()
    found = []
    for other in others:
        graph = open_model(other)
        total = dict.fromkeys(heads, 0.0)
        for image, known in zip(inputs, noises, strict=True):
            for head, value in graph.run({"images": image}, heads).items():
                total[head] += known[head].of(value) / len(inputs)
        graph.close()
        found.append(total)
    return found


class HeadNoise:
    """Measures the noise of one head for one image.

    Args:
        head: The output's name.
        values: What fp32 gives for the image: that output, and that of the scores.
    """

    def __init__(self, head: str, values: Mapping[str, Array]) -> None:
        self._exact = values[head]
        exact = self._exact.astype(np.float64)
        weights = np.ones(exact.shape)
        scores = next(((coding, values[name]) for coding, name in SCORE_HEADS.items() if name in values), None)
        if scores is not None and head in (*BOX_HEADS.values(), *SCORE_HEADS.values(), "mask_coefficients"):
            likely = scores[1].astype(np.float64)
            if scores[0] == "logits":
                likely = 1 / (1 + np.exp(-likely))
            if head not in SCORE_HEADS.values():  # any class makes it a cell with an object
                likely = likely.max(1, keepdims=True)
            weights = np.broadcast_to(np.square(likely) + _BACKGROUND, exact.shape)
        self._weights = (weights / weights.sum()).astype(np.float32).reshape(-1)
        # Scores spread between objects and background, what describes an object from one object to the next.
        spread = np.full(exact.shape, 1 / exact.size) if head in SCORE_HEADS.values() else weights / weights.sum()
        self._variance = float((spread * np.square(exact - (spread * exact).sum())).sum()) or 1.0

    def of(self, value: Array) -> float:
        """The weighed mean square of `value`'s error, relative to the head's variance."""
        return float(self._weights @ np.square(value - self._exact).reshape(-1)) / self._variance


class ExactRuns:
    """The fp32 graph with all cells among its outputs, and with its choices given, so that noise changes none.

    Attributes:
        model: That graph.
        heads: Its outputs in floating point; others have no noise, they are right or wrong.
        fed: Names of its inputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        whole = _with_all_cells(model)
        self._choices = list(choices_of(whole))
        self._shown = open_model(with_choices_shown(whole)) if self._choices else None
        self.model = with_choices_given(whole, self._choices)
        outputs = self.model.graph.output
        self.heads = [value.name for value in outputs if value.type.tensor_type.elem_type == TensorProto.FLOAT]
        self.fed = {value.name for value in self.model.graph.input}

    def values(self, probe: Probe, image: Floats, tensors: Collection[str]) -> dict[str, Array]:
        """What `tensors` hold for an image, and what `model` is fed."""
        feed: dict[str, Array] = {"images": image}
        if self._shown is not None:
            feed |= chosen(self._shown.run({"images": image}, self._choices), self._choices)
        return {**feed, **probe.run(feed, sorted(set(tensors) - self.fed))}

    def close(self) -> None:
        """Free the session."""
        if self._shown is not None:
            self._shown.close()


class _Layers:
    """The convolutions that may run in int8, each computed for itself as int8 would.

    Attributes:
        names: Theirs, in the order of the graph.
        tensors: What they read and give, to be computed in fp32.
    """

    def __init__(self, model: onnx.ModelProto, ranges: Ranges, dialect: str, keep_float: Collection[str]) -> None:
        view = GraphView(model)
        self.names, self._scales = activation_scales(model, ranges, dialect, keep_float)
        self._dialect = dialect
        self._convolutions = {conv.name: conv for conv in view.convolutions() if conv.name in self.names}
        self._activations = {name: view.activation_of(conv) for name, conv in self._convolutions.items()}
        self._biases: dict[str, Floats] = {}
        weights: dict[str, Floats] = {}
        for name, conv in self._convolutions.items():
            bias = view.weight(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else None
            held = bias.astype(np.float64) if bias is not None and dialect == "u8s8" else None
            weight = view.weight(conv.input[1])
            levels, scale = weight_levels(weight, held, self._scales[conv.input[0]][0], dialect)
            self._biases[name] = np.zeros(len(weight), np.float32) if bias is None else bias
            weights[name] = levels * scale[:, None, None, None]
        self._graph = _convolved(self._convolutions, weights)
        self.tensors = {conv.input[0] for conv in self._convolutions.values()} | {*map(self.point, self.names)}

    def point(self, name: str) -> str:
        """The tensor that holds a layer's error: what its activation gives."""
        pair = self._activations[name]
        return self._convolutions[name].output[0] if pair is None else pair[1].output[0]

    def errors(self, values: Mapping[str, Array]) -> dict[str, Floats]:
        """What each layer gives in int8, behind its activation, less what it gives in fp32."""
        feed = {f"{n}/taken": self._rounded(c.input[0], values[c.input[0]]) for n, c in self._convolutions.items()}
        found = {}
        for name, given in self._graph.run(feed).items():
            layer = name.removesuffix("/given")
            given = self._rounded(self._convolutions[layer].output[0], given + self._biases[layer][:, None, None])
            pair = self._activations[layer]
            if pair is not None:
                sigmoid = 1 / (1 + np.exp(-given))
                if pair[0].output[0] in self._scales:
                    sigmoid = np.rint(sigmoid / _SIGMOID_STEP) * _SIGMOID_STEP
                given = given * sigmoid
            found[layer] = given - values[self.point(layer)]
        return found

    def close(self) -> None:
        """Free the session."""
        self._graph.close()

    def _rounded(self, tensor: str, values: Array) -> Floats:
        """`values` as int8 holds them, where it does."""
        if tensor not in self._scales:
            return values
        scale, zero = self._scales[tensor]
        lowest, highest = (-128, 127) if self._dialect == "s8s8" else (0, 255)
        levels = np.rint(values / scale)
        return (levels.clip(lowest - zero, highest - zero) * scale).astype(np.float32)


def _convolved(convolutions: Mapping[str, onnx.NodeProto], weights: Mapping[str, Floats]) -> OnnxRuntimeGraph:
    """One session of all convolutions side by side and without bias, each from "NAME/taken" to "NAME/given"."""
    nodes, taken, given, constants = [], [], [], []
    for name, conv in convolutions.items():
        node = onnx.NodeProto()
        node.CopyFrom(conv)
        node.input[:], node.output[:] = [f"{name}/taken", f"{name}/weight"], [f"{name}/given"]
        nodes.append(node)
        taken.append(helper.make_tensor_value_info(f"{name}/taken", TensorProto.FLOAT, [None] * 4))
        given.append(helper.make_tensor_value_info(f"{name}/given", TensorProto.FLOAT, [None] * 4))
        constants.append(numpy_helper.from_array(weights[name].astype(np.float32), f"{name}/weight"))
    graph = helper.make_graph(nodes, "layers", taken, given, constants)
    return open_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


class _Segment:
    """Layers with nearly the same part of the graph behind them, and that part.

    Attributes:
        taken: Tensors to feed it, as fp32 gives them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        nodes: Sequence[onnx.NodeProto],
        points: Mapping[str, str],
        kinds: Mapping[str, onnx.ValueInfoProto],
    ) -> None:
        self._points = points
        behind = onnx.ModelProto()
        behind.CopyFrom(model)
        graph = behind.graph
        made = {name for node in nodes for name in node.output}
        weights = {weight.name for weight in graph.initializer}
        outer = [name for node in nodes for name in node.input if name and name not in made and name not in weights]
        self.taken = list(dict.fromkeys([*outer, *(p for p in points.values() if p not in made)]))
        points_here = set(points.values())
        copied: list[onnx.NodeProto] = []

        def add_error(point: str) -> None:
            copied.append(helper.make_node("Add", [point, f"{point}{_ERROR}"], [f"{point}{_SUM}"], f"{point}{_SUM}"))

        for point in points_here - made:
            add_error(point)
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [f"{name}{_SUM}" if name in points_here else name for name in node.input]
            copied.append(copy)
            for point in points_here.intersection(node.output):
                add_error(point)
        del graph.node[:]
        graph.node.extend(copied)
        del graph.input[:]
        graph.input.extend(kinds[name] for name in self.taken)
        graph.input.extend(
            helper.make_tensor_value_info(f"{point}{_ERROR}", TensorProto.FLOAT, [None] * 4) for point in points_here
        )
        outputs = [value for value in model.graph.output if value.name in made]
        del graph.output[:]
        graph.output.extend(outputs)
        del graph.value_info[:]
        used = {name for node in copied for name in node.input}
        constants = [weight for weight in graph.initializer if weight.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        self._model = behind
        self._graph: OnnxRuntimeGraph | None = None

    def answers(
        self, errors: Mapping[str, Floats], values: Mapping[str, Array]
    ) -> Iterator[tuple[str, dict[str, Array]]]:
        """For each layer, what the outputs become with its error alone."""
        if self._graph is None:
            self._graph = open_model(self._model)
        feed = {name: values[name] for name in self.taken}
        feed |= {f"{point}{_ERROR}": _NO_ERROR for point in self._points.values()}
        for name, point in self._points.items():
            yield name, self._graph.run({**feed, f"{point}{_ERROR}": errors[name]})

    def close(self) -> None:
        """Free the session."""
        if self._graph is not None:
            self._graph.close()


def _segments(model: onnx.ModelProto, layers: _Layers) -> list[_Segment]:
    """The layers, in the order of the graph, with those together whose part of the graph is nearly the same."""
    nodes = list(model.graph.node)
    flops = convolution_flops(model)
    behind_tensor: dict[str, int] = {}  # nodes behind each tensor, as bits
    for place in range(len(nodes) - 1, -1, -1):
        behind = 1 << place
        for name in nodes[place].output:
            behind |= behind_tensor.get(name, 0)
        for name in nodes[place].input:
            behind_tensor[name] = behind_tensor.get(name, 0) | behind

    def cost(bits: int) -> int:
        return sum(flops.get(node.name, 0) for place, node in enumerate(nodes) if bits >> place & 1)

    most = _SHARED * sum(flops.values())
    gathered: list[tuple[int, int, list[str]]] = []  # nodes, the least cost of a layer alone, layers
    for name in layers.names:
        behind = behind_tensor.get(layers.point(name), 0)
        alone = cost(behind)
        if gathered:
            bits, least, members = gathered[-1]
            least = min(least, alone)
            if cost(bits | behind) - least <= most:
                gathered[-1] = (bits | behind, least, [*members, name])
                continue
        gathered.append((behind, alone, [name]))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {value.name: value for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return [
        _Segment(
            model,
            [node for place, node in enumerate(nodes) if bits >> place & 1],
            {name: layers.point(name) for name in members},
            kinds,
        )
        for bits, _, members in gathered
        if bits
    ]


def convolution_flops(model: onnx.ModelProto) -> dict[str, int]:
    """FLOPs (twice the multiply-accumulates) of every convolution for one image."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    view = GraphView(model)
    found = {}
    for conv in view.convolutions():
        kernel = view.weights[conv.input[1]].dims
        height, width = shapes[conv.output[0]][2:]
        found[conv.name] = 2 * int(np.prod(kernel)) * height * width
    return found


def _with_all_cells(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that gives all cells where `model` gives the best ones: their order is no matter of noise."""
    if all(value.name != "cells" for value in model.graph.output):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    choosers = {node.output[0]: node for node in whole.graph.node if node.op_type == "GatherElements"}
    for value in whole.graph.output:
        if value.name in choosers:
            node = choosers[value.name]
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
            value.type.tensor_type.ClearField("shape")
    return whole
