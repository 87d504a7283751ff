"""Strong and weak views of a picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ...evaluation.dataset.truth import IGNORED, Truth
from ...runtime import _native
from ...runtime.images.preprocess import PreprocessRule
from ..config import TrainConfig
from ..network.config import PROTOTYPE_STRIDE
from .canvas import Canvas, sampled_pixel
from .placement import Placement, Window, random_placement
from .view import View

Reader = Callable[[Truth, float], NDArray[np.uint8]]
"""Reads a picture as (h, w, 3) uint8 BGR, given the most input pixels that one of its pixels will be long: below a
half, the image may come smaller, as long as it is no less fine than the view."""

Others = Callable[[np.random.Generator], Truth]
"""Draws a further picture that is known in the same ways."""

# Of two pictures mixed, one that has at least this share of the light is what a pixel shows.
CLEAR_SHARE = 0.6
# An object of another picture is pasted with this probability, and at most so many are.
PASTED_SHARE, MOST_PASTED = 0.5, 10

# So many rows change colour at once: they stay in the cache between one pass and the next.
STRIP = 64


def weak_view(
    truth: Truth,
    read: Reader,
    rule: PreprocessRule,
    rng: np.random.Generator,
    dense: bool = True,
    mirrored: bool = False,
) -> View:
    """The image exactly as the runtime prepares it.

    Args:
        truth: Of the image.
        read: Reads the image.
        rule: How the runtime prepares it.
        rng: Draws what is left to chance.
        dense: Place the dense truth too.
        mirrored: Flip the image left to right.
    """
    image = read(truth, np.inf)
    if mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
    height, width = rule.input_size
    pixels = _native.letterbox_u8(image, height, width, rule.pad_value, swap_rb=True, rounding=rule.rounding)
    canvas = Canvas(rule, sampled_pixel(rng))
    if dense:
        letterbox = rule.letterbox_of(truth.size)
        left, top = letterbox.pad_left, letterbox.pad_top
        matrix = np.array([[letterbox.scale_x, 0, left], [0, letterbox.scale_y, top], [0, 0, 1]], np.float64)
        if mirrored:
            matrix = matrix @ np.array([[-1, 0, truth.size[1]], [0, 1, 0], [0, 0, 1]])
        x2, y2 = left + round(truth.size[1] * letterbox.scale_x), top + round(truth.size[0] * letterbox.scale_y)
        canvas.put_labels(truth, Placement(matrix, truth.size, (left, top, x2, y2)))
    return canvas.view(pixels)


def strong_view(
    truth: Truth,
    others: Others,
    read: Reader,
    rule: PreprocessRule,
    config: TrainConfig,
    rng: np.random.Generator,
    plain: bool = False,
) -> View:
    """A strongly augmented image with its dense truth.

    Args:
        truth: The image that the step asked for.
        others: Draws further images for mosaic, copy-paste and mixup.
        read: Reads images.
        rule: How the runtime prepares images.
        config: Which augmentations, how likely and how strong.
        rng: Draws all that is left to chance.
        plain: Leave out mosaic, copy-paste and mixup, as in the last epochs.
    """
    composer = _Composer(others, read, rule, config, rng)
    canvas = composer.single(truth) if plain else composer.mosaic(truth)
    if not plain and rng.random() < config.copy_paste:
        _paste(canvas, composer.single(others(rng)), rng)
    if not plain and rng.random() < config.mixup:
        _mix(canvas, composer.mosaic(others(rng)), rng)
    return canvas.view(_recoloured(canvas.image, config.color, rng))


class _Composer:
    """Puts pictures on canvases; arguments as those of `strong_view`."""

    def __init__(
        self, others: Others, read: Reader, rule: PreprocessRule, config: TrainConfig, rng: np.random.Generator
    ) -> None:
        self.others, self.read, self.rule, self.config, self.rng = others, read, rule, config, rng
        self.sampled = sampled_pixel(rng)

    def single(self, truth: Truth) -> Canvas:
        """One picture."""
        height, width = self.rule.input_size
        canvas = Canvas(self.rule, self.sampled)
        self._put(canvas, truth, (0, 0, width, height), None)
        return canvas

    def mosaic(self, truth: Truth) -> Canvas:
        """Four pictures around one point, with the probability of a mosaic; else one."""
        rng = self.rng
        if rng.random() >= self.config.mosaic:
            return self.single(truth)
        height, width = self.rule.input_size
        canvas = Canvas(self.rule, self.sampled)
        cx, cy = (int(side * rng.uniform(0.3, 0.7)) for side in (width, height))
        truths = [truth, *(self.others(rng) for _ in range(3))]
        order = rng.permutation(4)
        windows = [(0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height)]
        anchors = [(1, 1), (0, 1), (1, 0), (0, 0)]  # which corner of the picture touches the centre
        for i, window, anchor in zip(order, windows, anchors, strict=True):
            self._put(canvas, truths[i], window, anchor)
        return canvas

    def _put(self, canvas: Canvas, truth: Truth, window: Window, anchor: tuple[int, int] | None) -> None:
        placement = random_placement(truth.size, self.rule.input_size, window, anchor, self.config, self.rng)
        canvas.put(truth, self.read(truth, placement.scale), placement)


def _paste(onto: Canvas, source: Canvas, rng: np.random.Generator) -> None:
    """Put some objects of `source` that have masks in front of all that is on `onto` (arXiv 2012.07177)."""
    source.settle()
    candidates = [one for one in source.objects if one.cover is not None]
    if not candidates:
        return
    chosen = np.flatnonzero(rng.random(len(candidates)) < PASTED_SHARE)
    if not len(chosen):
        chosen = rng.integers(len(candidates), size=1)
    front = np.zeros(onto.image.shape[:2], bool)
    for i in rng.permutation(chosen)[:MOST_PASTED]:
        cover = candidates[i].cover
        if cover is not None:
            front[cover.region] |= cover.pixels >= 128
    for one in onto.objects:
        one.keep_under(front)
    behind = ~front
    for one in candidates:  # Those that were not chosen too: what lies on a chosen one comes along with it.
        one.keep_under(behind)
    np.copyto(onto.image, source.image, where=front[:, :, None])
    cells = front.reshape(onto.semantic.shape[0], PROTOTYPE_STRIDE, onto.semantic.shape[1], PROTOTYPE_STRIDE)
    touched, whole = cells.any((1, 3)), cells.all((1, 3))
    onto.semantic = np.where(whole, source.semantic, np.where(touched, np.uint8(IGNORED), onto.semantic))
    onto.classes_known = (onto.classes_known | whole) & (source.classes_known | ~touched)
    onto.objects += candidates


def _mix(canvas: Canvas, other: Canvas, rng: np.random.Generator) -> None:
    """Lay both images on top of each other, with the objects of both.

    A pixel of the semantic map is known where both say the same, or one of them has much more of the light: a label
    that half of what is seen contradicts would teach the network to guess.
    """
    share = rng.beta(32.0, 32.0)
    canvas.image = np.asarray(cv2.addWeighted(canvas.image, share, other.image, 1 - share, 0), np.uint8)
    if share <= 1 - CLEAR_SHARE:
        canvas.semantic = other.semantic
    elif share < CLEAR_SHARE:
        canvas.semantic = np.where(canvas.semantic == other.semantic, canvas.semantic, np.uint8(IGNORED))
    canvas.classes_known &= other.classes_known
    canvas.objects += other.objects


def _recoloured(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """BGR to RGB with another hue, saturation and value."""
    if strength == 0:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    gains = 1 + rng.uniform(-1, 1, 3) * np.array([0.015, 0.7, 0.4]) * strength
    levels = np.arange(256, dtype=np.float64)
    table = np.empty((256, 1, 3), np.uint8)
    table[:, 0, 0] = (levels * gains[0]) % 180
    table[:, 0, 1:] = (levels[:, None] * gains[1:]).clip(0, 255)
    changed = np.empty_like(image)
    for y in range(0, len(image), STRIP):
        hsv = cv2.LUT(cv2.cvtColor(image[y : y + STRIP], cv2.COLOR_BGR2HSV), table)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=changed[y : y + STRIP])
    return changed
