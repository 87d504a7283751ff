"""The losses of the four tasks. Each is skipped where its truth is not known.

Boxes: BCE on aligned class targets, CIoU (arXiv 1911.08287) and distribution focal loss (arXiv 2006.04388). Masks:
BCE inside the box, each object weighted alike (YOLACT, arXiv 1904.02689). Semantic: cross-entropy and Dice with an
ignore label. Caption: label-smoothed cross-entropy.

Networks with anchors have no distributions of sides, and a score of theirs is the product of an objectness and a class
probability. Their loss of classes is the BCE of that product, which is what detections are ranked by, so objectness
learns from it too: down where a cell answers for no object, up with the alignment where it does. The product's logit is
computed from the two logits (`product_logits`), so that nothing is lost where the product is next to 0 or 1. Assignment
and CIoU are the same, over the decoded boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.dataset.truth import IGNORED
from .assigner import Assignment, assign
from .config import TrainConfig
from .dense_truth import DenseTruth
from .network.any_network import AnyConfig
from .network.config import PROTOTYPE_STRIDE
from .network.layers import LayersConfig

# Cells whose masks are compared in one step; more only costs memory, the gradient is a mean over them.
MASK_CELLS = 1600


def cell_centres(input_size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) as x, y in input pixels and strides (N,) of all cells, level after level, rows first."""
    points, levels = [], []
    for stride in strides:
        rows, columns = input_size[0] // stride, input_size[1] // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points.append((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride)
        levels.append(torch.full((rows * columns,), float(stride)))
    return torch.cat(points), torch.cat(levels)


def anchor_cells(
    input_size: tuple[int, int], strides: tuple[int, ...], anchors: Sequence[Sequence[Sequence[float]]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (N, 2), strides (N,) and anchors (N, 2), width and height in input pixels, of the cells of levels.

    Args:
        input_size: (height, width) in pixels.
        strides: Of the levels.
        anchors: Width and height in pixels of each anchor of each level; cells go by level, anchor, row, column.
    """
    points, levels, sizes = [], [], []
    for stride, of_level in zip(strides, anchors, strict=True):
        centres, own = cell_centres(input_size, (stride,))
        points.append(centres.repeat(len(of_level), 1))
        levels.append(own.repeat(len(of_level)))
        sizes.append(torch.tensor(of_level, dtype=torch.float32).repeat_interleave(len(own), 0))
    return torch.cat(points), torch.cat(levels), torch.cat(sizes)


def product_logits(objectness: Tensor, classes: Tensor) -> Tensor:
    """The logit of sigmoid(objectness) * sigmoid(classes), shapes as they broadcast: log p - log(1 - p)."""
    objectness, classes = torch.broadcast_tensors(-objectness, -classes)
    # 1 / p = (1 + e^-o) (1 + e^-c), so (1 - p) / p = e^-o + e^-c + e^-(o + c).
    return -torch.logsumexp(torch.stack((objectness, classes, objectness + classes)), 0)


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """CIoU of paired boxes a, b (n, 4) xyxy -> (n,), within -1.5 and 1."""
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = size_a.prod(-1) + size_b.prod(-1) - overlap
    iou = overlap / union.clamp(min=1e-9)
    enclosing = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    diagonal = enclosing.square().sum(-1).clamp(min=1e-9)
    distance = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(-1)
    angle_a = torch.atan(size_a[:, 0] / size_a[:, 1].clamp(min=1e-6))
    angle_b = torch.atan(size_b[:, 0] / size_b[:, 1].clamp(min=1e-6))
    aspect = 4 / math.pi**2 * (angle_b - angle_a).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=1e-9)
    return iou - distance / diagonal - weight * aspect


class DenseLoss:
    """Losses of boxes, masks and semantic map on one input size."""

    def __init__(self, network: AnyConfig, train: TrainConfig, device: torch.device) -> None:
        self.network, self.train = network, train
        self.anchors: Tensor | None = None
        if isinstance(network, LayersConfig) and network.box_coding == "xyxy":
            points, strides, anchors = anchor_cells(network.input_size, network.strides, network.boxes["anchors"])
            self.anchors = anchors.to(device)
        else:
            points, strides = cell_centres(network.input_size, network.strides)
        self.points, self.strides = points.to(device), strides.to(device)
        self.bins = torch.arange(network.reg_max, dtype=torch.float32, device=device)

    def __call__(self, outputs: dict[str, Tensor], truth: DenseTruth) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what training minimises.

        Args:
            outputs: Raw outputs of the heads by name; of a network with anchors `boxes` (B, 4, N) and `class_logits`
                (B, C, N), the logits of the products.
            truth: Of the batch.
        """
        losses: dict[str, Tensor] = {}
        if "boxes" in self.network.tasks:
            losses.update(self._box_losses(outputs, truth))
        if "semantic" in self.network.tasks:
            losses.update(self._semantic_losses(outputs["semantic_logits"].float(), truth.semantic.long()))
        return losses

    def _box_losses(self, outputs: dict[str, Tensor], truth: DenseTruth) -> dict[str, Tensor]:
        class_logits = outputs["class_logits"].float().transpose(1, 2)  # (B, N, C)
        if self.anchors is not None:
            bins, boxes = None, outputs["boxes"].float().transpose(1, 2)
        else:
            bins = outputs["box_bins"].float().unflatten(1, (4, -1)).permute(0, 3, 1, 2)  # (B, N, 4, R)
            # A sum, not a matrix product: autocast would round a product to 16 bits, half a pixel of a large box.
            distances = (bins.softmax(-1) * self.bins).sum(-1) * self.strides[:, None]  # (B, N, 4) ltrb in pixels
            boxes = torch.cat((self.points - distances[..., :2], self.points + distances[..., 2:]), -1)
        found = assign(
            class_logits.detach(),
            boxes.detach(),
            self.points,
            self.strides,
            truth.boxes,
            truth.classes,
            truth.valid,
            self.anchors,
        )
        total = found.class_targets.sum().clamp(min=1.0)
        class_loss = F.binary_cross_entropy_with_logits(class_logits, found.class_targets, reduction="none")
        # An object that is there is known wherever it lies; only where nobody looked may none be missed.
        known = self._at_cells(truth.classes_known) | found.positive
        class_loss = (class_loss.sum(2) * known).sum() / total

        image, cell = found.positive.nonzero(as_tuple=True)
        wanted = truth.boxes[image, found.objects[image, cell]]
        weight = found.class_targets[image, cell].sum(-1)
        box_loss = ((1 - complete_iou(boxes[image, cell], wanted)) * weight).sum() / total
        gains = self.train
        losses = {"class": gains.class_gain * class_loss, "box": gains.box_gain * box_loss}
        if bins is not None:
            dfl_loss = (self._dfl(bins[image, cell], wanted, cell) * weight).sum() / total
            losses["dfl"] = gains.dfl_gain * dfl_loss
        if "masks" in self.network.tasks:
            losses["mask"] = gains.mask_gain * self._mask_loss(outputs, truth, found)
        return losses

    def _at_cells(self, known: Tensor) -> Tensor:
        """(B, H / 4, W / 4) as the cells' centres lie in it -> (B, N)."""
        x, y = (self.points / PROTOTYPE_STRIDE).long().unbind(1)
        return known[:, y, x]

    def _dfl(self, bins: Tensor, wanted: Tensor, cell: Tensor) -> Tensor:
        """Cross-entropy of bins (n, 4, R) with the two bins around each true distance, mean over the sides -> (n,)."""
        points, strides = self.points[cell], self.strides[cell, None]
        distances = torch.cat((points - wanted[:, :2], wanted[:, 2:] - points), 1) / strides
        distances = distances.clamp(0, self.network.reg_max - 1 - 0.01)
        low = distances.floor()
        high_share = distances - low
        log_probs = bins.log_softmax(-1)
        low_index = low.long()[..., None]
        low_term = log_probs.gather(-1, low_index)[..., 0] * (1 - high_share)
        high_term = log_probs.gather(-1, low_index + 1)[..., 0] * high_share
        return -(low_term + high_term).mean(-1)

    def _mask_loss(self, outputs: dict[str, Tensor], truth: DenseTruth, found: Assignment) -> Tensor:
        prototypes = outputs["prototypes"].float()  # (B, K, h, w)
        # Taken apart once: indexing image by image would fill a gradient of the whole batch for each.
        prototypes_of, coefficients_of = prototypes.unbind(), outputs["mask_coefficients"].float().unbind()
        height, width = prototypes.shape[2:]
        y = torch.arange(height, device=prototypes.device)[:, None] + 0.5
        x = torch.arange(width, device=prototypes.device)[None, :] + 0.5
        losses, count = prototypes.sum() * 0.0, 0
        most = max(1, MASK_CELLS // len(prototypes))
        if not len(truth.masks):
            return losses
        has_mask = found.positive & truth.mask_known.gather(1, found.objects)
        for i in range(len(prototypes)):
            cells = has_mask[i].nonzero()[:, 0]
            if not len(cells):
                continue
            if len(cells) > most:
                cells = cells[torch.linspace(0, len(cells) - 1, most, device=cells.device).long()]
            objects = found.objects[i, cells]
            logits = (coefficients_of[i][:, cells].T @ prototypes_of[i].flatten(1)).unflatten(1, (height, width))
            box = truth.boxes[i, objects, :, None, None] / PROTOTYPE_STRIDE  # (n, 4, 1, 1), in prototype cells
            # One cell of margin: the runtime interpolates across the box's border, so what lies just outside counts.
            inside = (x > box[:, 0] - 1) & (x < box[:, 2] + 1) & (y > box[:, 1] - 1) & (y < box[:, 3] + 1)
            loss = F.binary_cross_entropy_with_logits(
                logits, truth.masks[truth.first_mask[i] + objects].float() / 255, reduction="none"
            )
            losses = losses + ((loss * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).sum()
            count += len(cells)
        return losses / max(count, 1)

    def _semantic_losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
        known = target != IGNORED
        if not known.any():
            return {"semantic": logits.sum() * 0.0, "dice": logits.sum() * 0.0}
        # Pixels as rows, classes side by side: a view of channels-last logits; no pass runs over unknown pixels.
        rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
        target = target.flatten()
        if not known.all():
            index = known.flatten().nonzero()[:, 0]
            rows, target = rows[index], target[index]
        log_probs = rows.log_softmax(1)
        cross_entropy = F.nll_loss(log_probs, target)
        # Dice over the classes present in the batch, from batch-wide sums: small classes weigh as much as large ones.
        probs = log_probs.exp()
        hit = probs.gather(1, target[:, None])[:, 0]
        overlap = torch.zeros(rows.shape[1], device=rows.device).index_add(0, target, hit)
        truth_size = torch.bincount(target, minlength=rows.shape[1])
        dice = (2 * overlap + 1) / (probs.sum(0) + truth_size + 1)
        present = truth_size > 0
        return {
            "semantic": self.train.semantic_gain * cross_entropy,
            "dice": self.train.dice_gain * (1 - dice[present]).mean(),
        }


def caption_loss(logits: Tensor, targets: Tensor, pad_id: int, label_smoothing: float) -> Tensor:
    """Mean cross-entropy a word of logits (b, T, V) with targets (b, T); `pad_id` does not count."""
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=pad_id, label_smoothing=label_smoothing
    )
