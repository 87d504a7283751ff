"""Panoptic quality, and the panoptic map that instances and a semantic map make together.

PQ is that of COCO's panopticapi. The merge is the usual heuristic of Panoptic FPN: instances by falling score, each
with what earlier ones left of it, then the stuff classes in what is still free.

Source: Kirillov et al., https://arxiv.org/abs/1801.00868 (PQ) and https://arxiv.org/abs/1901.02446 (the merge)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.results import Result

LEAST_SCORE = 0.5  # of an instance that enters the map
MOST_COVERED = 0.5  # the share of an instance that earlier ones may have taken
LEAST_STUFF = 64 * 64  # pixels of a stuff class, in images of COCO's usual size
_USUAL_PIXELS = 640 * 480


@dataclass(frozen=True)
class PanopticPrediction:
    """(height, width) int32 segment numbers from 1 on, 0 for none, and the semantic class of each segment."""

    segments: np.ndarray
    classes: Mapping[int, int]


def semantic_classes_of(class_names: Sequence[str], semantic_names: Sequence[str]) -> list[int | None]:
    """For each class of objects the semantic class of the same name; None where there is none."""
    ids = {name: index for index, name in enumerate(semantic_names)}
    return [ids.get(name) for name in class_names]


def merge(result: Result, class_to_semantic: Sequence[int | None], things: Collection[int]) -> PanopticPrediction:
    """One segment a pixel, from the masks and the semantic map of a result.

    A stuff class needs 4096 pixels, in images smaller than 640 x 480 as large a share of them.

    Args:
        result: With masks and semantic map.
        class_to_semantic: For each class id of the objects its semantic class; None for one that the maps lack.
        things: The semantic classes that objects have; what the semantic map says of them is not used.
    """
    assert result.masks is not None and result.scores is not None and result.class_ids is not None
    assert result.semantic_map is not None
    segments = np.zeros(result.image_size, np.int32)
    classes: dict[int, int] = {}
    for i in np.argsort(-result.scores, kind="stable").tolist():
        semantic = class_to_semantic[int(result.class_ids[i])]
        if result.scores[i] < LEAST_SCORE:
            break
        if semantic is None:
            continue
        y0, x0, crop = result.masks[i]
        place = segments[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]]
        mask = crop > 0
        free = mask & (place == 0)
        area, left = int(mask.sum()), int(free.sum())
        if not left or area - left > MOST_COVERED * area:
            continue
        classes[len(classes) + 1] = semantic
        place[free] = len(classes)
    least = min(LEAST_STUFF, LEAST_STUFF * segments.size / _USUAL_PIXELS)
    free = segments == 0
    areas = np.bincount(result.semantic_map[free])
    for semantic in np.flatnonzero((areas >= least) & (areas > 0)).tolist():
        if semantic not in things:
            classes[len(classes) + 1] = semantic
            segments[free & (result.semantic_map == semantic)] = len(classes)
    return PanopticPrediction(segments, classes)


class PanopticScores:
    """PQ, SQ and RQ over images.

    Args:
        names: The semantic classes.
        things: Which of them are things; the others are stuff.
    """

    def __init__(self, names: Sequence[str], things: Collection[int]) -> None:
        self._names = tuple(names)
        self._things = np.isin(np.arange(len(names)), sorted(things))
        self._counts: list[np.ndarray] = []

    @property
    def images(self) -> int:
        """Images added so far."""
        return len(self._counts)

    def add(
        self,
        segments: np.ndarray,
        classes: Mapping[int, int],
        crowds: Collection[int],
        predicted: PanopticPrediction,
    ) -> None:
        """Take one image.

        Args:
            segments: (height, width) int32 ids of the truth, 0 unlabelled.
            classes: The semantic class of each id.
            crowds: Ids that cover a group: never missed, and what lies in one of its class is no false segment.
            predicted: The answer.
        """
        ids = np.array(sorted({0, *classes}))
        truth = np.searchsorted(ids, segments)
        count = len(predicted.classes) + 1
        shared = np.bincount((truth * count + predicted.segments).ravel(), minlength=len(ids) * count)
        shared = shared.reshape(len(ids), count)
        is_crowd = np.isin(ids, list(crowds))
        # -1 is the class of what is unlabelled on either side.
        truth_class = np.array([classes.get(i, -1) for i in ids.tolist()])
        found_class = np.array([-1, *predicted.classes.values()])
        found_areas = shared.sum(0)
        union = shared.sum(1)[:, None] + found_areas - shared - shared[0]
        iou = shared / np.maximum(union, 1)
        pairs = (iou > 0.5) & (truth_class[:, None] == found_class) & (truth_class >= 0)[:, None] & ~is_crowd[:, None]
        # A predicted segment over unlabelled pixels, or a crowd of its class, is not held to be false.
        excused = shared[0].copy()
        for row in np.flatnonzero(is_crowd):
            excused[found_class == truth_class[row]] += shared[row, found_class == truth_class[row]]
        missed = (truth_class >= 0) & ~is_crowd & ~pairs.any(1)
        false = (found_class >= 0) & (found_areas > 0) & ~pairs.any(0) & (excused <= 0.5 * found_areas)
        counts = np.zeros((4, len(self._names)))
        matched = np.broadcast_to(found_class, pairs.shape)[pairs]
        counts[0] = np.bincount(matched, iou[pairs], len(self._names))
        for row, members in enumerate((matched, found_class[false], truth_class[missed]), 1):
            counts[row] = np.bincount(members, minlength=len(self._names))
        self._counts.append(counts)

    def figures(self) -> dict[str, Any]:
        """`pq`, `sq`, `rq`, the same of things and of stuff, `pq_by_class`; None without a class, {} without images."""
        if not self._counts:
            return {}
        quality, known = _quality(np.sum(self._counts, axis=0))
        groups = {"": known, "_things": known & self._things, "_stuff": known & ~self._things}
        found: dict[str, Any] = {
            f"{name}{group}": float(values[chosen].mean()) if chosen.any() else None
            for group, chosen in groups.items()
            for name, values in zip(("pq", "sq", "rq"), quality, strict=True)
        }
        found["pq_by_class"] = {self._names[i]: float(quality[0][i]) for i in np.flatnonzero(known).tolist()}
        return found

    def resampled_pq(self, weights: np.ndarray) -> np.ndarray:
        """PQ as if each image were there several times; (resamples, images) to (resamples,), NaN without a segment."""
        counts = np.stack(self._counts)
        sums = (weights.astype(np.float64) @ counts.reshape(len(counts), -1)).reshape(len(weights), *counts.shape[1:])
        quality, known = _quality(np.moveaxis(sums, 1, 0))
        with np.errstate(invalid="ignore"):
            return np.where(known, quality[0], 0).sum(-1) / known.sum(-1)


def _quality(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(PQ, SQ, RQ) of each class, and whether it occurs, from IoU sum, right, false and missed, (4, ..., classes)."""
    overlap, right, false, missed = counts
    total = right + 0.5 * false + 0.5 * missed
    known = total > 0
    pq, rq = (part / np.where(known, total, 1) for part in (overlap, right))
    return np.stack([pq, overlap / np.maximum(right, 1e-12), rq]), known
