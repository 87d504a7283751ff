"""Box decoding and suppression from their definitions, one candidate at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    """Intersection over union of two xyxy boxes in float32; 0 where the union has no area."""
    zero = np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    intersection = width * height
    area_a = max(a[2] - a[0], zero) * max(a[3] - a[1], zero)
    area_b = max(b[2] - b[0], zero) * max(b[3] - b[1], zero)
    union = area_a + area_b - intersection
    return intersection / union if union > 0 else zero


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int32],
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    class_agnostic: bool = False,
) -> NDArray[np.int32]:
    """Indices of the boxes that stay, by falling score, equal scores by rising index."""
    usable = [i for i in range(len(boxes)) if np.isfinite(boxes[i]).all() and not np.isnan(scores[i])]
    kept: list[int] = []
    for i in sorted(usable, key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if class_agnostic or class_ids[k] == class_ids[i]]
        if len(kept) < max_detections and not any(iou(boxes[k], boxes[i]) > np.float32(iou_threshold) for k in rivals):
            kept.append(i)
    return np.array(kept, dtype=np.int32)


def cell_centres(strides: list[int], input_size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 3): centre x, centre y and stride of every cell."""
    height, width = input_size
    return np.array(
        [
            ((x + 0.5) * stride, (y + 0.5) * stride, stride)
            for stride in strides
            for y in range(height // stride)
            for x in range(width // stride)
        ]
    ).reshape(-1, 3)


def all_boxes(box_bins: NDArray[np.float32], strides: list[int], input_size: tuple[int, int]) -> NDArray[np.float32]:
    """(N, 4) xyxy boxes of every cell, in pixels of the input."""
    bins = len(box_bins) // 4
    logits = box_bins.astype(np.float64).reshape(4, bins, -1)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        distances = (weights * np.arange(bins)[:, None]).sum(axis=1) / weights.sum(axis=1)
    x, y, stride = cell_centres(strides, input_size).T
    left, top, right, bottom = distances * stride
    return np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)


def decode_boxes(
    class_logits: NDArray[np.float32],
    box_bins: NDArray[np.float32],
    strides: list[int],
    input_size: tuple[int, int],
    score_threshold: float = 0.25,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """(boxes, scores, class_ids, cells) of one image, by falling score."""
    if score_threshold <= 0:
        passes = ~np.isnan(class_logits)
    elif score_threshold >= 1:
        passes = np.zeros(class_logits.shape, dtype=bool)
    else:
        passes = class_logits.astype(np.float64) > np.log(score_threshold / (1 - score_threshold))
    class_ids, cells = np.nonzero(passes)
    logits = class_logits[class_ids, cells]
    best = np.lexsort((cells, class_ids, -logits))[:max_candidates]
    class_ids, cells, logits = class_ids[best].astype(np.int32), cells[best].astype(np.int32), logits[best]
    boxes = all_boxes(box_bins, strides, input_size)[cells]
    with np.errstate(over="ignore"):
        scores = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    # Ranked by logit already; falling numbers stand for the scores, which may have been rounded alike.
    ranks = np.arange(len(logits), 0, -1).astype(np.float32)
    kept = nms(boxes, ranks, class_ids, iou_threshold, max_detections, class_agnostic)
    return boxes[kept], scores[kept], class_ids[kept], cells[kept]
