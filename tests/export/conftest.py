"""Fixtures of the export's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .exported import Exported


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and leave its random state and thread count as they were."""
    from .exported import one_torch_thread

    with one_torch_thread():
        yield


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random network whose captions look at 20 of its 126 cells, and its bundle."""
    from .exported import export_random_network

    folder = tmp_path_factory.mktemp("gated")
    return export_random_network(folder, caption_regions=20)
