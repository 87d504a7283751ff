"""Task-aligned assignment of cells to objects (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP_CELLS = 10


@dataclass(frozen=True)
class Assignment:
    """Which object every cell answers for, and which cells answer for every object.

    All shapes are known before the choice is: nothing has to wait for a device to count what it chose.

    Attributes:
        positive: (B, N) bool.
        objects: (B, N) int64, index of the cell's object within its image; 0 where not positive.
        cells: (B, M, K) int64, the cells that were chosen for each object, K of `TOP_CELLS` or all there are.
        held: (B, M, K) bool, which of `cells` answer for the object.
        quality: (B, M, K) float32, the probability of the object's class that is wanted of `cells`: the normalised
            alignment; 0 where not held. Of other classes 0 is wanted.
    """

    positive: Tensor
    objects: Tensor
    cells: Tensor
    held: Tensor
    quality: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box in a (..., M, 4) with every box in b (..., N, 4), xyxy -> (..., M, N)."""
    left_a, top_a, right_a, bottom_a = a[..., :, None, :].unbind(-1)
    left_b, top_b, right_b, bottom_b = b[..., None, :, :].unbind(-1)
    width = (torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b)).clamp_(min=0)
    overlap = (torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b)).clamp_(min=0).mul_(width)
    area_a, area_b = (right_a - left_a) * (bottom_a - top_a), (right_b - left_b) * (bottom_b - top_b)
    return overlap / (area_a + area_b).sub_(overlap).clamp_(min=1e-9)


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
        class_logits: (B, C, N).
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
    batch, _, cells = class_logits.shape
    objects = true_boxes.shape[1]
    if objects == 0:
        of_cells = torch.zeros(batch, cells, dtype=torch.int64, device=boxes.device)
        of_objects = of_cells[:, None, :0].expand(-1, 0, -1)
        return Assignment(of_cells.bool(), of_cells, of_objects, of_objects.bool(), of_objects.float())
    centre = (true_boxes[..., :2] + true_boxes[..., 2:]) / 2
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    away = [(points[:, axis] - centre[:, :, None, axis]).abs_() for axis in range(2)]  # (B, M, N) each
    if anchors is None:
        half = (sides / 2).maximum(strides.min() / 2 + 1e-3)[:, :, None]
        able = (away[0] <= half[..., 0]) & (away[1] <= half[..., 1]) & valid[:, :, None]
    else:
        near = (away[0] < strides) & (away[1] < strides) & valid[:, :, None]
        able = near & (sides[:, :, None] <= 4 * anchors).all(-1)
        able = torch.where(able.any(-1, keepdim=True), able, near)

    scores = class_logits.gather(1, true_classes[:, :, None].expand(-1, -1, cells)).float().sigmoid_()  # (B, M, N)
    iou = pairwise_iou(true_boxes, boxes)
    # Score ** 0.5 * IoU ** 6, by products: a general power takes far longer. The floor keeps the best of hopeless cells
    # apart early on, when every IoU to the power of six is nothing.
    floored = iou.clamp(min=1e-3)
    alignment = scores.sqrt_().mul_((floored * floored).mul_(floored).square_()).masked_fill_(~able, -1.0)
    top = alignment.topk(min(TOP_CELLS, cells), -1)
    chosen = top.values > 0

    # A cell wanted by several objects goes to the one it overlaps most; from here on, only of what was chosen.
    wanted = top.indices.flatten(1)
    overlap = torch.where(chosen, iou.gather(2, top.indices), -1.0)
    best_iou = torch.full_like(boxes[..., 0], -1.0).scatter_reduce_(1, wanted, overlap.flatten(1), "amax")
    held = chosen & (overlap == best_iou.gather(1, wanted).view_as(overlap))
    index = torch.arange(objects, device=boxes.device)[:, None].expand_as(top.indices)
    owner = torch.full((batch, cells), objects, device=boxes.device)
    owner.scatter_reduce_(1, wanted, torch.where(held, index, objects).flatten(1), "amin")
    held &= owner.gather(1, wanted).view_as(index) == index
    positive = owner < objects

    alignment = torch.where(held, top.values, 0.0)
    best_overlap = torch.where(held, overlap, 0.0).amax(-1, keepdim=True)
    quality = alignment / alignment.amax(-1, keepdim=True).clamp(min=1e-30) * best_overlap
    return Assignment(positive, torch.where(positive, owner, 0), top.indices, held, quality)
