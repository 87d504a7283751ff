"""COCO's average precision and recall, matched image by image, so that neither masks nor run lengths are kept.

The figures are those of pycocotools' `COCOeval`; only its measure of overlap is called. What stays of a detection is
its score, its class and, for each IoU threshold and range of areas, whether it found an object.

Source: https://github.com/cocodataset/cocoapi, which defines the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.results import InstanceMasks
from .dataset.segmentations import Rle, coco_mask

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST_DETECTIONS = 100  # of a class in an image
_FEW = (1, 10)  # AR is also given at so many
_LOW, _HIGH = (np.array(side)[:, None] for side in zip(*AREAS.values(), strict=True))  # (areas, 1)
_BITS = 1 << np.arange(len(IOUS), dtype=np.uint16)

Shapes = np.ndarray | Sequence[Rle] | InstanceMasks
"""(N, 4) float64 boxes as x, y, width, height in pixels; or N masks."""


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image: shapes, (N,) class ids, (N,) bool crowd, (N,) areas in pixels."""

    shapes: Shapes
    class_ids: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class Found:
    """The detections of one image: shapes, (N,) class ids, (N,) scores, (N,) areas in pixels."""

    shapes: Shapes
    class_ids: np.ndarray
    scores: np.ndarray
    areas: np.ndarray


class DetectionScores:
    """Average precision and recall of boxes or of masks.

    Args:
        class_names: What class ids index.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self.images = 0
        self._rows: list[np.ndarray] = []  # of `_ROW`, one array an image
        self._truth: list[np.ndarray] = []  # (objects, 1 + areas) int16: class id, whether it counts in that range

    def add(self, truth: Objects, found: Found) -> None:
        """Match the detections of one image with its objects."""
        order = np.lexsort((-found.scores, found.class_ids))  # stable, as COCO's sorting is
        ids = found.class_ids[order]
        rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
        order, ids, rank = (one[rank < MOST_DETECTIONS] for one in (order, ids, rank))
        matched, ignored = np.zeros((2, len(AREAS), len(IOUS), len(ids)), bool)
        for class_id in np.unique(truth.class_ids).tolist():
            mine = slice(*np.searchsorted(ids, [class_id, class_id + 1]).tolist())
            wanted = np.flatnonzero(truth.class_ids == class_id)
            if mine.start < mine.stop:
                crowd = truth.crowd[wanted]
                shapes = _picked(found.shapes, order[mine]), _picked(truth.shapes, wanted)
                pairs = _match(coco_mask.iou(*shapes, crowd.tolist()), crowd, ~_counts(truth, wanted))
                matched[:, :, mine], ignored[:, :, mine] = pairs
        # A detection that found nothing is no false one where its own size is out of the range.
        areas = found.areas[order]
        ignored |= ~matched & ((areas < _LOW) | (areas > _HIGH))[:, None]
        row = np.zeros(len(ids), _ROW)
        row["class_id"], row["image"], row["rank"], row["score"] = ids, self.images, rank, found.scores[order]
        row["hit"], row["ignored"] = _packed(matched & ~ignored), _packed(ignored)
        self._rows.append(row)
        counts = _counts(truth, np.arange(len(truth.class_ids)))
        self._truth.append(np.concatenate([truth.class_ids[None], counts]).T.astype(np.int16))
        self.images += 1

    def figures(self, prefix: str) -> dict[str, Any]:
        """AP, AP50, AP75, AR at 1, 10 and 100, AP and AR by area and by class; {} where there is no object to find.

        A figure is None where no object lies in its range.
        """
        truth = np.concatenate([np.zeros((0, 1 + len(AREAS)), np.int16), *self._truth])
        present = np.unique(truth[:, 0]).tolist()
        if not present:
            return {}
        rows = self._ordered()
        precision = np.full((len(AREAS), len(present), len(IOUS), len(RECALLS)), np.nan)
        recall = np.full((len(AREAS), len(present), len(IOUS)), np.nan)
        recall_few = np.full((len(_FEW), len(present), len(IOUS)), np.nan)
        for k, class_id in enumerate(present):
            counted = truth[truth[:, 0] == class_id, 1:].sum(0, dtype=np.int64)  # (areas,)
            mine = rows[slice(*np.searchsorted(rows["class_id"], [class_id, class_id + 1]))]
            for a, count in enumerate(counted.tolist()):
                if count:
                    hit, ignored = (_unpacked(mine[field][:, a]) for field in ("hit", "ignored"))
                    precision[a, k], recall[a, k] = _curve(hit, ignored, count)
                    if a == 0:
                        for few, most in enumerate(_FEW):
                            recall_few[few, k] = hit[:, mine["rank"] < most].sum(1) / count
        ar = f"{prefix}_ar"
        figures: dict[str, Any] = {
            f"{prefix}_ap": _mean(precision[0]),
            f"{prefix}_ap50": _mean(precision[0, :, 0]),
            f"{prefix}_ap75": _mean(precision[0, :, 5]),
            **{f"{ar}{most}": _mean(recall_few[few]) for few, most in enumerate(_FEW)},
            f"{ar}{MOST_DETECTIONS}": _mean(recall[0]),
        }
        for a, size in enumerate(AREAS):
            if size != "all":
                figures[f"{prefix}_ap_{size}"] = _mean(precision[a])
                figures[f"{ar}_{size}"] = _mean(recall[a])
        by_class = [(self._class_names[c], precision[0, k], recall[0, k]) for k, c in enumerate(present)]
        known = [one for one in by_class if not np.isnan(one[2]).any()]
        figures[f"{prefix}_ap_by_class"] = {name: float(one.mean()) for name, one, _ in known}
        figures[f"{ar}_by_class"] = {name: float(one.mean()) for name, _, one in known}
        return figures

    def resampled_ap(self, weights: np.ndarray) -> np.ndarray:
        """AP as if each image were there several times.

        Args:
            weights: (resamples, images) integers: how often each image is taken.

        Returns:
            (resamples,) float64; NaN where no object was taken.
        """
        rows = self._ordered()
        objects = np.concatenate([np.zeros((0, 1 + len(AREAS)), np.int16), *self._truth])
        owner = np.repeat(np.arange(self.images), [len(one) for one in self._truth])
        counted = objects[:, 1] > 0
        classes, object_class = np.unique(objects[counted, 0], return_inverse=True)
        owner = owner[counted]
        rows = rows[np.isin(rows["class_id"], classes)]
        hit, ignored = rows["hit"][:, 0], rows["ignored"][:, 0]
        # Behind the last object found at the lowest threshold, precision is not read any more.
        last = np.zeros(len(classes), np.int64)
        row_class = np.searchsorted(classes, rows["class_id"])
        found = np.flatnonzero(hit)
        last[row_class[found]] = found + 1  # rising, so the last one stays
        kept = np.flatnonzero(np.arange(len(rows)) < last[row_class])
        hit, ignored, row_class, image = hit[kept], ignored[kept], row_class[kept], rows["image"][kept]
        starts = np.searchsorted(row_class, np.arange(len(classes)))
        places = [_Hits(np.flatnonzero(hit & bit), np.flatnonzero(ignored & bit), row_class, starts) for bit in _BITS]
        wanted = RECALLS + 2.0 * np.arange(len(classes))[:, None]  # of class k between 2 k and 2 k + 1
        answers = np.full(len(weights), np.nan)
        for r, weight in enumerate(weights):
            objects_taken = np.bincount(object_class, weight[owner], len(classes))
            if not objects_taken.any():
                continue
            row_weight = weight[image]
            taken = np.cumsum(row_weight, dtype=np.float64)
            per_class = np.zeros(len(classes))
            for one in places:
                per_class += one.average_precision(row_weight, taken, objects_taken, wanted)
            answers[r] = per_class[objects_taken > 0].mean() / len(IOUS)
        return answers

    def _ordered(self) -> np.ndarray:
        """All rows by class, and by falling score within one; the order of images on a tie."""
        rows = np.concatenate([np.zeros(0, _ROW), *self._rows])
        return rows[np.lexsort((-rows["score"], rows["class_id"]))]


_ROW = np.dtype(
    [
        ("score", np.float32),
        ("image", np.int32),
        ("class_id", np.int16),
        ("rank", np.uint8),  # within class and image
        ("hit", np.uint16, len(AREAS)),  # a bit for each IoU threshold
        ("ignored", np.uint16, len(AREAS)),
    ]
)


@dataclass(frozen=True)
class _Hits:
    """At one IoU threshold: which rows found an object, which do not count, (rows,) and the first row of each class."""

    hits: np.ndarray
    ignored: np.ndarray
    row_class: np.ndarray
    starts: np.ndarray

    def average_precision(
        self, weight: np.ndarray, taken: np.ndarray, objects: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """AP of each class, (classes,), from the weight of each row, its running sum, and the objects of each class.

        All classes lie one after the other in the same arrays. Precision is read at rows that found an object only,
        since in between it falls.
        """
        owner = self.row_class[self.hits]
        right = np.cumsum(weight[self.hits], dtype=np.float64)
        all_rows = taken[self.hits]
        skipped = np.concatenate([[0.0], np.cumsum(weight[self.ignored], dtype=np.float64)])
        all_rows = all_rows - skipped[np.searchsorted(self.ignored, self.hits)]
        before = _before(right, np.searchsorted(owner, np.arange(len(objects))))
        before_rows = _before(taken, self.starts) - skipped[np.searchsorted(self.ignored, self.starts)]
        right = right - before[owner]
        precision = right / np.maximum(all_rows - before_rows[owner], 1e-12)
        recall = right / np.maximum(objects[owner], 1e-12)
        # The best precision at this recall or a higher one; each class lies above those behind it.
        floor = 2.0 * (len(objects) - owner)
        best = np.maximum.accumulate((precision + floor)[::-1])[::-1] - floor
        key = recall + 2.0 * owner
        place = np.searchsorted(key, wanted - 1e-12)
        padded_best, padded_owner = np.append(best, 0.0), np.append(owner, -1)
        return np.where(padded_owner[place] == np.arange(len(objects))[:, None], padded_best[place], 0.0).mean(1)


def _before(running: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The running sum just before each start."""
    return np.concatenate([[0.0], running])[starts]


def _picked(shapes: Shapes, rows: np.ndarray) -> Any:
    if isinstance(shapes, InstanceMasks):
        return shapes[rows].rle()  # only of those that are compared with something
    return shapes[rows] if isinstance(shapes, np.ndarray) else [shapes[i] for i in rows.tolist()]


def _counts(truth: Objects, rows: np.ndarray) -> np.ndarray:
    """(areas, objects) bool: whether an object must be found in that range of areas; a crowd never must."""
    areas = truth.areas[rows].astype(np.float64)
    return ~truth.crowd[rows] & (areas >= _LOW) & (areas <= _HIGH)


def _match(overlaps: np.ndarray, crowd: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection, best score first, the object it overlaps most that is still free.

    Args:
        overlaps: (detections, objects) IoU, with a crowd the share of the detection that lies in it.
        crowd: (objects,) bool; a crowd takes any number of detections.
        ignored: (areas, objects) bool, what need not be found; taken only where nothing else is reached.

    Returns:
        Two (areas, IoU thresholds, detections) bool: found something, and what it found is ignored.
    """
    detections, objects = overlaps.shape
    matched, to_ignored = np.zeros((2, len(AREAS), len(IOUS), detections), bool)
    free = np.ones((len(AREAS), len(IOUS), objects), bool)
    for d in np.flatnonzero(overlaps.max(1) >= IOUS[0]):
        near = np.flatnonzero(overlaps[d] >= IOUS[0])
        near = near[np.argsort(overlaps[d, near], kind="stable")][::-1]  # best first; of equal ones the last
        undecided = np.ones((len(AREAS), len(IOUS)), bool)
        for want_ignored in (False, True):
            for g in near.tolist():
                takes = undecided & free[:, :, g] & (overlaps[d, g] >= IOUS) & (ignored[:, g] == want_ignored)[:, None]
                if not takes.any():
                    continue
                undecided &= ~takes
                matched[:, :, d] |= takes
                if want_ignored:
                    to_ignored[:, :, d] |= takes
                if not crowd[g]:
                    free[:, :, g] &= ~takes
    return matched, to_ignored


def _curve(hit: np.ndarray, ignored: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at `RECALLS`, (IoU thresholds, 101), and the recall reached, from rows by falling score."""
    precision, reached = np.zeros((len(IOUS), len(RECALLS))), np.zeros(len(IOUS))
    for t in range(len(IOUS)):
        right = np.cumsum(hit[t], dtype=np.float64)
        wrong = np.cumsum(~hit[t] & ~ignored[t], dtype=np.float64)
        if not len(right):
            continue
        recall = right / count
        reached[t] = recall[-1]
        best = np.maximum.accumulate((right / (right + wrong + np.spacing(1)))[::-1])[::-1]
        place = np.searchsorted(recall, RECALLS, side="left")
        inside = place < len(best)
        precision[t, inside] = best[place[inside]]
    return precision, reached


def _packed(flags: np.ndarray) -> np.ndarray:
    """(areas, IoU thresholds, detections) bool as (detections, areas) uint16, a bit a threshold."""
    return np.einsum("atd,t->da", flags.astype(np.uint16), _BITS)


def _unpacked(bits: np.ndarray) -> np.ndarray:
    """(rows,) uint16 as (IoU thresholds, rows) bool."""
    return (bits & _BITS[:, None]) > 0


def _mean(values: np.ndarray) -> float | None:
    """The mean over what is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
