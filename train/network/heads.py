"""The three dense heads. Each takes the neck's features and returns raw outputs; decoding belongs to the runtime.

`features` is a list of the three levels (P3, P4, P5), each (B, c_i, H / stride_i, W / stride_i).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import Conv, Prediction


def _flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Join (B, c, h_i, w_i) maps into (B, c, N), level after level, rows first."""
    return torch.cat([level.flatten(2) for level in levels], 2)


def _branch(c_in: int, width: int, c_out: int, bias: float | None = None) -> nn.Sequential:
    return nn.Sequential(Conv(c_in, width, 3), Conv(width, width, 3), Prediction(width, c_out, bias))


class BoxHead(nn.Module):
    """Class logits and box-side distributions at every cell of the three levels (decoupled, anchor-free).

    With `reg_max` 0 it has class logits alone, for what goes on from them.
    """

    def __init__(self, channels: Sequence[int], classes: int, reg_max: int, box_width: int, class_width: int) -> None:
        super().__init__()
        box_width = max(box_width, channels[0] // 4)
        class_width = max(channels[0], min(2 * classes, class_width))
        # A sigmoid of about 0.01 at the start, the share of cells that hold an object (RetinaNet, arXiv 1708.02002).
        prior = -math.log((1 - 0.01) / 0.01)
        if reg_max:
            self.boxes = nn.ModuleList(_branch(c, box_width, 4 * reg_max, 1.0) for c in channels)
        self.classes = nn.ModuleList(_branch(c, class_width, classes, prior) for c in channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class_logits (B, C, N) and box_bins (B, 4 * reg_max, N)."""
        class_logits = self.class_logits(features)
        box_bins = _flatten_levels([branch(x) for branch, x in zip(self.boxes, features, strict=True)])
        return class_logits, box_bins

    def class_logits(self, features: Sequence[Tensor]) -> Tensor:
        """Return class_logits (B, C, N)."""
        return _flatten_levels([branch(x) for branch, x in zip(self.classes, features, strict=True)])


class MaskHead(nn.Module):
    """Prototype masks at a quarter of the input and each cell's coefficients to mix them (YOLACT, arXiv 1904.02689)."""

    def __init__(self, channels: Sequence[int], prototypes: int, prototype_width: int) -> None:
        super().__init__()
        width = max(prototypes, channels[0] // 4)
        self.coefficients = nn.ModuleList(_branch(c, width, prototypes) for c in channels)
        self.entry = Conv(channels[0], prototype_width, 3)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.exit = nn.Sequential(Conv(prototype_width, prototype_width, 3), Prediction(prototype_width, prototypes))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mask_coefficients (B, K, N) and prototypes (B, K, H / 4, W / 4)."""
        coefficients = _flatten_levels([branch(x) for branch, x in zip(self.coefficients, features, strict=True)])
        return coefficients, self.exit(self.upsample(self.entry(features[0])))


class SemanticHead(nn.Module):
    """Class logits of the semantic map from P3 alone; upsampling comes last, in the runtime (network.md)."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(channels, width, 3), Prediction(width, classes))

    def forward(self, feature: Tensor) -> Tensor:
        """Return semantic_logits (B, S, H / 8, W / 8)."""
        return self.body(feature)
