"""Where boxes go wrong, at an overlap of 0.5 with the truth: precision by recall, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...evaluation.dataset.truth import Truth
from ...runtime.results import Result

IOU = 0.5
CONFUSION_SCORE = 0.25
"""Detections below this score are left out of the confusion, as nobody would show them."""
CLASSES_SHOWN = 20
"""Of the confusion: the most frequent ones, the rest together as "others"."""
CURVES_SHOWN = 7
_RECALLS = np.linspace(0.0, 1.0, 101)


class Matches:
    """Collects results beside their truth, one image after the other.

    A crowd is no object to find; what lies in it counts neither as right nor as wrong.

    Args:
        class_names: What class ids of truth and results index.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = tuple(class_names)
        count = len(self._names)
        self._objects = np.zeros(count, np.int64)
        self._found: list[list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = [[] for _ in range(count)]
        self._confusion = np.zeros((count + 1, count + 1), np.int64)  # [truth, prediction], the last is nothing

    def add(self, truth: Truth, result: Result) -> None:
        """Take the result for one image; one without truth or answer for boxes is passed over."""
        if truth.boxes is None or truth.class_ids is None or truth.crowd is None:
            return
        if result.boxes is None or result.class_ids is None or result.scores is None:
            return
        single = ~truth.crowd
        boxes, classes = truth.boxes[single], truth.class_ids[single]
        self._objects += np.bincount(classes, minlength=len(self._names))
        overlaps = _overlaps(result.boxes, boxes)
        in_crowd = np.asarray((_covered(result.boxes, truth.boxes[truth.crowd]) >= IOU).any(1))
        for class_id in np.unique(result.class_ids).tolist():
            rows = np.flatnonzero(result.class_ids == class_id)  # by falling score
            columns = np.flatnonzero(classes == class_id)
            hits = _greedy(overlaps[np.ix_(rows, columns)]) >= 0
            counted = hits | ~in_crowd[rows]
            self._found[class_id].append((result.scores[rows][counted], hits[counted]))
        self._confuse(result, overlaps, classes, in_crowd)

    def _confuse(
        self, result: Result, overlaps: NDArray[np.float64], classes: NDArray[np.int64], in_crowd: NDArray[np.bool_]
    ) -> None:
        assert result.scores is not None and result.class_ids is not None
        nothing = len(self._names)
        rows = np.flatnonzero(result.scores >= CONFUSION_SCORE)
        # Its own class has the first claim on an object, then whatever class lies there.
        own = result.class_ids[rows][:, None] == classes
        matched = _greedy(np.where(own, overlaps[rows], 0.0))
        left = matched < 0
        taken = np.zeros(len(classes), bool)
        taken[matched[~left]] = True
        matched[left] = _greedy(np.where(taken, 0.0, overlaps[rows[left]]))
        for row, column in zip(rows.tolist(), matched.tolist(), strict=True):
            if column >= 0:
                self._confusion[classes[column], result.class_ids[row]] += 1
            elif not in_crowd[row]:
                self._confusion[nothing, result.class_ids[row]] += 1
        missed = np.ones(len(classes), bool)
        missed[matched[matched >= 0]] = False
        self._confusion[:nothing, nothing] += np.bincount(classes[missed], minlength=nothing)

    def to_json(self) -> dict[str, Any] | None:
        """Curves and confusion as plain JSON values; None where there was no object.

        Returns:
            `precision`: at the recalls 0, 0.01 ... 1 the mean over classes ("mean") and that of the most frequent
            classes by name; `names` and `confusion`: counts [truth][prediction] of the most frequent classes, those of
            all others together, and at last of nothing.
        """
        present = [int(i) for i in np.argsort(-self._objects, kind="stable") if self._objects[i]]
        if not present:
            return None
        curves = {class_id: self._curve(class_id) for class_id in present}
        shown = present[:CLASSES_SHOWN]
        others = [i for i in range(len(self._names)) if i not in shown]
        groups = [[i] for i in shown] + ([others] if others else []) + [[len(self._names)]]
        confusion = [[int(self._confusion[np.ix_(row, column)].sum()) for column in groups] for row in groups]
        names = [self._names[i] for i in shown] + (["others"] if others else []) + ["nothing"]
        mean = np.mean(list(curves.values()), 0)
        by_name = {self._names[i]: curves[i] for i in (present[:CURVES_SHOWN] if len(present) > 1 else [])}
        precision = {name: np.round(curve, 4).tolist() for name, curve in {"mean": mean, **by_name}.items()}
        return {"precision": precision, "names": names, "confusion": confusion}

    def _curve(self, class_id: int) -> NDArray[np.float64]:
        """(101,) the best precision at each recall or beyond; 0 where it is not reached."""
        found = self._found[class_id]
        if not found:
            return np.zeros(len(_RECALLS))
        scores, hits = (np.concatenate(column) for column in zip(*found, strict=True))
        hits = hits[np.argsort(-scores, kind="stable")]
        right = np.cumsum(hits)
        recall = right / self._objects[class_id]
        precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(recall, _RECALLS - 1e-9)
        return np.where(at < len(hits), precision[np.minimum(at, len(hits) - 1)], 0.0)


def _greedy(overlaps: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row in turn the column it overlaps most of those left, if by `IOU` or more, else -1."""
    matched = np.full(len(overlaps), -1, np.int64)
    left = overlaps.copy()
    for row in np.flatnonzero((overlaps >= IOU).any(1)).tolist():
        column = int(left[row].argmax())
        if left[row, column] >= IOU:
            matched[row] = column
            left[:, column] = 0.0
    return matched


def _overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(len(a), len(b)) intersection over union."""
    both = _intersections(a, b)
    return both / np.maximum(_areas(a)[:, None] + _areas(b) - both, 1e-9)


def _covered(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(len(a), len(b)) the share of each box of `a` that lies in one of `b`."""
    return _intersections(a, b) / np.maximum(_areas(a)[:, None], 1e-9)


def _intersections(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2]).astype(np.float64)
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0.0, None).prod(2)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    return (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(1)
