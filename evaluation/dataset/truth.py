"""What is known about one image: boxes, masks, semantic map and captions; pixels are made when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...runtime.environment.opencv import name_for_opencv
from ...runtime.errors import DatasetError
from .segmentations import Rle, Segmentation, masks_from_rles, rle_from_segmentation

IGNORED = 255
"""The value of a semantic map where there is no truth."""


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
        return self.classes_of(self.segments(size))

    def segments(self, size: tuple[int, int]) -> np.ndarray:
        """The segment ids, (height, width) int32, 0 unlabelled.

        Raises:
            DatasetError: If the PNG cannot be read or has another size.
        """
        bgr = _read_png(self.path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, size)
        segments = bgr[..., 2].astype(np.int32)
        segments += bgr[..., 1].astype(np.int32) << 8
        segments += bgr[..., 0].astype(np.int32) << 16
        return segments

    def classes_of(self, segments: np.ndarray) -> np.ndarray:
        """The semantic classes of `segments()`, uint8, 255 unlabelled.

        Raises:
            DatasetError: If there is a segment that the JSON does not list.
        """
        semantic = np.full(segments.shape, IGNORED, np.uint8)
        for segment, class_id in self.classes.items():
            semantic[segments == segment] = class_id
        unknown = (semantic == IGNORED) & (segments != 0)
        if unknown.any():
            raise DatasetError(
                f"{self.path}: holds segment {int(segments[unknown][0])}, which segments_info does not list "
                "in the JSON; take PNG and JSON from the same release"
            )
        return semantic


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
            image: what COCO scores with. None where there is no file.
        class_ids: (N,) int64, positions in the data set's `class_names`.
        crowd: (N,) bool, true where one annotation covers a group: no training target, ignored by the scores.
        areas: (N,) float64, the annotation's area in pixels (of the mask where COCO gives it).
        segmentations: N polygons or run lengths, or None where a box of this image has no mask.
        attributes: The optional key "attributes" of each annotation or None; None where no box has one.
        captions: At least one text.
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
    segmentations: tuple[Segmentation, ...] | None = field(default=None, repr=False)
    attributes: tuple[dict[str, Any] | None, ...] | None = field(default=None, repr=False)
    captions: tuple[str, ...] | None = None
    semantic: PanopticMap | StuffThingMap | None = field(default=None, repr=False)

    @property
    def has_semantic(self) -> bool:
        return self.semantic is not None

    @property
    def has_masks(self) -> bool:
        return self.segmentations is not None

    @property
    def mask_known(self) -> np.ndarray:
        """(N,) bool, which of the boxes have a mask."""
        return np.full(0 if self.boxes is None else len(self.boxes), self.has_masks)

    @cached_property
    def rles(self) -> list[Rle] | None:
        """One COCO RLE {"size": [h, w], "counts": text} per box, or None where this image has no masks."""
        if self.segmentations is None:
            return None
        return [rle_from_segmentation(segmentation, self.size) for segmentation in self.segmentations]

    def masks(self) -> np.ndarray | None:
        """(N, height, width) bool, row i belongs to box i; None where this image has no masks."""
        if self.rles is None:
            return None
        return masks_from_rles(self.rles, self.size)

    def semantic_map(self) -> np.ndarray | None:
        """(height, width) uint8, positions in the data set's `semantic_names`, 255 no truth; or None.

        Raises:
            DatasetError: If the PNG is missing its pixels, has another size, or does not fit its JSON.
        """
        return None if self.semantic is None else self.semantic.read(self.size)
