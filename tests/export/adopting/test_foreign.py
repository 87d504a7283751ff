"""Foreign files are read into one form, and what cannot be adopted is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.export.adopting.foreign import read_foreign
from yolor_edge.export.onnx_graphs.probe import open_model
from yolor_edge.runtime.errors import UsageError

from .foreign_graphs import SIZE, Builder, detector, model_of, network, saved


def answer(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    model.graph.name = "graph"  # what open_model calls its file
    return next(iter(open_model(model).run(feed).values()))


def random_images(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *SIZE), dtype=np.float32)


def test_a_free_batch_stays_free_and_a_fixed_one_fixed(tmp_path: Path) -> None:
    free = read_foreign(saved(detector(), tmp_path))
    fixed = read_foreign(saved(detector(shape=(1, 3, *SIZE)), tmp_path))
    assert (free.batch, fixed.batch) == (None, 1)
    assert answer(free.model, {"input.1": random_images(3)}).shape[0] == 3


def test_a_batch_that_is_free_in_name_only_is_one(tmp_path: Path) -> None:
    b = Builder()
    boxes, logits, _ = network(b, "input.1")
    whole = b.add("Concat", boxes, b.add("Sigmoid", logits), axis=1)
    out = b.add("Reshape", whole, b.const([1, 7, -1], np.int64))
    foreign = read_foreign(saved(model_of(b, [out]), tmp_path))
    assert foreign.batch == 1


def test_the_size_comes_from_the_file_the_caller_or_the_metadata(tmp_path: Path) -> None:
    open_size = saved(detector(shape=("batch", 3, "h", "w")), tmp_path, "open.onnx")
    with pytest.raises(UsageError, match=r"\(batch, 3, h, w\), which leaves the size open; give input_size"):
        read_foreign(open_size)
    assert read_foreign(open_size, SIZE).size == SIZE
    noted = detector(shape=("batch", 3, "h", "w"), metadata={"imgsz": f"[{SIZE[0]}, {SIZE[1]}]"})
    assert read_foreign(saved(noted, tmp_path)).size == SIZE
    with pytest.raises(UsageError, match="which 32x32 does not fit"):
        read_foreign(saved(detector(), tmp_path), (32, 32))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{0: 'disc', 1: 'star'}", ("disc", "star")),
        ('["disc", "star"]', ("disc", "star")),
        ("{0: 'disc', 2: 'star'}", None),
        ("__import__('os').system('true')", None),
        ("{0: 1}", None),
        ("[" * 3000, None),
        ("", None),
    ],
)
def test_names_in_the_metadata_are_read_as_data(names: str, expected: tuple[str, ...] | None, tmp_path: Path) -> None:
    assert read_foreign(saved(detector(metadata={"names": names}), tmp_path)).class_names == expected


def with_preparation(kind: str) -> onnx.ModelProto:
    """A detector that takes pixels from 0 to 255 and prepares them itself."""
    b = Builder()
    if kind == "uint8 nhwc":
        x = b.add("Transpose", b.add("Cast", "input.1", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    else:
        x = "input.1"
    x = b.add("Sub", x, b.const(np.full((1, 3, 1, 1), 114.0))) if kind == "mean" else x
    x = b.add("Div", x, b.const(255.0))
    boxes, logits, _ = network(b, x)
    out = b.add("Concat", boxes, b.add("Sigmoid", logits), axis=1)
    if kind == "uint8 nhwc":
        return model_of(b, [out], shape=("batch", *SIZE, 3), kind=TensorProto.UINT8)
    return model_of(b, [out])


@pytest.mark.parametrize("kind", ["div", "mean", "uint8 nhwc"])
def test_a_graph_that_scales_pixels_itself_is_noticed(kind: str, tmp_path: Path) -> None:
    foreign = read_foreign(saved(with_preparation(kind), tmp_path))
    assert foreign.takes_bytes
    assert (foreign.layout, foreign.dtype) == (("nhwc", np.uint8) if "uint8" in kind else ("nchw", np.float32))
    assert not read_foreign(saved(detector(), tmp_path)).takes_bytes


def test_a_graph_in_16_bits_becomes_one_in_32(tmp_path: Path) -> None:
    model = detector()
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(half, weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    foreign = read_foreign(saved(model, tmp_path))
    assert foreign.is_half and foreign.dtype == np.float16
    found = answer(foreign.model, {"input.1": random_images()})
    expected = answer(foreign.original, {"input.1": random_images().astype(np.float16)})
    assert (found.dtype, expected.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.1)


def test_weights_beside_the_file_are_read_and_missed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(detector(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    found = read_foreign(path)
    np.testing.assert_array_equal(
        answer(found.original, {"input.1": random_images()}), answer(detector(), {"input.1": random_images()})
    )
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match="external data is missing or cut short"):
        read_foreign(path)


def test_an_old_opset_is_brought_up(tmp_path: Path) -> None:
    b = Builder()
    boxes, logits, _ = network(b, "input.1")
    out = b.add("Concat", boxes, b.add("Sigmoid", logits), axis=1)
    old = model_of(b, [out], opset=11)
    foreign = read_foreign(saved(old, tmp_path))
    assert foreign.model.opset_import[0].version == 18
    np.testing.assert_allclose(
        answer(foreign.model, {"input.1": random_images()}),
        answer(old, {"input.1": random_images()}),
        rtol=1e-4,
        atol=1e-4,
    )


def test_norms_are_folded_and_nodes_have_names(tmp_path: Path) -> None:
    b = Builder()
    x = b.conv("input.1", 3, 3, act=False)
    parts = [b.const(np.linspace(0.5, 1.5, 3)) for _ in range(4)]
    boxes, logits, _ = network(b, b.add("Relu", b.add("BatchNormalization", x, *parts)))
    foreign = read_foreign(saved(model_of(b, [b.add("Concat", boxes, b.add("Sigmoid", logits), axis=1)]), tmp_path))
    kinds = [node.op_type for node in foreign.model.graph.node]
    assert "BatchNormalization" not in kinds and {node.domain for node in foreign.model.graph.node} == {""}
    names = [node.name for node in foreign.model.graph.node]
    assert all(names) and len(set(names)) == len(names)


def broken(kind: str) -> onnx.ModelProto:
    """Models that cannot be adopted."""
    model = detector()
    graph = model.graph
    if kind == "custom":
        graph.node.append(helper.make_node("EfficientNMS_TRT", [graph.output[0].name], ["x"], domain="TRT"))
        model.opset_import.append(helper.make_opsetid("TRT", 1))
    elif kind == "float64":
        graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    elif kind == "float64 weights":
        weight = next(w for w in graph.initializer if w.data_type == TensorProto.FLOAT)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float64), weight.name))
    elif kind == "two inputs":
        graph.input.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, [1, 2]))
    elif kind == "grey":
        graph.input[0].CopyFrom(helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 1, *SIZE]))
    elif kind == "flat":
        graph.input[0].CopyFrom(helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3]))
    elif kind == "quantised":
        graph.node.append(
            helper.make_node("DynamicQuantizeLinear", [graph.output[0].name], ["x", "y", "z"], name="quantise")
        )
    elif kind == "unsound":
        graph.node[0].input[0] = "nowhere"
    return model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("custom", r"operators that are not of ONNX \(TRT.EfficientNMS_TRT\)"),
        ("float64", r"computes in float64 \(input.1\)"),
        ("float64 weights", r"computes in float64"),
        ("two inputs", r"has 2 inputs \(input.1 \(batch, 3, 64, 96\), scale_factor \(1, 2\)\); expected one image"),
        ("grey", "expected three channels"),
        ("flat", r"is float \(1, 3\); expected an image \(B, 3, H, W\)"),
        ("quantised", r"is quantised already \(DynamicQuantizeLinear\)"),
        ("unsound", "is not a sound ONNX graph"),
    ],
)
def test_what_cannot_be_adopted_is_one_line(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(broken(kind), path)
    with pytest.raises(UsageError, match=message) as caught:
        read_foreign(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_files_that_are_no_model_are_one_line(tmp_path: Path) -> None:
    whole = saved(detector(), tmp_path).read_bytes()
    path = tmp_path / "broken.onnx"
    for content in (
        b"",
        b"hello there",
        b"PK\x03\x04" + bytes(60),
        *(whole[: len(whole) * i // 16] for i in range(1, 16)),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"broken\.onnx: ") as caught:
            read_foreign(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such file"):
        read_foreign(tmp_path / "nowhere.onnx")
