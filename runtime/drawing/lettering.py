"""Text on images: its colours, its size in pixels, and where a line breaks."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]  # BGR, as OpenCV draws

PAPER: Colour = (30, 27, 26)
INK: Colour = (238, 236, 234)
FAINT: Colour = (160, 156, 152)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 22.0  # pixels of a capital letter at font scale 1, measured


def wrapped(text: str, width: int, letter_height: float) -> list[str]:
    """`text` in lines at most `width` pixels wide, broken at spaces, or inside a word that is too long."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if text_width(longer, letter_height) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while text_width(line, letter_height) > width and len(line) > 1:
            fitting = max(1, sum(text_width(line[: n + 1], letter_height) <= width for n in range(len(line))))
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line or not lines else lines


def write_text(
    panel: NDArray[np.uint8], text: str, corner: tuple[int, int], letter_height: float, colour: Colour
) -> None:
    """Write with the upper left corner of the capitals at `corner`, in place."""
    at = (corner[0], corner[1] + math.ceil(letter_height))
    cv2.putText(panel, text, at, _FONT, letter_height / _FONT_HEIGHT, colour, _stroke(letter_height), cv2.LINE_AA)


def text_width(text: str, letter_height: float) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, letter_height / _FONT_HEIGHT, _stroke(letter_height))
    return width


def _stroke(letter_height: float) -> int:
    return 1 if letter_height < 16 else max(2, round(letter_height / 10))
