"""Lines and zones, drawn over the objects, with what was counted there."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .lettering import Colour, text_width, write_text
from .options import DrawnRegion

_DARK, _BRIGHT = (20, 20, 20), (0, 215, 255)


def draw_regions(
    panel: NDArray[np.uint8], regions: tuple[DrawnRegion, ...], stretch: NDArray[np.float64], letter_height: float
) -> None:
    """In place: the border, at a line an arrow to the side that is "in", and the text.

    Args:
        panel: (h, w, 3) uint8 BGR.
        regions: In pixels of the image.
        stretch: (2,) pixels of the panel per pixel of the image, x and y.
        letter_height: Of the text, in pixels.
    """
    width = max(2, round(max(panel.shape[:2]) / 320))
    for region in regions:
        corners = np.rint(np.array(region.points) * stretch).astype(np.int32)
        for colour, thickness in ((_DARK, width + 2), (_BRIGHT, width)):
            cv2.polylines(panel, [corners], region.is_closed, colour, thickness, cv2.LINE_AA)
            if not region.is_closed:
                _arrow(panel, corners, colour, thickness)
        _plate(panel, region.text, corners, letter_height)


def _arrow(panel: NDArray[np.uint8], corners: NDArray[np.int32], colour: Colour, thickness: int) -> None:
    middle, along = corners.mean(axis=0), (corners[1] - corners[0]).astype(float)
    length = float(np.hypot(*along))
    if length < 1:
        return
    tip = middle + np.array([-along[1], along[0]]) / length * min(length / 4, max(panel.shape[:2]) / 24)
    start, end = (tuple(int(x) for x in np.rint(point)) for point in (middle, tip))
    cv2.arrowedLine(panel, start, end, colour, thickness, cv2.LINE_AA, tipLength=0.4)


def _plate(panel: NDArray[np.uint8], text: str, corners: NDArray[np.int32], letter_height: float) -> None:
    """The text on dark ground at the first corner, inside the panel."""
    pad = max(3, round(letter_height * 0.35))
    size = np.array([text_width(text, letter_height) + 2 * pad, round(letter_height) + 2 * pad])
    room = np.maximum(np.array(panel.shape[1::-1]) - size, 0)
    left, top = (int(x) for x in np.clip(corners[0] + pad, 0, room))
    right, bottom = left + int(size[0]) - 1, top + int(size[1]) - 1
    cv2.rectangle(panel, (left, top), (right, bottom), _DARK, cv2.FILLED)
    write_text(panel, text, (left + pad, top + pad), letter_height, _BRIGHT)
