"""Any graph as one that runs on a device: computed on the host at once, its outputs in the device's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from yolor_edge.runtime.backends.base import Array, DeviceTensor, Graph
from yolor_edge.runtime.cuda import Device, DeviceBuffer, Stream

HALF = np.dtype(np.float16).name


class GraphOnDevice:
    """See `DeviceGraph`.

    Args:
        graph: Takes `images` in float32.
        device: Stays open.
        half: Have images and heads in float16.
    """

    def __init__(self, graph: Graph, device: Device, half: bool = False):
        self._graph = graph
        self._half = half
        self.device = device
        self.inputs = dict(graph.inputs)
        self.outputs = dict(graph.outputs)
        if half:
            for infos in (self.inputs, self.outputs):
                infos.update({n: replace(info, dtype=HALF) for n, info in infos.items() if info.dtype == "float32"})
        self._buffers: dict[str, DeviceBuffer] = {}

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """What `run_on_device` gives, on the host."""
        answers = self._graph.run({n: array.astype(np.float32) for n, array in feed.items()}, wanted)
        return {name: self._as_given(value) for name, value in answers.items()}

    def clone(self) -> GraphOnDevice:
        return GraphOnDevice(self._graph, self.device, self._half)

    def input_on_device(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        dtype = self.inputs[name].dtype
        return DeviceTensor(self._buffer(name, int(np.prod(shape)) * np.dtype(dtype).itemsize), shape, dtype)

    def run_on_device(
        self, stream: Stream, feed: Mapping[str, DeviceTensor], captured: bool = False
    ) -> dict[str, DeviceTensor]:
        images = feed["images"]
        host = np.empty(images.shape, images.dtype)
        self.device.to_host(host, images.address, stream)
        stream.synchronize()
        outputs = {}
        for name, value in self.run({"images": host}).items():
            value = np.ascontiguousarray(value)
            address = self._buffer(name, value.nbytes)
            self.device.to_device(address, value, stream)
            outputs[name] = DeviceTensor(address, value.shape, str(value.dtype))
        return outputs

    def close(self) -> None:
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        self._graph.close()

    def _as_given(self, value: Array) -> Array:
        return value.astype(np.float16) if self._half and value.dtype == np.float32 else value

    def _buffer(self, name: str, nbytes: int) -> int:
        if name not in self._buffers:
            self._buffers[name] = self.device.allocate(nbytes)
        return self._buffers[name].address
