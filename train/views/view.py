"""What a training step sees of one image: a network input and its dense truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """One network input and its dense truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) float32 xyxy in input pixels, around what is left of the object in the view.
        classes: (n,) int64.
        masks: (n, H / 4, W / 4) uint8, covered share of each prototype cell, 255 is all of it.
        semantic: (H / 4, W / 4) uint8 class ids, 255 is unknown.
        mask_known: (n,) bool, False for objects without a mask.
        classes_known: (H / 4, W / 4) bool, False where objects may be that nobody labelled.
        known_classes: (C,) bool, False for classes whose objects nobody labelled in a part of the view; None for none.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    mask_known: NDArray[np.bool_]
    classes_known: NDArray[np.bool_]
    known_classes: NDArray[np.bool_] | None = None
