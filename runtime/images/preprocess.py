"""From an image to the tensor the network takes, and back from its pixels to those of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..errors import UsageError

Rounding = Literal["half_up", "half_even"]
"""Where a length of the resized image ends on half a pixel: up, or to the even neighbour, as Python's `round` does."""


@dataclass(frozen=True)
class Letterbox:
    """The resize with padding that took one image into the network's input; sizes are (height, width).

    A point maps as x_input = x_image * scale_x + pad_left and y_input = y_image * scale_y + pad_top. Each
    scale is the exact ratio of the resized length to the original; they differ only by the rounding to whole
    pixels.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale_y: float
    scale_x: float
    pad_top: int
    pad_left: int

    @classmethod
    def of(cls, image_size: tuple[int, int], input_size: tuple[int, int], rounding: Rounding = "half_up") -> Letterbox:
        """The letterbox that places an image of `image_size` in the middle of `input_size`, its shape kept.

        Raises:
            ValueError: If a length is not positive, or there is no such rounding.
        """
        resized_height, resized_width, pad_top, pad_left = _native.letterbox_geometry(image_size, input_size, rounding)
        height, width = image_size
        return cls(
            image_size=(int(height), int(width)),
            input_size=(int(input_size[0]), int(input_size[1])),
            scale_y=resized_height / height,
            scale_x=resized_width / width,
            pad_top=pad_top,
            pad_left=pad_left,
        )

    @property
    def geometry(self) -> tuple[float, float, int, int]:
        """(scale_y, scale_x, pad_top, pad_left), as the native kernels take it."""
        return self.scale_y, self.scale_x, self.pad_top, self.pad_left

    def boxes_to_image(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, 4) xyxy boxes from pixels of the input to those of the image, clipped to it. N may be 0."""
        height, width = self.image_size
        offset, scale = self._offset_and_scale()
        moved = (_as_boxes(boxes) - offset) / scale
        return np.clip(moved, 0.0, np.array([width, height, width, height])).astype(np.float32)

    def boxes_to_input(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, 4) xyxy boxes from pixels of the image to those of the input, not clipped. N may be 0."""
        offset, scale = self._offset_and_scale()
        return (_as_boxes(boxes) * scale + offset).astype(np.float32)

    def _offset_and_scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        offset = np.array([self.pad_left, self.pad_top] * 2, dtype=np.float64)
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)
        return offset, scale


@dataclass(frozen=True)
class PreprocessRule:
    """How an image becomes the network's input: letterboxed to `input_size`, padded, ordered and scaled.

    Attributes:
        input_size: (height, width) of the network's input.
        pad_value: Byte around the image, before scaling.
        channel_order: Order of the tensor's channels; images themselves are BGR, as OpenCV reads them.
        scale: Every byte is multiplied by this.
        rounding: Of the resized image's lengths. YOLOv7 and its kin round half to even, networks of this repository
            half up.
    """

    input_size: tuple[int, int]
    pad_value: int = 114
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    rounding: Rounding = "half_up"

    def __post_init__(self) -> None:
        if len(self.input_size) != 2 or any(not isinstance(n, int) or n < 1 for n in self.input_size):
            raise UsageError(
                f"<input_size> must be (height, width), both positive whole numbers, got {self.input_size}",
                argument="input_size",
            )
        if not 0 <= self.pad_value <= 255:
            raise UsageError(f"<pad_value> must lie in 0..255, got {self.pad_value}", argument="pad_value")
        if self.channel_order not in ("RGB", "BGR"):
            raise UsageError(
                f'<channel_order> must be "RGB" or "BGR", got "{self.channel_order}"', argument="channel_order"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"<scale> must be a positive number, got {self.scale}", argument="scale")
        if self.rounding not in get_args(Rounding):
            known = " or ".join(f'"{name}"' for name in get_args(Rounding))
            raise UsageError(f'<rounding> must be {known}, got "{self.rounding}"', argument="rounding")

    def letterbox_of(self, image_size: tuple[int, int]) -> Letterbox:
        """The letterbox of an image of (height, width) pixels."""
        return Letterbox.of(image_size, self.input_size, self.rounding)


PixelLayout = Literal["bgr", "rgb", "bgra", "rgba", "grey", "nv12", "yuyv"]
"""How the bytes of an image mean pixels, all uint8: "bgr" is (h, w, 3), or (h, w) for grey, as "grey" is; of "bgra" and
"rgba", (h, w, 4), the fourth is not looked at; a camera's "nv12", (h * 3 / 2, w), and "yuyv", (h, w, 2), are of narrow
range, BT.601."""

KernelLayout = Literal["bgr", "nv12", "yuyv"]
"""What kernels take: bytes of one or three channels side by side, of which all but a camera's layouts are views."""


def kernel_view(image: NDArray[np.uint8], layout: PixelLayout) -> tuple[NDArray[np.uint8], KernelLayout]:
    """The same pixels, without a copy, in a layout that kernels take.

    Args:
        image: As `check_image` wants it in this layout.
        layout: Of the image.
    """
    if layout == "rgb":
        return image[:, :, ::-1], "bgr"
    if layout == "bgra":
        return image[:, :, :3], "bgr"
    if layout == "rgba":
        return image[:, :, 2::-1], "bgr"
    return image, layout if layout in ("nv12", "yuyv") else "bgr"


def image_size_of(image: NDArray[np.uint8], layout: PixelLayout = "bgr") -> tuple[int, int]:
    """(height, width) in pixels of an image of some layout: an NV12 image has half as many rows again."""
    height, width = image.shape[0], image.shape[1]
    return (height * 2 // 3 if layout == "nv12" else height), width


def shape_of(image_size: tuple[int, int], layout: PixelLayout) -> tuple[int, ...]:
    """The shape of an array that holds an image of (height, width) pixels in a layout; NV12's height is even."""
    height, width = image_size
    if layout == "grey":
        return height, width
    if layout == "nv12":
        return height * 3 // 2, width
    return height, width, {"yuyv": 2, "bgra": 4, "rgba": 4}.get(layout, 3)


def preprocess(
    image: NDArray[np.uint8],
    rule: PreprocessRule,
    out: NDArray[np.float32] | None = None,
    layout: PixelLayout = "bgr",
    threads: int = 1,
) -> tuple[NDArray[np.float32], Letterbox]:
    """Turn one image into the tensor the network takes.

    Args:
        image: (h, w, 3) uint8 in BGR order, or (h, w) grey, or as its layout says; at least one pixel; any strides, but
            rows of "nv12" and "yuyv" are packed; not changed.
        rule: What the network was trained with.
        out: (3, H, W) float32 to write into, contiguous; a new array where None.
        layout: How the bytes of the image mean pixels.
        threads: Used at most, 1 to 64; the result is the same.

    Returns:
        The (3, H, W) float32 tensor, and the letterbox that maps results back to pixels of the image.

    Raises:
        ValueError: If the image or `out` has another dtype or shape, or the image has no pixels, or there is no such
            layout.
    """
    if layout not in get_args(PixelLayout):
        raise ValueError(f"layout must be one of {', '.join(get_args(PixelLayout))}, got {layout}")
    height, width = rule.input_size
    pixels, kernel_layout = kernel_view(image, layout)
    tensor = _native.letterbox(
        pixels,
        height,
        width,
        rule.pad_value,
        swap_rb=rule.channel_order == "RGB",
        out=out,
        scale=rule.scale,
        layout=kernel_layout,
        threads=threads,
        rounding=rule.rounding,
    )
    return tensor, rule.letterbox_of(image_size_of(image, layout))


def _as_boxes(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), got {boxes.shape}")
    return boxes.astype(np.float64)
