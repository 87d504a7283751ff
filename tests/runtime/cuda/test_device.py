"""The driver of CUDA behind its interface, through both bindings, without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from yolor_edge.runtime.cuda import installed_bindings, open_device
from yolor_edge.runtime.cuda import open as cuda_open
from yolor_edge.runtime.environment.cuda_device import cuda_device
from yolor_edge.runtime.errors import BackendError, BackendMissingError, UsageError

from ...pretended import gpu


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_the_interface_does_what_it_says(pretended_driver: Path, binding: str) -> None:
    if binding not in (*installed_bindings(), "pycuda"):
        pytest.skip(f"{binding} is not installed")
    gpu.check(pretended_driver, "check_device.py", binding)


def test_without_a_binding_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert installed_bindings() == ()
    with pytest.raises(
        BackendMissingError, match=r'needs PyCUDA or cuda-python; install it: pip install "cuda-bindings>=12'
    ):
        open_device()
    with pytest.raises(BackendMissingError, match="running on a GPU needs pycuda; there is no wheel of pycuda for"):
        open_device(binding="pycuda")


def test_a_binding_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, package: str | None = None) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file:\nno such file")

    monkeypatch.setattr(cuda_open, "installed_bindings", lambda: ("pycuda",))
    monkeypatch.setattr(cuda_open.importlib, "import_module", refuse)
    with pytest.raises(BackendError, match=r"pycuda is installed but does not load .libcuda.*; install NVIDIA's") as e:
        open_device()
    assert "\n" not in str(e.value)


def test_an_unknown_binding_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown CUDA binding 'numba'; they are pycuda, cuda-python"):
        open_device(binding="numba")


@pytest.mark.skipif(cuda_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_it_is_one_line() -> None:
    if not installed_bindings():
        pytest.skip("no binding is installed")
    with pytest.raises(
        BackendError, match=r"there is no GPU 0 here .*; yolor-edge doctor says what this machine has"
    ) as e:
        open_device()
    assert "\n" not in str(e.value)
