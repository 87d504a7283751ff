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
