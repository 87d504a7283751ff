"""What every kernel owes its caller besides the right answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray


def strided_copy(array: NDArray) -> NDArray:
    """The same values in memory that is not contiguous and cannot be written to."""
    wide = np.repeat(np.repeat(array, 2, axis=-1), 3, axis=0)
    view = wide[::3, ..., ::2]
    assert view.size < 2 or not view.flags.c_contiguous
    view.flags.writeable = False
    return view


def assert_lets_threads_run(work: Callable[[], object]) -> None:
    """Fail unless another Python thread gets to run in the middle of `work`, which takes 0.05 s or more.

    The other thread notes the time over and over; a call that holds the lock leaves a gap as long as itself.
    """
    moments: list[float] = []
    stop = threading.Event()

    def note_time() -> None:
        while not stop.is_set():
            moments.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=note_time)
    thread.start()
    start = end = time.perf_counter()
    try:
        for _ in range(20):
            start = time.perf_counter()
            work()
            end = time.perf_counter()
            margin = (end - start) / 10
            if any(start + margin < moment < end - margin for moment in moments):
                return
    finally:
        stop.set()
        thread.join()
    pytest.fail(f"no other thread ran during 20 calls of {end - start:.3f} s")
