"""A termination that ends a command the way Ctrl-C does, so that it too leaves nothing half-written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises."""


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Inside the block, SIGTERM raises `Terminated`; in another thread than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
