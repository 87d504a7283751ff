"""The driver through NVIDIA's `cuda-bindings`, the part of cuda-python that follows the driver's own functions."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from cuda.bindings import driver as _cuda  # pyright: ignore  # compiled without types

from .driver import Array, CudaError, DeviceInfo, Handle

cuda = cast(Any, _cuda)


class BindingsDriver:
    """See `driver.Driver`.

    Raises:
        CudaError: If this machine has no driver.
    """

    name = "cuda-python"

    def __init__(self) -> None:
        try:
            _ask(cuda.cuInit, 0)
        except RuntimeError as error:  # the bindings load the driver's library at the first call
            raise CudaError("loading the driver's library", "CUDA_ERROR_NO_DEVICE", _first_sentence(error)) from error

    def describe(self, index: int) -> DeviceInfo:
        attribute = cuda.CUdevice_attribute
        device = _ask(cuda.cuDeviceGet, index)

        def ask(name: str) -> int:
            return int(_ask(cuda.cuDeviceGetAttribute, getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device))

        name = _ask(cuda.cuDeviceGetName, 256, device)
        return DeviceInfo(
            index=index,
            name=bytes(name).split(b"\0")[0].decode(errors="replace"),
            compute_capability=f"sm_{ask('COMPUTE_CAPABILITY_MAJOR')}{ask('COMPUTE_CAPABILITY_MINOR')}",
            is_integrated=bool(ask("INTEGRATED")),
            multiprocessors=ask("MULTIPROCESSOR_COUNT"),
            total_bytes=int(_ask(cuda.cuDeviceTotalMem, device)),
        )

    def retain(self, index: int) -> Handle:
        device = _ask(cuda.cuDeviceGet, index)
        return device, _ask(cuda.cuDevicePrimaryCtxRetain, device)

    def release(self, context: Handle) -> None:
        self.pop()
        _ask(cuda.cuDevicePrimaryCtxRelease, context[0])

    def push(self, context: Handle) -> None:
        _ask(cuda.cuCtxPushCurrent, context[1])

    def pop(self) -> None:
        _ask(cuda.cuCtxPopCurrent)

    def memory(self) -> tuple[int, int]:
        free, total = _ask(cuda.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        memory = _ask(cuda.cuMemAlloc, nbytes)
        return memory, int(memory)

    def free(self, memory: Handle) -> None:
        _ask(cuda.cuMemFree, memory)

    def allocate_host(self, nbytes: int, mapped: bool) -> tuple[Handle, Array, int]:
        flags = cuda.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0
        pointer = int(_ask(cuda.cuMemHostAlloc, nbytes, flags))
        array = np.frombuffer(cast(Any, (ctypes.c_uint8 * nbytes).from_address(pointer)), np.uint8)
        address = int(_ask(cuda.cuMemHostGetDevicePointer, pointer, 0)) if mapped else 0
        return pointer, array, address

    def free_host(self, memory: Handle) -> None:
        _ask(cuda.cuMemFreeHost, memory)

    def to_device(self, address: int, source: Array, stream: Handle) -> None:
        _ask(cuda.cuMemcpyHtoDAsync, address, source.ctypes.data, source.nbytes, stream)

    def to_host(self, target: Array, address: int, stream: Handle) -> None:
        _ask(cuda.cuMemcpyDtoHAsync, target.ctypes.data, address, target.nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        _ask(cuda.cuMemcpyDtoDAsync, target, source, nbytes, stream)

    def fill(self, address: int, value: int, nbytes: int, stream: Handle) -> None:
        _ask(cuda.cuMemsetD8Async, address, value, nbytes, stream)

    def stream(self) -> tuple[Handle, int]:
        stream = _ask(cuda.cuStreamCreate, int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        return stream, int(stream)

    def synchronize(self, stream: Handle) -> None:
        _ask(cuda.cuStreamSynchronize, stream)

    def is_done(self, stream: Handle) -> bool:
        (code,) = cuda.cuStreamQuery(stream)
        if code == cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _check("cuStreamQuery", code)
        return True

    def destroy_stream(self, stream: Handle) -> None:
        _ask(cuda.cuStreamDestroy, stream)

    def wait(self, stream: Handle, event: Handle) -> None:
        _ask(cuda.cuStreamWaitEvent, stream, event, 0)

    def event(self, timing: bool) -> Handle:
        flags = cuda.CUevent_flags
        return _ask(cuda.cuEventCreate, int(flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING))

    def record(self, event: Handle, stream: Handle) -> None:
        _ask(cuda.cuEventRecord, event, stream)

    def wait_for_event(self, event: Handle) -> None:
        _ask(cuda.cuEventSynchronize, event)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        return float(_ask(cuda.cuEventElapsedTime, start, end))

    def destroy_event(self, event: Handle) -> None:
        _ask(cuda.cuEventDestroy, event)

    def begin_capture(self, stream: Handle) -> None:
        # What other threads do meanwhile is no part of it and may not fail for it.
        _ask(cuda.cuStreamBeginCapture, stream, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: Handle) -> Handle:
        graph = _ask(cuda.cuStreamEndCapture, stream)
        try:
            return _ask(cuda.cuGraphInstantiate, graph, 0)
        finally:
            _ask(cuda.cuGraphDestroy, graph)

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        _ask(cuda.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Handle) -> None:
        _ask(cuda.cuGraphExecDestroy, graph)

    def load_module(self, image: bytes) -> Handle:
        return _ask(cuda.cuModuleLoadData, image)

    def function(self, module: Handle, name: str) -> Handle:
        return _ask(cuda.cuModuleGetFunction, module, name.encode())

    def unload_module(self, module: Handle) -> None:
        _ask(cuda.cuModuleUnload, module)

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        shared_bytes: int,
        stream: Handle,
    ) -> None:
        # The driver copies what these point at before it returns.
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        _ask(cuda.cuLaunchKernel, function, *grid, *block, shared_bytes, stream, ctypes.addressof(pointers), 0)


def open_driver() -> BindingsDriver:
    """The driver, initialised."""
    return BindingsDriver()


def _ask(call: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """What a call gives beside its code: nothing, one value or several."""
    code, *values = call(*arguments)
    _check(call.__name__, code)
    return values[0] if len(values) == 1 else tuple(values)


def _check(call: str, code: Any) -> None:
    if code == cuda.CUresult.CUDA_SUCCESS:
        return
    _, text = cuda.cuGetErrorString(code)
    meaning = text.decode(errors="replace") if isinstance(text, bytes) else ""
    raise CudaError(call, getattr(code, "name", str(code)), meaning)


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
