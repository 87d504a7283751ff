"""Whether a picture shows another scene than one before, in a few hundred comparisons."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Rows and columns of the grid that a picture is reduced to.
GRID = (12, 16)
# A cell is another when its mean colour moved by more than this, of 255, in any channel, beyond what the whole picture
# moved by.
CELL_LEVELS = 20.0
# The scene is another when more than this share of the cells is: what covers a sixteenth of the picture.
CHANGED_SHARE = 1 / 16
# Pixels a side looked at; of larger pictures every n-th row and column.
_LOOKED_AT = 160


class SceneChange:
    """Compares pictures with the one that was taken last.

    A picture becomes a grid of 12 x 16 mean colours, whatever its size. What all cells have in common, the median
    difference in each channel, is taken for light or exposure and does not count. Noise and shaking of a fraction of a
    cell stay under the limit as well; what moves slowly adds up, since the picture compared with stays the same until
    another is taken.
    """

    def __init__(self) -> None:
        self._taken: NDArray[np.float32] | None = None

    def is_new(self, grid: NDArray[np.float32]) -> bool:
        """Whether the picture of this grid shows another scene than the one taken last; if so it is taken instead.

        Args:
            grid: From `grid_of`. The first of all is new.
        """
        if self._taken is not None and changed_share(self._taken, grid) <= CHANGED_SHARE:
            return False
        self._taken = grid
        return True


def grid_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean colours of a picture's cells.

    Args:
        image: (h, w, 3) or (h, w) uint8, at least one pixel.

    Returns:
        (12, 16, 3) float32 of 0 to 255.
    """
    rows, columns = (max(1, side // _LOOKED_AT) for side in image.shape[:2])
    small = np.ascontiguousarray(image[::rows, ::columns])
    grid = np.asarray(cv2.resize(small, GRID[::-1], interpolation=cv2.INTER_AREA), np.float32)
    return grid if grid.ndim == 3 else np.repeat(grid[:, :, np.newaxis], 3, axis=2)


def changed_share(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Share of the cells, 0 to 1, whose colour is another, when the light of the whole picture does not count."""
    moved = after - before
    moved -= np.median(moved, axis=(0, 1))
    return float(np.mean((np.abs(moved) > CELL_LEVELS).any(axis=2)))
