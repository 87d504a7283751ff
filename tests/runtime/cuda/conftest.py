"""Fixtures for the kernels of the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import Emulator, build


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA kernels for the CPU."""
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def emulator(emulated_library: Path) -> Emulator:
    """Runs them."""
    return Emulator(emulated_library)
