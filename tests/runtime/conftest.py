"""Fixtures of the runtime's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.bundle.bundle import Bundle

from .c_api.c_library import CLibrary, build_library
from .cuda.emulated import Emulator, build
from .tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def own_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def c_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a freshly built libyolor_edge.so and libyolor_edge.a."""
    folder = tmp_path_factory.mktemp("library")
    build_library(folder)
    return folder


@pytest.fixture(scope="session")
def c(c_library: Path) -> CLibrary:
    """The library, to be called."""
    return CLibrary(c_library / "libyolor_edge.so")


@pytest.fixture(params=_native.simd_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once for every instruction set this processor has."""
    before = _native.simd_level()
    _native.set_simd_level(request.param)
    yield request.param
    _native.set_simd_level(before)


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA kernels for the CPU."""
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def emulator(emulated_library: Path) -> Emulator:
    """Runs them."""
    return Emulator(emulated_library)
