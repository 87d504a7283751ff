"""INT8 graphs: where pairs stand in each dialect, what they hold, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from yolor_edge.export.onnx_graphs.graph_view import GraphView
from yolor_edge.export.onnx_graphs.probe import open_model, open_probe
from yolor_edge.export.onnx_graphs.space_to_depth import SUFFIX, stem_on_blocks
from yolor_edge.export.precision.calibration import Calibration, CalibrationSet, calibrate
from yolor_edge.export.precision.to_int8 import Quantized, quantize, weight_levels
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.bundle.bundle import INT8_DIALECTS
from yolor_edge.runtime.errors import CalibrationError, UsageError
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..exported import INPUT_SIZE, Exported

PREDICTIONS = {"semantic_head.body.1", "mask_head.exit.1", "caption_memory"} | {
    f"{branch}.{level}.2"
    for branch in ("box_head.boxes", "box_head.classes", "mask_head.coefficients")
    for level in range(3)
}


@pytest.fixture(scope="module")
def vision(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def pictures(exported: Exported) -> CalibrationSet:
    files: list[Path] = sorted((exported.data / "train").iterdir())
    return CalibrationSet(files, PreprocessRule(INPUT_SIZE))


@pytest.fixture(scope="module")
def calibration(vision: onnx.ModelProto, pictures: CalibrationSet) -> Calibration:
    return calibrate(vision, pictures, "minmax")


@pytest.fixture(scope="module", params=INT8_DIALECTS)
def quantized(request: pytest.FixtureRequest, vision: onnx.ModelProto, calibration: Calibration) -> Quantized:
    return quantize(vision, calibration.ranges, request.param)


def is_signed(quantized: Quantized) -> bool:
    zeros = {node.input[2] for node in quantized.model.graph.node if node.op_type == "QuantizeLinear"}
    return any(w.data_type == onnx.TensorProto.INT8 for w in quantized.model.graph.initializer if w.name in zeros)


def is_for_onnxruntime(quantized: Quantized) -> bool:
    return any(node.op_type == "SpaceToDepth" for node in quantized.model.graph.node)


def probed(model: onnx.ModelProto, image: Array, names: list[str]) -> dict[str, Array]:
    with open_probe(model, names, threads=1) as probe:
        return probe.run({"images": image}, names)


def heads(model: onnx.ModelProto, image: Array) -> dict[str, Array]:
    graph = open_model(model, 1)
    try:
        return graph.run({"images": image})
    finally:
        graph.close()


def test_values_stay_near_those_of_fp32(
    vision: onnx.ModelProto, quantized: Quantized, pictures: CalibrationSet
) -> None:
    image = next(iter(pictures.tensors()))
    # The heads of a network that was never trained are as far from its image as can be: noise grows on the way there.
    allowed = {"backbone.stage2.exit.act/Mul": 0.03, "backbone.stage3.1.exit.act/Mul": 0.1}
    exact, found = (probed(model, image, list(allowed)) for model in (vision, quantized.model))
    for name, value in exact.items():
        noise = float(np.square(found[name] - value).sum() / np.square(value).sum())
        assert 1e-7 < noise < allowed[name], f"{name}: {noise}"


def test_what_is_predicted_stays_in_float(vision: onnx.ModelProto, quantized: Quantized) -> None:
    assert GraphView(vision).head_outputs == PREDICTIONS
    first = set() if is_for_onnxruntime(quantized) else {"backbone.stem.0.conv"}
    assert set(quantized.kept) == PREDICTIONS | first
    weights = {node.name: node.input[1] for node in quantized.model.graph.node if node.op_type == "Conv"}
    for name in quantized.int8:
        assert weights[name].endswith("/dq")
    for name in quantized.kept:
        assert not weights[name].endswith("/dq")


def test_weights_have_a_symmetric_scale_per_channel(vision: onnx.ModelProto, quantized: Quantized) -> None:
    own = GraphView(vision).weight("backbone.stage2.exit.conv.weight")
    constants = {weight.name: numpy_helper.to_array(weight) for weight in quantized.model.graph.initializer}
    levels = constants["backbone.stage2.exit.conv.weight/q"]
    scale = constants["backbone.stage2.exit.conv.weight/scale"]
    assert levels.dtype == np.int8 and levels.min() >= -127
    assert not constants["backbone.stage2.exit.conv.weight/zero"].any()
    exact = np.abs(own).reshape(len(own), -1).max(1) / 127
    error = levels * scale[:, None, None, None] - own
    if is_signed(quantized):
        np.testing.assert_allclose(exact, scale, rtol=1e-3)
        assert np.abs(error).max() <= scale.max() / 2 * 1.001
    else:  # a bit less, and no more, where weights are spread evenly up to the largest
        assert (exact * (1 - 1e-6) <= scale).all() and (scale <= 2 * exact).all()
        assert (np.square(error).mean((1, 2, 3)) <= np.square(2 * exact) / 12 * 1.2).all()


@pytest.mark.parametrize("dialect", ["u8s8", "openvino"])
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("kind", ["normal", "uniform", "equal"])
def test_no_two_products_of_neighbours_leave_16_bits(dialect: str, channels: int, kind: str) -> None:
    """As CPUs without VNNI add them (vpmaddubsw), whatever the activations are."""
    rng = np.random.default_rng(0)
    shape = (16, channels, 3, 3)
    weight = {"normal": rng.normal(size=shape), "uniform": rng.uniform(-1, 1, shape), "equal": np.ones(shape)}[kind]
    levels, scale = weight_levels(weight, None, np.float32(0.1), dialect)
    # In the order of kernels that gather: rows, columns, channels.
    row = levels.transpose(0, 2, 3, 1).reshape(16, -1).astype(np.int64)
    row = np.pad(row, ((0, 0), (0, row.shape[1] % 2)))
    highest, lowest = 255 * np.maximum(row, 0), 255 * np.minimum(row, 0)
    assert (highest[:, 0::2] + highest[:, 1::2]).max() <= 32767
    assert (lowest[:, 0::2] + lowest[:, 1::2]).min() >= -32768
    found = levels * scale[:, None, None, None]
    allowed = {"normal": 1e-4 if channels == 8 else 4e-4, "uniform": 1e-4, "equal": 1e-12}[kind]
    assert np.square(found - weight).sum() < allowed * np.square(weight).sum()


def test_activations_are_signed_in_one_dialect_and_unsigned_in_the_other(quantized: Quantized) -> None:
    constants = {weight.name: numpy_helper.to_array(weight) for weight in quantized.model.graph.initializer}
    zeros = [constants[node.input[2]] for node in quantized.model.graph.node if node.op_type == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8 if is_signed(quantized) else np.uint8)}
    if is_signed(quantized):
        assert not any(zero.any() for zero in zeros)


def test_no_pair_stands_between_a_convolution_and_its_silu_where_an_engine_fuses_them(quantized: Quantized) -> None:
    view = GraphView(quantized.model)
    conv = view.producers[next(o for o in view.producers if o == "backbone.stage2.short.conv")]
    readers = {node.op_type for node in view.consumers[conv.output[0]]}
    assert readers == ({"Sigmoid", "Mul"} if not is_for_onnxruntime(quantized) else {"QuantizeLinear"})


def test_all_that_meets_in_a_concat_has_one_scale(quantized: Quantized) -> None:
    view = GraphView(quantized.model)
    constants = {weight.name: numpy_helper.to_array(weight) for weight in quantized.model.graph.initializer}
    seen = 0
    for node in quantized.model.graph.node:
        quantizers = [reader for reader in view.consumers.get(node.output[0], []) if reader.op_type == "QuantizeLinear"]
        if node.op_type not in ("Concat", "MaxPool", "Resize") or not quantizers:
            continue
        given = constants[quantizers[0].input[1]]
        for name in node.input if node.op_type == "Concat" else node.input[:1]:
            assert constants[view.producers[name].input[1]] == given
        seen += 1
    assert seen > 20


def test_a_pair_reads_scalars(quantized: Quantized) -> None:
    # A scale of shape (1,) is as valid, but keeps ONNX Runtime from multiplying in int8.
    constants = {weight.name: weight for weight in quantized.model.graph.initializer}
    for node in quantized.model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert [list(constants[name].dims) for name in node.input[1:]] == [[], []]


def test_signed_scales_are_float16_numbers_that_clip_nothing(
    vision: onnx.ModelProto, quantized: Quantized, calibration: Calibration
) -> None:
    if not is_signed(quantized):
        pytest.skip("unsigned activations are for a runtime without fp16")
    weights = GraphView(vision)
    for constant in quantized.model.graph.initializer:
        name, _, kind = constant.name.rpartition("/")
        if kind != "scale":
            continue
        scale = numpy_helper.to_array(constant)
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)
        if name in weights.weights:
            own = weights.weight(name)
            assert (scale * 127 >= np.abs(own).reshape(len(own), -1).max(1) * (1 - 1e-6)).all()
        elif name in calibration.ranges and name.endswith("act/Mul"):
            assert scale * 127 >= calibration.ranges[name][1] * (1 - 1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e9])
def test_a_scale_beyond_what_float16_holds(vision: onnx.ModelProto, calibration: Calibration, size: float) -> None:
    """None that rounds to nothing, which engines refuse, and none that is infinite."""
    ranges = {name: (-size, size) for name in calibration.ranges}
    constants = {w.name: w for w in quantize(vision, ranges, "s8s8").model.graph.initializer}
    scale = float(numpy_helper.to_array(constants["backbone.stem.1.act/Mul/scale"]))
    assert 0 < scale < np.inf
    assert scale * 127 >= size * (1 - 1e-6)


def test_a_channel_of_dead_weights_keeps_its_bias(vision: onnx.ModelProto, calibration: Calibration) -> None:
    dead = onnx.ModelProto()
    dead.CopyFrom(vision)
    constants = {weight.name: weight for weight in dead.graph.initializer}
    for name, value in (("weight", 0.0), ("bias", 1.0)):
        constant = constants[f"backbone.stage2.exit.conv.{name}"]
        values = numpy_helper.to_array(constant).copy()
        values[3] = value
        constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    held = {
        w.name: numpy_helper.to_array(w) for w in quantize(dead, calibration.ranges, "u8s8").model.graph.initializer
    }
    bias = held["backbone.stage2.exit.conv.bias/q"][3] * float(held["backbone.stage2.exit.conv.bias/scale"][3])
    assert bias == pytest.approx(1.0, rel=1e-6)


def test_layers_named_by_their_beginning_stay_in_float(vision: onnx.ModelProto, calibration: Calibration) -> None:
    found = quantize(vision, calibration.ranges, "s8s8", ["neck.down4", "backbone.stem.1.conv"])
    assert "backbone.stem.1.conv" in found.kept
    assert [name for name in found.kept if name.startswith("neck.")] == [
        name for name in sorted({*found.int8, *found.kept}) if name.startswith("neck.down4.")
    ]
    with pytest.raises(UsageError, match=r"no convolution is called 'neck\.down9'; names look like backbone\.stem\.0"):
        quantize(vision, calibration.ranges, "s8s8", ["neck.down9"])


def test_a_missing_range_and_a_foreign_dialect_are_refused(vision: onnx.ModelProto, calibration: Calibration) -> None:
    ranges = dict(calibration.ranges)
    del ranges["backbone.stem.1.act/Mul"]
    with pytest.raises(CalibrationError, match=r"no range for 'backbone\.stem\.1\.act/Mul'; calibrate again"):
        quantize(vision, ranges, "s8s8")
    with pytest.raises(UsageError, match="int8 dialect must be one of s8s8, u8s8, openvino, got 's4'"):
        quantize(vision, calibration.ranges, "s4")


def test_the_stem_on_blocks_gives_what_the_stem_gives(vision: onnx.ModelProto) -> None:
    on_blocks = stem_on_blocks(vision)
    onnx.checker.check_model(on_blocks, full_check=True)
    assert on_blocks.graph.node[0].op_type == "SpaceToDepth"
    assert any(name.endswith(SUFFIX) for node in on_blocks.graph.node for name in node.output)
    image = np.random.default_rng(0).random((2, 3, *INPUT_SIZE), dtype=np.float32)
    exact, found = heads(vision, image), heads(on_blocks, image)
    for name, value in exact.items():
        assert np.abs(found[name] - value).max() <= 1e-4 * np.abs(value).max(), name


def test_a_stem_of_another_shape_is_left_alone(vision: onnx.ModelProto) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(vision)
    first = next(node for node in other.graph.node if node.op_type == "Conv")
    for attribute in first.attribute:
        if attribute.name == "dilations":
            attribute.ints[:] = [2, 2]
        if attribute.name == "pads":
            attribute.ints[:] = [2, 2, 2, 2]
    assert stem_on_blocks(other) is other


@pytest.mark.parametrize("dialect", INT8_DIALECTS)
def test_convolutions_may_share_their_weights(dialect: str) -> None:
    """As layers do that are called twice: what they read differs, so each has constants of its own."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(0, 0.4, (4, 3, 3, 3)), "w": rng.normal(0, 0.3, (4, 4, 3, 3)), "b": rng.normal(size=4)}
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["t0"], "first", **conv),
        helper.make_node("Conv", ["t0", "w", "b"], ["t1"], "second", **conv),
        helper.make_node("Conv", ["t1", "w", "b"], ["t2"], "third", **conv),
        helper.make_node("Conv", ["t2", "w0_out"], ["out"], "last", kernel_shape=[1, 1]),
    ]
    weights["w0_out"] = rng.normal(size=(2, 4, 1, 1))
    shape = [helper.make_tensor_value_info(n, 1, [1, c, 8, 8]) for n, c in (("images", 3), ("out", 2))]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "shared", shape[:1], shape[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    image = rng.random((1, 3, 8, 8), dtype=np.float32)
    exact = probed(model, image, ["t0", "t1", "t2", "out"])
    ranges = {name: (float(value.min()), float(value.max())) for name, value in {"images": image, **exact}.items()}
    found = quantize(model, ranges, dialect)
    assert {"second", "third"} <= set(found.int8)
    value = heads(found.model, image)["out"]
    assert np.abs(value - exact["out"]).max() < 0.1 * np.abs(exact["out"]).max()
