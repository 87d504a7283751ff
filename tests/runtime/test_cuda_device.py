"""The GPU as the driver names it, with a driver made of Python."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from yolor_edge.runtime.cuda_device import CudaDevice, cuda_device


class FakeDriver:
    """Answers like libcuda for one GPU; `failing` is the call that fails."""

    def __init__(self, failing: str = ""):
        self.failing = failing
        self.called: list[str] = []

    def _code(self, name: str) -> int:
        self.called.append(name)
        return 100 if name == self.failing else 0

    def cuInit(self, flags: int) -> int:
        return self._code("cuInit")

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        return self._code("cuDeviceGet")

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:
        name.value = b"Orin"
        return self._code("cuDeviceGetName")

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return self._code("cuDeviceGetAttribute")


def test_without_a_driver_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_device() is None


def test_the_driver_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert cuda_device() == CudaDevice("Orin", "sm_87")


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"])
def test_a_driver_without_a_device_is_none(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    driver = FakeDriver(failing)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_device() is None
    assert driver.called[-1] == failing  # nothing is asked after it
