"""INT8 as explicit Q/DQ pairs around the float graph, in three dialects from one calibration.

Weights are signed, symmetric and have a scale per output channel in all. Activations differ:

`s8s8`, for TensorRT: signed and symmetric. A pair stands where an engine can fold it into the kernels
beside it: behind an activation, never between a convolution and its SiLU, and with one scale for all that meets in a
Concat, so that joining costs nothing (NVIDIA, "Working with Quantized Types": Q/DQ placement).

`openvino`: pairs at the same places, unsigned with a zero point. OpenVINO (2026.4) computes signed ones otherwise than
they are written where they go through a Concat, on any CPU without AMX.

`u8s8`, for ONNX Runtime on x86, whose kernels multiply unsigned by signed: unsigned with a zero point, and pairs behind
the convolution and the sigmoid too, because a convolution runs in int8 there only if what it gives is quantised.

CPUs without VNNI add two neighbouring products of unsigned and signed bytes in 16 bits, which end at 32767 (vpmaddubsw
in oneDNN and ONNX Runtime). In the unsigned dialects no two weights that meet there add up to more than 128, so that
all CPUs give the same numbers.

The scales of `s8s8` are float16 numbers, so that what is not int8 can be fp16 without giving other answers
(`to_fp16.halve_around_int8`).

What is predicted (the last convolution of every head) stays in float. So does the first convolution but in `u8s8`:
symmetric int8 would cost every pixel its lowest bit, and OpenVINO is no faster on three channels in int8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...runtime.bundle.bundle import INT8_DIALECTS
from ...runtime.errors import CalibrationError, UsageError
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.space_to_depth import SUFFIX, stem_on_blocks

# Below this a SiLU gives less than 0.04, and less of its range than int8 resolves: clipping costs nothing there.
_SILU_FLOOR = -5.0
_SIGMOID_RANGE = (0.0, 1.0)
_TINY = 1e-8
# Two bytes of an activation times two weights are added in 16 bits: 255 * 128 still fits.
_LARGEST_PAIR = 128
_SCALES_TRIED = 5
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Quantized:
    """A quantised graph and what it holds.

    Attributes:
        model: The graph.
        int8: Names of the convolutions that run in int8.
        kept: Names of those that run in float.
    """

    model: onnx.ModelProto
    int8: tuple[str, ...]
    kept: tuple[str, ...]


def quantize(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    dialect: str,
    keep_float: Collection[str] = (),
) -> Quantized:
    """Write Q/DQ pairs into an fp32 vision graph.

    Args:
        model: The fp32 graph; not changed.
        ranges: (low, high) of every tensor to quantise, as `calibrate` measures them.
        dialect: Of `INT8_DIALECTS`.
        keep_float: Convolutions to leave in float beside the predictions, by name or by the start of it
            ("box_head", "backbone.stem.0").

    Raises:
        UsageError: If the dialect is unknown or `keep_float` names no convolution.
        CalibrationError: If a range is missing.
    """
    view, chosen, kept = _choose(model, dialect, keep_float)
    scales = _activation_scales(view, _tensors_to_quantize(view, chosen, dialect), ranges, dialect)
    return Quantized(
        _write_pairs(view, chosen, scales, dialect), tuple(conv.name for conv in chosen), tuple(sorted(kept))
    )


def activation_scales(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    dialect: str,
    keep_float: Collection[str] = (),
) -> tuple[tuple[str, ...], dict[str, tuple[np.float32, int]]]:
    """What `quantize` would do: the convolutions it puts into int8, and (scale, zero point) of every tensor."""
    view, chosen, _ = _choose(model, dialect, keep_float)
    scales = _activation_scales(view, _tensors_to_quantize(view, chosen, dialect), ranges, dialect)
    return tuple(conv.name for conv in chosen), {name.removesuffix(SUFFIX): pair for name, pair in scales.items()}


def held_in_int8(
    model: onnx.ModelProto, dialect: str, keep_float: Collection[str] = ()
) -> tuple[tuple[str, ...], dict[str, str]]:
    """What `quantize` would do: the convolutions it puts into int8, and every tensor with the group of its scale."""
    view, chosen, _ = _choose(model, dialect, keep_float)
    return tuple(conv.name for conv in chosen), _tensors_to_quantize(view, chosen, dialect)


def _choose(
    model: onnx.ModelProto, dialect: str, keep_float: Collection[str]
) -> tuple[GraphView, list[onnx.NodeProto], set[str]]:
    """The graph that is quantised, the convolutions that go into int8, and the names of those that do not."""
    if dialect not in INT8_DIALECTS:
        raise UsageError(f"int8 dialect must be one of {', '.join(INT8_DIALECTS)}, got {dialect!r}")
    view = GraphView(stem_on_blocks(model) if dialect == "u8s8" else model)
    kept = kept_convolutions(view, keep_float)
    if dialect != "u8s8":
        kept |= {conv.name for conv in view.convolutions() if view.reads_image(conv)}
    return view, [conv for conv in view.convolutions() if conv.name not in kept], kept


def kept_convolutions(view: GraphView, keep_float: Collection[str]) -> set[str]:
    """Names of the convolutions that stay in float: the predictions and what `keep_float` names.

    Raises:
        UsageError: If an entry of `keep_float` names none.
    """
    names = [conv.name for conv in view.convolutions()]
    kept = set(view.head_outputs)
    unknown = []
    for entry in keep_float:
        matching = {name for name in names if name == entry or name.startswith(f"{entry}.")}
        if not matching:
            unknown.append(entry)
        kept |= matching
    if unknown:
        raise UsageError(
            f"no convolution is called {', '.join(map(repr, unknown))}; names look like {', '.join(names[:3])}"
        )
    return kept


def _tensors_to_quantize(view: GraphView, chosen: list[onnx.NodeProto], dialect: str) -> dict[str, str]:
    """Tensors to hold in int8, each with the group that it shares its scale with (named by one of its members)."""
    groups: dict[str, str] = {}

    def root(name: str) -> str:
        while groups[name] != name:
            name = groups[name]
        return name

    pending = [conv.input[0] for conv in chosen]
    while pending:
        name = pending.pop()
        groups.setdefault(name, name)
        # What only moves values runs in int8 where all it takes and gives has one scale.
        for taken in view.moved_into(name):
            if taken not in groups:
                groups[taken] = taken
                pending.append(taken)
            groups[root(taken)] = root(name)
    if dialect == "u8s8":
        for conv in chosen:
            groups.setdefault(conv.output[0], conv.output[0])
            pair = view.activation_of(conv)
            if pair is not None and pair[1].output[0] in groups:
                groups.setdefault(pair[0].output[0], pair[0].output[0])
    return {name: root(name) for name in groups}


def _activation_scales(
    view: GraphView, tensors: Mapping[str, str], ranges: Mapping[str, tuple[float, float]], dialect: str
) -> dict[str, tuple[np.float32, int]]:
    """(scale, zero point) of every tensor."""
    bounds: dict[str, tuple[float, float]] = {}
    for name, group in tensors.items():
        low, high = _range_of(view, name, ranges)
        if group in bounds:
            low, high = min(low, bounds[group][0]), max(high, bounds[group][1])
        bounds[group] = (low, high)
    found = {}
    for name, group in tensors.items():
        low, high = bounds[group]
        if dialect == "s8s8":
            found[name] = (_as_halves(np.array(max(-low, high, _TINY) / 127))[()], 0)
        else:
            scale = max(high - low, _TINY) / 255
            found[name] = (np.float32(scale), int(np.clip(round(-low / scale), 0, 255)))
    return found


def _range_of(view: GraphView, name: str, ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    node = view.producers.get(name)
    if node is not None and node.op_type == "Sigmoid":
        return _SIGMOID_RANGE
    known = name.removesuffix(SUFFIX)
    if known not in ranges:
        raise CalibrationError(f"the scales hold no range for {known!r}; calibrate again")
    low, high = ranges[known]
    if node is not None and node.op_type == "Conv" and view.activation_of(node) is not None:
        low = max(low, min(_SILU_FLOOR, -high / 4))
    return low, high


def _write_pairs(
    view: GraphView, chosen: list[onnx.NodeProto], scales: Mapping[str, tuple[np.float32, int]], dialect: str
) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    graph = model.graph
    dtype = np.int8 if dialect == "s8s8" else np.uint8
    added: list[onnx.TensorProto] = []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        added.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def pair(name: str) -> list[onnx.NodeProto]:
        scale, zero_point = scales[name]
        parameters = [constant(f"{name}/scale", np.array(scale)), constant(f"{name}/zero", np.array(zero_point, dtype))]
        return [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}/q"], f"{name}/QuantizeLinear"),
            helper.make_node(
                "DequantizeLinear", [f"{name}/q", *parameters], [f"{name}/dq"], f"{name}/DequantizeLinear"
            ),
        ]

    int8 = {conv.name for conv in chosen}
    readers = Counter(name for node in graph.node for name in node.input)
    nodes = [node for value in graph.input if value.name in scales for node in pair(value.name)]
    for node in graph.node:
        if node.name in int8:
            nodes += _quantize_weights(node, view, scales[node.input[0]][0], dialect, constant, readers)
        node.input[:] = [f"{name}/dq" if name in scales else name for name in node.input]
        nodes.append(node)
        for output in node.output:
            if output in scales:
                nodes += pair(output)
    copied = [onnx.NodeProto() for _ in nodes]
    for target, node in zip(copied, nodes, strict=True):
        target.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copied)
    used = {name for node in copied for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*weights, *added])
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def _quantize_weights(
    conv: onnx.NodeProto,
    view: GraphView,
    input_scale: np.float32,
    dialect: str,
    constant: Callable[[str, NDArray[np.generic]], str],
    readers: Mapping[str, int],
) -> list[onnx.NodeProto]:
    """Replace weights, and for ONNX Runtime the bias, by constants in int8 and int32; the nodes that read them.

    Convolutions that share weights get constants of their own: scales depend on what each reads.
    """
    name = conv.input[1] if readers[conv.input[1]] == 1 else f"{conv.name}.weight"
    bias = None
    if dialect == "u8s8" and len(conv.input) > 2 and conv.input[2]:
        bias = view.weight(conv.input[2]).astype(np.float64)
    levels, scale = weight_levels(view.weight(conv.input[1]), bias, input_scale, dialect)
    inputs = [
        constant(f"{name}/q", levels),
        constant(f"{name}/scale", scale),
        constant(f"{name}/zero", np.zeros(len(scale), np.int8)),
    ]
    nodes = [helper.make_node("DequantizeLinear", inputs, [f"{name}/dq"], f"{name}/DequantizeLinear", axis=0)]
    conv.input[1] = f"{name}/dq"
    if bias is not None:
        name = conv.input[2] if readers[conv.input[2]] == 1 else f"{conv.name}.bias"
        bias_scale = input_scale * scale
        units = np.rint(bias / bias_scale).astype(np.int32)
        inputs = [
            constant(f"{name}/q", units),
            constant(f"{name}/scale", bias_scale),
            constant(f"{name}/zero", np.zeros(len(units), np.int32)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/dq"], f"{name}/DequantizeLinear", axis=0))
        conv.input[2] = f"{name}/dq"
    return nodes


def weight_levels(
    weight: NDArray[np.floating], bias: NDArray[np.floating] | None, input_scale: np.float32, dialect: str
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights (out, in, h, w) as int8 levels of the same shape and a scale (out,).

    Args:
        weight: To round.
        bias: (out,) where it is to be held in 32 bits in units of both scales; None where it stays in float.
        input_scale: Of what the convolution reads.
        dialect: Of `INT8_DIALECTS`.
    """
    exact = weight.astype(np.float64)
    smallest = np.full(len(exact), _TINY / 127)
    if bias is not None:  # a channel with next to no weights would not hold it
        smallest = np.maximum(smallest, np.abs(bias) / (float(input_scale) * _LARGEST_BIAS))
    if dialect == "s8s8":
        scale = _as_halves(np.maximum(smallest, _largest(exact) / 127))
        return _levels(exact, scale).clip(-127, 127).astype(np.int8), scale
    return _levels_that_add_up(exact, smallest)


def _levels_that_add_up(
    exact: NDArray[np.float64], smallest: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels of which no two that are added in 16 bits go beyond `_LARGEST_PAIR`, and scales (out,) from `smallest` on.

    Kernels add those of the input channels 2i and 2i + 1. Of an odd number of channels any two may meet. A wider scale
    rounds all of a channel's weights more, a narrower one cuts the largest pairs; each channel takes what errs least.
    """
    if exact.shape[1] % 2:
        scale = np.maximum(smallest, _largest(exact) / (_LARGEST_PAIR // 2)).astype(np.float32)
        return _levels(exact, scale).clip(-_LARGEST_PAIR // 2, _LARGEST_PAIR // 2).astype(np.int8), scale
    narrow = np.maximum(smallest, _largest(exact) / 127)
    wide = np.maximum(narrow, _largest(exact[:, 0::2] + exact[:, 1::2]) / _LARGEST_PAIR)
    best = np.full(len(exact), np.inf)
    levels, scales = np.zeros(exact.shape, np.int8), np.zeros(len(exact), np.float32)
    for share in np.linspace(0, 1, _SCALES_TRIED):
        scale = (narrow + share * (wide - narrow)).astype(np.float32)
        tried = _levels(exact, scale).clip(-127, 127)
        first, second = tried[:, 0::2], tried[:, 1::2]
        over = np.abs(first + second) - _LARGEST_PAIR  # of two signs it is never too much
        cut = np.ceil(over.clip(0) / 2)
        tried = np.stack([first - np.sign(first) * cut, second - np.sign(second) * (over.clip(0) - cut)], 2)
        tried = tried.reshape(exact.shape)
        error = np.square(tried * scale.astype(np.float64)[:, None, None, None] - exact).reshape(len(exact), -1).sum(1)
        better = error < best
        best[better], levels[better], scales[better] = error[better], tried[better], scale[better]
    return levels, scales


def _largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest magnitude in each output channel, (out,)."""
    return np.abs(values).reshape(len(values), -1).max(1)


def _levels(exact: NDArray[np.float64], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.rint(exact / scale.astype(np.float64)[:, None, None, None])


def _as_halves(scales: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float16 numbers that are no smaller, so that nothing more is clipped; float32 beyond their range."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
        halves = np.where(halves.astype(np.float64) < scales, np.nextafter(halves, np.float16(np.inf)), halves)
    return np.where(np.isfinite(halves), halves, scales).astype(np.float32)
