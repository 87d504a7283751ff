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
from ..progress import Say
from .video_encoders import Encoder, open_encoder


class VideoFile:
    """An MP4 being written; open it with `open`."""

    def __init__(self, encoder: Encoder, size: tuple[int, int]):
        self._encoder = encoder
        self._size = size
        self._written = 0

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        temporary: Path,
        path: Path,
        fps: float,
        first: NDArray[np.uint8],
        sound: Path | None = None,
        report: Say | None = None,
    ) -> Iterator[VideoFile]:
        """Open `temporary` for frames of the size of `first`, and check at the end that they are all there.

        A video has even sides; an odd one is made a pixel longer.

        Args:
            temporary: The file to write.
            path: What it is called in messages.
            fps: Frames per second, where frames have no times.
            first: (h, w, 3) uint8 BGR.
            sound: A video whose sound goes into the file; None for none.
            report: Called with one line where the file will lack something that it could have.

        Raises:
            ImageError: If it cannot be written, or came out incomplete.
        """
        height, width = (side + side % 2 for side in first.shape[:2])
        encoder = open_encoder(temporary, path, fps, (height, width), sound, report)
        video = cls(encoder, (width, height))
        try:
            yield video
        finally:
            encoder.close()
        with quiet_opencv(), name_for_opencv(temporary) as name:
            check = cv2.VideoCapture(name)
        frames = round(check.get(cv2.CAP_PROP_FRAME_COUNT))
        check.release()
        if frames < video._written:
            raise ImageError(
                f"{path}: only {max(0, frames)} of {video._written} frames were written; is the disk full?"
            )

    def write(self, drawing: NDArray[np.uint8], times: int = 1, seconds: float | None = None) -> None:
        """Append a frame, (h, w, 3) uint8 BGR.

        Args:
            drawing: One of another size than the first, as a stream may give, is fitted into that size, whole and with
                its proportions.
            times: For how many frames it stands at an even rate, those that were dropped before it included.
            seconds: When it is to be seen, from the beginning of the video; None where the rate alone decides.
        """
        self._written += self._encoder.write(_fitted(drawing, self._size), times, seconds)


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
