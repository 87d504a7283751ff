"""Made-up pictures whose labels are known, and checks of what becomes of them; not a test itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from yolor_edge.evaluation.dataset.coco import Truth
from yolor_edge.evaluation.dataset.segmentations import coco_mask
from yolor_edge.evaluation.dataset.truth import PanopticMap
from yolor_edge.runtime.images.preprocess import PreprocessRule
from yolor_edge.train.views.view import View

RULE = PreprocessRule(input_size=(96, 128))
OBJECT, GROUND, IGNORED = 0, 1, 255


@dataclass(frozen=True)
class KnownMap:
    """A semantic truth that is already in memory."""

    pixels: np.ndarray

    def read(self, size: tuple[int, int]) -> np.ndarray:
        assert self.pixels.shape == size
        return self.pixels


@dataclass
class Pictures:
    """Made-up images; `read` counts which were looked at."""

    images: dict[int, np.ndarray]
    looked_at: list[int]

    def read(self, truth: Truth, scale: float) -> np.ndarray:
        self.looked_at.append(truth.image_id)
        return self.images[truth.image_id]


def picture_of(
    masks: list[np.ndarray], image_id: int = 0, class_id: int = 0, color: tuple[int, int, int] = (255, 255, 255)
) -> tuple[Truth, np.ndarray]:
    """A black image with objects of one colour (BGR) where the masks are, and all kinds of dense truth."""
    size = cast("tuple[int, int]", masks[0].shape)
    image, semantic = np.zeros((*size, 3), np.uint8), np.full(size, GROUND, np.uint8)
    boxes, rles = [], []
    for mask in masks:
        image[mask], semantic[mask] = color, OBJECT
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        rles.append({"size": list(size), "counts": counts})
    truth = Truth(
        image_id=image_id,
        path=Path(f"{image_id}.png"),
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        class_ids=np.full(len(masks), class_id, np.int64),
        crowd=np.zeros(len(masks), bool),
        areas=np.array([mask.sum() for mask in masks], np.float32),
        segmentations=tuple(rles),
        semantic=cast("PanopticMap", KnownMap(semantic)),
    )
    return truth, image


def rectangle(size: tuple[int, int], x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def ellipse(size: tuple[int, int], x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((columns + 0.5 - x) / half_width) ** 2 + ((rows + 0.5 - y) / half_height) ** 2 <= 1


def assert_labels_lie_on_pixels(view: View) -> None:
    """White is where masks and semantic map say the object is, and nowhere else that is known."""
    height, width = view.semantic.shape
    blocks = view.image.astype(np.float32).mean(2).reshape(height, 4, width, 4)
    darkest, brightest = blocks.min((1, 3)), blocks.max((1, 3))
    covered = view.masks.max(0, initial=0)
    assert (darkest[covered == 255] > 200).all()
    outside = (covered == 0) & (view.semantic != IGNORED) & view.classes_known
    assert (brightest[outside] < 200).all()
    # The semantic map takes one point of the four by four pixels of a cell: it must be there at least in part.
    assert (brightest[view.semantic == OBJECT] > 100).all()
    assert (darkest[view.semantic == GROUND] < 150).all()


def extent(mask: np.ndarray) -> np.ndarray:
    """xyxy in input pixels of the cells that a mask touches."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return 4.0 * np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
