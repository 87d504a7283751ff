"""Two graphs of one network laid side by side: what their layers give, and what each layer adds of its own.

A layer is a convolution or a matrix product with the activation behind it: what int8 clips in between, where the
activation gives nothing anyway, is no loss. Layers that begin alike make a stage ("backbone.stage3",
"box_head.classes"). Tensors are found by name, since every precision keeps those of the fp32 graph.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ...runtime.backends.onnxruntime_backend import OnnxRuntimeGraph

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Gelu"})
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
# Marks the tensors that one graph is given from the other.
GIVEN = "@given"


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes:
        name: Of the convolution or product, which is what `export --keep-float` takes.
        product: The tensor that it gives.
        tensor: The tensor behind its activation.
        stage: The part of the network that it belongs to.
    """

    name: str
    product: str
    tensor: str
    stage: str


class Anatomy:
    """A graph with its float tensors, and how values get from layer to layer.

    Attributes:
        model: The graph.
        tensors: Every float tensor by name, with dtype and shape as far as known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.tensors = {
            value.name: value
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type in _FLOATS
        }
        self._producers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self._weights = {weight.name for weight in graph.initializer}
        self._outputs = {value.name for value in graph.output}

    @property
    def layers(self) -> list[Layer]:
        """In the order of the graph; of matrix products only those with constant weights."""
        found = []
        for node in self.model.graph.node:
            if node.op_type in _PRODUCTS and self._is_constant(node.input[1]):
                name = node.name or node.output[0]
                found.append(Layer(name, node.output[0], self._activated(node.output[0]), stage_of(name)))
        return found

    def _is_constant(self, name: str) -> bool:
        """Whether it is a weight, or one behind a conversion of its numbers."""
        while name not in self._weights:
            node = self._producers.get(name)
            if node is None or node.op_type not in _CONVERSIONS:
                return False
            name = node.input[0]
        return True

    def _activated(self, product: str) -> str:
        """The tensor behind the activation of a product; itself, if it has none."""
        readers = self._readers_of(product)
        kinds = sorted(node.op_type for node in readers)
        if len(readers) == 1 and kinds[0] in _ACTIVATIONS:
            return readers[0].output[0]
        if kinds == ["Mul", "Sigmoid"]:  # SiLU
            mul, sigmoid = sorted(readers, key=lambda node: node.op_type)
            if self._readers_of(sigmoid.output[0]) == [mul]:
                return mul.output[0]
        return product

    def _readers_of(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that work with a tensor, seen through conversions of its numbers."""
        found = []
        for node in self._readers.get(name, []):
            found += self._readers_of(node.output[0]) if node.op_type in _CONVERSIONS else [node]
        return found

    def sources(self, name: str, layers: Sequence[Layer]) -> set[Layer]:
        """The layers that `name` is made by without another one between."""
        ends = {tensor: layer for layer in layers for tensor in (layer.product, layer.tensor)}
        found: set[Layer] = set()
        pending, seen = [name], {name}
        while pending:
            tensor = pending.pop()
            if tensor in ends:
                found.add(ends[tensor])
                continue
            node = self._producers.get(tensor)
            for taken in node.input if node is not None else ():
                if taken not in seen:
                    seen.add(taken)
                    pending.append(taken)
        return found

    def inputs_of(self, layer: Layer, layers: Sequence[Layer]) -> set[Layer]:
        """The layers that a layer goes on from."""
        found: set[Layer] = set()
        for name in self._producers[layer.product].input:
            found |= self.sources(name, layers)
        return found

    def exits(self, layers: Sequence[Layer]) -> dict[str, list[str]]:
        """For each stage, the tensors made by it alone that another stage, or nobody but the user, goes on with."""
        stages = {
            name: {layer.stage for layer in self.sources(name, layers)}
            for name in self.tensors
            if name in self._producers
        }
        found: dict[str, list[str]] = {}
        for name, made_by in stages.items():
            if len(made_by) == 1:
                [stage] = made_by
                ways_on = [stages.get(node.output[0], {stage}) for node in self._readers_of(name)]
                if name in self._outputs or any(way != {stage} for way in ways_on):
                    found.setdefault(stage, []).append(name)
        return found


def stage_of(name: str) -> str:
    """The part of the network that a layer belongs to: the first two words of its name, or one before a number.

    Of an imported network it is the number of the official layer that it was a part of.
    """
    words = re.split(r"[./]", name)
    number = re.match(r"\d+(?=_|$)", words[0])
    if number:
        return number[0]
    return words[0] if len(words) == 1 or words[1].isdigit() else ".".join(words[:2])


def expose(anatomy: Anatomy, tensors: Iterable[str], threads: int | None) -> OnnxRuntimeGraph:
    """A graph with `tensors` among its outputs, ready to run.

    Args:
        anatomy: Of the graph.
        tensors: Float tensors inside it.
        threads: CPU threads; None for as many as this process may run on.
    """
    model = onnx.ModelProto()
    model.CopyFrom(anatomy.model)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(anatomy.tensors[name] for name in dict.fromkeys(tensors) if name not in present)
    return _open(model, threads)


def isolate(anatomy: Anatomy, layers: Sequence[Layer], threads: int | None) -> OnnxRuntimeGraph:
    """A graph cut behind every layer, ready to run: each works on what is fed, not on what those before it gave.

    Args:
        anatomy: Of the graph.
        layers: Where to cut.
        threads: CPU threads; None for as many as this process may run on.

    Returns:
        A graph that gives what each layer gives; its inputs are those of the whole and, named with `GIVEN` at the end,
        the tensor of every layer that another one goes on from.
    """
    graph = anatomy.model.graph
    ends = list(dict.fromkeys(layer.tensor for layer in layers))
    needed = set(ends)
    kept: list[onnx.NodeProto] = []
    for original in reversed(graph.node):
        if needed.intersection(original.output):
            node = onnx.NodeProto()
            node.CopyFrom(original)
            node.input[:] = [f"{name}{GIVEN}" if name in ends else name for name in node.input]
            needed.update(node.input)
            kept.append(node)
    inputs = [value for value in graph.input if value.name in needed]
    for name in ends:
        if f"{name}{GIVEN}" in needed:
            value = onnx.ValueInfoProto()
            value.CopyFrom(anatomy.tensors[name])
            value.name = f"{name}{GIVEN}"
            inputs.append(value)
    outputs = [anatomy.tensors[name] for name in ends]
    weights = [weight for weight in graph.initializer if weight.name in needed]
    cut = helper.make_graph(kept[::-1], graph.name or "cut", inputs, outputs, weights)
    versions = {"opset_imports": anatomy.model.opset_import, "ir_version": anatomy.model.ir_version}
    return _open(helper.make_model(cut, **versions), threads)


def _open(model: onnx.ModelProto, threads: int | None) -> OnnxRuntimeGraph:
    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(model, path)
        return OnnxRuntimeGraph(path, threads)
