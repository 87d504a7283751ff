"""Golden answers are the network's: every cell, semantic logits. Here they take the form of a graph with options."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from . import _native
from .backends.base import Array
from .graph_contract import SEMANTIC_STRIDE
from .graph_options import HEADS_OF_CELLS


def in_form_of(found: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, Array]:
    """The raw heads of the network as a graph that gave `found` has to give them.

    Args:
        found: Outputs of a vision graph by name, batch B.
        expected: Raw heads of the network for the same images.

    Returns:
        `expected`, where `found` holds some cells only at those, and with the semantic map of the input in place of
        logits where `found` holds it. Cells that are none leave everything as it was.
    """
    heads = dict(expected)
    cells, logits = found.get("cells"), heads.get("class_logits")
    if cells is not None and logits is not None and _is_sound(cells, logits):
        for name in HEADS_OF_CELLS:
            if name in heads:
                heads[name] = np.take_along_axis(heads[name], cells[:, None].astype(np.intp), 2)
    if "semantic_map" in found and "semantic_logits" in heads:
        grids = heads.pop("semantic_logits")
        size = (grids.shape[2] * SEMANTIC_STRIDE, grids.shape[3] * SEMANTIC_STRIDE)
        maps = [_native.semantic_argmax(grid, size, (1.0, 1.0, 0, 0), SEMANTIC_STRIDE) for grid in grids]
        heads["semantic_map"] = np.stack(maps)
    return heads


def cells_check(cells: Array, class_logits: Array, tolerance: float) -> tuple[str, str, bool]:
    """Whether `cells` (B, K) are the best of `class_logits` (B, C, N): what was measured, what is allowed, the verdict.

    Two cells of nearly the same logit may change places, so what counts is how much better a cell is that was left out
    than the worst that was taken, relative to the largest logit. Both may be off by `tolerance`.
    """
    allowed = f"the best, +- {2 * tolerance:.0e} of the logits' scale"
    if not _is_sound(cells, class_logits):
        return "cells out of range, or one of them twice", allowed, False
    best = class_logits.max(axis=1)  # (B, N)
    taken = np.take_along_axis(best, cells.astype(np.intp), 1)
    count = cells.shape[1]
    least = -np.partition(-best, count - 1, axis=1)[:, count - 1]  # the K-th best of each image
    scale = float(np.abs(class_logits).max(initial=0)) or 1.0
    worst = float(np.max(least - taken.min(axis=1))) / scale
    return f"{count} best but for {worst:.1e}", allowed, bool(worst <= 2 * tolerance)


def _is_sound(cells: NDArray[np.int32], class_logits: Array) -> bool:
    if cells.ndim != 2 or len(cells) != len(class_logits) or not 0 < cells.shape[1] <= class_logits.shape[2]:
        return False
    is_inside = cells.min() >= 0 and cells.max() < class_logits.shape[2]
    return bool(is_inside and all(len(np.unique(row)) == len(row) for row in cells))
