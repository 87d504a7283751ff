"""A bundle's graphs in fp16 and in int8 by the shortest way, for engines to be built from; not a test itself.

What a graph answers is no matter here, only that it is typed as such graphs are: fp16 between float32 inputs and
outputs, and int8 as signed symmetric Q/DQ pairs around convolutions, with scales per channel for weights.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle

# From here on a scale may be float16, which makes what a DequantizeLinear gives float16.
_OPSET = 19
_HALF = np.float16


def with_every_precision(bundle: Bundle) -> Bundle:
    """The same bundle, in place, with fp16 graphs and a signed int8 vision graph where it has none."""
    graphs = {part: dict(names) for part, names in bundle.graphs.items()}
    for part, names in graphs.items():
        model = onnx.load(bundle.path / names["fp32"])
        made = {"fp16": half_precision(model)}
        if part == "vision":
            made["int8-s8s8"] = quantised(made["fp16"])
        for kind, precise in made.items():
            if kind not in names:
                names[kind] = f"{part}.{kind}.onnx"
                onnx.save(precise, bundle.path / names[kind])
    return write_bundle(
        bundle.path,
        bundle.spec,
        graphs,
        provenance=bundle.provenance,
        licence=bundle.licence,
        tensors=bundle.tensors,
        parity=bundle.parity,
    )


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float16 inside and its own inputs and outputs."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    half.opset_import[0].version = max(_OPSET, half.opset_import[0].version)
    graph = half.graph
    factors = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}  # always float32
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.name not in factors:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(_HALF), weight.name))
    floats = [value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    entry = {name: f"{name}/half" for name in floats}
    exits = {value.name: f"{value.name}/half" for value in graph.output}
    for node in graph.node:
        node.input[:] = [entry.get(name, exits.get(name, name)) for name in node.input]
        node.output[:] = [exits.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    nodes = [helper.make_node("Cast", [n], [h], name=f"{h}/Cast", to=TensorProto.FLOAT16) for n, h in entry.items()]
    nodes += graph.node
    nodes += [helper.make_node("Cast", [h], [n], name=f"{n}/Cast", to=TensorProto.FLOAT) for n, h in exits.items()]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half


def quantised(model: onnx.ModelProto, scale: float = 0.05) -> onnx.ModelProto:
    """The graph with a Q/DQ pair before every convolution, one per tensor, and its weights in int8."""
    int8 = onnx.ModelProto()
    int8.CopyFrom(model)
    graph = int8.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    quantised_tensors: dict[str, str] = {}

    def keep(name: str, value: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    for node in graph.node:
        if node.op_type == "Conv":
            source, weight = node.input[0], node.input[1]
            if source not in quantised_tensors:
                pair = [keep(f"{source}/scale", np.array(scale, _HALF)), keep(f"{source}/zero", np.array(0, np.int8))]
                nodes += [
                    helper.make_node("QuantizeLinear", [source, *pair], [f"{source}/Q"], name=f"{source}/Q"),
                    helper.make_node("DequantizeLinear", [f"{source}/Q", *pair], [f"{source}/DQ"], name=f"{source}/DQ"),
                ]
                quantised_tensors[source] = f"{source}/DQ"
            value = numpy_helper.to_array(weights[weight]).astype(np.float32)
            scales = np.maximum(np.abs(value).reshape(len(value), -1).max(axis=1), 1e-3) / 127
            rounded = np.rint(value / scales[:, None, None, None]).astype(np.int8)
            inputs = [
                keep(f"{weight}/int8", rounded),
                keep(f"{weight}/scale", scales.astype(_HALF)),
                keep(f"{weight}/zero", np.zeros(len(value), np.int8)),
            ]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{weight}/DQ"], name=f"{weight}/DQ", axis=0))
            node.input[0], node.input[1] = quantised_tensors[source], f"{weight}/DQ"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(int8, full_check=True)
    return int8
