"""Task-aligned assignment of cells to objects (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP_CELLS = 10
ALPHA, BETA = 0.5, 6.0


@dataclass(frozen=True)
class Assignment:
    """Which object every cell answers for.

    Attributes:
        positive: (B, N) bool.
        objects: (B, N) int64, index of the cell's object within its image; 0 where not positive.
        class_targets: (B, N, C) float32, the wanted class probabilities: the normalised alignment of the cell's own
            class, 0 elsewhere.
    """

    positive: Tensor
    objects: Tensor
    class_targets: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box in a (..., M, 4) with every box in b (..., N, 4), xyxy -> (..., M, N)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (high - low).clamp_(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)[..., :, None]
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)[..., None, :]
    return overlap / (area_a + area_b - overlap).clamp_(min=1e-9)


@torch.no_grad()
def assign(
    class_logits: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    true_boxes: Tensor,
    true_classes: Tensor,
    valid: Tensor,
    anchors: Tensor | None = None,
) -> Assignment:
    """Choose for every object the `TOP_CELLS` cells that score and localise it best.

    Args:
        class_logits: (B, N, C).
        boxes: (B, N, 4) xyxy in input pixels, as predicted.
        points: (N, 2) x, y of the cells' centres in input pixels.
        strides: (N,) of the cells' levels.
        true_boxes: (B, M, 4) xyxy in input pixels, padded.
        true_classes: (B, M) int64, padded with 0.
        valid: (B, M) bool, False on padding.
        anchors: (N, 2) width and height in input pixels of the anchors that the cells' boxes are relative to; None
            where boxes are distances from the cells' centres.

    A cell may answer for an object when its centre lies inside the object's box; boxes thinner than the finest stride
    are widened to it for this test, so that no object is left without a cell. With anchors it may where it can
    predict the object's box: the box's centre lies less than a stride from the cell's, and its sides are at most four
    times the anchor's, if any anchor is as large as that.
    """
    batch, cells, classes = class_logits.shape
    objects = true_boxes.shape[1]
    if objects == 0:
        return Assignment(
            torch.zeros(batch, cells, dtype=torch.bool, device=boxes.device),
            torch.zeros(batch, cells, dtype=torch.int64, device=boxes.device),
            torch.zeros(batch, cells, classes, device=boxes.device),
        )
    centre = (true_boxes[..., :2] + true_boxes[..., 2:]) / 2
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    away = (points - centre[:, :, None]).abs()
    if anchors is None:
        half = (sides / 2).clamp(min=float(strides.min()) / 2 + 1e-3)
        inside = (away <= half[:, :, None]).all(-1) & valid[:, :, None]  # (B, M, N)
    else:
        near = (away < strides[:, None]).all(-1) & valid[:, :, None]
        inside = near & (sides[:, :, None] <= 4 * anchors).all(-1)
        inside = torch.where(inside.any(-1, keepdim=True), inside, near)

    scores = class_logits.sigmoid().transpose(1, 2)  # (B, C, N)
    scores = scores.gather(1, true_classes[:, :, None].expand(-1, -1, cells))  # (B, M, N)
    iou = pairwise_iou(true_boxes, boxes)
    # The floor keeps the best of hopeless cells apart early on, when every IoU to the power of six is nothing.
    alignment = torch.where(inside, scores**ALPHA * iou.clamp(min=1e-3) ** BETA, -1.0)
    top = alignment.topk(min(TOP_CELLS, cells), -1)
    chosen = torch.zeros_like(inside).scatter_(2, top.indices, top.values > 0)

    # A cell wanted by several objects goes to the one it overlaps most.
    overlap = torch.where(chosen, iou, -1.0)
    best_iou, best_object = overlap.max(1)  # (B, N)
    positive = best_iou >= 0
    objects_of_cells = torch.where(positive, best_object, 0)

    mine = chosen & (torch.arange(objects, device=boxes.device)[None, :, None] == objects_of_cells[:, None])
    mine &= positive[:, None]
    alignment = torch.where(mine, alignment, 0.0)
    best_alignment = alignment.amax(-1, keepdim=True).clamp(min=1e-30)
    best_overlap = torch.where(mine, iou, 0.0).amax(-1, keepdim=True)
    quality = (alignment / best_alignment * best_overlap).amax(1)  # (B, N)

    class_targets = torch.zeros(batch, cells, classes, device=boxes.device)
    labels = true_classes.gather(1, objects_of_cells)
    class_targets.scatter_(2, labels[:, :, None], (quality * positive)[:, :, None])
    return Assignment(positive, objects_of_cells, class_targets)
