"""Looking inside a graph: the same graph in ONNX Runtime with tensors from its middle among the outputs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from ...runtime.backends.base import Array
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeGraph


def open_model(model: onnx.ModelProto, threads: int | None = None) -> OnnxRuntimeGraph:
    """A graph in memory as a runtime graph."""
    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        path = Path(folder) / f"{model.graph.name}.onnx"
        onnx.save(model, path)
        return OnnxRuntimeGraph(path, threads)


class Probe:
    """A session over a graph with further outputs."""

    def __init__(self, graph: OnnxRuntimeGraph) -> None:
        self._graph = graph

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        """The values of `wanted` tensors for one input."""
        return self._graph.run(feed, wanted)


@contextlib.contextmanager
def open_probe(model: onnx.ModelProto, tensors: Sequence[str], threads: int | None = None) -> Iterator[Probe]:
    """Run `model` with the float tensors named among its outputs.

    Args:
        model: Not changed.
        tensors: Names of tensors inside the graph.
        threads: CPU threads; None for as many as this process may run on.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    kinds = {value.name: value for value in onnx.shape_inference.infer_shapes(copy).graph.value_info}
    copy.graph.output.extend(kinds[name] for name in dict.fromkeys(tensors) if name not in present)
    graph = open_model(copy, threads)
    try:
        yield Probe(graph)
    finally:
        graph.close()
