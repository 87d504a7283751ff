"""The dense truth of a batch: boxes, masks and semantic map, and where each of them is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        known_classes: (B, C) bool, False for classes whose objects nobody labelled in some part of the image, so that
            nothing may be learnt from their absence; None where all are known.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    classes_known: Tensor
    masks: Tensor
    first_mask: Tensor
    mask_known: Tensor
    semantic: Tensor
    known_classes: Tensor | None = None

    def to(self, device: torch.device) -> DenseTruth:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> DenseTruth:
        """A copy in page-locked memory, which `to` copies from without waiting."""
        return self._each(Tensor.pin_memory)

    def first_images(self, count: int) -> DenseTruth:
        """The truth of the first images."""
        objects = int(self.valid[:count].sum())
        return dataclasses.replace(self._each(lambda tensor: tensor[:count]), masks=self.masks[:objects])

    def _each(self, change: Callable[[Tensor], Tensor]) -> DenseTruth:
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {name: value if value is None else change(value) for name, value in fields.items()}
        return DenseTruth(**changed)
