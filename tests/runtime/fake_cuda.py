"""NVIDIA's driver, made of Python."""

from __future__ import annotations

from typing import Any


class FakeDriver:
    """Answers like libcuda for one GPU; `failing` is the call that fails."""

    def __init__(self, failing: str = "", name: bytes = b"Orin", capability: tuple[int, int] = (8, 7)):
        self.failing = failing
        self.name = name
        self.capability = capability
        self.names_errors = True
        self.called: list[str] = []

    def _code(self, name: str) -> int:
        self.called.append(name)
        return 100 if name == self.failing else 0

    def cuInit(self, flags: int) -> int:
        return self._code("cuInit")

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        return self._code("cuDeviceGet")

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:
        name.value = self.name
        return self._code("cuDeviceGetName")

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        value._obj.value = {75: self.capability[0], 76: self.capability[1]}[attribute]
        return self._code("cuDeviceGetAttribute")

    def cuDriverGetVersion(self, value: Any) -> int:
        value._obj.value = 12060
        return self._code("cuDriverGetVersion")

    def cuDeviceGetCount(self, value: Any) -> int:
        value._obj.value = 1
        return self._code("cuDeviceGetCount")

    def cuDeviceTotalMem_v2(self, value: Any, handle: Any) -> int:
        value._obj.value = 8 << 30
        return self._code("cuDeviceTotalMem_v2")

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_NO_DEVICE"
        return 0 if self.names_errors else 1
