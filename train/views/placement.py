"""How a picture lies in the network's input, and how its pixels are taken there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig
from ..network.config import PROTOTYPE_STRIDE

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in input pixels."""

_EPSILON = 1e-6  # of a pixel, which rounding may have moved a border by


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the network's input.

    Attributes:
        matrix: (3, 3) float64, takes homogeneous points (x, y, 1) of the picture, in pixels, to those of the input. A
            pixel's centre lies at + 0.5.
        size: (height, width) of the picture in pixels.
        window: The part of the input that the picture may fill.
    """

    matrix: NDArray[np.float64]
    size: tuple[int, int]
    window: Window

    @cached_property
    def is_affine(self) -> bool:
        return bool(self.matrix[2, 0] == 0 == self.matrix[2, 1])

    @cached_property
    def is_upright(self) -> bool:
        """Whether rectangles remain rectangles: the picture is scaled, shifted and mirrored only."""
        return self.is_affine and bool(self.matrix[0, 1] == 0 == self.matrix[1, 0])

    @cached_property
    def scale(self) -> float:
        """The most input pixels that a picture's pixel is long; of a perspective, infinity."""
        return float(np.linalg.norm(self.matrix[:2, :2], axis=0).max()) if self.is_affine else np.inf

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) x, y of the picture -> (n, 2) of the input."""
        moved = points @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        if self.is_affine:
            return moved
        return moved / (points @ self.matrix[2, :2] + self.matrix[2, 2])[:, None]

    def boxes(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 4) xyxy of the picture -> (n, 4) of the input, the upright boxes around where their corners go."""
        corners = self.points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(np.float64).reshape(-1, 2)).reshape(-1, 4, 2)
        return np.concatenate((corners.min(1), corners.max(1)), 1)

    def areas(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) x, y of the picture -> (n,), input pixels that a picture's pixel covers there."""
        determinant = abs(float(np.linalg.det(self.matrix)))
        return determinant / np.abs(points @ self.matrix[2, :2] + self.matrix[2, 2]) ** 3

    def extent(self) -> NDArray[np.float64]:
        """(4,) xyxy of the input: the upright box around the picture, clipped to the window."""
        x1, y1, x2, y2 = self.boxes(np.array([[0, 0, self.size[1], self.size[0]]]))[0]
        window = self.window
        return np.array([max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])])

    def draw(self, image: NDArray[np.uint8], onto: NDArray[np.uint8]) -> None:
        """Draw the picture.

        Args:
            image: (h, w, 3) uint8, of the picture's size or a half, a quarter, an eighth of it, rounded up.
            onto: (H, W, 3) uint8, the input; what the picture does not cover stays as it is, but for a mixture of both
                along a slanted border.
        """
        height, width = image.shape[:2]
        n = next(n for n in (1, 2, 4, 8) if (-(-self.size[0] // n), -(-self.size[1] // n)) == (height, width))
        extent = self.extent()
        x1, y1 = (int(v) for v in np.floor(extent[:2] + _EPSILON))
        x2, y2 = (int(v) for v in np.ceil(extent[2:] - _EPSILON))
        if x2 <= x1 or y2 <= y1:
            return
        if n == 1 and self.is_upright:
            scale = self.matrix[[0, 1, 0, 1], [0, 1, 0, 1]]
            source = (extent - self.matrix[[0, 1, 0, 1], 2]) / scale
            whole = np.round(source)
            if np.abs(source - whole).max() < 1e-3 and np.abs(extent - (x1, y1, x2, y2)).max() < 1e-3:
                left, right = sorted(whole[[0, 2]].astype(int))
                top, bottom = sorted(whole[[1, 3]].astype(int))
                flips = {(True, False): 1, (False, True): 0, (True, True): -1}
                flip = flips.get((bool(scale[0] < 0), bool(scale[1] < 0)))
                crop = image[top:bottom, left:right] if flip is None else cv2.flip(image[top:bottom, left:right], flip)
                cv2.resize(crop, (x2 - x1, y2 - y1), dst=onto[y1:y2, x1:x2], interpolation=cv2.INTER_LINEAR)
                return
        part = onto[y1:y2, x1:x2]
        border = tuple(int(v) for v in part[0, 0])
        part[:] = self.warp(image, part.shape[:2], (0, 0, n * width, n * height), (x1 + 0.5, y1 + 0.5), border=border)

    def warp(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        source: tuple[float, float, float, float] | None = None,
        first: tuple[float, float] = (0.5, 0.5),
        step: float = 1.0,
        nearest: bool = False,
        border: int | tuple[int, ...] = 0,
    ) -> NDArray[np.uint8]:
        """What a grid of points of the input shows.

        Args:
            pixels: Of the picture, (h, w) or (h, w, 3).
            size: (rows, columns) of the grid.
            source: x1, y1, x2, y2, which part of the picture `pixels` shows, in the picture's pixels; all of it where
                None, at whatever resolution.
            first: x, y in input pixels of the grid's first point.
            step: Between two points, in input pixels.
            nearest: Take the nearest pixel, not a linear mixture of the four around.
            border: What lies outside of `pixels`.
        """
        x1, y1, x2, y2 = source or (0, 0, self.size[1], self.size[0])
        width, height = (x2 - x1) / pixels.shape[1], (y2 - y1) / pixels.shape[0]
        onto = np.array([[1 / step, 0, -first[0] / step], [0, 1 / step, -first[1] / step], [0, 0, 1]])
        out_of = np.array([[width, 0, width / 2 + x1], [0, height, height / 2 + y1], [0, 0, 1]])
        matrix = onto @ self.matrix @ out_of
        flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        shape = (size[1], size[0])
        if self.is_affine:
            found = cv2.warpAffine(
                pixels, matrix[:2], shape, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
            )
        else:
            found = cv2.warpPerspective(
                pixels, matrix, shape, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
            )
        return np.asarray(found, np.uint8)

    def whole_cells(self, grid: tuple[int, int]) -> tuple[slice, slice, NDArray[np.bool_] | None]:
        """Rows and columns of the label grid, and which of them (all where None), that show nothing but the picture."""
        stride = PROTOTYPE_STRIDE
        x1, y1, x2, y2 = self.extent() / stride
        rows = slice(max(0, int(np.ceil(y1 - _EPSILON))), max(0, min(grid[0], int(y2 + _EPSILON))))
        columns = slice(max(0, int(np.ceil(x1 - _EPSILON))), max(0, min(grid[1], int(x2 + _EPSILON))))
        if self.is_upright or rows.stop <= rows.start or columns.stop <= columns.start:
            return rows, columns, None
        y, x = np.mgrid[rows.start : rows.stop + 1, columns.start : columns.stop + 1] * float(stride)
        inverse = np.linalg.inv(self.matrix)
        scale = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
        x, y = ((row[0] * x + row[1] * y + row[2]) / scale for row in inverse[:2])
        inside = (x >= 0) & (y >= 0) & (x <= self.size[1]) & (y <= self.size[0])
        return rows, columns, inside[1:, 1:] & inside[1:, :-1] & inside[:-1, 1:] & inside[:-1, :-1]


def random_placement(
    size: tuple[int, int],
    input_size: tuple[int, int],
    window: Window,
    anchor: tuple[int, int] | None,
    config: TrainConfig,
    rng: np.random.Generator,
) -> Placement:
    """A random scale, shift, flip, rotation, shear and perspective, as far as `config` has them.

    Args:
        size: (height, width) of the picture.
        input_size: (height, width) of the network's input.
        window: The part of the input that the picture may fill.
        anchor: Which corner of the picture lies in the same corner of the window (x and y, 0 first, 1 last); None puts
            the picture about the middle of the window.
    """
    height, width = size
    scale = min(input_size[0] / height, input_size[1] / width)
    scale *= rng.uniform(1 - config.scale_range, 1 + config.scale_range)
    new_width, new_height = width * scale, height * scale
    x1, y1, x2, y2 = window
    if anchor is None:
        left = (x1 + x2 - new_width) / 2 + rng.uniform(-1, 1) * config.translate * input_size[1]
        top = (y1 + y2 - new_height) / 2 + rng.uniform(-1, 1) * config.translate * input_size[0]
    else:
        left = x2 - new_width if anchor[0] else x1
        top = y2 - new_height if anchor[1] else y1
    scale_x, shift_x = _on_whole_pixels(left, new_width, width, (x1, x2), rng.random() < config.flip)
    scale_y, shift_y = _on_whole_pixels(top, new_height, height, (y1, y2), rng.random() < config.flip_up_down)
    matrix = np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]], np.float64)
    if config.rotate or config.shear or config.perspective:
        matrix = _about((x1 + x2) / 2, (y1 + y2) / 2, _turned(input_size, config, rng)) @ matrix
    return Placement(matrix, size, window)


def _on_whole_pixels(
    start: float, length: float, size: int, window: tuple[int, int], mirrored: bool
) -> tuple[float, float]:
    """Scale and shift along one axis, close to those asked for, that take whole pixels to the visible part's ends.

    Such a part is drawn by a plain resize, which takes a quarter of a warp's time.

    Args:
        start: Where the picture is to begin.
        length: How long it is to be.
        size: How long it is in its own pixels.
        window: First and last of what is visible.
        mirrored: Whether it begins with its end.
    """
    first = round(start)
    last = max(first + 1, round(start + length))
    low, high = max(first, window[0]), min(last, window[1])
    if high > low:
        a, b = (round((end - first) * size / (last - first)) for end in (low, high))
        if b == a:  # Less than a pixel of the picture is visible.
            a, b = (a, a + 1) if a < size else (a - 1, a)
    else:
        low, high, a, b = first, last, 0, size
    scale = (high - low) / (b - a)
    return (-scale, low + (size - a) * scale) if mirrored else (scale, low - a * scale)


def _turned(input_size: tuple[int, int], config: TrainConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation, shear and perspective about 0, 0."""
    angle, shear_x, shear_y = np.radians(rng.uniform(-1, 1, 3) * np.array([config.rotate, config.shear, config.shear]))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    lean = np.array([[1, np.tan(shear_x), 0], [np.tan(shear_y), 1, 0], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * config.perspective / np.array(input_size[::-1])
    return tilt @ turn @ lean


def _about(x: float, y: float, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = (x, y), (-x, -y)
    return there @ matrix @ back
