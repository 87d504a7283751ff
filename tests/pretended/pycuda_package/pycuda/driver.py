"""What the runtime uses of `pycuda.driver`, with PyCUDA's own manners.

Its objects free themselves when nothing refers to them; then, and whenever they are used, the context they were made in
has to be current. Errors carry no code but a text. Handles are numbers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

_library = ctypes.CDLL("libcuda.so.1")
_Pointer = ctypes.c_void_p


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):
    pass


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_library, name)(*arguments)
    if code == 0:
        return
    text = ctypes.c_char_p()
    _library.cuGetErrorString(code, ctypes.byref(text))
    kind = MemoryError if code == 2 else RuntimeError if code in (100, 209) else LogicError
    raise kind(f"{name.removesuffix('_v2')} failed: {(text.value or b'').decode()}")


def init(flags: int = 0) -> None:
    _call("cuInit", flags)


class device_attribute:
    INTEGRATED = 18
    MULTIPROCESSOR_COUNT = 16


class host_alloc_flags:
    DEVICEMAP = 2


class event_flags:
    DISABLE_TIMING = 2


class Device:
    def __init__(self, index: int):
        self._device = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(self._device), index)

    def name(self) -> str:
        name = ctypes.create_string_buffer(256)
        _call("cuDeviceGetName", name, 256, self._device)
        return name.value.decode()

    def compute_capability(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        _call("cuDeviceComputeCapability", ctypes.byref(major), ctypes.byref(minor), self._device)
        return major.value, minor.value

    def get_attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def total_memory(self) -> int:
        size = ctypes.c_size_t()
        _call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        return size.value

    def retain_primary_context(self) -> Context:
        context = _Pointer()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        return Context(context, self._device)


class Context:
    def __init__(self, context: Any, device: Any):
        self._context, self._device = context, device

    def push(self) -> None:
        _call("cuCtxPushCurrent_v2", self._context)

    @staticmethod
    def pop() -> None:
        _call("cuCtxPopCurrent_v2", None)

    def detach(self) -> None:
        _call("cuCtxPushCurrent_v2", self._context)  # and it stays so
        _call("cuDevicePrimaryCtxRelease_v2", self._device)


def mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class DeviceAllocation:
    def __init__(self, nbytes: int):
        self._address = ctypes.c_size_t()
        _call("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(nbytes))

    def __int__(self) -> int:
        return self._address.value

    def free(self) -> None:
        _call("cuMemFree_v2", self._address)


def mem_alloc(nbytes: int) -> DeviceAllocation:
    return DeviceAllocation(nbytes)


class PagelockedHostAllocation:
    def __init__(self, nbytes: int, flags: int):
        self._memory = _Pointer()
        _call("cuMemHostAlloc", ctypes.byref(self._memory), ctypes.c_size_t(nbytes), flags)
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self._memory.value, False),
        }

    def get_device_pointer(self) -> int:
        address = ctypes.c_size_t()
        _call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), self._memory, 0)
        return address.value

    def free(self) -> None:
        _call("cuMemFreeHost", self._memory)


def pagelocked_empty(shape: tuple[int], dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray[Any, Any]:
    assert dtype is np.uint8 and len(shape) == 1
    return np.asarray(PagelockedHostAllocation(shape[0], mem_flags))


class Stream:
    def __init__(self, flags: int = 0):
        self._stream = _Pointer()
        _call("cuStreamCreate", ctypes.byref(self._stream), flags)
        self.handle = self._stream.value

    def __del__(self) -> None:
        _call("cuStreamDestroy_v2", self._stream)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", self._stream)

    def is_done(self) -> bool:
        code = _library.cuStreamQuery(self._stream)
        assert code in (0, 600)
        return code == 0

    def wait_for_event(self, event: Event) -> None:
        _call("cuStreamWaitEvent", self._stream, event._event, 0)


class Event:
    def __init__(self, flags: int = 0):
        self._event = _Pointer()
        _call("cuEventCreate", ctypes.byref(self._event), flags)

    def __del__(self) -> None:
        _call("cuEventDestroy_v2", self._event)

    def record(self, stream: Stream) -> Event:
        _call("cuEventRecord", self._event, stream._stream)
        return self

    def synchronize(self) -> Event:
        _call("cuEventSynchronize", self._event)
        return self

    def time_since(self, start: Event) -> float:
        ms = ctypes.c_float()
        _call("cuEventElapsedTime", ctypes.byref(ms), start._event, self._event)
        return ms.value


def memcpy_htod_async(dest: int, src: np.ndarray[Any, Any], stream: Stream) -> None:
    size = ctypes.c_size_t(src.nbytes)
    _call("cuMemcpyHtoDAsync_v2", ctypes.c_size_t(dest), _Pointer(src.ctypes.data), size, stream._stream)


def memcpy_dtoh_async(dest: np.ndarray[Any, Any], src: int, stream: Stream) -> None:
    size = ctypes.c_size_t(dest.nbytes)
    _call("cuMemcpyDtoHAsync_v2", _Pointer(dest.ctypes.data), ctypes.c_size_t(src), size, stream._stream)


def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
    _call("cuMemcpyDtoDAsync_v2", ctypes.c_size_t(dest), ctypes.c_size_t(src), ctypes.c_size_t(size), stream._stream)


def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
    _call("cuMemsetD8Async", ctypes.c_size_t(dest), ctypes.c_ubyte(data), ctypes.c_size_t(size), stream._stream)


class Module:
    def __init__(self, image: bytes):
        self._module = _Pointer()
        _call("cuModuleLoadDataEx", ctypes.byref(self._module), image, 0, None, None)

    def __del__(self) -> None:
        if self._module.value:
            _call("cuModuleUnload", self._module)

    def get_function(self, name: str) -> Function:
        return Function(self, name)


def module_from_buffer(image: bytes) -> Module:
    return Module(image)


class Function:
    def __init__(self, module: Module, name: str):
        self._module = module  # lives as long
        self._function = _Pointer()
        _call("cuModuleGetFunction", ctypes.byref(self._function), module._module, name.encode())

    def __call__(self, *packets: np.void, grid: Any, block: Any, shared: int, stream: Stream) -> None:
        packed = b"".join(packet.tobytes() for packet in packets)
        size = ctypes.c_size_t(len(packed))
        buffer = ctypes.create_string_buffer(packed, len(packed) or 1)
        pointer, end = 1, 2  # CU_LAUNCH_PARAM_BUFFER_POINTER and _SIZE
        extra = (_Pointer * 5)(pointer, ctypes.addressof(buffer), end, ctypes.addressof(size), 0)
        _call("cuLaunchKernel", self._function, *grid, *block, shared, stream._stream, None, extra)
