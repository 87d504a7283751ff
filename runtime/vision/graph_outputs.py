"""Reading a vision graph, whatever `GraphOptions` were built into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Array, Graph
from ..images.preprocess import Letterbox


def run_one(vision: Graph, images: NDArray[np.float32], wanted: Sequence[str] | None = None) -> dict[str, Array]:
    """Run a vision graph, whatever its batch, on one image.

    Args:
        vision: Takes `images` (B, 3, H, W); where B is a number above 1, the places of the others stay zero.
        images: (1, 3, H, W) float32.
        wanted: Names of the outputs; None for all.

    Returns:
        The outputs by name, batch 1.
    """
    batch = vision.inputs["images"].shape[0]
    if isinstance(batch, str) or batch == 1:
        return vision.run({"images": images}, wanted)
    padded = np.zeros((batch, *images.shape[1:]), np.float32)
    padded[0] = images[0]
    return {name: value[:1] for name, value in vision.run({"images": padded}, wanted).items()}


def by_rising_cell(scores: Array, boxes: Array, cells: Array) -> tuple[Array, Array, Array, Array]:
    """Columns of one image of a `top_k` graph in the order of cells, where ties are decided as without it.

    Args:
        scores: (C, K), its score head.
        boxes: (rows, K), its box head.
        cells: (K,) int32.

    Returns:
        The same three with `cells` rising, and the column that each was, (K,).
    """
    columns = np.argsort(cells, kind="stable")
    return scores[:, columns], boxes[:, columns], cells[columns], columns


def map_to_image(semantic_map: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """A semantic map at the resolution of the input, (h, w) uint8, cut and resized to the image, (H, W) uint8.

    Each pixel of the image takes the value of the pixel that its centre falls into.
    """
    height, width = letterbox.image_size
    rows = (np.arange(height) + 0.5) * letterbox.scale_y + letterbox.pad_top
    columns = (np.arange(width) + 0.5) * letterbox.scale_x + letterbox.pad_left
    rows = np.clip(rows.astype(np.intp), 0, semantic_map.shape[0] - 1)
    columns = np.clip(columns.astype(np.intp), 0, semantic_map.shape[1] - 1)
    return semantic_map[rows].take(columns, axis=1)
