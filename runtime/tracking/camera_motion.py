"""How a camera moved from one image to the next, from points of the background that are found again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment.opencv import require_opencv

_LONGEST_SIDE = 480  # of the image that points are looked for in
_MOST_POINTS = 200
_LEAST_POINTS = 12
_WINDOW = 15, 15  # pixels around a point


class CameraMotionEstimator:
    """Compares each image with the one before; for one thread."""

    def __init__(self) -> None:
        require_opencv()
        self._before: NDArray[np.uint8] | None = None
        self._points: NDArray[np.float32] | None = None

    def update(self, image: NDArray[np.uint8], boxes: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """Take the next image.

        Args:
            image: (h, w, 3) uint8 BGR or (h, w) grey.
            boxes: (N, 4) xyxy in its pixels: what may move by itself, where no points are looked for.

        Returns:
            (2, 3) float64: where what was at (x, y, 1) of the image before is in this one, a turn, a scale and a
            shift; the identity for the first image, one of another size, and where too few points are found again.
        """
        import cv2  # here, since tracking needs it only for this

        scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
        small = image
        if scale < 1:
            size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY) if small.ndim == 3 else small, np.uint8)
        motion = np.eye(2, 3)
        if self._before is not None and self._points is not None and self._before.shape == grey.shape:
            nowhere: Any = None  # a first guess
            found, is_found, _ = cv2.calcOpticalFlowPyrLK(self._before, grey, self._points, nowhere, winSize=_WINDOW)
            good = is_found.ravel() == 1
            if np.count_nonzero(good) >= _LEAST_POINTS:
                matrix, inliers = cv2.estimateAffinePartial2D(self._points[good], found[good])
                if matrix is not None and np.count_nonzero(inliers) >= _LEAST_POINTS:
                    motion = np.asarray(matrix, np.float64)
        stretch = np.array([grey.shape[1] / image.shape[1], grey.shape[0] / image.shape[0]])
        background = np.full(grey.shape, 255, np.uint8)
        own = np.empty((0, 4)) if boxes is None else boxes
        corners = np.clip(np.nan_to_num(own * np.tile(stretch, 2)), 0, _LONGEST_SIDE)
        for x1, y1, x2, y2 in np.rint(corners).astype(int):
            background[y1:y2, x1:x2] = 0
        self._before = grey
        points: Any = cv2.goodFeaturesToTrack(grey, _MOST_POINTS, 0.01, 5, mask=background)  # None where there are none
        self._points = points
        # From OpenCV's pixels of the small image, whose centres are whole numbers, to those that boxes are in.
        to_small = np.array([[stretch[0], 0, -0.5], [0, stretch[1], -0.5], [0, 0, 1]])
        return (np.linalg.inv(to_small) @ np.vstack([motion, [0, 0, 1]]) @ to_small)[:2]
