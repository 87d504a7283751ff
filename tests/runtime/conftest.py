"""Fixtures of the runtime's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from yolor_edge.runtime.bundle import Bundle

from .tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def own_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "tiny"))
