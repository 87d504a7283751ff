"""The semantic map from its definition: every class at every pixel, then the highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .sampling import Geometry, sample


def semantic_values(
    logits: NDArray[np.float32], image_size: tuple[int, int], geometry: Geometry, stride: int = 8
) -> NDArray[np.float64]:
    """(S, H, W) interpolated logits; NaN counts as -1e30, and values are limited to +-1e30."""
    limited = np.clip(np.nan_to_num(logits, nan=-1e30, posinf=1e30, neginf=-1e30), -1e30, 1e30)
    return sample(limited, image_size, geometry, stride)


def semantic_argmax(
    logits: NDArray[np.float32], image_size: tuple[int, int], geometry: Geometry, stride: int = 8
) -> NDArray[np.uint8]:
    """(H, W) class numbers; equal values go to the lowest class."""
    return semantic_values(logits, image_size, geometry, stride).argmax(axis=0).astype(np.uint8)
