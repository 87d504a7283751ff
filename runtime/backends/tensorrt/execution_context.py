"""One profile of an engine at work on a GPU: its memory, its launches, and the CUDA graph they are captured into."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...cuda import CapturedGraph, DeviceBuffer, HostArray, Stream
from ...cuda.driver import OUT_OF_MEMORY, CudaError
from ...environment.tensorrt_package import one_line
from ...errors import BackendError
from ..base import Array, DeviceTensor
from .engine import NOT_YET, LoadedEngine

if TYPE_CHECKING:
    import tensorrt  # as its stubs describe it

_CAPTURED, _FREE_SHAPES = "captured", "not captured: shapes are free"
_BY_ITSELF = "captured by TensorRT for RTX itself"


class EngineContext:
    """One profile of an engine at work: an execution context, the memory of its tensors, and its captured launches.

    Attributes:
        launching: How its work gets to the GPU, in words.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        profile: int,
        shapes: Mapping[str, tuple[tuple[int, ...], ...]],
        stream: Stream,
    ):
        self._loaded = loaded
        self._device = loaded.device
        self._is_fixed = all(low == high for low, _, high in shapes.values())
        self._memory: dict[str, DeviceBuffer | HostArray] = {}
        self._staging: dict[str, HostArray] = {}
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        self._captured: CapturedGraph | None = None
        self._captured_at: dict[str, int] = {}
        self._runs = 0
        self._cannot_capture = loaded.is_rtx or not self._is_fixed
        self.launching = _BY_ITSELF if loaded.is_rtx else NOT_YET if self._is_fixed else _FREE_SHAPES
        self._context: tensorrt.IExecutionContext | None = loaded.context()
        try:
            with self._device.current():
                # Only an engine's first context has the first profile by itself.
                if shapes and self._running.active_optimization_profile != profile:
                    if not self._running.set_optimization_profile_async(profile, stream.number):
                        raise loaded.failure(f"refuses its profile {profile}")
                    stream.synchronize()
                self.set_shapes({name: largest for name, (_, _, largest) in shapes.items()})
                self._allocate()
        except BaseException:
            self.close()
            raise
        loaded.add(self)

    @property
    def has_run(self) -> bool:
        """Whether it was ever put to work."""
        return self._runs > 0

    @property
    def _running(self) -> tensorrt.IExecutionContext:
        assert self._context is not None
        return self._context

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Tell the shapes of inputs.

        Raises:
            BackendError: If TensorRT refuses one.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) == tuple(shape):
                continue
            if -1 in self._loaded.tensors[name].shape and not self._running.set_input_shape(name, tuple(shape)):
                raise self._loaded.failure(f"refuses {name!r} of shape {tuple(shape)}")
            self._shapes[name] = tuple(shape)

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Of an output, for the inputs as they were told."""
        shape = self._output_shapes.get(name)
        if shape is None:
            shape = tuple(int(n) for n in self._running.get_tensor_shape(name))
            if self._is_fixed:
                self._output_shapes[name] = shape
        return shape

    def tensor(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """A tensor in this lane's own memory."""
        return DeviceTensor(self._memory[name].address, shape, self._loaded.tensors[name].dtype)

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Tell where inputs lie.

        Raises:
            BackendError: If TensorRT refuses one.
        """
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self._running.set_tensor_address(name, address):
                    raise self._loaded.failure(f"refuses the memory of {name!r}")
                self._addresses[name] = address

    def load(self, feed: Mapping[str, Array], stream: Stream) -> None:
        """Bring inputs into their memory."""
        self.set_shapes({name: array.shape for name, array in feed.items()})
        self.set_addresses({name: self._memory[name].address for name in feed})
        for name, array in feed.items():
            target = self.host_view(name, array.shape)
            if array.ctypes.data != target.ctypes.data:  # else it was written there already
                np.copyto(target, array)
            memory = self._memory[name]
            if isinstance(memory, DeviceBuffer):
                self._device.to_device(memory, target, stream)

    def enqueue(self, stream: Stream, may_capture: bool = True) -> None:
        """Put the engine's work into a stream.

        Raises:
            BackendError: If TensorRT or the device refuses it.
        """
        if self._captured is not None and self._captured_at == self._addresses and may_capture:
            self._captured.launch(stream)
            return
        # The first run does what is done once only, and allocates. What then runs twice at one place stays there.
        if may_capture and not self._cannot_capture and self._runs > 0 and self._captured is None:
            self._capture(stream)
            if self._captured is not None:
                self._captured.launch(stream)
                return
        if not self._running.execute_async_v3(stream.number):
            raise self._loaded.failure("cannot run it")
        self._runs += 1

    def fetch(self, names: Sequence[str], stream: Stream) -> dict[str, Array]:
        """Wait, and copy outputs out.

        Raises:
            CudaError: If the device failed.
        """
        views = {name: self.host_view(name, self.output_shape(name)) for name in names}
        for name, view in views.items():
            memory = self._memory[name]
            if isinstance(memory, DeviceBuffer):
                self._device.to_host(view, memory, stream)
        stream.synchronize()
        return {name: view.copy() for name, view in views.items()}

    def close(self) -> None:
        """Free all of it."""
        for owned in (self._captured, *self._memory.values(), *self._staging.values()):
            if owned is not None:
                owned.close()
        with contextlib.suppress(BackendError), self._device.current():
            self._context = None

    def _capture(self, stream: Stream) -> None:
        context = self._running

        def launches() -> None:
            if not context.execute_async_v3(stream.number):
                raise self._loaded.failure("cannot be captured")

        try:
            self._captured = self._device.capture(stream, launches)
        except BackendError as error:
            if isinstance(error, CudaError) and error.code == OUT_OF_MEMORY:
                raise
            self._cannot_capture = True
            self.launching = f"not captured: {one_line(error)}"
            warnings.warn(
                f"{self._loaded.name}: runs without a CUDA graph, with more time for every launch ({one_line(error)})",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self._captured_at = dict(self._addresses)
            self.launching = _CAPTURED

    def _allocate(self) -> None:
        """Memory for every tensor at its largest, in which it is staged on the host too, but for GPUs that share it."""
        for name, info in self._loaded.tensors.items():
            shape = self._shapes.get(name) or self.output_shape(name)
            if -1 in shape:
                raise BackendError(f"{self._loaded.name}: the shape of its {name!r} is not known before it runs")
            purpose = f"{name} of {self._loaded.name}"
            if self._device.info.is_integrated:
                self._memory[name] = self._device.mapped(shape, info.dtype, purpose)
            else:
                nbytes = max(1, math.prod(shape) * np.dtype(info.dtype).itemsize)
                self._memory[name] = self._device.allocate(nbytes, purpose)
                self._staging[name] = self._device.pinned(shape, info.dtype, purpose)
        self.set_addresses({name: memory.address for name, memory in self._memory.items()})

    def host_view(self, name: str, shape: tuple[int, ...]) -> Array:
        """The front of what the host sees of a tensor, in this shape."""
        memory = self._memory[name]
        whole = memory if isinstance(memory, HostArray) else self._staging[name]
        return whole.array.reshape(-1)[: math.prod(shape)].reshape(shape)
