"""Whether an image shows another scene than one before, in a few hundred comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..environment.opencv import require_opencv
from ..images.preprocess import PixelLayout, kernel_view

# Rows and columns of the grid that an image is reduced to.
GRID = (9, 12)
# A cell is another when its mean colour moved by more than this, of 255, in any channel, beyond what the whole image
# moved by.
CELL_LEVELS = 24.0
# The scene is another when more than this share of the cells is: what covers a sixteenth of the image.
CHANGED_SHARE = 1 / 16
# Pixels a side looked at; of larger images every n-th row and column.
_LOOKED_AT = 160
# From Y - 16, U - 128 and V - 128 of narrow-range BT.601 to B, G and R. A mean goes through as a pixel does.
_BGR_OF_YUV = np.array([[1.164, 2.018, 0.0], [1.164, -0.391, -0.813], [1.164, 0.0, 1.596]], np.float32)


class SceneChange:
    """Compares images with the one that was taken last.

    An image becomes a grid of 9 x 12 mean colours, whatever its size. What all cells have in common, the median
    difference in each channel, is taken for light or exposure and does not count; what moves slowly adds up, since the
    image compared with stays the same until another is taken. The constants were chosen on 100 photographs of COCO:
    every other photograph is another scene, and so are 95 of 100 with something else over a tenth of them, 70 with
    something over a sixteenth; noise, strong JPEG compression and a shift by 4 of 640 pixels never are, light 30
    of 255 levels up or down is in 4 of 100, a shift by 8 pixels in 64 and by 16 in nearly all.
    """

    def __init__(self) -> None:
        self._taken: NDArray[np.float32] | None = None

    def is_new(self, grid: NDArray[np.float32]) -> bool:
        """Whether the image of this grid shows another scene than the one taken last; if so it is taken instead.

        Args:
            grid: From `grid_of`. The first of all is new.
        """
        if self._taken is not None and changed_share(self._taken, grid) <= CHANGED_SHARE:
            return False
        self._taken = grid
        return True


def grid_of(image: NDArray[np.uint8], layout: PixelLayout = "bgr") -> NDArray[np.float32]:
    """The mean colours of an image's cells.

    Args:
        image: (h, w, 3) or (h, w) uint8, at least one pixel; or as its layout says.
        layout: Of the image.

    Returns:
        (9, 12, 3) float32 of 0 to 255, blue, green and red.
    """
    image, kernel_layout = kernel_view(image, layout)
    if kernel_layout == "bgr":
        return _means(image)
    if kernel_layout == "nv12":
        height = image.shape[0] * 2 // 3
        chroma = image[height:].reshape(height // 2, -1, 2)
        planes = image[:height], chroma[:, :, 0], chroma[:, :, 1]
    else:
        planes = image[:, :, 0], image[:, 0::2, 1], image[:, 1::2, 1]
    yuv = np.stack([_means(plane)[:, :, 0] for plane in planes], axis=2) - np.array([16, 128, 128], np.float32)
    return np.clip(yuv @ _BGR_OF_YUV.T, 0, 255)


def _means(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    require_opencv()
    import cv2  # here, since the runtime is imported without it where no images are compared

    rows, columns = (max(1, side // _LOOKED_AT) for side in image.shape[:2])
    small = np.ascontiguousarray(image[::rows, ::columns])
    grid = np.asarray(cv2.resize(small, GRID[::-1], interpolation=cv2.INTER_AREA), np.float32)
    return grid if grid.ndim == 3 else np.repeat(grid[:, :, np.newaxis], 3, axis=2)


def changed_share(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Share of the cells, 0 to 1, whose colour is another, when the light of the whole image does not count."""
    moved = after - before
    moved -= np.median(moved, axis=(0, 1))
    return float(np.mean((np.abs(moved) > CELL_LEVELS).any(axis=2)))
