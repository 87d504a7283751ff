"""The GPU as the driver names it, with a driver made of Python."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from yolor_edge.runtime.environment.cuda_device import CudaDevice, CudaDriver, cuda_device, cuda_driver

from ..fake_cuda import FakeDriver


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


def test_all_that_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert cuda_driver() == CudaDriver("12.6", ((CudaDevice("Orin", "sm_87"), 8 << 30),))


def test_a_driver_that_does_not_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver("cuInit"))
    assert cuda_driver() == CudaDriver("12.6", error="CUDA_ERROR_NO_DEVICE")
    driver = FakeDriver("cuInit")
    driver.names_errors = False
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_driver() == CudaDriver("12.6", error="error 100")


def test_memory_that_it_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver("cuDeviceTotalMem_v2"))
    assert cuda_driver() == CudaDriver("12.6", ((CudaDevice("Orin", "sm_87"), None),))


def test_no_driver_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_driver() is None
