"""Graphs named after modules, without nodes that compute a constant or what nobody reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from yolor_edge.export.onnx_graphs.graph_cleanup import (
    check_no_constants,
    drop_metadata,
    drop_unread,
    fold_constants,
    name_by_module,
)
from yolor_edge.runtime.errors import ParityError

SCOPES = "pkg.torch.onnx.name_scopes"


def node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], scopes: Sequence[str] = (), **attributes: Any
) -> onnx.NodeProto:
    made = helper.make_node(kind, list(inputs), list(outputs), **attributes)
    if scopes:
        made.metadata_props.add(key=SCOPES, value=str([*scopes, outputs[0]]))
    return made


def model_of(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], **weights: Any) -> onnx.ModelProto:
    """A graph from x (1, 4) float32 to `outputs`; `weights` are its initializers."""
    graph = helper.make_graph(
        list(nodes),
        "vision",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in outputs],
        [numpy_helper.from_array(np.array(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(model: onnx.ModelProto) -> list[np.ndarray]:
    x = np.arange(4, dtype=np.float32)[None]
    return ReferenceEvaluator(model).run(None, {"x": x})  # pyright: ignore[reportReturnType]


def two_constants() -> onnx.ModelProto:
    """y = x * (1 + 2) + 4, of which only the product and the last sum depend on x."""
    return model_of(
        [
            helper.make_node("Constant", [], ["four"], value=numpy_helper.from_array(np.array(4, np.float32))),
            helper.make_node("Add", ["one", "two"], ["three"]),
            helper.make_node("Mul", ["x", "three"], ["product"], name="product"),
            helper.make_node("Add", ["product", "four"], ["y"], name="sum"),
        ],
        ["y"],
        one=np.float32(1),
        two=np.float32(2),
    )


def test_nodes_and_tensors_are_named_after_their_module() -> None:
    model = model_of(
        [
            node("Conv", ["x", "network.stem.0.conv.weight"], ["val_0"], ["", "network", "network.stem.0.conv"]),
            node("Sigmoid", ["val_0"], ["val_1"], ["", "network", "network.stem.0.act"]),
            node("Mul", ["val_0", "val_1"], ["val_2"], ["", "network", "network.stem.0.act"]),
            node("Concat", ["val_2", "val_2"], ["val_3"], ["", "network", "network.neck"], axis=0),
            node("Concat", ["val_3", "val_3"], ["val_4"], ["", "network", "network.neck"], axis=0),
            node("Conv", ["val_4", "network.stem.0.conv.weight"], ["y"], ["", "network", "network.stem.0.conv"]),
            node("Relu", ["y"], ["z"]),
        ],
        ["y", "z"],
        **{"network.stem.0.conv.weight": np.zeros((1, 1), np.float32)},
    )
    model.graph.value_info.append(helper.make_tensor_value_info("val_0", TensorProto.FLOAT, None))
    name_by_module(model, "network")
    assert [(one.name, list(one.input), list(one.output)) for one in model.graph.node] == [
        ("stem.0.conv", ["x", "stem.0.conv.weight"], ["stem.0.conv"]),
        ("stem.0.act/Sigmoid", ["stem.0.conv"], ["stem.0.act/Sigmoid"]),
        ("stem.0.act/Mul", ["stem.0.conv", "stem.0.act/Sigmoid"], ["stem.0.act/Mul"]),
        ("neck/Concat", ["stem.0.act/Mul", "stem.0.act/Mul"], ["neck/Concat"]),
        ("neck/Concat.2", ["neck/Concat", "neck/Concat"], ["neck/Concat.2"]),
        # What the graph takes and gives keeps its name; a node outside every module is named after the graph.
        ("stem.0.conv.2", ["neck/Concat.2", "stem.0.conv.weight"], ["y"]),
        ("vision/Relu", ["y"], ["z"]),
    ]
    assert [weight.name for weight in model.graph.initializer] == ["stem.0.conv.weight"]
    assert not model.graph.value_info  # which would speak of tensors by their old names


def test_no_two_tensors_get_one_name() -> None:
    model = model_of(
        [
            node("Split", ["x"], ["a", "b"], ["", "network", "network.neck"], axis=1, num_outputs=2),
            node("Split", ["a"], ["c", "d"], ["", "network", "network.neck"], axis=1, num_outputs=2),
            node("Concat", ["b", "c", "d"], ["neck/Split"], ["", "network", "network.neck"], axis=1),
        ],
        ["neck/Split"],
    )
    before = answer(model)
    name_by_module(model, "network")
    names = [name for one in model.graph.node for name in one.output]
    assert len(set(names)) == len(names) == 5
    assert len({one.name for one in model.graph.node}) == 3
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(answer(model), before)


def test_constants_are_stored_not_computed() -> None:
    model = two_constants()
    before = answer(model)
    assert fold_constants(model) == 2
    assert [one.name for one in model.graph.node] == ["product", "sum"]
    weights = {weight.name: float(numpy_helper.to_array(weight)) for weight in model.graph.initializer}
    assert weights == {"three": 3.0, "four": 4.0}  # and no longer one and two, which nobody reads
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(answer(model), before)
    assert fold_constants(model) == 0


def test_a_chain_of_shape_arithmetic_is_one_constant() -> None:
    model = model_of(
        [
            helper.make_node("Shape", ["table"], ["shape"]),
            helper.make_node("Slice", ["shape", "zero", "one"], ["rows"]),
            helper.make_node("Cast", ["rows"], ["length"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "length"], ["y"]),
        ],
        ["y"],
        table=np.zeros((5, 2), np.float32),
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
    )
    assert fold_constants(model) == 3
    assert [one.op_type for one in model.graph.node] == ["Mul"]
    np.testing.assert_array_equal(answer(model)[0], 5 * np.arange(4, dtype=np.float32)[None])


def test_optional_inputs_left_out_do_not_make_a_constant() -> None:
    model = model_of([helper.make_node("Clip", ["x", "", "two"], ["y"])], ["y"], two=np.float32(2))
    assert fold_constants(model) == 0
    check_no_constants(model)
    np.testing.assert_array_equal(answer(model)[0], [[0, 1, 2, 2]])


def test_what_nobody_reads_is_dropped() -> None:
    model = model_of(
        [
            helper.make_node("Relu", ["x"], ["y"], name="wanted"),
            helper.make_node("Sigmoid", ["x"], ["a"], name="idle"),
            helper.make_node("Neg", ["a"], ["b"], name="idle too"),
        ],
        ["y"],
    )
    with pytest.raises(ParityError, match=r"vision: 1 nodes compute a constant or what nobody reads \(idle too\)"):
        check_no_constants(model)
    assert drop_unread(model) == 2
    assert [one.name for one in model.graph.node] == ["wanted"]
    assert drop_unread(model) == 0
    check_no_constants(model)


def test_a_constant_that_is_left_is_named() -> None:
    model = two_constants()
    with pytest.raises(ParityError) as caught:
        check_no_constants(model)
    message = str(caught.value)
    assert re.match(
        r"vision: 2 nodes compute a constant or what nobody reads \(Constant, Add\), expected none", message
    )
    assert "\n" not in message
    fold_constants(model)
    check_no_constants(model)


def test_many_constants_are_counted() -> None:
    nodes = [helper.make_node("Neg", ["w" if i == 0 else f"t{i - 1}"], [f"t{i}"], name=f"n{i}") for i in range(5)]
    model = model_of([*nodes, helper.make_node("Add", ["x", "t4"], ["y"])], ["y"], w=np.float32(1))
    with pytest.raises(ParityError, match=r"vision: 5 nodes .* \(n0, n1, n2 and 2 more\)"):
        check_no_constants(model)


def test_metadata_of_the_exporter_is_dropped() -> None:
    model = two_constants()
    graph = model.graph
    for part in (graph, graph.node[0], graph.input[0], graph.output[0], graph.initializer[0]):
        part.metadata_props.add(key="source", value="/home/somebody/network.py")
    drop_metadata(model)
    assert b"somebody" not in model.SerializeToString()
