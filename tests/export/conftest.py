"""Fixtures of the export's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and leave its random state and thread count as they were."""
    from .exported import one_torch_thread

    with one_torch_thread():
        yield
