"""An exported graph made readable and lean: names that say where a node comes from, and nothing computed twice."""

from __future__ import annotations

import ast
from collections.abc import Container, Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ...runtime.errors import ParityError

# torch.export's record of the modules that a node was traced inside, outermost first; the last entry is the operation.
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_module(model: onnx.ModelProto, *roots: str) -> None:
    """Name every node, and the tensor it gives, after the module of the network that it came from.

    A convolution of `network.backbone.stem[0].conv` becomes `backbone.stem.0.conv`, a node without a module of its own
    `neck/Concat`; the second of a name ends in `.2`. Inputs, outputs and weights keep their names but for `root`.
    These are the layer names that sensitivity tables, `diff` and engine inspectors show.

    Args:
        model: As torch.onnx.export gives it, with its metadata; changed in place.
        roots: Attributes that hold the network in the traced module, such as "network"; of a module that lies in
            several the first one is left away.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    renamed = {weight.name: _inside(weight.name, roots) or weight.name for weight in graph.initializer}
    nodes: set[str] = set()
    tensors = fixed | set(renamed.values())
    for node in graph.node:
        module = _module_of(node, roots)
        wanted = module if module and node.op_type in ("Conv", "Gemm") else f"{module or graph.name}/{node.op_type}"
        node.name = _taken_name(wanted, nodes)
        for output in node.output:
            if output and output not in fixed:
                renamed[output] = _taken_name(node.name, tensors)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for weight in graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    del graph.value_info[:]


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace every node that depends on no input by what it computes; returns how many there were.

    Weights that nothing reads afterwards are dropped.
    """
    graph = model.graph
    constants = {weight.name: weight for weight in graph.initializer}
    kept, folded = [], 0
    for node in graph.node:
        needed = [name for name in node.input if name]
        if _is_constant(node, constants):
            for name, value in zip(node.output, _evaluate(node, [constants[n] for n in needed], model), strict=True):
                constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
            folded += 1
        else:
            kept.append(node)
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    weights = [weight for name, weight in constants.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return folded


def drop_unread(model: onnx.ModelProto) -> int:
    """Remove every node whose outputs nobody reads; returns how many there were."""
    graph = model.graph
    read = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # nodes come after those that they read from
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(node)
    dropped = len(graph.node) - len(kept)
    if dropped:
        del graph.node[:]
        graph.node.extend(reversed(kept))
    return dropped


def check_no_constants(model: onnx.ModelProto) -> None:
    """Refuse a graph in which a node computes what could be stored, or what nobody reads.

    Raises:
        ParityError: Naming those nodes. It is a fault of the export, not of the network.
    """
    graph = model.graph
    constants = {weight.name for weight in graph.initializer}
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    idle = []
    for node in graph.node:
        if _is_constant(node, constants):
            constants.update(node.output)
            idle.append(node.name or node.op_type)
        elif not any(name in read for name in node.output):
            idle.append(node.name or node.op_type)
    if idle:
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        raise ParityError(
            f"{graph.name}: {len(idle)} nodes compute a constant or what nobody reads ({', '.join(idle[:3])}{more}), "
            "expected none; report this with the versions of torch and onnxscript"
        )


def drop_metadata(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about itself: source positions of one machine have no use on another."""
    graph = model.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def _is_constant(node: onnx.NodeProto, constants: Container[str]) -> bool:
    needed = [name for name in node.input if name]
    return node.op_type == "Constant" or (bool(needed) and all(name in constants for name in needed))


def _module_of(node: onnx.NodeProto, roots: Sequence[str]) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    modules = [_inside(scope, roots) for scope in ast.literal_eval(scopes)[:-1]]
    return next((module for module in reversed(modules) if module), "")


def _inside(name: str, roots: Sequence[str]) -> str:
    """`name` without the first root that it lies in; empty where it lies in none."""
    return next((name.removeprefix(f"{root}.") for root in roots if name.startswith(f"{root}.")), "")


def _taken_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, numbered if it is taken already; taken from now on."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}.{count}"
    taken.add(name)
    return name


def _evaluate(node: onnx.NodeProto, inputs: list[onnx.TensorProto], model: onnx.ModelProto) -> list[np.ndarray]:
    graph = onnx.helper.make_graph(
        [node], "constant", [], [onnx.helper.make_empty_tensor_value_info(name) for name in node.output], inputs
    )
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return [np.asarray(value) for value in ReferenceEvaluator(single).run(None, {})]  # type: ignore[union-attr]
