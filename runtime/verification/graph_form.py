"""Golden answers are the network's: every cell, semantic logits. Here they take the form of a graph with options."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..backends.base import Array
from ..bundle.graph_options import HEADS_OF_CELLS
from ..bundle.spec import SCORE_HEADS


def scores_in(heads: Mapping[str, Array]) -> Array | None:
    """The score head among outputs, (B, C, N), whichever coding it has; None where there is none."""
    return next((heads[name] for name in SCORE_HEADS.values() if name in heads), None)


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
    cells, scores = found.get("cells"), scores_in(heads)
    if cells is not None and scores is not None and _is_sound(cells, scores):
        for name in HEADS_OF_CELLS:
            if name in heads:
                heads[name] = np.take_along_axis(heads[name], cells[:, None].astype(np.intp), 2)
    if "semantic_map" in found and "semantic_logits" in heads:
        grids = heads.pop("semantic_logits")
        _, height, width = found["semantic_map"].shape
        stride = max(1, height // grids.shape[2])
        maps = [_native.semantic_argmax(grid, (height, width), (1.0, 1.0, 0, 0), stride) for grid in grids]
        heads["semantic_map"] = np.stack(maps)
    return heads


def regions_in_place(
    found: Mapping[str, Array], expected: Mapping[str, Array], margins: Array, tolerance: float
) -> tuple[Array, int]:
    """The memory in `found` with its regions where those of `expected` stand, to hold vector against vector.

    A graph that rounds otherwise may choose another cell where two were nearly as good, and as regions are in the order
    of their cells, those behind it stand elsewhere then. What may differ so is told by the margins: a region that was
    chosen by more than the logits can be off has to be there, in its order and with its values. In place of the others
    stands what was expected.

    Args:
        found: Outputs of a vision graph by name, batch B.
        expected: Raw heads of the network for the same images.
        margins: (B, R) of the network, how clear its choice of each region was, see `regions.region_margins`.
        tolerance: How far an output may be off, relative to its largest magnitude.

    Returns:
        (B, L, D), and how many regions of all images the choice of which is not held against the graph. A region that
        has to be there and is not leaves what is found in its place; so does every one if a value is no number.
    """
    memory, truth = found["caption_memory"], expected["caption_memory"]
    count = margins.shape[1]
    if memory.shape != truth.shape or not count <= truth.shape[1] or not np.isfinite(memory).all():
        return memory, 0
    limit = tolerance * (float(np.abs(truth).max(initial=0)) or 1.0)
    is_open = margins <= 2 * _slack(found, expected, tolerance)
    placed = memory.copy()
    for i, (own, other) in enumerate(zip(truth[:, -count:], memory[:, -count:], strict=True)):
        begin = 0
        # The first that fits leaves most for those behind: if all can be found in order, they are found so.
        for row in range(count):
            if is_open[i, row]:
                placed[i, row - count] = own[row]
                continue
            fits = np.abs(other[begin:] - own[row]).max(1, initial=0) <= limit
            if fits.any():
                begin += int(np.argmax(fits)) + 1
                placed[i, row - count] = other[begin - 1]
    return placed, int(np.count_nonzero(is_open))


def _slack(found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> float:
    """How far the heads that regions are chosen by are off: as seen, or what they may be where they are not given."""
    errors = []
    for own, other in (
        (scores_in(expected), scores_in(found)),
        (expected.get("semantic_logits"), found.get("semantic_logits")),
    ):
        if own is None or other is None or own.shape != other.shape:
            return tolerance
        scale = float(np.abs(own).max(initial=0)) or 1.0
        errors.append(float(np.abs(other - own).max(initial=0)) / scale)
    # Twice, since a graph may choose before it rounds what it gives.
    worst = max(errors)
    return min(max(tolerance, worst), 2 * worst)


def cells_check(cells: Array, scores: Array, tolerance: float) -> tuple[str, str, bool]:
    """Whether `cells` (B, K) are the best of a score head (B, C, N): what was measured, what is allowed, the verdict.

    Two cells of nearly the same score may change places, so what counts is how much better a cell is that was left out
    than the worst that was taken, relative to the head's largest magnitude. Both may be off by `tolerance`.
    """
    allowed = f"the best, +- {2 * tolerance:.0e} of the scores' scale"
    if not _is_sound(cells, scores):
        return "cells out of range, or one of them twice", allowed, False
    best = scores.max(axis=1)  # (B, N)
    taken = np.take_along_axis(best, cells.astype(np.intp), 1)
    count = cells.shape[1]
    least = -np.partition(-best, count - 1, axis=1)[:, count - 1]  # the K-th best of each image
    scale = float(np.abs(scores).max(initial=0)) or 1.0
    worst = float(np.max(least - taken.min(axis=1))) / scale
    return f"{count} best but for {worst:.1e}", allowed, bool(worst <= 2 * tolerance)


def _is_sound(cells: NDArray[np.int32], scores: Array) -> bool:
    if cells.ndim != 2 or len(cells) != len(scores) or not 0 < cells.shape[1] <= scores.shape[2]:
        return False
    is_inside = cells.min() >= 0 and cells.max() < scores.shape[2]
    return bool(is_inside and all(len(np.unique(row)) == len(row) for row in cells))
