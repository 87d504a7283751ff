"""Instance masks from their definition: every logit at every pixel, then the box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .sampling import Geometry, sample


def mask_logits(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    image_size: tuple[int, int],
    geometry: Geometry,
    stride: int = 4,
) -> NDArray[np.float64]:
    """(N, H, W) logits at every pixel of the image."""
    logits = np.einsum("nk,khw->nhw", coefficients.astype(np.float64), prototypes.astype(np.float64))
    return sample(logits, image_size, geometry, stride)


def pixels_in_boxes(boxes: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, H, W): whether the centre of each pixel lies inside each box."""
    height, width = image_size
    x = np.arange(width) + 0.5
    y = np.arange(height) + 0.5
    x1, y1, x2, y2 = boxes.astype(np.float64).T[:, :, None]
    in_columns = np.logical_and(x1 <= x, x < x2)
    in_rows = np.logical_and(y1 <= y, y < y2)
    is_finite = np.isfinite(boxes).all(axis=1, keepdims=True)
    return (in_rows & is_finite)[:, :, None] & in_columns[:, None, :]
