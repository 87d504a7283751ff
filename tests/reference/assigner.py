"""Task-aligned assignment of one image, object by object and cell by cell (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOP_CELLS = 10
Floats = NDArray[np.float64]


def iou(a: Floats, b: Floats) -> float:
    """Intersection over union of two xyxy boxes; 0 where the union has no area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def may_answer(point: Floats, box: Floats, finest_stride: float) -> bool:
    """Whether a cell's centre lies inside a box, or inside its widening to the finest stride."""
    for axis in range(2):
        centre = (box[axis] + box[axis + 2]) / 2
        half = max((box[axis + 2] - box[axis]) / 2, finest_stride / 2 + 1e-3)
        if abs(point[axis] - centre) > half:
            return False
    return True


def assign(
    scores: Floats, boxes: Floats, points: Floats, finest_stride: float, true_boxes: Floats, true_classes: list[int]
) -> tuple[NDArray[np.int64], Floats]:
    """Give every object the ten cells that score and localise it best.

    Args:
        scores: (N, C) class probabilities of the cells.
        boxes: (N, 4) xyxy predicted by the cells.
        points: (N, 2) x, y of their centres.
        true_boxes: (M, 4) xyxy of the objects. M may be 0.
        true_classes: M classes.

    Returns:
        (N,) the object of each cell, -1 for none, and (N, C) the class probabilities wanted of it.
    """
    cells, objects = len(points), len(true_boxes)
    ious = [[iou(true_boxes[m], boxes[n]) for n in range(cells)] for m in range(objects)]
    alignment = [
        [scores[n, true_classes[m]] ** 0.5 * max(ious[m][n], 1e-3) ** 6 for n in range(cells)] for m in range(objects)
    ]
    wanted: list[list[int]] = [[] for _ in range(cells)]  # the objects that want each cell
    for m in range(objects):
        able = [n for n in range(cells) if may_answer(points[n], true_boxes[m], finest_stride)]
        for n in sorted(able, key=lambda n: -alignment[m][n])[:TOP_CELLS]:
            wanted[n].append(m)

    object_of = np.full(cells, -1, np.int64)
    for n in range(cells):
        if wanted[n]:
            object_of[n] = max(wanted[n], key=lambda m: ious[m][n])

    targets = np.zeros((cells, scores.shape[1]))
    for m in range(objects):
        mine = [n for n in range(cells) if object_of[n] == m]
        if mine:
            best_alignment = max(alignment[m][n] for n in mine)
            best_iou = max(ious[m][n] for n in mine)
            for n in mine:
                targets[n, true_classes[m]] = alignment[m][n] / best_alignment * best_iou
    return object_of, targets
