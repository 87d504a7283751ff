"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .export.exported import Exported


def pytest_configure() -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, for all its children; here it is sent on purpose.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """The folder of coco-tiny, 100 photographs: YOLOR_EDGE_COCO_TINY, or the one beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-tiny"
    folder = Path(os.environ.get("YOLOR_EDGE_COCO_TINY", beside))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"coco-tiny is not at {folder}; set YOLOR_EDGE_COCO_TINY to its folder")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random four-task network as checkpoint and bundle, with the scenes whose classes it has: not to be changed."""
    from .export.exported import export_random_network  # here, since it takes torch

    return export_random_network(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def pretended_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver of CUDA that needs no GPU."""
    from .pretended.gpu import build_driver

    return build_driver(tmp_path_factory.mktemp("driver"))
