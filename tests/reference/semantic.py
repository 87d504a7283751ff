"""The semantic map from its definition: every class at every pixel, then the highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .sampling import Geometry, grid_positions, sample


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


def semantic_argmax_single(
    logits: NDArray[np.float32], image_size: tuple[int, int], geometry: Geometry, stride: int = 8
) -> NDArray[np.uint8]:
    """The same in float32 with the operations of the kernel: down the columns first, then along the rows."""
    scale_y, scale_x, pad_top, pad_left = geometry
    values = np.clip(np.nan_to_num(logits, nan=-1e30, posinf=1e30, neginf=-1e30), -1e30, 1e30).astype(np.float32)
    for axis, pixels, scale, pad in ((1, image_size[0], scale_y, pad_top), (2, image_size[1], scale_x, pad_left)):
        last = values.shape[axis] - 1
        positions = np.clip(grid_positions(pixels, scale, pad, stride), 0, last)
        low = np.minimum(np.floor(positions).astype(int), max(last - 1, 0))
        fraction = (positions - low).astype(np.float32).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
        left, right = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
        values = left * (np.float32(1) - fraction) + right * fraction
    return values.argmax(axis=0).astype(np.uint8)
