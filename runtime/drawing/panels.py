"""A result drawn: everything on one image, or the semantic map beside boxes and masks and the caption below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..arguments import described
from ..errors import UsageError
from .colours import semantic_colours
from .lettering import FAINT, INK, PAPER, text_width, wrapped, write_text
from .objects import draw_objects
from .options import Drawable, DrawOptions

_GAP = 6
# Of two panels, together with the reduction of large images.
_MINIMUM_SIDE = 640
_MAXIMUM_SIDE = 1920
_BAR_ALPHA = 0.75  # of the bar below a caption that lies on the image


def draw(
    image: NDArray[np.uint8], result: Drawable, options: DrawOptions | None = None, **changes: Any
) -> NDArray[np.uint8]:
    """Draw a result on its image.

    With one panel everything lies on the image. With two, small images are enlarged so that the writing can be read and
    large ones reduced; the semantic map gets a panel of its own, beside the objects or below, with a legend, and the
    caption is a bar of text below.

    Args:
        image: (h, w, 3) uint8 BGR or (h, w) grey, the image that the result is for. It is not changed.
        result: A `Result`, or anything with its fields.
        options: None for the defaults.
        **changes: Fields of `DrawOptions` that differ from `options`.

    Returns:
        (h, w, 3) uint8 BGR of the size of the image; of another size with two panels.

    Raises:
        UsageError: If the image is of another size than the result is for or no such array, or there is no such option.
    """
    options = (options or DrawOptions()).changed(changes)
    shape = image.shape if isinstance(image, np.ndarray) and image.dtype == np.uint8 else ()
    if len(shape) != 2 and (len(shape) != 3 or shape[2] != 3):
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else described(image)
        raise UsageError(f"image must be uint8 of shape (h, w, 3) or (h, w), got {what}")
    if image.shape[:2] != tuple(result.image_size):
        height, width = result.image_size
        raise UsageError(
            f"the image is {image.shape[1]}x{image.shape[0]}, the result is for one of {width}x{height}; pass the "
            "image that was predicted"
        )
    if image.ndim == 2:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return (_one_panel if options.panels == 1 else _two_panels)(image, result, options)


def _one_panel(image: NDArray[np.uint8], result: Drawable, options: DrawOptions) -> NDArray[np.uint8]:
    panel = np.ascontiguousarray(image)
    if options.shows_map(result):
        panel = _with_map(panel, result, options)
    elif panel is image:
        panel = image.copy()
    draw_objects(panel, result, options)
    caption = options.caption_of(result)
    if caption is not None:
        height, width = panel.shape[:2]
        size = max(9, round(min(width / 48, max(16, width / 96))))
        lines = _caption_lines(caption, width, size)
        below = panel[max(0, height - _bar_height(len(lines), size)) :]
        below[:] = cv2.addWeighted(below, 1 - _BAR_ALPHA, np.full_like(below, PAPER), _BAR_ALPHA, 0)
        _write_lines(below, lines, size)
    return panel


def _two_panels(image: NDArray[np.uint8], result: Drawable, options: DrawOptions) -> NDArray[np.uint8]:
    scaled = _resized(image, _display_scale(result.image_size))
    shows_map = options.shows_map(result)
    panels = []
    if result.boxes is not None or not shows_map:
        panels.append(scaled.copy())
        draw_objects(panels[0], result, options)
    if shows_map:
        grey = cv2.cvtColor(cv2.cvtColor(scaled, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        panels.append(_with_map(np.asarray(grey, np.uint8), result, options))
    canvas = _joined(panels)
    letter_height = max(10, round(min(16, canvas.shape[1] / 96)))
    rows = 2 if options.is_steady else None
    if shows_map:
        canvas = np.vstack([canvas, _legend(result, options, canvas.shape[1], letter_height, rows)])
    caption = options.caption_of(result)
    if caption is not None:
        size = round(letter_height * 1.3)
        lines = _caption_lines(caption, canvas.shape[1], size, rows)
        bar = np.full((_bar_height(rows or len(lines), size), canvas.shape[1], 3), PAPER, np.uint8)
        _write_lines(bar, lines, size)
        canvas = np.vstack([canvas, bar])
    return canvas


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


def _with_map(panel: NDArray[np.uint8], result: Drawable, options: DrawOptions) -> NDArray[np.uint8]:
    """The panel with the semantic map laid over it, as a new array."""
    colours = semantic_colours(result.class_names, result.semantic_names, options.palette)
    size = (panel.shape[1], panel.shape[0])
    semantic_map = np.asarray(result.semantic_map, np.uint8)
    classes = np.asarray(cv2.resize(semantic_map, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    alpha = options.semantic_alpha
    return np.asarray(cv2.addWeighted(colours[classes], alpha, panel, 1 - alpha, 0), np.uint8)


def _legend(
    result: Drawable, options: DrawOptions, width: int, letter_height: int, rows: int | None
) -> NDArray[np.uint8]:
    """A strip with a swatch, the name and the share of the image of each class, the largest first.

    What would be rounded to 0 % is left out, but for the largest class.
    """
    colours = semantic_colours(result.class_names, result.semantic_names, options.palette)
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


def _caption_lines(text: str, width: int, size: int, most: int | None = None) -> list[str]:
    """The text in lines that fit a bar of this width in letters `size` pixels high; what goes beyond `most` is cut."""
    lines = wrapped(text, max(1, width - 2 * size), size)
    return lines if most is None or len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]


def _bar_height(lines: int, size: int) -> int:
    return lines * round(size * 1.9) + size


def _write_lines(bar: NDArray[np.uint8], lines: Sequence[str], size: int) -> None:
    line_height = round(size * 1.9)
    for i, line in enumerate(lines):
        write_text(bar, line, (size, size // 2 + i * line_height + (line_height - size) // 2), size, INK)


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
