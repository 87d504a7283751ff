"""The dense truth of a batch: boxes, masks and semantic map, and where each of them is known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class DenseTruth:
    """Truth of a batch for boxes, masks and the semantic map.

    Attributes:
        boxes: (B, M, 4) float32 xyxy in input pixels, padded with zeros.
        classes: (B, M) int64.
        valid: (B, M) bool, False on padding; the objects of an image come first.
        classes_known: (B, H / 4, W / 4) bool, False where objects may be that nobody labelled, so that nothing may be
            learnt from their absence.
        masks: (T, H / 4, W / 4) uint8, of all T valid objects, image after image: covered share of each prototype
            cell, 255 is all of it.
        first_mask: (B,) int64, the row of `masks` of each image's first object.
        mask_known: (B, M) bool, False on padding and where an object has no mask.
        semantic: (B, H / 4, W / 4) uint8 class ids, 255 is ignored.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    classes_known: Tensor
    masks: Tensor
    first_mask: Tensor
    mask_known: Tensor
    semantic: Tensor

    def to(self, device: torch.device) -> DenseTruth:
        fields = dataclasses.fields(self)
        return DenseTruth(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields})

    def pin_memory(self) -> DenseTruth:
        """A copy in page-locked memory, which `to` copies from without waiting."""
        return DenseTruth(**{field.name: getattr(self, field.name).pin_memory() for field in dataclasses.fields(self)})
