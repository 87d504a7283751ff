"""A network input that pictures are put on, and their labels with them, exact to the input's pixels until the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ...evaluation.dataset.segmentations import Segmentation, polygon_mask, rle_crop
from ...evaluation.dataset.truth import IGNORED, Truth
from ...runtime.images.preprocess import PreprocessRule
from ..network.config import PROTOTYPE_STRIDE
from .placement import Placement, Window
from .view import View

# Of an object that a view cuts down to less than this share of its area, or to a side below this many pixels, the rest
# is neither object nor background: nobody could name it.
LEAST_VISIBLE, LEAST_SIDE = 0.1, 2.0


@dataclass
class Cover:
    """How much of each input pixel something covers, in the region where it lies.

    Attributes:
        pixels: (h, w) uint8, 255 is all of it; sides are multiples of a label cell.
        x, y: The region's first pixel in the input, on the corner of a label cell.
    """

    pixels: NDArray[np.uint8]
    x: int
    y: int

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the input."""
        height, width = self.pixels.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def cells(self) -> tuple[slice, slice]:
        """Rows and columns of the label grid."""
        rows, columns = self.region
        return (
            slice(rows.start // PROTOTYPE_STRIDE, rows.stop // PROTOTYPE_STRIDE),
            slice(columns.start // PROTOTYPE_STRIDE, columns.stop // PROTOTYPE_STRIDE),
        )

    def on_grid(self) -> NDArray[np.uint8]:
        """The covered share of each label cell, 255 is all of it."""
        height, width = (side // PROTOTYPE_STRIDE for side in self.pixels.shape)
        return np.asarray(cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def extent(self) -> NDArray[np.float64] | None:
        """(4,) xyxy in input pixels around the pixels that are covered by half and more; None if there are none."""
        covered = np.asarray(cv2.boundingRect((self.pixels >= 128).view(np.uint8)))
        if not covered[2]:
            return None
        x1, y1 = self.x + covered[0], self.y + covered[1]
        return np.array([x1, y1, x1 + covered[2], y1 + covered[3]], np.float64)


@dataclass
class PlacedObject:
    """One object on a canvas.

    Attributes:
        class_id: Its class.
        box: (4,) xyxy in input pixels, as annotated and moved, clipped to the picture's window.
        area: Input pixels that all of it would cover: of its mask, or of its box where it has no mask.
        visible: Input pixels of it that can be seen.
        is_whole: Whether `box` is still right: nothing was cut off or hidden, nor was the box turned.
        cover: Its mask, None where it has none.
    """

    class_id: int
    box: NDArray[np.float64]
    area: float
    visible: float
    is_whole: bool
    cover: Cover | None

    def keep_under(self, hidden: NDArray[np.bool_]) -> None:
        """Take away what lies under the pixels (H, W) of the input that are True."""
        if self.cover is None:
            x1, y1 = (int(v) for v in self.box[:2])
            x2, y2 = (int(np.ceil(v)) for v in self.box[2:])
            self.visible *= 1 - float(hidden[y1:y2, x1:x2].mean()) if x2 > x1 and y2 > y1 else 1
            return
        under = hidden[self.cover.region]
        if under.any():
            self.cover.pixels = np.where(under, np.uint8(0), self.cover.pixels)
            self.visible, self.is_whole = _covered(self.cover.pixels), False

    def tightened(self) -> NDArray[np.float64]:
        """The box around what is left."""
        if self.is_whole or self.cover is None:
            return self.box
        extent = self.cover.extent()
        if extent is None:
            return self.box
        low, high = np.maximum(extent[:2], self.box[:2]), np.minimum(extent[2:], self.box[2:])
        inner = np.concatenate((low, high))
        # Where the annotated side is right to a pixel, it is more exact than one counted in whole pixels.
        return np.where(np.abs(inner - self.box) <= 1, self.box, inner)


def sampled_pixel(rng: np.random.Generator) -> int:
    """Which row and column of a label cell the semantic map takes, 1 or 2.

    A cell spans four input pixels a side, so its centre lies between pixels; taking either neighbour at random keeps
    the labels free of a shift.
    """
    return int(rng.integers(1, 3))


class Canvas:
    """One network input in the making.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        semantic: (H / 4, W / 4) uint8 class ids, 255 is unknown.
        classes_known: (H / 4, W / 4) bool.
        known_classes: (C,) bool, which classes every picture on it has labels of; None for all.
        objects: What lies on it.
        sampled: Which row and column of a label cell's four the semantic map shows, see `sampled_pixel`.
    """

    def __init__(self, rule: PreprocessRule, sampled: int) -> None:
        height, width = rule.input_size
        cells = (height // PROTOTYPE_STRIDE, width // PROTOTYPE_STRIDE)
        self.image = np.full((height, width, 3), rule.pad_value, np.uint8)
        self.semantic = np.full(cells, IGNORED, np.uint8)
        self.classes_known = np.ones(cells, bool)
        self.known_classes: NDArray[np.bool_] | None = None
        self.objects: list[PlacedObject] = []
        self.sampled = sampled

    def put(self, truth: Truth, image: NDArray[np.uint8], placement: Placement) -> None:
        """Draw a picture and place its labels.

        Args:
            truth: Of the picture.
            image: (h, w, 3) uint8 BGR, of the truth's size or a half, a quarter, an eighth of it, rounded up.
            placement: Where to.
        """
        placement.draw(image, self.image)
        self.put_labels(truth, placement)

    def put_labels(self, truth: Truth, placement: Placement) -> None:
        """Place the labels of a picture that is drawn already."""
        semantic = truth.semantic_map()
        if semantic is not None:
            self._put_semantic(semantic, placement)
        if truth.boxes is None or truth.class_ids is None or truth.crowd is None:
            x1, y1, x2, y2 = (side / PROTOTYPE_STRIDE for side in placement.window)
            self.classes_known[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = False
            return
        self.know_only(truth.known_classes)
        x1, y1, x2, y2 = placement.window
        boxes = placement.boxes(truth.boxes)
        clipped = np.stack(
            (boxes[:, 0].clip(x1, x2), boxes[:, 1].clip(y1, y2), boxes[:, 2].clip(x1, x2), boxes[:, 3].clip(y1, y2)), 1
        )
        sides = clipped[:, 2:] - clipped[:, :2]
        full = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for i in np.flatnonzero(sides.min(1, initial=np.inf) > 0):
            # Of a turned rectangle the upright box is too large, so it is only right where it did not turn.
            is_whole = placement.is_upright and bool((np.abs(clipped[i] - boxes[i]) < 1e-6).all())
            found = None
            outline = None if truth.segmentations is None else truth.segmentations[i]
            if outline is not None:
                found = _placed_mask(outline, placement)
            if found is None:
                one = PlacedObject(0, clipped[i], float(full[i]), float(sides[i].prod()), is_whole, None)
            else:
                cover, area = found
                one = PlacedObject(0, clipped[i], area, _covered(cover.pixels), is_whole, cover)
            if truth.crowd[i]:
                self._forget(one)
            else:
                one.class_id = int(truth.class_ids[i])
                self.objects.append(one)

    def know_only(self, classes: NDArray[np.bool_] | None) -> None:
        """Leave of the known classes those that are among `classes` (C,) too; None is all of them."""
        if classes is not None:
            self.known_classes = classes if self.known_classes is None else self.known_classes & classes

    def _put_semantic(self, semantic: NDArray[np.uint8], placement: Placement) -> None:
        """Cells that show anything beside the picture stay unknown."""
        rows, columns, whole = placement.whole_cells(self.semantic.shape)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        if min(size) <= 0:
            return
        first = (
            columns.start * PROTOTYPE_STRIDE + self.sampled + 0.5,
            rows.start * PROTOTYPE_STRIDE + self.sampled + 0.5,
        )
        placed = placement.warp(semantic, size, first=first, step=float(PROTOTYPE_STRIDE), nearest=True, border=IGNORED)
        if whole is not None:
            placed[~whole] = IGNORED
        self.semantic[rows, columns] = placed

    def _forget(self, one: PlacedObject) -> None:
        """Nothing may be learnt of absence where this lies."""
        if one.cover is not None:
            self.classes_known[one.cover.cells] &= one.cover.on_grid() == 0
            return
        x1, y1, x2, y2 = one.box / PROTOTYPE_STRIDE
        self.classes_known[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = False

    def settle(self) -> None:
        """Sort out objects of which too little is left, and give the others the boxes of what is."""
        kept = []
        for one in self.objects:
            if one.visible <= 0:
                continue
            one.box = one.tightened()
            if one.visible < LEAST_VISIBLE * one.area or (one.box[2:] - one.box[:2]).min() < LEAST_SIDE:
                self._forget(one)
            else:
                kept.append(one)
        self.objects = kept

    def view(self, image: NDArray[np.uint8]) -> View:
        """The finished view with `image` (H, W, 3) uint8 RGB."""
        self.settle()
        masks = np.zeros((len(self.objects), *self.semantic.shape), np.uint8)
        for mask, one in zip(masks, self.objects, strict=True):
            if one.cover is not None:
                mask[one.cover.cells] = one.cover.on_grid()
        return View(
            image=image,
            boxes=np.array([one.box for one in self.objects], np.float32).reshape(-1, 4),
            classes=np.array([one.class_id for one in self.objects], np.int64),
            masks=masks,
            semantic=self.semantic,
            mask_known=np.array([one.cover is not None for one in self.objects], bool),
            classes_known=self.classes_known,
            known_classes=self.known_classes,
        )


def _covered(pixels: NDArray[np.uint8]) -> float:
    """The sum of the covered shares, in pixels."""
    return float(cv2.sumElems(pixels)[0]) / 255


def _placed_mask(segmentation: Segmentation, placement: Placement) -> tuple[Cover, float] | None:
    """The mask where `placement` puts it, and the input pixels that all of it would cover; None if it has no pixel.

    Args:
        segmentation: Of the object.
        placement: Of the picture.
    """
    if isinstance(segmentation, dict):
        pixels, (x, y) = rle_crop(segmentation)
        source = (x, y, x + pixels.shape[1], y + pixels.shape[0])
        around = placement.boxes(np.array([source], np.float64))[0]
        middle = np.array([[(source[0] + source[2]) / 2, (source[1] + source[3]) / 2]])
        area = float(np.count_nonzero(pixels)) * float(placement.areas(middle)[0])
        region = _region(around, placement.window)
        if area <= 0 or region is None:
            return _nothing(area)
        left, top, right, bottom = region
        cover = placement.warp(pixels, (bottom - top, right - left), source, (left + 0.5, top + 0.5))
    else:
        polygons = [placement.points(polygon.reshape(-1, 2)) for polygon in segmentation]
        if not polygons:
            return None
        every = np.concatenate(polygons)
        area = float(sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons))
        region = _region(np.concatenate((every.min(0), every.max(0))), placement.window)
        if area <= 0 or region is None:
            return _nothing(area)
        left, top, right, bottom = region
        cover = polygon_mask([(polygon - (left, top)).ravel() for polygon in polygons], (bottom - top, right - left))
    x1, y1, x2, y2 = placement.window
    cover[: max(0, y1 - top)] = cover[y2 - top :] = 0
    cover[:, : max(0, x1 - left)] = cover[:, x2 - left :] = 0
    return Cover(cover, left, top), area


def _region(around: NDArray[np.float64], window: Window) -> Window | None:
    """The part of the window, in whole label cells, that a box in input pixels reaches into; None if it does not."""
    stride = PROTOTYPE_STRIDE
    # One pixel more: a linear mixture reaches half a pixel further.
    left, top = (max(math.floor(v) - 1, low) for v, low in zip(around[:2].tolist(), window[:2], strict=True))
    right, bottom = (min(math.ceil(v) + 1, high) for v, high in zip(around[2:].tolist(), window[2:], strict=True))
    if right <= left or bottom <= top:
        return None
    return left // stride * stride, top // stride * stride, -(-right // stride) * stride, -(-bottom // stride) * stride


def _nothing(area: float) -> tuple[Cover, float] | None:
    """A mask of which nothing lies in the view; None where there is none at all."""
    return (Cover(np.zeros((PROTOTYPE_STRIDE, PROTOTYPE_STRIDE), np.uint8), 0, 0), area) if area > 0 else None
