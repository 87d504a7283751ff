"""One GPU through the driver of CUDA, whichever of two packages leads there: see `device.Device` and `open_device`."""

from .device import CapturedGraph, Device, DeviceBuffer, DeviceInfo, Event, Function, HostArray, Module, Stream
from .open import BINDINGS, installed_bindings, open_device

__all__ = [
    "BINDINGS",
    "CapturedGraph",
    "Device",
    "DeviceBuffer",
    "DeviceInfo",
    "Event",
    "Function",
    "HostArray",
    "Module",
    "Stream",
    "installed_bindings",
    "open_device",
]
