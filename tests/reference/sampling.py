"""Bilinear sampling of a head's grid at the pixel centres of an image, from its definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Geometry = tuple[float, float, int, int]


def grid_positions(pixels: int, scale: float, pad: int, stride: int) -> NDArray[np.float64]:
    """Where the centres of `pixels` image pixels lie on a grid whose point 0 is the centre of cell 0."""
    centres = np.arange(pixels) + 0.5
    return (centres * scale + pad) / stride - 0.5


def sample(
    grid: NDArray[np.floating], image_size: tuple[int, int], geometry: Geometry, stride: int
) -> NDArray[np.float64]:
    """(C, h, w) grid to (C, H, W) at the size of the image, float64."""
    scale_y, scale_x, pad_top, pad_left = geometry
    values = grid.astype(np.float64)
    values = _along_last_axis(values, grid_positions(image_size[1], scale_x, pad_left, stride))
    values = _along_last_axis(values.swapaxes(1, 2), grid_positions(image_size[0], scale_y, pad_top, stride))
    return values.swapaxes(1, 2)


def _along_last_axis(values: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    last = values.shape[-1] - 1
    positions = np.clip(positions, 0, last)
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, last)
    fraction = positions - low
    return values[..., low] * (1 - fraction) + values[..., high] * fraction
