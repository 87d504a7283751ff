"""Questions about an ONNX graph that every rewriting of it asks: who gives a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class GraphView:
    """A graph with its tensors looked up by name. Of the model as it was when the view was made.

    Attributes:
        model: The model looked at.
        producers: For each tensor, the node that gives it.
        consumers: For each tensor, the nodes that read it, in the order of the graph.
        weights: For each constant, its tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.producers = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.outputs = [value.name for value in graph.output]

    def convolutions(self) -> Iterator[onnx.NodeProto]:
        """Convolutions with constant weights, in the order of the graph."""
        for node in self.model.graph.node:
            if node.op_type == "Conv" and node.input[1] in self.weights:
                yield node

    def weight(self, name: str) -> NDArray[np.float32]:
        """The values of a constant."""
        return numpy_helper.to_array(self.weights[name])

    @cached_property
    def head_outputs(self) -> frozenset[str]:
        """Names of the predictions: the last convolution before every output of the graph."""
        found = set()
        pending = list(self.outputs)
        while pending:
            node = self.producers.get(pending.pop())
            if node is None:
                continue
            if node.op_type == "Conv":
                found.add(node.name)
            else:
                pending += node.input
        return frozenset(found)

    def moved_into(self, name: str) -> list[str]:
        """The tensors whose values `name` holds unchanged: what a Concat, MaxPool, Resize or Slice made it of."""
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Concat", "MaxPool", "Resize", "Slice"):
            return []
        return list(node.input) if node.op_type == "Concat" else list(node.input[:1])

    def reads_image(self, conv: onnx.NodeProto) -> bool:
        """Whether a convolution reads the graph's input, as it is or rearranged."""
        pending = [conv.input[0]]
        while pending:
            name = pending.pop()
            if name not in self.producers:
                return True
            pending += self.moved_into(name)
        return False

    def activation_of(self, conv: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """The (Sigmoid, Mul) pair of the SiLU behind a convolution, or None where something else follows."""
        readers = self.consumers.get(conv.output[0], [])
        if len(readers) != 2 or {node.op_type for node in readers} != {"Sigmoid", "Mul"}:
            return None
        sigmoid, mul = sorted(readers, key=lambda node: node.op_type != "Sigmoid")
        if self.consumers.get(sigmoid.output[0]) != [mul]:
            return None
        return sigmoid, mul
