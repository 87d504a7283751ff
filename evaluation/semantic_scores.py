"""Intersection over union of semantic maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from .dataset.truth import IGNORED


class SemanticScores:
    """IoU by class over all labelled pixels.

    Args:
        names: What the maps index.
        boundary: Half width, in pixels, of the band around the borders of the truth that does not count: within it the
            annotation itself is uncertain. 0 counts every labelled pixel.
    """

    def __init__(self, names: Sequence[str], boundary: int = 0) -> None:
        self._names = tuple(names)
        self._boundary = boundary
        self._counts: list[np.ndarray] = []

    @property
    def images(self) -> int:
        """Images added so far."""
        return len(self._counts)

    def add(self, expected: np.ndarray, predicted: np.ndarray) -> None:
        """Take one image; both (height, width) uint8, 255 in `expected` where there is no truth."""
        known = expected != IGNORED
        if self._boundary:
            known &= ~near_borders(expected, self._boundary)
        truth, answer = expected[known], predicted[known]
        classes = len(self._names)
        counts = [np.bincount(pixels, minlength=classes) for pixels in (truth[truth == answer], truth, answer)]
        self._counts.append(np.array(counts, np.int32))

    def figures(self) -> dict[str, Any]:
        """`miou`, `fwiou`, `pixel_accuracy` and `iou_by_class` over the classes in the truth; {} without a pixel."""
        if not self._counts:
            return {}
        right, expected, predicted = np.stack(self._counts).sum(0, dtype=np.int64)
        present = expected > 0
        if not present.any():
            return {}
        iou = right[present] / (expected + predicted - right)[present]
        share = expected[present] / expected.sum()
        return {
            "miou": float(iou.mean()),
            "fwiou": float((share * iou).sum()),
            "pixel_accuracy": float(right.sum() / expected.sum()),
            "iou_by_class": {self._names[i]: float(x) for i, x in zip(np.flatnonzero(present), iou, strict=True)},
        }

    def resampled_miou(self, weights: np.ndarray) -> np.ndarray:
        """mIoU as if each image were there several times; (resamples, images) to (resamples,), NaN without a pixel."""
        counts = np.stack(self._counts).reshape(len(self._counts), -1)
        sums = (weights.astype(np.float64) @ counts).reshape(len(weights), 3, -1)
        right, expected, predicted = sums[:, 0], sums[:, 1], sums[:, 2]
        present = expected > 0
        iou = right / np.maximum(expected + predicted - right, 1)
        with np.errstate(invalid="ignore"):
            return np.where(present, iou, 0).sum(1) / present.sum(1)


def near_borders(labels: np.ndarray, distance: int) -> np.ndarray:
    """(height, width) bool: which pixels of a label map lie within `distance` pixels (in rows and columns) of another
    label.
    """
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
