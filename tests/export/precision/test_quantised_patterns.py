"""Which ways of writing int8 TensorRT for RTX takes, and what it makes of them: the rules a quantiser has to keep.

Each graph is a few layers. The builder tells in which precision the layers that multiply take their input, so a pattern
that parses but is quietly computed in float is found out.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.export.engines.tensorrt_flavours import BuildJob, Toolkit, load_toolkit
from yolor_edge.runtime.errors import EngineBuildError

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not there on this platform")

CHANNELS = 32
ZERO = np.int8(0)


class Int8Graph:
    """Writes layers one after another; every method gives the name of the tensor it made.

    Args:
        kind: Of the scales, and so of what is between the layers.
    """

    def __init__(self, kind: DTypeLike = np.float16):
        self.kind = np.dtype(kind)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.is_half = self.kind == np.float16
        self.image = self.op("Cast", ["image"], to=TensorProto.FLOAT16) if self.is_half else "image"

    def keep(self, value: NDArray[Any] | np.generic) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def pair(self, source: str, scale: Any = 0.02, zero: Any = ZERO, **attributes: Any) -> str:
        """Quantise and dequantise."""
        both = [self.keep(np.asarray(scale, self.kind)), self.keep(np.asarray(zero))]
        return self.op(
            "DequantizeLinear", [self.op("QuantizeLinear", [source, *both], **attributes), *both], **attributes
        )

    def int8_weight(self, shape: tuple[int, ...], axis: int = 0) -> str:
        channels = shape[axis]
        values = self.random.integers(-127, 128, shape).astype(np.int8)
        scales = self.random.uniform(0.001, 0.01, channels).astype(self.kind)
        inputs = [self.keep(values), self.keep(scales), self.keep(np.zeros(channels, np.int8))]
        return self.op("DequantizeLinear", inputs, axis=axis)

    def conv(self, source: str, channels: int = CHANNELS, bias: str | None = None, groups: int = 1) -> str:
        """A 3 x 3 convolution with int8 weights and its SiLU."""
        bias = bias or self.keep(self.random.normal(size=CHANNELS).astype(self.kind))
        weight = self.int8_weight((CHANNELS, channels // groups, 3, 3))
        return self.silu(self.op("Conv", [source, weight, bias], pads=[1, 1, 1, 1], group=groups))

    def silu(self, source: str) -> str:
        return self.op("Mul", [source, self.op("Sigmoid", [source])])

    def model(self, answer: str, opset: int = 19) -> onnx.ModelProto:
        answer = self.op("Cast", [answer], to=TensorProto.FLOAT) if self.is_half else answer
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [answer], ["answer"])],
            "pattern",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS, 16, 16])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None] * 4)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


Pattern = Callable[[Int8Graph], str]


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    return load_toolkit("tensorrt-rtx")


def layers(toolkit: Toolkit, model: onnx.ModelProto, folder: Path) -> dict[str, int]:
    """How many of the layers that multiply take their input in which precision."""
    file = folder / "pattern.onnx"
    onnx.save(model, file)
    job = BuildJob(graph=str(file), outputs=["answer"], targets=["sm_86"])
    return toolkit.build(job, lambda *step: None).layers


def one(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image))


def residual(g: Int8Graph) -> str:
    skip = g.pair(one(g))
    return g.conv(g.pair(g.op("Add", [skip, g.conv(skip)])))


def residual_with_both_sides_quantised(g: Int8Graph) -> str:
    skip = g.pair(one(g))
    return g.conv(g.pair(g.op("Add", [skip, g.pair(g.conv(skip), 0.03)])))


def concat_of_one_scale(g: Int8Graph) -> str:
    first = g.pair(one(g))
    return g.conv(g.op("Concat", [first, g.pair(g.conv(first))], axis=1), 2 * CHANNELS)


def concat_of_two_scales(g: Int8Graph) -> str:
    first = g.pair(one(g), 0.02)
    both = g.op("Concat", [first, g.pair(g.conv(first), 0.05)], axis=1)
    return g.conv(g.pair(both, 0.05), 2 * CHANNELS)


def slices(g: Int8Graph) -> str:
    bounds = [g.keep(np.array([n], np.int64)) for n in (0, CHANNELS // 2, 1)]
    return g.conv(g.op("Slice", [g.pair(g.image), *bounds]), CHANNELS // 2)


def max_pooling(g: Int8Graph) -> str:
    return g.conv(g.pair(g.op("MaxPool", [g.pair(one(g))], kernel_shape=[5, 5], pads=[2, 2, 2, 2])))


def average_pooling(g: Int8Graph) -> str:
    return g.conv(g.pair(g.op("AveragePool", [g.pair(one(g))], kernel_shape=[2, 2], strides=[2, 2])))


def upsampling(g: Int8Graph) -> str:
    factors = g.keep(np.array([1, 1, 2, 2], np.float32))
    return g.conv(g.pair(g.op("Resize", [g.pair(one(g)), "", factors], mode="nearest")))


def depthwise(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image), groups=CHANNELS)


def weights_through_both_nodes(g: Int8Graph) -> str:
    value = g.random.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(g.kind)
    scales, zeros = np.full(CHANNELS, 0.02, g.kind), np.zeros(CHANNELS, np.int8)
    return g.op("Conv", [g.pair(g.image), g.pair(g.keep(value), scales, zeros, axis=0)], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("pattern", "convolutions"),
    [
        (one, 1),
        (residual, 3),
        (residual_with_both_sides_quantised, 3),
        (concat_of_one_scale, 3),
        (concat_of_two_scales, 3),
        (slices, 1),
        (max_pooling, 2),
        (average_pooling, 2),
        (upsampling, 2),
        (depthwise, 1),
        (weights_through_both_nodes, 1),
    ],
)
def test_convolutions_become_int8(
    toolkit: Toolkit, tmp_path: Path, pattern: Pattern, convolutions: int, kind: DTypeLike
) -> None:
    graph = Int8Graph(kind)
    assert layers(toolkit, graph.model(pattern(graph)), tmp_path) == {"int8": convolutions}


def test_scales_in_float32_may_be_cast_to_float16(toolkit: Toolkit, tmp_path: Path) -> None:
    """The way before opset 19, in which a scale is float32 always."""
    graph = Int8Graph(np.float32)
    source, weight = graph.pair(graph.image), graph.int8_weight((CHANNELS, CHANNELS, 3, 3))
    half = [graph.op("Cast", [name], to=TensorProto.FLOAT16) for name in (source, weight)]
    answer = graph.op("Cast", [graph.op("Conv", half, pads=[1, 1, 1, 1])], to=TensorProto.FLOAT)
    assert layers(toolkit, graph.model(answer, opset=18), tmp_path) == {"int8": 1}


# What comes out of an int8 convolution, which is why int8 gains nothing here that fp16 would not.


def weights_of_one_scale(g: Int8Graph) -> str:
    values = g.keep(g.random.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8))
    weight = g.op("DequantizeLinear", [values, g.keep(np.asarray(0.004, g.kind)), g.keep(ZERO)])
    return g.silu(g.op("Conv", [g.pair(g.image), weight], pads=[1, 1, 1, 1]))


def float_convolutions(g: Int8Graph) -> str:
    answer = g.image
    for _ in range(3):
        weight = g.keep(g.random.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(g.kind))
        bias = g.keep(g.random.normal(size=CHANNELS).astype(g.kind))
        answer = g.silu(g.op("Conv", [answer, weight, bias], pads=[1, 1, 1, 1]))
    return answer


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (one, [("correlation", "Int8", "Float")]),
        (weights_of_one_scale, [("correlation", "Int8", "Half")]),
        (float_convolutions, [("runtime_fusion", "Half", "Half")] * 2 + [("correlation", "Half", "Half")]),
    ],
)
def test_int8_convolutions_are_not_fused_with_their_silu(
    pattern: Pattern, expected: list[tuple[str, str, str]]
) -> None:
    """With a scale per channel they write float32 for another kernel; what is fp16 writes SiLU's values at once."""
    trt: Any = importlib.import_module("tensorrt_rtx")

    class Log(trt.ILogger):
        text = ""

        def log(self, severity: object, msg: str) -> None:
            self.text += f"{msg}\n"

    graph, log = Int8Graph(), Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse(graph.model(pattern(graph)).SerializeToString())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None
    layer = r"LayerType: (correlation|runtime_fusion), Inputs: .*?Datatype: (\w+).*?Outputs: .*?Datatype: (\w+)"
    assert re.findall(layer, log.text) == expected


# Taken without a word, and computed in float.


def scale_of_one_element(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, [0.02], np.zeros(1, np.int8)))


def scale_per_channel_of_the_image(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, np.full(CHANNELS, 0.02), np.zeros(CHANNELS, np.int8), axis=1))


def weights_alone(g: Int8Graph) -> str:
    return g.conv(g.image)


def transposed_convolution(g: Int8Graph) -> str:
    weight = g.int8_weight((CHANNELS, CHANNELS, 2, 2), axis=1)
    return g.op("ConvTranspose", [g.pair(g.image), weight], strides=[2, 2])


@pytest.mark.parametrize(
    "pattern", [scale_of_one_element, scale_per_channel_of_the_image, weights_alone, transposed_convolution]
)
def test_these_stay_in_float(toolkit: Toolkit, tmp_path: Path, pattern: Pattern) -> None:
    graph = Int8Graph()
    assert layers(toolkit, graph.model(pattern(graph)), tmp_path) == {"fp16": 1}


# Refused.


def shifted_zero(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, zero=np.int8(3)))


def unsigned_and_shifted(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, zero=np.uint8(128)))


def unsigned(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, zero=np.uint8(0)))


def scale_that_rounds_to_nothing(g: Int8Graph) -> str:
    return g.conv(g.pair(g.image, scale=1e-9))


def bias_in_int32(g: Int8Graph) -> str:
    scales, zeros = g.keep(np.full(CHANNELS, 2e-4, g.kind)), g.keep(np.zeros(CHANNELS, np.int32))
    bias = g.op("DequantizeLinear", [g.keep(np.zeros(CHANNELS, np.int32)), scales, zeros], axis=0)
    return g.conv(g.pair(g.image), bias=bias)


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        (shifted_zero, "Non-zero zero point is not supported"),
        (unsigned_and_shifted, "Non-zero zero point is not supported"),
        (unsigned, "would take for signed ones; it needs the graph that export writes as int8-s8s8"),
        (scale_that_rounds_to_nothing, "Scale coefficients must all be positive"),
        (bias_in_int32, "input has type Int32 but must have type FP8, FP4, Int4, Int8"),
    ],
)
def test_these_are_refused(toolkit: Toolkit, tmp_path: Path, pattern: Pattern, match: str) -> None:
    graph = Int8Graph()
    with pytest.raises(EngineBuildError, match=match):
        layers(toolkit, graph.model(pattern(graph)), tmp_path)
