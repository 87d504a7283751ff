"""The two views of an image that a training step sees (asymmetric augmentation, arXiv 2309.16921).

The strong view (mosaic, mixup, zoom, shift, flip, colour) serves boxes, masks and semantic map, whose labels move with
the pixels. The weak view, letterbox only, serves the caption, which speaks of the whole image and its left and right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ..evaluation.dataset.truth import IGNORED, Truth
from ..runtime import _native
from ..runtime.images.preprocess import PreprocessRule
from .config import TrainConfig
from .network.config import PROTOTYPE_STRIDE

Reader = Callable[[Truth], NDArray[np.uint8]]
# A box that a view cuts down to less than this share of its area, or to a side below this many pixels, is dropped.
LEAST_VISIBLE, LEAST_SIDE = 0.1, 2.0


@dataclass(frozen=True)
class View:
    """One network input and its dense truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) float32 xyxy in input pixels.
        classes: (n,) int64.
        masks: (n, H / 4, W / 4) uint8, covered share of each prototype cell, 255 is all of it.
        semantic: (H / 4, W / 4) uint8 class ids, 255 is unknown.
        mask_known: (n,) bool, False for objects without a mask.
        classes_known: (H / 4, W / 4) bool, False where objects may be that nobody labelled.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    mask_known: NDArray[np.bool_]
    classes_known: NDArray[np.bool_]


@dataclass(frozen=True)
class _Placement:
    """x_input = x * scale_x + shift_x (scale_x < 0 mirrors), and the part of the input that the image may fill."""

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float
    window: tuple[int, int, int, int]  # x1, y1, x2, y2

    def matrix(self, cell: float = 1.0, offset: float = 0.0) -> NDArray[np.float64]:
        """OpenCV's 2x3 matrix between pixel indices, onto a grid whose cell i is centred at i * cell + offset + 0.5."""
        return np.array(
            [
                [self.scale_x / cell, 0, (self.scale_x / 2 + self.shift_x - offset - 0.5) / cell],
                [0, self.scale_y / cell, (self.scale_y / 2 + self.shift_y - offset - 0.5) / cell],
            ]
        )


def weak_view(truth: Truth, read: Reader, rule: PreprocessRule, rng: np.random.Generator, dense: bool = True) -> View:
    """The image exactly as the runtime prepares it; `dense=False` leaves the dense truth out."""
    image = read(truth)
    height, width = rule.input_size
    pixels = _native.letterbox_u8(image, height, width, rule.pad_value, swap_rb=True, rounding=rule.rounding)
    letterbox = rule.letterbox_of((image.shape[0], image.shape[1]))
    x2 = letterbox.pad_left + round(truth.size[1] * letterbox.scale_x)
    y2 = letterbox.pad_top + round(truth.size[0] * letterbox.scale_y)
    placement = _Placement(
        letterbox.scale_x,
        letterbox.scale_y,
        letterbox.pad_left,
        letterbox.pad_top,
        (letterbox.pad_left, letterbox.pad_top, x2, y2),
    )
    empty = _blank(rule)
    return replace(_place_labels(truth, placement, empty, rng) if dense else empty, image=pixels)


def strong_view(
    truth: Truth,
    others: Callable[[np.random.Generator], Truth],
    read: Reader,
    rule: PreprocessRule,
    config: TrainConfig,
    rng: np.random.Generator,
    plain: bool = False,
) -> View:
    """A strongly augmented image with its dense truth.

    Args:
        truth: The image that the step asked for.
        others: Draws further images for mosaic and mixup.
        plain: Leave out mosaic and mixup, as in the last epochs.
    """
    view = _composed(truth, others, read, rule, config, rng, plain)
    if not plain and rng.random() < config.mixup:
        view = _mixed(view, _composed(others(rng), others, read, rule, config, rng, plain), rng)
    return replace(view, image=_recoloured(view.image, config.color, rng))


def _composed(
    truth: Truth,
    others: Callable[[np.random.Generator], Truth],
    read: Reader,
    rule: PreprocessRule,
    config: TrainConfig,
    rng: np.random.Generator,
    plain: bool,
) -> View:
    height, width = rule.input_size
    if plain or rng.random() >= config.mosaic:
        truths, windows, anchors = [truth], [(0, 0, width, height)], [None]
    else:
        cx, cy = (int(side * rng.uniform(0.3, 0.7)) for side in (width, height))
        truths = [truth, *(others(rng) for _ in range(3))]
        order = rng.permutation(4)
        truths = [truths[i] for i in order]
        windows = [(0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height)]
        anchors = [(1, 1), (0, 1), (1, 0), (0, 0)]  # which corner of the image touches the centre
    view = _blank(rule)
    for one, window, anchor in zip(truths, windows, anchors, strict=True):
        placement = _random_placement(one.size, rule.input_size, window, anchor, config, rng)
        image = cv2.warpAffine(
            read(one),
            placement.matrix(),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(rule.pad_value,) * 3,
        )
        x1, y1, x2, y2 = window
        view.image[y1:y2, x1:x2] = image[y1:y2, x1:x2, ::-1]
        view = _place_labels(one, placement, view, rng)
    return view


def _random_placement(
    size: tuple[int, int],
    input_size: tuple[int, int],
    window: tuple[int, int, int, int],
    anchor: tuple[int, int] | None,
    config: TrainConfig,
    rng: np.random.Generator,
) -> _Placement:
    height, width = size
    scale = min(input_size[0] / height, input_size[1] / width)
    scale *= rng.uniform(1 - config.scale_range, 1 + config.scale_range)
    new_width, new_height = width * scale, height * scale
    x1, y1, x2, y2 = window
    if anchor is None:
        left = (x1 + x2 - new_width) / 2 + rng.uniform(-1, 1) * config.translate * input_size[1]
        top = (y1 + y2 - new_height) / 2 + rng.uniform(-1, 1) * config.translate * input_size[0]
    else:
        left = x2 - new_width if anchor[0] else x1
        top = y2 - new_height if anchor[1] else y1
    if rng.random() < config.flip:
        return _Placement(-scale, scale, left + new_width, top, window)
    return _Placement(scale, scale, left, top, window)


def _blank(rule: PreprocessRule) -> View:
    height, width = rule.input_size
    cells = (height // PROTOTYPE_STRIDE, width // PROTOTYPE_STRIDE)
    return View(
        image=np.full((height, width, 3), rule.pad_value, np.uint8),
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int64),
        masks=np.zeros((0, *cells), np.uint8),
        semantic=np.full(cells, IGNORED, np.uint8),
        mask_known=np.zeros(0, bool),
        classes_known=np.ones(cells, bool),
    )


def _place_labels(truth: Truth, placement: _Placement, view: View, rng: np.random.Generator) -> View:
    """Add the dense truth of an image that `placement` puts into `view`."""
    x1, y1, x2, y2 = placement.window
    height, width = view.image.shape[:2]
    cells = (width // PROTOTYPE_STRIDE, height // PROTOTYPE_STRIDE)  # OpenCV's order
    rows = slice(*(round(y / PROTOTYPE_STRIDE) for y in (y1, y2)))
    columns = slice(*(round(x / PROTOTYPE_STRIDE) for x in (x1, x2)))
    semantic = truth.semantic_map()
    if semantic is not None:
        # A label cell spans four input pixels a side, so its centre lies between pixels; taking either neighbour at
        # random keeps the labels free of a shift.
        offset = float(rng.integers(1, 3))
        placed = cv2.warpAffine(
            semantic,
            placement.matrix(PROTOTYPE_STRIDE, offset),
            cells,
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(IGNORED,),
        )
        view.semantic[rows, columns] = placed[rows, columns]
    if truth.boxes is None or truth.class_ids is None or truth.crowd is None:
        view.classes_known[rows, columns] = False
        return view

    xs = truth.boxes[:, [0, 2]] * placement.scale_x + placement.shift_x
    ys = truth.boxes[:, [1, 3]] * placement.scale_y + placement.shift_y
    boxes = np.stack((xs.min(1), ys.min(1), xs.max(1), ys.max(1)), 1)
    clipped = np.stack(
        (
            boxes[:, 0].clip(x1, x2),
            boxes[:, 1].clip(y1, y2),
            boxes[:, 2].clip(x1, x2),
            boxes[:, 3].clip(y1, y2),
        ),
        1,
    )
    sides, clipped_sides = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    visible = clipped_sides.prod(1) >= LEAST_VISIBLE * sides.prod(1)
    keep = np.flatnonzero(visible & (clipped_sides.min(1, initial=np.inf) >= LEAST_SIDE) & ~truth.crowd)
    masks = np.zeros((len(keep), *view.semantic.shape), np.uint8)
    pixels = truth.masks()
    if pixels is not None:
        for i, mask in enumerate(pixels[keep]):
            full = cv2.warpAffine(mask.view(np.uint8) * 255, placement.matrix(), (width, height))
            full[:y1], full[y2:], full[:, :x1], full[:, x2:] = 0, 0, 0, 0
            masks[i] = cv2.resize(full, cells, interpolation=cv2.INTER_AREA)
    return replace(
        view,
        boxes=np.concatenate((view.boxes, clipped[keep].astype(np.float32))),
        classes=np.concatenate((view.classes, truth.class_ids[keep])),
        masks=np.concatenate((view.masks, masks)),
        mask_known=np.concatenate((view.mask_known, truth.mask_known[keep])),
    )


def _mixed(a: View, b: View, rng: np.random.Generator) -> View:
    """Both images on top of each other, with the objects of both; what a pixel shows is then unknown."""
    share = rng.beta(32.0, 32.0)
    return View(
        image=np.asarray(cv2.addWeighted(a.image, share, b.image, 1 - share, 0), np.uint8),
        boxes=np.concatenate((a.boxes, b.boxes)),
        classes=np.concatenate((a.classes, b.classes)),
        masks=np.concatenate((a.masks, b.masks)),
        semantic=np.full_like(a.semantic, IGNORED),
        mask_known=np.concatenate((a.mask_known, b.mask_known)),
        classes_known=a.classes_known & b.classes_known,
    )


def _recoloured(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    if strength == 0:
        return image
    gains = 1 + rng.uniform(-1, 1, 3) * np.array([0.015, 0.7, 0.4]) * strength
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    levels = np.arange(256, dtype=np.float64)
    tables: Sequence[NDArray[np.uint8]] = (
        ((levels * gains[0]) % 180).astype(np.uint8),
        (levels * gains[1]).clip(0, 255).astype(np.uint8),
        (levels * gains[2]).clip(0, 255).astype(np.uint8),
    )
    channels = [cv2.LUT(c, t) for c, t in zip((hue, saturation, value), tables, strict=True)]
    return np.ascontiguousarray(cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2RGB), np.uint8)
