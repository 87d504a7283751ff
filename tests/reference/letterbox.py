"""Resize with padding, from its definition: one output pixel at a time along each axis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def letterbox_geometry(
    image_size: tuple[int, int], input_size: tuple[int, int], rounding: str = "half_up"
) -> tuple[int, int, int, int]:
    """(resized_height, resized_width, pad_top, pad_left)."""
    (height, width), (input_height, input_width) = image_size, input_size
    scale = min(input_height / height, input_width / width)

    def rounded(length: float) -> int:
        return round(length) if rounding == "half_even" else math.floor(length + 0.5)

    resized_height = min(max(1, rounded(height * scale)), input_height)
    resized_width = min(max(1, rounded(width * scale)), input_width)
    return (
        resized_height,
        resized_width,
        (input_height - resized_height) // 2,
        (input_width - resized_width) // 2,
    )


def axis_weights(old: int, new: int) -> NDArray[np.int64]:
    """(new, old) matrix: how much of 2048 parts each old pixel gives to each new one."""
    weights = np.zeros((new, old), dtype=np.int64)
    for i in range(new):
        position = (i + 0.5) * old / new - 0.5
        below = math.floor(position)
        right = math.floor((position - below) * 2048 + 0.5)
        weights[i, min(max(below, 0), old - 1)] += 2048 - right
        weights[i, min(max(below + 1, 0), old - 1)] += right
    return weights


def letterbox_u8(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    pad_value: int = 114,
    swap_rb: bool = True,
    rounding: str = "half_up",
) -> NDArray[np.uint8]:
    """(height, width, 3) uint8."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if swap_rb:
        image = image[:, :, ::-1]
    new_height, new_width, top, left = letterbox_geometry(image.shape[:2], (height, width), rounding)
    rows = axis_weights(image.shape[0], new_height)
    columns = axis_weights(image.shape[1], new_width)
    total = np.einsum("yi,ijc,xj->yxc", rows, image.astype(np.int64), columns, optimize=True)
    output = np.full((height, width, 3), pad_value, dtype=np.uint8)
    output[top : top + new_height, left : left + new_width] = (total + 2**21) >> 22
    return output


def letterbox(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    pad_value: int = 114,
    swap_rb: bool = True,
    scale: float = 1 / 255,
    rounding: str = "half_up",
) -> NDArray[np.float32]:
    """(3, height, width) float32."""
    pixels = letterbox_u8(image, height, width, pad_value, swap_rb, rounding)
    return pixels.transpose(2, 0, 1).astype(np.float32) * np.float32(scale)
