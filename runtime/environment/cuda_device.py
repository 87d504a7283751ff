"""What GPU this machine has, asked of NVIDIA's driver without any package for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver's API.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class CudaDevice:
    """A GPU as the driver names it.

    Attributes:
        name: For people, such as "Orin" or "NVIDIA GeForce RTX 4090".
        compute_capability: In the words of targets, such as "sm_87".
    """

    name: str
    compute_capability: str


def cuda_device(index: int = 0) -> CudaDevice | None:
    """The GPU of this index, or None where there is no driver or no such GPU; creates no context on it."""
    driver = load_driver_library()
    return None if driver is None else _ask(driver, index)


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, such as (12, 6); None where there is no driver, or it does not say."""
    driver = load_driver_library()
    return None if driver is None else _cuda_of(driver)


def load_driver_library() -> ctypes.CDLL | None:
    """NVIDIA's driver, or None where there is none."""
    for library in _LIBRARIES:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None


def _ask(driver: ctypes.CDLL, index: int) -> CudaDevice | None:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    # Each call answers 0 for success, so the first that fails ends the asking.
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), index)
        or driver.cuDeviceGetName(name, len(name), handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    )
    if failed:
        return None
    return CudaDevice(name.value.decode(errors="replace"), f"sm_{major.value}{minor.value}")


@dataclass(frozen=True)
class CudaDriver:
    """NVIDIA's driver and the GPUs behind it.

    Attributes:
        cuda: The newest CUDA it can run, such as "12.6"; None where it does not say.
        devices: The GPUs, each with its bytes of memory (None where it does not say), in the driver's order.
        error: Why it does not answer, in its own words; None if it does.
    """

    cuda: str | None
    devices: tuple[tuple[CudaDevice, int | None], ...] = ()
    error: str | None = None


def cuda_driver() -> CudaDriver | None:
    """All that the driver tells, or None where there is no driver; creates no context on any GPU."""
    driver = load_driver_library()
    return None if driver is None else _driver_and_devices(driver)


def _driver_and_devices(driver: ctypes.CDLL) -> CudaDriver:
    count = ctypes.c_int()
    version = _cuda_of(driver)
    cuda = None if version is None else f"{version[0]}.{version[1]}"
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed:
        return CudaDriver(cuda, error=_error_name(driver, failed))
    asked = ((_ask(driver, index), _memory(driver, index)) for index in range(count.value))
    return CudaDriver(cuda, tuple((device, memory) for device, memory in asked if device is not None))


def _cuda_of(driver: ctypes.CDLL) -> tuple[int, int] | None:
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10  # 12060 for 12.6


def _memory(driver: ctypes.CDLL, index: int) -> int | None:
    handle, total = ctypes.c_int(), ctypes.c_size_t()
    failed = driver.cuDeviceGet(ctypes.byref(handle), index) or driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    return None if failed else total.value


def _error_name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    if driver.cuGetErrorName(code, ctypes.byref(name)) or name.value is None:
        return f"error {code}"
    return name.value.decode(errors="replace")
