"""All four answers drawn: boxes and masks on the picture, the semantic map beside it, the caption below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..results import Result
from .colours import object_colour, semantic_colours
from .lettering import FAINT, INK, PAPER, Colour, text_width, wrapped, write_text

_GAP = 6
# Weak enough that the object keeps the colour that the caption speaks of; on ground of a like colour the outline, with
# a line of its opposite around it, carries the shape.
_MASK_STRENGTH = 0.3
_MAP_STRENGTH = 0.6
_MINIMUM_SIDE = 640
_MAXIMUM_SIDE = 1920


@dataclass(frozen=True)
class DrawOptions:
    """How results are drawn.

    Attributes:
        is_steady: Keep the size of the drawing the same whatever was found, as a video needs.
        palette: RGB per semantic class, for objects of these classes too; None to have colours chosen.
    """

    is_steady: bool = False
    palette: Sequence[tuple[int, int, int]] | None = None


def draw(image: NDArray[np.uint8], result: Result, options: DrawOptions | None = None) -> NDArray[np.uint8]:
    """Draw every answer of `result`.

    Small pictures are enlarged so that the writing can be read, large ones reduced. Boxes and masks lie on
    the picture; a semantic map gets a second panel, beside it or below, with a legend; the caption is a bar
    of text.

    Args:
        image: (h, w, 3) uint8 BGR, the picture that the result is for.
        result: What was found in it.
        options: None for the defaults.

    Returns:
        (height, width, 3) uint8 BGR; both even, as video writers want.

    Raises:
        ValueError: If the image is of another size than the result is for.
    """
    options = options or DrawOptions()
    if image.shape[:2] != result.image_size:
        raise ValueError(f"the image is {image.shape[:2]}, the result is for one of {result.image_size}")
    if image.ndim == 2:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    scale = _display_scale(result.image_size)
    picture = _resized(image, scale)
    panels = []
    if result.boxes is not None or result.semantic_map is None:
        panels.append(_objects_panel(picture.copy(), result, options))
    colours = semantic_colours(result.class_names, result.semantic_names, options.palette)
    if result.semantic_map is not None:
        panels.append(_semantic_panel(picture, result.semantic_map, colours))
    canvas = _joined(panels)
    letter_height = max(10, round(min(16, canvas.shape[1] / 96)))
    if result.semantic_map is not None:
        rows = 2 if options.is_steady else None
        canvas = _stacked(canvas, _legend(result, colours, canvas.shape[1], letter_height, rows))
    if result.caption is not None:
        lines = 2 if options.is_steady else None
        canvas = _stacked(canvas, _caption_bar(result.caption.text, canvas.shape[1], letter_height, lines))
    height, width = canvas.shape[:2]
    return np.asarray(
        cv2.copyMakeBorder(canvas, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=PAPER), np.uint8
    )


def _display_scale(image_size: tuple[int, int]) -> float:
    longest = max(image_size)
    if longest < _MINIMUM_SIDE:
        return _MINIMUM_SIDE / longest
    return min(1.0, _MAXIMUM_SIDE / longest)


def _resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1:
        return np.ascontiguousarray(image)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _objects_panel(panel: NDArray[np.uint8], result: Result, options: DrawOptions) -> NDArray[np.uint8]:
    """Masks, then boxes, then labels, so that no label is covered; the best-scored come last, on top."""
    if result.boxes is None or result.scores is None or result.class_ids is None:
        return panel
    order = range(len(result.boxes) - 1, -1, -1)
    names = result.class_names, result.semantic_names, options.palette
    colours = [object_colour(int(i), *names) for i in result.class_ids]
    stretch = np.array([panel.shape[1] / result.image_size[1], panel.shape[0] / result.image_size[0]] * 2)
    if result.masks is not None:
        crops = result.masks.crops()
        large_first = np.argsort(-result.masks.areas(), kind="stable")  # so that none hides a small one
        for i in large_first.tolist():
            _blend_mask(panel, crops[i], stretch, colours[i])
    thickness = max(2, round(max(panel.shape[:2]) / 480))
    corners = np.rint(result.boxes * stretch).astype(int)
    for i in order:
        x1, y1, x2, y2 = (int(x) for x in corners[i])
        cv2.rectangle(panel, (x1, y1), (x2 - 1, y2 - 1), colours[i], thickness, cv2.LINE_AA)
    detected = result.detected_names or ()
    letter_height = max(9.0, min(16.0, max(panel.shape[:2]) / 64))
    for i in order:
        text = f"{detected[i]} {result.scores[i]:.2f}"
        _label(panel, text, (int(corners[i, 0]), int(corners[i, 1])), colours[i], letter_height, thickness)
    return panel


def _blend_mask(
    panel: NDArray[np.uint8],
    placed: tuple[int, int, NDArray[np.uint8]],
    stretch: NDArray[np.float64],
    colour: Colour,
) -> None:
    """Tint one mask and trace its outline, in place. `stretch` is panel pixels per image pixel."""
    y0, x0, crop = placed
    if not crop.size:
        return
    left, top = round(x0 * stretch[0]), round(y0 * stretch[1])
    right, bottom = round((x0 + crop.shape[1]) * stretch[0]), round((y0 + crop.shape[0]) * stretch[1])
    right, bottom = min(max(right, left + 1), panel.shape[1]), min(max(bottom, top + 1), panel.shape[0])
    if right <= left or bottom <= top:
        return
    soft = cv2.resize(crop * np.uint8(255), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    mask = (soft > 127).astype(np.uint8)
    region = panel[top:bottom, left:right]
    tint = np.full_like(region, colour)
    cv2.copyTo(cv2.addWeighted(region, 1 - _MASK_STRENGTH, tint, _MASK_STRENGTH, 0), mask, region)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, outlines, -1, _ink_on(colour), 4, cv2.LINE_AA, offset=(left, top))
    cv2.drawContours(panel, outlines, -1, colour, 2, cv2.LINE_AA, offset=(left, top))


def _label(
    panel: NDArray[np.uint8],
    text: str,
    corner: tuple[int, int],
    colour: Colour,
    letter_height: float,
    thickness: int,
) -> None:
    """Write `text` on a plate above the corner, or inside the box where there is no room above. In place."""
    pad = max(3, round(letter_height * 0.35))
    width = text_width(text, letter_height) + 2 * pad
    height = round(letter_height) + 2 * pad
    left = max(0, min(corner[0] - thickness // 2, panel.shape[1] - width))
    top = corner[1] - height if corner[1] >= height else max(0, corner[1])
    cv2.rectangle(panel, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
    write_text(panel, text, (left + pad, top + pad), letter_height, _ink_on(colour))


def _semantic_panel(
    picture: NDArray[np.uint8], semantic_map: NDArray[np.uint8], colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    size = (picture.shape[1], picture.shape[0])
    classes = np.asarray(cv2.resize(semantic_map, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.addWeighted(colours[classes], _MAP_STRENGTH, grey, 1 - _MAP_STRENGTH, 0), np.uint8)


def _legend(
    result: Result, colours: NDArray[np.uint8], width: int, letter_height: int, rows: int | None
) -> NDArray[np.uint8]:
    """A strip with a swatch, the name and the share of the picture of each class, the largest first.

    What would be rounded to 0 % is left out, but for the largest class.
    """
    total = result.image_size[0] * result.image_size[1]
    line_height = round(letter_height * 2.0)
    swatch = round(letter_height * 1.2)
    margin = letter_height
    places: list[tuple[int, int, str, int]] = []  # x, row, text, class
    x, row = margin, 0
    for class_id, pixels in result.semantic_areas():
        share = 100 * pixels / total
        if share < 0.5 and places:
            break
        text = f"{result.semantic_names[class_id]} " + (f"{share + 1e-9:.0f}%" if share >= 0.5 else "<1%")
        needed = swatch + _GAP + text_width(text, letter_height) + 2 * margin
        if x > margin and x + needed > width:
            x, row = margin, row + 1
        if row >= (rows or 3):
            break
        places.append((x, row, text, class_id))
        x += needed
    used = rows or max(1, 1 + max((place[1] for place in places), default=0))
    strip = np.full((used * line_height + margin, width, 3), PAPER, np.uint8)
    for x, row, text, class_id in places:
        top = margin // 2 + row * line_height + (line_height - swatch) // 2
        colour = tuple(int(part) for part in colours[class_id])
        cv2.rectangle(strip, (x, top), (x + swatch - 1, top + swatch - 1), colour, cv2.FILLED)
        write_text(strip, text, (x + swatch + _GAP, top + (swatch - letter_height) // 2), letter_height, FAINT)
    return strip


def _caption_bar(text: str, width: int, letter_height: int, lines: int | None) -> NDArray[np.uint8]:
    size = round(letter_height * 1.3)
    margin = size
    broken = wrapped(text or "(no words)", max(1, width - 2 * margin), size)
    if lines is not None and len(broken) > lines:
        broken = [*broken[: lines - 1], broken[lines - 1] + " ..."]
    line_height = round(size * 1.9)
    bar = np.full(((lines or len(broken)) * line_height + margin, width, 3), PAPER, np.uint8)
    for i, line in enumerate(broken):
        top = margin // 2 + i * line_height + (line_height - size) // 2
        write_text(bar, line, (margin, top), size, INK)
    return bar


def _joined(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels of one size side by side, or one above the other where they are wide."""
    if len(panels) == 1:
        return panels[0]
    height, width = panels[0].shape[:2]
    if width > 2 * height:
        between = np.full((_GAP, width, 3), PAPER, np.uint8)
        return np.vstack([panels[0], between, panels[1]])
    between = np.full((height, _GAP, 3), PAPER, np.uint8)
    return np.hstack([panels[0], between, panels[1]])


def _stacked(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.vstack([upper, lower])


def _ink_on(colour: Colour) -> Colour:
    """Nearly black or white, whichever is seen on this colour."""
    blue, green, red = colour
    return (20, 20, 20) if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else (255, 255, 255)
