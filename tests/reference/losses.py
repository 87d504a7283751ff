"""The losses of one box from their definitions, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence


def complete_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """CIoU of two xyxy boxes with areas (arXiv 1911.08287, equations 8 to 11)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    width_a, height_a, width_b, height_b = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    overlap = width * height
    iou = overlap / (width_a * height_a + width_b * height_b - overlap)
    centre_distance = math.hypot((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
    diagonal = math.hypot(max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    aspect = 4 / math.pi**2 * (math.atan(width_b / height_b) - math.atan(width_a / height_a)) ** 2
    weight = aspect / (1 - iou + aspect) if aspect > 0 else 0.0
    return iou - centre_distance**2 / diagonal**2 - weight * aspect


def distribution_focal(logits: Sequence[float], distance: float) -> float:
    """DFL of one box side (arXiv 2006.04388, equation 6): cross-entropy with the two bins around `distance`."""
    total = sum(math.exp(logit) for logit in logits)
    low = math.floor(distance)
    high_share = distance - low
    loss = -(1 - high_share) * math.log(math.exp(logits[low]) / total)
    if high_share > 0:
        loss -= high_share * math.log(math.exp(logits[low + 1]) / total)
    return loss
