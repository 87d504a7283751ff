"""Choices inside a graph, shown or given: which cells TopK and ArgMax point at.

Where two values are nearly the same, two precisions of a graph may choose differently, and all that is made of the
choice is another thing then, not a noisier one. To measure noise, both have to go on from the same choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from ...runtime.backends.base import Array
from .graph_view import GraphView

GIVEN_CHOICE = "@chosen"
"""Ends the name of an input that takes the place of a choice."""
_CHOOSERS = frozenset({"TopK", "ArgMax"})
_INTEGERS = frozenset({onnx.TensorProto.INT32, onnx.TensorProto.INT64})


def choices_of(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Whole numbers that TopK and ArgMax give and that others than these go on with inside the graph, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    view = GraphView(model)
    found = {}
    for node in model.graph.node:
        for name in node.output if node.op_type in _CHOOSERS else ():
            value = values.get(name)
            readers = {reader.op_type for reader in view.consumers.get(name, ())}
            if value is not None and value.type.tensor_type.elem_type in _INTEGERS and readers - _CHOOSERS - {"Cast"}:
                found[name] = value
    return found


def with_choices_shown(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with its choices among its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    shown.graph.output.extend(value for name, value in choices_of(model).items() if name not in present)
    return shown


def with_choices_given(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of `model` that takes those of its choices as inputs, each by its name with `GIVEN_CHOICE` at the end."""
    given = onnx.ModelProto()
    given.CopyFrom(model)
    choices = {name: value for name, value in choices_of(model).items() if name in names}
    for node in given.graph.node:
        if node.op_type not in _CHOOSERS:
            node.input[:] = [f"{name}{GIVEN_CHOICE}" if name in choices else name for name in node.input]
    for name, value in choices.items():
        taken = onnx.ValueInfoProto()
        taken.CopyFrom(value)
        taken.name = f"{name}{GIVEN_CHOICE}"
        given.graph.input.append(taken)
    return given


def chosen(values: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    """What to feed a graph of `with_choices_given`, out of the outputs of one of `with_choices_shown`."""
    return {f"{name}{GIVEN_CHOICE}": values[name] for name in names}
