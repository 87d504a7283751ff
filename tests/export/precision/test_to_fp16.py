"""FP16 graphs: everything in 16 bits but what does not fit, with float32 at the borders."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.export.onnx_graphs.graph_view import GraphView
from yolor_edge.export.onnx_graphs.probe import open_model, open_probe
from yolor_edge.export.precision.calibration import CalibrationSet, calibrate
from yolor_edge.export.precision.to_fp16 import (
    Halved,
    as_computed_in_fp16,
    convert,
    foreseen_reach,
    halve_around_int8,
    nodes_out_of_range,
    to_fp16,
)
from yolor_edge.export.precision.to_int8 import Quantized, quantize
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..exported import INPUT_SIZE, Exported


@pytest.fixture(scope="module")
def image() -> Array:
    return np.random.default_rng(0).random((1, 3, *INPUT_SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def vision(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def halved(vision: onnx.ModelProto, image: Array) -> Halved:
    return to_fp16(vision, nodes_out_of_range(vision, [{"images": image}]))


def test_all_weights_are_halves_and_the_graph_keeps_its_contract(vision: onnx.ModelProto, halved: Halved) -> None:
    assert not halved.kept
    weights = {w.data_type for w in halved.model.graph.initializer}
    assert weights == {TensorProto.FLOAT16, TensorProto.INT64} or weights == {
        TensorProto.FLOAT16,
        TensorProto.INT64,
        TensorProto.FLOAT,
    }
    for kind in ("input", "output"):
        before, after = (
            [(v.name, v.type.tensor_type.elem_type) for v in getattr(model.graph, kind)]
            for model in (vision, halved.model)
        )
        assert before == after
    assert halved.model.ByteSize() < 0.55 * vision.ByteSize()
    names = {output for node in vision.graph.node for output in node.output}
    assert names <= {output for node in halved.model.graph.node for output in node.output}


def test_values_stay_within_what_fp16_resolves(vision: onnx.ModelProto, halved: Halved, image: Array) -> None:
    exact, found = (open_model(model, 1).run({"images": image}) for model in (vision, halved.model))
    for name, value in exact.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - value).max() <= 2e-2 * np.abs(value).max(), name


def test_caption_graphs_convert_too(exported: Exported) -> None:
    files = exported.bundle.graph_files()
    prefill = onnx.load(files["caption_prefill"])
    length, width = (axis.dim_value for axis in prefill.graph.input[0].type.tensor_type.shape.dim[1:])
    feed = {
        "caption_memory": np.random.default_rng(1).standard_normal((1, length, width)).astype(np.float32),
        "tokens": np.array([2]),
    }
    half = to_fp16(prefill, nodes_out_of_range(prefill, [feed]))
    exact, found = (open_model(model, 1).run(feed) for model in (prefill, half.model))
    for name, value in exact.items():
        assert np.abs(found[name] - value).max() <= 2e-2 * np.abs(value).max(), name


def scaled(gain: float) -> onnx.ModelProto:
    """images -> Mul by `gain` -> Mul by 1 / gain -> Relu."""
    nodes = [
        helper.make_node("Mul", ["images", "gain"], ["large"], "block.up"),
        helper.make_node("Mul", ["large", "back"], ["same"], "block.down"),
        helper.make_node("Relu", ["same"], ["out"], "head.relu"),
    ]
    constants = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("gain", gain), ("back", 1 / gain))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("images", "out")]
    graph = helper.make_graph(nodes, "scaled", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("gain", "reason"),
    [
        (1e5, r"large reaches 1e\+05, fp16 ends at 65504"),
        (1e-6, "large stays below 1e-06, where fp16 has no precision"),
    ],
)
def test_what_does_not_fit_stays_in_fp32_with_its_neighbours(gain: float, reason: str) -> None:
    model = scaled(gain)
    feed = {"images": np.array([[0.25, -1.0, 0.5, 1.0]], np.float32)}
    kept = nodes_out_of_range(model, [feed])
    assert set(kept) == {"block.up", "block.down"}
    assert any(re.search(reason, why) for why in kept.values())
    half = to_fp16(model, kept)
    assert dict(half.kept) == kept
    found = open_model(half.model, 1).run(feed)["out"]
    np.testing.assert_allclose(found, np.maximum(feed["images"], 0), rtol=1e-3)
    lost = open_model(convert(model, ()), 1).run(feed)["out"]
    assert not np.allclose(lost, np.maximum(feed["images"], 0), rtol=1e-2)


def test_what_few_images_foretell_to_leave_the_range_stays_in_fp32() -> None:
    model = scaled(100.0)
    feeds = [{"images": np.full((1, 4), size, np.float32)} for size in (1, 10, 100)]
    kept = nodes_out_of_range(model, feeds)
    assert kept["block.up"].startswith("large reaches 1e+04 and its spread over 3 images foretells ")
    assert kept["block.up"].endswith(", fp16 ends at 65504")
    assert not nodes_out_of_range(model, [feeds[2]] * 50)  # images that hardly differ


def test_the_reach_that_is_foreseen_shrinks_with_images_and_grows_with_their_spread() -> None:
    rng = np.random.default_rng(0)
    assert foreseen_reach([]) == foreseen_reach([0.0]) == 0
    assert foreseen_reach([100.0] * 3) > 500 and foreseen_reach([100.0] * 200) == 200
    for spread in (0.1, 0.5):
        seen, others = np.exp(spread * rng.normal(size=(2, 2000)))
        for count in (3, 20, 200):
            assert others.max() < foreseen_reach(list(seen[:count])) < 40
    assert foreseen_reach([1.0, np.inf]) == np.inf


def test_a_device_rounds_and_overflows_everywhere() -> None:
    """Which ONNX Runtime on a CPU does not."""
    half = as_computed_in_fp16(convert(scaled(300.0), ()))
    onnx.checker.check_model(half, full_check=True)
    found = open_model(half, 1).run({"images": np.array([[100.0, -50.0, 200.0, 250.0]], np.float32)})["out"][0]
    assert found[3] == np.inf and found[1] == 0
    expected = [np.float16(value) * np.float16(1 / 300) for value in (30000, 60000)]
    np.testing.assert_array_equal(found[[0, 2]], np.array(expected, np.float32))


def test_a_network_as_a_device_computes_it_is_noisier(vision: onnx.ModelProto, halved: Halved, image: Array) -> None:
    models = (vision, halved.model, as_computed_in_fp16(halved.model))
    exact, by_onnxruntime, by_device = (open_model(model, 1).run({"images": image}) for model in models)
    for name, value in exact.items():
        assert np.abs(by_device[name] - value).max() <= 3e-2 * np.abs(value).max(), name
    noise = [sum(np.square(found[n] - exact[n]).sum() for n in exact) for found in (by_onnxruntime, by_device)]
    assert noise[0] < noise[1]


def test_layers_asked_for_stay_in_fp32(vision: onnx.ModelProto, image: Array) -> None:
    half = to_fp16(vision, {}, ["semantic_head"])
    assert half.kept and all(name.startswith("semantic_head.") for name in half.kept)
    assert set(half.kept.values()) == {"asked for"}
    held = {w.name for w in half.model.graph.initializer if w.data_type == TensorProto.FLOAT}
    assert "semantic_head.body.1.weight" in held and "mask_head.exit.1.weight" not in held


def test_a_cast_to_float32_stays_one_and_its_readers_know() -> None:
    """TensorRT makes uint8 of nothing but float32, so a semantic map goes through it."""
    nodes = [
        helper.make_node("ArgMax", ["images"], ["best"], "best", axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["number"], "number", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["number"], ["map"], "map", to=TensorProto.UINT8),
        helper.make_node("Mul", ["number", "gain"], ["out"], "scale"),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info(n, k, ["batch"]) for n, k in (("map", 2), ("out", TensorProto.FLOAT))]
    gain = [numpy_helper.from_array(np.array(0.5, np.float32), "gain")]
    graph = helper.make_graph(nodes, "map", inputs, outputs, gain)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = convert(model, ())
    assert [n.attribute[0].i for n in half.graph.node if n.name in ("number", "map")] == [TensorProto.FLOAT, 2]
    found = open_model(half, 1).run({"images": np.eye(4, dtype=np.float32)})
    np.testing.assert_array_equal(found["map"], np.arange(4, dtype=np.uint8))
    np.testing.assert_array_equal(found["out"], np.arange(4, dtype=np.float32) / 2)


# fp16 around int8.


@pytest.fixture(scope="module")
def quantized(exported: Exported, vision: onnx.ModelProto) -> Quantized:
    pictures = CalibrationSet(sorted((exported.data / "train").iterdir()), PreprocessRule(INPUT_SIZE))
    return quantize(vision, calibrate(vision, pictures, "minmax").ranges, "s8s8", ["neck.top"])


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_all_that_is_not_int8_is_fp16_and_no_cast_stands_in_the_way(quantized: Quantized) -> None:
    half = halve_around_int8(quantized.model, ())
    onnx.checker.check_model(half, full_check=True)
    view, types = GraphView(half), types_of(half)
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    assert not floats  # but for the image and the predictions
    for node in half.graph.node:
        if node.op_type == "Conv":
            if node.name in quantized.int8:
                assert {view.producers[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
            else:
                assert view.weights[node.input[1]].data_type == TensorProto.FLOAT16
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert view.weights[node.input[1]].data_type == TensorProto.FLOAT16
    ends = [(v.name, v.type.tensor_type.elem_type) for v in (*half.graph.input, *half.graph.output)]
    assert ends == [
        (v.name, v.type.tensor_type.elem_type) for v in (*quantized.model.graph.input, *quantized.model.graph.output)
    ]
    assert [node.name for node in quantized.model.graph.node if node.op_type == "Conv"] == [
        node.name for node in half.graph.node if node.op_type == "Conv"
    ]


def test_fp16_around_int8_adds_little_to_its_noise(vision: onnx.ModelProto, quantized: Quantized, image: Array) -> None:
    """The scales are the same numbers, so nothing but the rounding to 11 bits between the pairs comes on top."""
    name = "backbone.stage2.exit.act/Mul"
    values = []
    for model in (vision, quantized.model, halve_around_int8(quantized.model, ())):
        with open_probe(model, [name], threads=1) as probe:
            values.append(probe.run({"images": image}, [name])[name].astype(np.float32))
    exact, int8, half = values
    noise = [float(np.square(found - exact).sum() / np.square(exact).sum()) for found in (int8, half)]
    assert 1e-7 < noise[0] < 0.03
    assert noise[1] < 1.2 * noise[0]


def test_what_leaves_the_range_of_fp16_stays_in_fp32_with_its_pairs(quantized: Quantized, image: Array) -> None:
    kept = {name for node in quantized.model.graph.node if (name := node.name).startswith("neck.down4.")}
    half = halve_around_int8(quantized.model, {name for name in kept if "Linear" not in name})
    types = types_of(half)
    convs = [node for node in half.graph.node if node.op_type == "Conv" and node.name in kept]
    assert convs
    for conv in convs:
        assert {types[name] for name in conv.output} == {TensorProto.FLOAT}
        assert types[conv.input[1]] == TensorProto.FLOAT
    assert types["backbone.stem.1.conv"] == TensorProto.FLOAT16
    found = open_model(half, 1).run({"images": image})
    assert all(np.isfinite(value).all() for value in found.values())
