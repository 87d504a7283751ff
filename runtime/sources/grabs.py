"""Frames as they are grabbed, each with the moment it was captured or its place in its video."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images.image_files import quiet_opencv
from .capture import Capture, RawFrames, bgr

# A driver's time stamp that is older than this is of another clock than ours.
_OLDEST_NS = 1_000_000_000


@dataclass(frozen=True)
class Grab:
    """One frame of a capture.

    Attributes:
        image: (h, w, 3) uint8 BGR; of standard input in its own layout.
        captured_ns: `time.monotonic_ns()` of the moment.
        captured_unix_ns: `time.time_ns()` of the same moment.
        position_ms: Where the capture says the frame lies in its video; 0 where it knows nothing of the kind.
    """

    image: NDArray[np.uint8]
    captured_ns: int
    captured_unix_ns: int
    position_ms: float


def grab(capture: Capture) -> Grab | None:
    """The next frame, or None where there is none.

    The moment is taken between OpenCV's grab, which waits for the frame, and its retrieve, which decodes and converts
    it. Video4Linux says itself when the driver had filled the frame, on the monotonic clock, which is nearer still: a
    frame may have waited in the driver's queue.
    """
    import cv2  # here, since the runtime is imported without it where nothing is opened

    with quiet_opencv():
        if hasattr(capture, "grab") and hasattr(capture, "retrieve"):
            one: Any = capture
            if not one.grab():
                return None
            now, unix = time.monotonic_ns(), time.time_ns()
            position_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
            done, image = one.retrieve()
        else:
            done, image = capture.read()
            now, unix = time.monotonic_ns(), time.time_ns()
            position_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
    if not done or image is None:
        return None
    captured = _driver_ns(capture, position_ms, now)
    pixels = image if isinstance(capture, RawFrames) else bgr(image)
    return Grab(pixels, captured, unix - (now - captured), position_ms)


def _driver_ns(capture: Any, position_ms: float, now: int) -> int:
    """When Video4Linux filled the frame, where it says so on the clock of `now`; else now.

    Source: OpenCV, modules/videoio/src/cap_v4l.cpp, which gives the buffer's time stamp as the position.
    """
    name = getattr(capture, "getBackendName", None)
    if name is None or not math.isfinite(position_ms) or name() != "V4L2":
        return now
    stamp = round(position_ms * 1e6)
    return stamp if 0 <= now - stamp <= _OLDEST_NS else now


class First:
    """A capture whose first frame has been taken, to see that there is one; it is given first."""

    def __init__(self, capture: Capture):
        self._capture = capture
        self._first = grab(capture)
        self.is_there = self._first is not None

    def taken(self) -> Grab | None:
        """The frame that was taken, once; then None."""
        first, self._first = self._first, None
        return first

    def release(self) -> None:
        """Let go of what is behind it."""
        self._capture.release()

    @property
    def capture(self) -> Capture:
        """What is behind it."""
        return self._capture
