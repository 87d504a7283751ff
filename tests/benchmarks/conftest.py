"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.images.image_files import write_image

from ..runtime.tiny_bundle import COLOURS, coloured_patch, write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images, one of them twice as large."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, colour in enumerate(COLOURS):
        scale = 1 + i // 2
        patch = (16 * scale, 32 * scale, 48 * scale, 64 * scale)
        write_image(folder / f"{colour}.png", coloured_patch((64 * scale, 96 * scale), patch, colour))
    return folder
