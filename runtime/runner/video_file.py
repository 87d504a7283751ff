"""An MP4 being written, and looked at when it is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..drawing.lettering import PAPER
from ..environment.opencv import name_for_opencv
from ..errors import ImageError
from ..images.image_files import quiet_opencv


class VideoFile:
    """An MP4 being written; open it with `open`."""

    def __init__(self, writer: cv2.VideoWriter, size: tuple[int, int]):
        self._writer = writer
        self._size = size
        self._written = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, temporary: Path, path: Path, fps: float, first: NDArray[np.uint8]) -> Iterator[VideoFile]:
        """Open `temporary` for frames of the size of `first`, and check at the end that they are all there.

        A video has even sides; an odd one is made a pixel longer.

        Raises:
            ImageError: If it cannot be written, or came out incomplete; it is called `path` in the message.
        """
        height, width = (side + side % 2 for side in first.shape[:2])
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with quiet_opencv(), name_for_opencv(temporary) as name:
            writer = cv2.VideoWriter(name, fourcc, _writable_rate(fps), (width, height))
        if not writer.isOpened():
            raise ImageError(f"{path}: this OpenCV cannot write MP4 video; write images of single frames instead")
        video = cls(writer, (width, height))
        try:
            yield video
        finally:
            writer.release()
        with quiet_opencv(), name_for_opencv(temporary) as name:
            check = cv2.VideoCapture(name)
        frames = round(check.get(cv2.CAP_PROP_FRAME_COUNT))
        check.release()
        if frames < video._written:
            raise ImageError(
                f"{path}: only {max(0, frames)} of {video._written} frames were written; is the disk full?"
            )

    def write(self, drawing: NDArray[np.uint8], times: int = 1) -> None:
        """Append a frame, (h, w, 3) uint8 BGR.

        Args:
            drawing: One of another size than the first, as a stream may give, is fitted into that size, whole and with
                its proportions.
            times: How often, so that a frame stands for those that were dropped before it.
        """
        fitted = _fitted(drawing, self._size)
        for _ in range(times):
            self._writer.write(fitted)
            self._written += 1


def _writable_rate(fps: float) -> float:
    """The nearest rate that MPEG-4 holds, as a fraction of which neither part is above 65535."""
    return next((rate for digits in (3, 2, 1) if (rate := round(fps, digits)) * 10**digits <= 65535), round(fps))


def _fitted(drawing: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = size
    if drawing.shape[:2] == (height, width):
        return drawing
    scale = min(width / drawing.shape[1], height / drawing.shape[0])
    inner = (max(1, round(drawing.shape[1] * scale)), max(1, round(drawing.shape[0] * scale)))
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(drawing, inner)
    return canvas
