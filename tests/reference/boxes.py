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


def all_boxes(
    boxes: NDArray[np.float32],
    strides: list[int],
    input_size: tuple[int, int],
    box_coding: str = "dfl",
    cells: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """(N, 4) xyxy boxes of every column of the box head, in pixels of the input; `cells` (N,) says whose they are."""
    if box_coding == "xyxy":
        return boxes.T.copy()
    distances = boxes.astype(np.float64)
    if box_coding == "dfl":
        bins = len(boxes) // 4
        logits = distances.reshape(4, bins, -1)
        with np.errstate(invalid="ignore"):
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            distances = (weights * np.arange(bins)[:, None]).sum(axis=1) / weights.sum(axis=1)
    centres = cell_centres(strides, input_size)
    x, y, stride = (centres if cells is None else centres[cells]).T
    with np.errstate(invalid="ignore", over="ignore"):
        left, top, right, bottom = distances * stride
        return np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)


def decode_boxes(
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    strides: list[int],
    input_size: tuple[int, int],
    score_threshold: float = 0.25,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    cells: NDArray[np.int32] | None = None,
    box_coding: str = "dfl",
    score_coding: str = "logits",
    box_count: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """(boxes, scores, class_ids, columns) of one image, by falling score."""
    assert (box_count is not None) == (box_coding == "xyxy")
    if score_threshold <= 0:
        passes = ~np.isnan(scores)
    elif score_threshold >= 1:
        passes = np.zeros(scores.shape, dtype=bool)
    else:
        limit = np.log(score_threshold / (1 - score_threshold)) if score_coding == "logits" else score_threshold
        passes = scores.astype(np.float64) > limit
    class_ids, columns = np.nonzero(passes)
    values = scores[class_ids, columns]
    best = np.lexsort((columns, class_ids, -values))[:max_candidates]
    class_ids, columns, values = class_ids[best].astype(np.int32), columns[best].astype(np.int32), values[best]
    found = all_boxes(boxes, strides, input_size, box_coding, cells)[columns]
    if score_coding == "logits":
        with np.errstate(over="ignore"):
            values = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    # Ranked already; falling numbers stand for the scores, which may have been rounded alike.
    ranks = np.arange(len(values), 0, -1).astype(np.float32)
    kept = nms(found, ranks, class_ids, iou_threshold, max_detections, class_agnostic)
    return found[kept], values[kept], class_ids[kept], columns[kept]
