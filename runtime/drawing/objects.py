"""Boxes, masks and labels, drawn on an image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .colours import distinct_colour, object_colour
from .lettering import Colour, text_width, write_text
from .options import Drawable, DrawOptions
from .regions import draw_regions


def draw_objects(panel: NDArray[np.uint8], result: Drawable, options: DrawOptions) -> None:
    """Masks, then boxes, then labels, so that no label is covered; the best-scored come last, on top.

    Args:
        panel: (h, w, 3) uint8 BGR, the image at any scale; drawn on in place.
        result: Its boxes are in pixels of the image, which the panel shows stretched.
        options: Which parts, and their width and opacity.
    """
    if result.boxes is None or result.scores is None or result.class_ids is None:
        return
    names = result.class_names, result.semantic_names, options.palette
    colours = [object_colour(int(i), *names) for i in result.class_ids]
    ids = [] if result.track_ids is None else result.track_ids.tolist()
    for i, track_id in enumerate(ids):
        if track_id >= 0:
            colours[i] = distinct_colour(track_id)
    side = max(panel.shape[:2])
    thinnest = 1 if side < 480 else 2
    stretch = np.array([panel.shape[1] / result.image_size[1], panel.shape[0] / result.image_size[0]] * 2)
    if result.masks is not None and options.masks:
        crops = result.masks.crops()
        outline = options.line_width or max(thinnest, round(side / 960))
        large_first = np.argsort(-result.masks.areas(), kind="stable")  # so that none hides a small one
        for i in large_first.tolist():
            _blend_mask(panel, crops[i], stretch, colours[i], options.mask_alpha, outline)
    thickness = options.line_width or max(thinnest, round(side / 480))
    corners = np.rint(result.boxes * stretch).astype(int).tolist()
    best_last = range(len(corners) - 1, -1, -1)
    if options.boxes:
        for i in best_last:
            x1, y1, x2, y2 = corners[i]
            cv2.rectangle(panel, (x1, y1), (x2 - 1, y2 - 1), colours[i], thickness, cv2.LINE_AA)
    letter_height = max(9.0, min(side / 64, max(16.0, side / 120)))
    draw_regions(panel, options.regions, stretch[:2], letter_height)
    if not options.labels and not options.scores:
        return
    detected = result.detected_names or ()
    for i in best_last:
        words = [detected[i]] * options.labels + [f"{result.scores[i]:.2f}"] * options.scores
        if options.labels and ids and ids[i] >= 0:
            words.insert(1, f"#{ids[i]}")
        _label(panel, " ".join(words), (corners[i][0], corners[i][1]), colours[i], letter_height, thickness)


def _blend_mask(
    panel: NDArray[np.uint8],
    placed: tuple[int, int, NDArray[np.uint8]],
    stretch: NDArray[np.float64],
    colour: Colour,
    alpha: float,
    outline: int,
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
    cv2.copyTo(cv2.addWeighted(region, 1 - alpha, tint, alpha, 0), mask, region)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, outlines, -1, _ink_on(colour), outline + 2, cv2.LINE_AA, offset=(left, top))
    cv2.drawContours(panel, outlines, -1, colour, outline, cv2.LINE_AA, offset=(left, top))


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


def _ink_on(colour: Colour) -> Colour:
    """Nearly black or white, whichever is seen on this colour."""
    blue, green, red = colour
    return (20, 20, 20) if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else (255, 255, 255)
