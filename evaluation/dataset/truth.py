"""What is known about one image: boxes, masks, semantic map and captions; pixels are made when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ...runtime.environment.opencv import name_for_opencv
from ...runtime.errors import DatasetError
from .segmentations import Rle, Segmentation, masks_from_rles, rle_from_segmentation

IGNORED = 255
"""The value of a semantic map where there is no truth."""


class SemanticMap(Protocol):
    """Where the semantic map of an image comes from."""

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """The semantic classes, (height, width) uint8, 255 where there is no truth."""
        ...


@dataclass(frozen=True)
class PanopticMap:
    """A panoptic PNG: a pixel holds the segment id R + 256 G + 65536 B, `classes` has its class.

    `crowds` are the segments that cover a group.
    """

    path: Path
    classes: Mapping[int, int]
    crowds: frozenset[int] = frozenset()

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """The semantic classes, (height, width) uint8; segment 0 (unlabelled) is 255.

        Raises:
            DatasetError: If the PNG cannot be read, has another size, or holds a segment not in its JSON.
        """
        classes, _, lengths = self._runs(size)
        return np.repeat(classes, lengths).reshape(size)

    def read_segments(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The semantic classes as `read` gives them, and the segment ids, (height, width) int32, 0 unlabelled.

        Raises:
            DatasetError: As `read`.
        """
        classes, ids, lengths = self._runs(size)
        return np.repeat(classes, lengths).reshape(size), np.repeat(ids, lengths).reshape(size)

    def _runs(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class, segment id and length of the runs of pixels of one segment, row after row, three of (runs,)."""
        bgr = _read_png(self.path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, size)
        # As one number of four bytes B, G, R, 255; neighbours of the same segment are looked up together.
        found = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA)).view("<u4").ravel()
        starts = np.concatenate(([0], np.flatnonzero(found[1:] != found[:-1]) + 1))
        found = found[starts]
        table = {0: IGNORED} | {key: value for key, value in self.classes.items() if 0 <= key < 1 << 24}
        ids, classes = np.array(list(table), np.uint32), np.array(list(table.values()), np.uint8)
        known = 0xFF000000 | (ids & 0xFF) << 16 | ids & 0xFF00 | ids >> 16
        order = np.argsort(known)
        at = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        unknown = known[at] != found
        if unknown.any():
            number = int(found[unknown][0]) & 0xFFFFFF
            raise DatasetError(
                f"{self.path}: holds segment {(number & 0xFF) << 16 | number & 0xFF00 | number >> 16}, which "
                "segments_info does not list in the JSON; take PNG and JSON from the same release"
            )
        return classes[at], ids[at].astype(np.int32), np.diff(starts, append=size[0] * size[1])


@dataclass(frozen=True)
class StuffThingMap:
    """A COCO-Stuff label PNG: pixel = category id - 1, 255 unlabelled; `table` (256,) gives the class."""

    path: Path
    table: np.ndarray = field(repr=False)

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """The semantic classes, (height, width) uint8; unlabelled pixels and nameless categories are 255."""
        labels = _read_png(self.path, cv2.IMREAD_UNCHANGED, size)
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise DatasetError(f"{self.path}: expected a grey 8-bit PNG of category ids, as COCO-Stuff publishes them")
        return self.table[labels]


@dataclass(frozen=True)
class PackedMap:
    """A semantic map as runs of the same class, row after row: `values` (k,) uint8, `lengths` (k,) uint32."""

    values: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, semantic: np.ndarray) -> PackedMap:
        """The runs of a (height, width) uint8 map."""
        pixels = semantic.reshape(-1)
        starts = np.concatenate(([0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1))
        return cls(pixels[starts], np.diff(starts, append=pixels.size).astype(np.uint32))

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """The semantic classes, (height, width) uint8."""
        return np.repeat(self.values, self.lengths).reshape(size)


def _read_png(path: Path, flags: int, size: tuple[int, int]) -> np.ndarray:
    with name_for_opencv(path) as name:
        pixels = cv2.imread(name, flags)
    if pixels is None:
        raise DatasetError(f"{path}: cannot be read as a PNG; fetch the file again")
    if pixels.shape[:2] != size:
        raise DatasetError(
            f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} (height x width), but the JSON says "
            f"{size[0]} x {size[1]}; take both from the same release"
        )
    return pixels


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about one image; a field is None where this image has no annotation of that kind.

    An image that the instances file lists without objects is a real negative: its boxes are (0, 4), not None.

    Attributes:
        image_id: The data set's own id.
        path: The image file.
        size: (height, width) in pixels, as the JSON gives it.
        boxes: (N, 4) float32 xyxy in pixels, clipped to the image.
        annotated_boxes: (N, 4) float64 x, y, width, height in pixels as the file has them, which may stick out of the
            image: what COCO scores with. None where that is the same.
        class_ids: (N,) int64, positions in the data set's `class_names`.
        crowd: (N,) bool, true where one annotation covers a group: no training target, ignored by the scores.
        areas: (N,) float64, the annotation's area in pixels (of the mask where COCO gives it).
        segmentations: For each box polygons or run lengths, or None where it has no mask; None where the data set has
            no masks at all.
        attributes: The optional key "attributes" of each annotation or None; None where no box has one.
        captions: At least one text.
        known_classes: (C,) bool, of which classes of the data set all objects of this image are labelled; None for all
            of them. Only in data sets put together of some with different classes.
        semantic: Where the semantic map comes from; `semantic_map()` reads it.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray | None = None
    annotated_boxes: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    segmentations: tuple[Segmentation | None, ...] | None = field(default=None, repr=False)
    attributes: tuple[dict[str, Any] | None, ...] | None = field(default=None, repr=False)
    captions: tuple[str, ...] | None = None
    semantic: SemanticMap | None = field(default=None, repr=False)
    known_classes: np.ndarray | None = field(default=None, repr=False)

    @property
    def has_semantic(self) -> bool:
        return self.semantic is not None

    @property
    def has_masks(self) -> bool:
        return self.segmentations is not None

    @property
    def mask_known(self) -> np.ndarray:
        """(N,) bool, which of the boxes have a mask."""
        if self.segmentations is None:
            return np.zeros(0 if self.boxes is None else len(self.boxes), bool)
        return np.array([one is not None for one in self.segmentations], bool)

    @cached_property
    def rles(self) -> list[Rle | None] | None:
        """For each box a COCO RLE {"size": [h, w], "counts": text}, None for one without a mask; or None as a whole."""
        if self.segmentations is None:
            return None
        return [None if one is None else rle_from_segmentation(one, self.size) for one in self.segmentations]

    def masks(self) -> np.ndarray | None:
        """(N, height, width) bool, row i belongs to box i, without a pixel where `mask_known` is False; or None."""
        if self.rles is None:
            return None
        masks = np.zeros((len(self.rles), *self.size), bool)
        masks[self.mask_known] = masks_from_rles([rle for rle in self.rles if rle is not None], self.size)
        return masks

    def semantic_map(self) -> np.ndarray | None:
        """(height, width) uint8, positions in the data set's `semantic_names`, 255 no truth; or None.

        Raises:
            DatasetError: If the PNG is missing its pixels, has another size, or does not fit its JSON.
        """
        return None if self.semantic is None else self.semantic.read(self.size)
