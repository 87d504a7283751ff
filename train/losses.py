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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..evaluation.dataset.truth import IGNORED
from .assigner import Assignment, assign
from .config import TrainConfig
from .dense_truth import DenseTruth
from .network.any_network import AnyConfig
from .network.config import PROTOTYPE_STRIDE
from .network.layers import LayersConfig
from .network.regions import take

MASK_SAMPLES = 40
"""Prototype cells a side of an object at which its masks are compared; those of larger objects are taken evenly."""
MASK_OBJECTS = 64
"""Objects whose masks are compared at once: some 50 MB at most, however many the batch has."""
SEMANTIC_VALUES = 1 << 24
"""Logits of the semantic map that are enlarged at once: three tensors of 64 MB, however large the batch is."""


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
    """CIoU of paired boxes a, b (..., 4) xyxy -> (...), within -1.5 and 1."""
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = size_a.prod(-1) + size_b.prod(-1) - overlap
    iou = overlap / union.clamp(min=1e-9)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    diagonal = enclosing.square().sum(-1).clamp(min=1e-9)
    distance = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    angle_a = torch.atan(size_a[..., 0] / size_a[..., 1].clamp(min=1e-6))
    angle_b = torch.atan(size_b[..., 0] / size_b[..., 1].clamp(min=1e-6))
    aspect = 4 / math.pi**2 * (angle_b - angle_a).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=1e-9)
    return iou - distance / diagonal - weight * aspect


class DenseLoss:
    """Losses of boxes, masks and semantic map on one input size.

    What a loss is divided by is counted over the whole batch of a step. Of several processes, or of batches whose
    gradients are accumulated, each sees a part of it, and the gradient is the mean over the parts; so the divisor of a
    part is the mean of all parts' counts, which makes of the mean of their losses the loss of the whole batch.

    Attributes:
        reduce: Mean of a tensor of counts over the processes, without a gradient; where there is one, the tensor. Every
            process calls it as often, in the same order.
        parts: Into how many the batch of a step is divided: processes times accumulated batches. What stands in a
            divisor beside counts belongs to the whole batch.
    """

    def __init__(self, network: AnyConfig, train: TrainConfig, device: torch.device) -> None:
        self.network, self.train = network, train
        self.reduce: Callable[[Tensor], Tensor] = lambda counts: counts
        self.parts = 1
        self.anchors: Tensor | None = None
        if isinstance(network, LayersConfig) and network.box_coding == "xyxy":
            points, strides, anchors = anchor_cells(network.input_size, network.strides, network.boxes["anchors"])
            self.anchors = anchors.to(device)
        else:
            points, strides = cell_centres(network.input_size, network.strides)
        x, y = (points / PROTOTYPE_STRIDE).long().unbind(1)
        self.prototype_cells = (y * (network.input_size[1] // PROTOTYPE_STRIDE) + x).to(device)
        self.points, self.strides = points.to(device), strides.to(device)
        self.bins = torch.arange(network.reg_max, dtype=torch.float32, device=device)

    def counts(self, truth: DenseTruth) -> dict[str, Tensor]:
        """What losses are divided by, as far as the truth alone says it: `masks` and `pixels` that are known."""
        return {"masks": truth.mask_known.sum().float(), "pixels": (truth.semantic != IGNORED).sum().float()}

    def __call__(
        self, outputs: Mapping[str, Tensor], truth: DenseTruth, counts: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what training minimises.

        Args:
            outputs: Raw outputs of the heads by name; of a network with anchors `boxes` (B, 4, N) and `class_logits`
                (B, C, N), the logits of the products.
            truth: Of the batch.
            counts: As from `counts`, the mean over all parts of the step's batch; by default of this one. What
                predictions decide, the total of the class targets and the sums of the Dice loss, is reduced here, and
                of batches whose gradients are accumulated each has its own.
        """
        if counts is None:
            counts = {name: self.reduce(count) for name, count in self.counts(truth).items()}
        losses: dict[str, Tensor] = {}
        if "boxes" in self.network.tasks:
            losses.update(self._box_losses(outputs, truth, counts))
        if "semantic" in self.network.tasks:
            losses.update(self._semantic_losses(outputs["semantic_logits"].float(), truth.semantic, counts))
        return losses

    def _box_losses(
        self, outputs: Mapping[str, Tensor], truth: DenseTruth, counts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        class_logits = outputs["class_logits"].float()  # (B, C, N)
        cells = class_logits.shape[2]
        with torch.no_grad():
            boxes = outputs["boxes"] if self.anchors is not None else self._boxes(outputs["box_bins"])
            found = assign(
                class_logits,
                boxes.float().transpose(1, 2),
                self.points,
                self.strides,
                truth.boxes,
                truth.classes,
                truth.valid,
                self.anchors,
            )
        total = self.reduce(found.quality.sum()).clamp(min=1 / self.parts)
        # An object that is there is known wherever it lies; only where nobody looked may none be missed.
        known = truth.classes_known.flatten(1)[:, self.prototype_cells] | found.positive
        # BCE, which is softplus(logit) less logit times target; only of held cells and their object's class is any.
        held_logits = class_logits.flatten(1).gather(1, (truth.classes[..., None] * cells + found.cells).flatten(1))
        every = F.softplus(class_logits)
        if truth.known_classes is not None:
            every = every * truth.known_classes[:, :, None]
        class_loss = (every.sum(1) * known).sum() - (held_logits * found.quality.flatten(1)).sum()
        if truth.known_classes is not None:  # An object is what it is, though others of its class may be unlabelled.
            foreign = found.held & ~truth.known_classes.gather(1, truth.classes)[..., None]
            class_loss = class_loss + (F.softplus(held_logits) * foreign.flatten(1)).sum()

        chosen, shape = found.cells.flatten(1), found.cells.shape
        wanted = truth.boxes[:, :, None]  # (B, M, 1, 4)
        gains = self.train
        losses = {"class": gains.class_gain * class_loss / total}
        if self.anchors is not None:
            boxes = take(outputs["boxes"].float(), chosen).transpose(1, 2).unflatten(1, shape[1:])
        else:
            bins = (
                take(outputs["box_bins"].float(), chosen).transpose(1, 2).unflatten(1, shape[1:]).unflatten(3, (4, -1))
            )
            points, strides = self.points[found.cells], self.strides[found.cells][..., None]
            distances = (bins.softmax(-1) * self.bins).sum(-1) * strides
            boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
            distances = torch.cat((points - wanted[..., :2], wanted[..., 2:] - points), -1) / strides
            losses["dfl"] = gains.dfl_gain * (distribution_focal(bins, distances) * found.quality).sum() / total
        losses["box"] = gains.box_gain * ((1 - complete_iou(boxes, wanted)) * found.quality).sum() / total
        if "masks" in self.network.tasks:
            losses["mask"] = gains.mask_gain * self._mask_loss(outputs, truth, found) / divisor(counts["masks"])
        return losses

    def _boxes(self, bins: Tensor) -> Tensor:
        """(B, 4 R, N) to (B, 4, N) xyxy in input pixels."""
        # A sum, not a matrix product: autocast would round a product to 16 bits, half a pixel of a large box.
        distances = (bins.float().unflatten(1, (4, -1)).softmax(2) * self.bins[:, None]).sum(2) * self.strides
        points = self.points.T
        return torch.cat((points - distances[:, :2], points + distances[:, 2:]), 1)

    def _mask_loss(self, outputs: Mapping[str, Tensor], truth: DenseTruth, found: Assignment) -> Tensor:
        """Sum over the objects with a mask of the mean over their cells of the mean over the box."""
        rows = torch.arange(len(truth.masks), device=truth.masks.device)
        images = torch.searchsorted(truth.first_mask, rows, right=True) - 1
        objects = images * truth.valid.shape[1] + rows - truth.first_mask[images]  # in the padded batch
        coefficients = take(outputs["mask_coefficients"].float(), found.cells.flatten(1)).transpose(1, 2)
        coefficients = coefficients.unflatten(1, found.cells.shape[1:]).flatten(0, 1).index_select(0, objects)
        held = found.held & truth.mask_known[..., None]
        weights = held / held.sum(-1, keepdim=True).clamp(min=1)
        boxes = truth.boxes.flatten(0, 1).index_select(0, objects) / PROTOTYPE_STRIDE
        weights = weights.flatten(0, 1).index_select(0, objects)
        return _MaskSum.apply(outputs["prototypes"].float(), coefficients, weights, images, boxes, truth.masks)

    def _semantic_losses(self, logits: Tensor, target: Tensor, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        cross_entropy, overlap, area = _SemanticSums.apply(logits, target)
        # Dice over the classes present in the batch, from batch-wide sums: small classes weigh as much as large ones.
        size = torch.zeros(256, device=target.device)
        size = size.index_add_(0, target.flatten().int(), torch.ones(target.numel(), device=target.device))
        sums = torch.stack((overlap, area, size[: logits.shape[1]]))
        # The values are those of the whole batch, the gradient goes to the own part of them.
        overlap, area, size = sums + (self.reduce(sums.detach()) - sums.detach())
        dice = (2 * overlap + 1 / self.parts) / (area + size + 1 / self.parts)
        present = size > 0
        missed = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
        return {
            "semantic": self.train.semantic_gain * cross_entropy / divisor(counts["pixels"]),
            "dice": self.train.dice_gain * missed,
        }


def divisor(count: Tensor) -> Tensor:
    """A count to divide by: 1 where there is nothing to divide."""
    return torch.where(count > 0, count, 1.0)


def distribution_focal(bins: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy of bins (..., 4, R) with the two around each true distance (..., 4), mean over the sides."""
    distances = distances.clamp(0, bins.shape[-1] - 1 - 0.01)
    low = distances.floor()
    high_share = distances - low
    log_probs, index = bins.log_softmax(-1), low.long()[..., None]
    low_term = log_probs.gather(-1, index)[..., 0] * (1 - high_share)
    high_term = log_probs.gather(-1, index + 1)[..., 0] * high_share
    return -(low_term + high_term).mean(-1)


class _MaskSum(torch.autograd.Function):
    """Sum over objects and their cells of weight times the mean BCE of a mask inside its box.

    The gradient is computed with the value, `MASK_OBJECTS` objects at a time, so that nothing is kept of the masks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        prototypes: Tensor,
        coefficients: Tensor,
        weights: Tensor,
        images: Tensor,
        boxes: Tensor,
        masks: Tensor,
    ) -> Tensor:
        """Of T objects.

        Args:
            ctx: Autograd's.
            prototypes: (B, K, h, w).
            coefficients: (T, k, K) of each object's cells.
            weights: (T, k).
            images: (T,) int64.
            boxes: (T, 4) xyxy in prototype cells.
            masks: (T, h, w) uint8, 255 is covered.
        """
        height, width = prototypes.shape[2:]
        rows = prototypes.permute(0, 2, 3, 1).reshape(-1, prototypes.shape[1])
        to_rows, to_coefficients = torch.zeros_like(rows), torch.zeros_like(coefficients)
        total = prototypes.new_zeros(())
        with torch.autocast(prototypes.device.type, enabled=False):
            for first in range(0, len(masks), MASK_OBJECTS):
                own = slice(first, first + MASK_OBJECTS)
                x, has_x = _places(boxes[own, 0], boxes[own, 2], width)
                y, has_y = _places(boxes[own, 1], boxes[own, 3], height)
                places = (y[:, :, None] * width + x[:, None]).flatten(1)  # (t, P)
                inside = (has_y[:, :, None] & has_x[:, None]).flatten(1)
                weight = weights[own, :, None] * (inside / inside.sum(1, keepdim=True).clamp(min=1))[:, None]
                target = masks[own].flatten(1).gather(1, places)[:, None].float() / 255
                index = (images[own, None] * (height * width) + places).flatten()
                seen = rows.index_select(0, index).unflatten(0, places.shape)  # (t, P, K)
                logits = coefficients[own] @ seen.transpose(1, 2)  # (t, k, P)
                probs = logits.sigmoid()
                # BCE is logit * (1 - target) - log(p), two fast operations; p of a hopeless logit must not be 0.
                costs = torch.addcmul(logits, logits, target, value=-1).sub_(probs.clamp(min=1e-37).log_())
                total += costs.flatten() @ weight.flatten()
                error = probs.sub_(target).mul_(weight)
                to_coefficients[own] = error @ seen
                to_rows.index_add_(0, index, (error.transpose(1, 2) @ coefficients[own]).flatten(0, 1))
        ctx.save_for_backward(
            to_rows.view(len(prototypes), height, width, rows.shape[1]).permute(0, 3, 1, 2), to_coefficients
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        prototypes, coefficients = ctx.saved_tensors
        return prototypes * gradient, coefficients * gradient, None, None, None, None


def _places(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Which of `cells` in a row are compared between the borders low and high (t,), in cells.

    One cell of margin: the runtime interpolates across a box's border, so what lies just outside counts.

    Returns:
        Places (t, n) int64, n of `MASK_SAMPLES` or `cells`, and which of them count.
    """
    first = ((low - 1.5).floor().long() + 1).clamp(min=0)
    number = ((high + 0.5).ceil().long().clamp(max=cells) - first).clamp(min=0)[:, None]
    most = min(MASK_SAMPLES, cells)
    step = torch.arange(most, device=low.device)
    step = torch.where(number <= most, step, (2 * step + 1) * number // (2 * most))
    # What does not count is spread too, since a gradient of 0 is added there as well.
    return (first[:, None] + step) % cells, torch.arange(most, device=low.device) < number


class _SemanticSums(torch.autograd.Function):
    """Sums over the known pixels of the enlarged semantic logits, a few images at a time, see `SEMANTIC_VALUES`.

    The softmax is computed again for the gradient, unless all images go at once: nothing larger than these is kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of logits (B, S, h, w) enlarged to target (B, H, W) uint8, where `IGNORED` is unknown.

        Returns:
            The cross-entropy's sum (), and by class (S,) the sums of the probability of what is there, where it is
            there, and of the probability everywhere.
        """
        parts, kept = _SemanticSums.parts(logits, target), []
        cross_entropy, overlap, area = logits.new_zeros(()), *logits.new_zeros(2, logits.shape[1])
        for own in parts:
            wanted, known = _SemanticSums.pixels(target[own])
            log_probs = _SemanticSums.enlarged(logits[own], target).log_softmax(1)
            hit = log_probs.gather(1, wanted[:, None])[:, 0]
            cross_entropy -= hit @ known
            overlap.index_add_(0, wanted, hit.exp() * known)
            probs = log_probs.exp_()
            area += known @ probs
            if len(parts) == 1:
                kept.append(probs)
        ctx.save_for_backward(logits, target, *kept)
        return cross_entropy, overlap, area

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, to_cross_entropy: Tensor, to_overlap: Tensor, to_area: Tensor
    ) -> tuple[Tensor, None]:
        logits, target, *kept = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for own in _SemanticSums.parts(logits, target):
            wanted, known = _SemanticSums.pixels(target[own])
            # Of the probabilities p the gradient is q = to_area, and at the class that is there to_overlap more; of the
            # logits it is p (q - p q), and p less what is there from the cross-entropy.
            probs = kept[0] if kept else _SemanticSums.enlarged(logits[own], target).softmax(1)
            at_hit = probs.gather(1, wanted[:, None])[:, 0] * to_overlap[wanted] - to_cross_entropy
            mean = probs @ to_area + at_hit
            to_rows = torch.addr(-mean[:, None] * known[:, None], known, to_area).mul_(probs)
            to_rows.scatter_add_(1, wanted[:, None], (at_hit * known)[:, None])
            large = to_rows.unflatten(0, target[own].shape).permute(0, 3, 1, 2)
            gradient[own] = torch.ops.aten.upsample_bilinear2d_backward(
                large, target.shape[1:], logits[own].shape, False
            )
        return gradient, None

    @staticmethod
    def parts(logits: Tensor, target: Tensor) -> list[slice]:
        """Slices of the batch."""
        images = max(1, SEMANTIC_VALUES // (logits.shape[1] * target.shape[1] * target.shape[2]))
        return [slice(first, first + images) for first in range(0, len(logits), images)]

    @staticmethod
    def enlarged(logits: Tensor, target: Tensor) -> Tensor:
        """(n, S): the logits at every pixel, classes side by side; a view where the logits are channels-last."""
        large = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
        return large.permute(0, 2, 3, 1).flatten(0, 2)

    @staticmethod
    def pixels(target: Tensor) -> tuple[Tensor, Tensor]:
        """Of each pixel its class (n,) int64 and 1 where it is known (n,)."""
        target = target.flatten()
        known = target != IGNORED
        return torch.where(known, target, 0).long(), known.float()


def caption_loss(
    logits: Tensor, targets: Tensor, pad_id: int, label_smoothing: float, words: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits (b, T, V) with targets (b, T), a word; `pad_id` does not count.

    Its sum is divided by `words`, by default how many of `targets` count.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=pad_id,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / divisor((targets != pad_id).sum() if words is None else words)
