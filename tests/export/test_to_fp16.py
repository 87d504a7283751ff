"""FP16 graphs: everything in 16 bits but what does not fit, with float32 at the borders."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.export.probe import open_model
from yolor_edge.export.to_fp16 import Halved, convert, nodes_out_of_range, to_fp16
from yolor_edge.runtime.backends.base import Array

from .exported import INPUT_SIZE, Exported


@pytest.fixture(scope="module")
def image() -> Array:
    return np.random.default_rng(0).random((1, 3, *INPUT_SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def vision(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def halved(vision: onnx.ModelProto, image: Array) -> Halved:
    return to_fp16(vision, [{"images": image}])


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
    half = to_fp16(prefill, [feed])
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
    half = to_fp16(model, [feed])
    assert dict(half.kept) == kept
    found = open_model(half.model, 1).run(feed)["out"]
    np.testing.assert_allclose(found, np.maximum(feed["images"], 0), rtol=1e-3)
    lost = open_model(convert(model, ()), 1).run(feed)["out"]
    assert not np.allclose(lost, np.maximum(feed["images"], 0), rtol=1e-2)


def test_layers_asked_for_stay_in_fp32(vision: onnx.ModelProto, image: Array) -> None:
    half = to_fp16(vision, [{"images": image}], ["semantic_head"])
    assert half.kept and all(name.startswith("semantic_head.") for name in half.kept)
    assert set(half.kept.values()) == {"asked for"}
    held = {w.name for w in half.model.graph.initializer if w.data_type == TensorProto.FLOAT}
    assert "semantic_head.body.1.weight" in held and "mask_head.exit.1.weight" not in held
