"""The driver through PyCUDA."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pycuda.driver as _pycuda  # pyright: ignore[reportMissingImports]  # not to be had without a CUDA toolkit

from .driver import OUT_OF_MEMORY, Array, CudaError, DeviceInfo, Handle
from .driver_graphs import DriverGraphs

cuda = cast(Any, _pycuda)

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name


class PycudaDriver:
    """See `driver.Driver`. PyCUDA captures no graphs, so the driver's library itself is asked for those.

    Raises:
        CudaError: If this machine has no driver.
    """

    name = "pycuda"

    def __init__(self) -> None:
        with _told("cuInit"):
            cuda.init()
        self._graphs = DriverGraphs()

    def describe(self, index: int) -> DeviceInfo:
        with _told("cuDeviceGet"):
            device = cuda.Device(index)
            major, minor = device.compute_capability()
            attribute = cuda.device_attribute
            return DeviceInfo(
                index=index,
                name=str(device.name()),
                compute_capability=f"sm_{major}{minor}",
                is_integrated=bool(device.get_attribute(attribute.INTEGRATED)),
                multiprocessors=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
                total_bytes=int(device.total_memory()),
            )

    def retain(self, index: int) -> Handle:
        with _told("cuDevicePrimaryCtxRetain"):
            return cuda.Device(index).retain_primary_context()

    def release(self, context: Handle) -> None:
        with _told("cuDevicePrimaryCtxRelease"):
            cuda.Context.pop()
            before = self._graphs.current_context()
            context.detach()
            # PyCUDA makes the context current to released it, and leaves it so.
            if self._graphs.current_context() != before:
                self._graphs.pop_context()

    def push(self, context: Handle) -> None:
        with _told("cuCtxPushCurrent"):
            context.push()

    def pop(self) -> None:
        with _told("cuCtxPopCurrent"):
            cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        with _told("cuMemGetInfo"):
            free, total = cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        with _told("cuMemAlloc"):
            memory = cuda.mem_alloc(nbytes)
        return memory, int(memory)

    def free(self, memory: Handle) -> None:
        with _told("cuMemFree"):
            memory.free()

    def allocate_host(self, nbytes: int, mapped: bool) -> tuple[Handle, Array, int]:
        flags = int(cuda.host_alloc_flags.DEVICEMAP) if mapped else 0
        with _told("cuMemHostAlloc"):
            array = cuda.pagelocked_empty((nbytes,), np.uint8, mem_flags=flags)
        with _told("cuMemHostGetDevicePointer"):
            address = int(array.base.get_device_pointer()) if mapped else 0
        return array.base, array, address

    def free_host(self, memory: Handle) -> None:
        with _told("cuMemFreeHost"):
            memory.free()

    def to_device(self, address: int, source: Array, stream: Handle) -> None:
        with _told("cuMemcpyHtoDAsync"):
            cuda.memcpy_htod_async(address, source, stream.it)

    def to_host(self, target: Array, address: int, stream: Handle) -> None:
        with _told("cuMemcpyDtoHAsync"):
            cuda.memcpy_dtoh_async(target, address, stream.it)

    def copy(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        with _told("cuMemcpyDtoDAsync"):
            cuda.memcpy_dtod_async(target, source, nbytes, stream.it)

    def fill(self, address: int, value: int, nbytes: int, stream: Handle) -> None:
        with _told("cuMemsetD8Async"):
            cuda.memset_d8_async(address, value, nbytes, stream.it)

    def stream(self) -> tuple[Handle, int]:
        with _told("cuStreamCreate"):
            stream = cuda.Stream(_NON_BLOCKING)
            return _Held(stream), int(stream.handle)

    def synchronize(self, stream: Handle) -> None:
        with _told("cuStreamSynchronize"):
            stream.it.synchronize()

    def is_done(self, stream: Handle) -> bool:
        with _told("cuStreamQuery"):
            return bool(stream.it.is_done())

    def destroy_stream(self, stream: Handle) -> None:
        stream.it = None

    def wait(self, stream: Handle, event: Handle) -> None:
        with _told("cuStreamWaitEvent"):
            stream.it.wait_for_event(event.it)

    def event(self, timing: bool) -> Handle:
        flags = 0 if timing else int(cuda.event_flags.DISABLE_TIMING)
        with _told("cuEventCreate"):
            return _Held(cuda.Event(flags))

    def record(self, event: Handle, stream: Handle) -> None:
        with _told("cuEventRecord"):
            event.it.record(stream.it)

    def wait_for_event(self, event: Handle) -> None:
        with _told("cuEventSynchronize"):
            event.it.synchronize()

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        with _told("cuEventElapsedTime"):
            return float(end.it.time_since(start.it))

    def destroy_event(self, event: Handle) -> None:
        event.it = None

    def begin_capture(self, stream: Handle) -> None:
        self._graphs.begin_capture(int(stream.it.handle))

    def end_capture(self, stream: Handle) -> Handle:
        return self._graphs.end_capture(int(stream.it.handle))

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        self._graphs.launch(graph, int(stream.it.handle))

    def destroy_graph(self, graph: Handle) -> None:
        self._graphs.destroy(graph)

    def load_module(self, image: bytes) -> Handle:
        with _told("cuModuleLoadData"):
            return _Held(cuda.module_from_buffer(image))

    def function(self, module: Handle, name: str) -> Handle:
        with _told("cuModuleGetFunction"):
            return module.it.get_function(name)

    def unload_module(self, module: Handle) -> None:
        module.it = None

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        shared_bytes: int,
        stream: Handle,
    ) -> None:
        # All arguments as one structure, laid out as C does, which is how the driver takes them in one piece.
        fields = [(f"argument_{i}", type(argument)) for i, argument in enumerate(arguments)]
        packed = type("Arguments", (ctypes.Structure,), {"_fields_": fields})(*arguments)
        packets = [np.void(bytes(packed))] if arguments else []
        with _told("cuLaunchKernel"):
            function(*packets, grid=grid, block=block, shared=shared_bytes, stream=stream.it)


class _Held:
    """An object of PyCUDA's, which is freed when nothing refers to it any more: at a moment that is chosen here."""

    __slots__ = ("it",)

    def __init__(self, it: Any):
        self.it = it


@contextlib.contextmanager
def _told(call: str) -> Iterator[None]:
    """PyCUDA's errors as this package's. They give no code, only a text "call failed: meaning"."""
    try:
        yield
    except cuda.MemoryError as error:
        raise CudaError(call, OUT_OF_MEMORY, _meaning(error)) from error
    except cuda.Error as error:
        raise CudaError(call, _code(_meaning(error)), _meaning(error)) from error


def _meaning(error: Exception) -> str:
    return " ".join(str(error).split()).rpartition("failed: ")[2]


def _code(meaning: str) -> str:
    known = {
        "no CUDA-capable device is detected": "CUDA_ERROR_NO_DEVICE",
        "invalid device ordinal": "CUDA_ERROR_INVALID_DEVICE",
        "no kernel image is available for execution on the device": "CUDA_ERROR_NO_BINARY_FOR_GPU",
    }
    return known.get(meaning.partition(" - ")[0], "CUDA_ERROR_UNKNOWN")


def open_driver() -> PycudaDriver:
    """The driver, initialised."""
    return PycudaDriver()
