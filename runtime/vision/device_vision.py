"""The vision part with pre- and post-processing on the GPU that runs its graph: images go there, answers come back.

The bus carries the image's bytes, the caption memory, the boxes, the masks inside them and the semantic map, and no
head. What an image needs is put into one stream without waiting for anything; post-processing is captured into CUDA
graphs, a short one for the boxes, the masks and the map each, when the same was asked for once before. On a GPU that
shares its memory with the CPU nothing is copied over at all. Answers are those of `HostVision`, bit for bit.
"""

from __future__ import annotations

from typing import ClassVar

from ..backends.base import DeviceGraph
from ..bundle.spec import ModelSpec
from ..bundle.tensors import outputs_of
from ..cuda.kernels import kernel_parameters
from ..errors import BackendError
from .device_context import DeviceContext
from .head_check import HeadCheck
from .kernel_set import KernelSet

_FLOATS = ("float32", "float16")
_WHOLE = {"cells": ("int32",), "semantic_map": ("uint8",)}


def device_complaints(spec: ModelSpec, graph: DeviceGraph) -> list[str]:
    """What the kernels cannot take of a model, in words; empty if nothing."""
    found = []
    if spec.box_coding != "xyxy" and len(spec.strides) > kernel_parameters.MOST_LEVELS:
        found.append(f"{len(spec.strides)} strides, at most {kernel_parameters.MOST_LEVELS} are handled on the GPU")
    infos = {**graph.inputs, **graph.outputs}
    for name in ("images", *(name for task in spec.tasks for name in outputs_of(spec, task))):
        taken = _WHOLE.get(name, _FLOATS)
        if name in infos and infos[name].dtype not in taken:
            found.append(f"{name!r} is {infos[name].dtype}, the GPU's kernels take {' or '.join(taken)}")
    prototypes = graph.outputs.get("prototypes")
    if prototypes is not None and not _at_most(prototypes.shape[1], kernel_parameters.MOST_CHANNELS):
        found.append(f"{prototypes.shape[1]} prototypes, at most {kernel_parameters.MOST_CHANNELS} fit")
    return found


class DeviceVision:
    """A vision graph between the GPU's kernels.

    Args:
        spec: What the model is.
        graph: Closed with it. Slots have a clone each; the first has the graph itself.
        image: The compiled kernels; None to compile them, or take them from the cache.

    Raises:
        BackendMissingError: If there is no compiler for the kernels.
        BackendError: If the graph is not one for the kernels, they do not compile, or the device has no memory left.
    """

    processing: ClassVar[str] = "gpu"

    def __init__(self, spec: ModelSpec, graph: DeviceGraph, image: bytes | None = None):
        complaints = device_complaints(spec, graph)
        if complaints:
            raise BackendError(f"{spec.name}: {'; '.join(complaints)}")
        self.check = HeadCheck(spec)
        self._spec = spec
        self._graph: DeviceGraph | None = graph
        self._clones: list[DeviceGraph] = []
        self._idle = [graph]
        self._contexts: set[DeviceContext] = set()
        self._kernels = KernelSet(graph.device, image)

    def context(self) -> DeviceContext:
        """Memory for one more image in flight."""
        graph = self._graph
        if graph is None:
            raise BackendError(f"{self._spec.name}: the model is closed")
        try:
            own = self._idle.pop()
        except IndexError:
            own = graph.clone()
            self._clones.append(own)

        def release(context: DeviceContext) -> None:
            self._contexts.discard(context)
            self._idle.append(own)

        context = DeviceContext(self._spec, own, self._kernels, self.check, release)
        self._contexts.add(context)
        return context

    def close(self) -> None:
        """Free the contexts, the graph, its clones and the kernels."""
        graph, self._graph = self._graph, None
        if graph is None:
            return
        for context in list(self._contexts):
            context.close()
        self._kernels.close()
        for one in (*self._clones, graph):
            one.close()
        self._clones, self._idle = [], []


def _at_most(axis: int | str, most: int) -> bool:
    return isinstance(axis, str) or axis <= most
