from __future__ import annotations

import re

import numpy as np
import pytest
from yolor_edge.runtime import _native

from ...reference import boxes as reference
from ..manners import assert_lets_threads_run, strided_copy

pytestmark = pytest.mark.usefixtures("level")


def random_boxes(seed: int, n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 24, (n, 2))
    boxes = np.concatenate([corners, corners + generator.integers(0, 20, (n, 2))], axis=1).astype(np.float32)
    scores = (generator.integers(0, 20, n) / 20).astype(np.float32)  # many ties
    return boxes, scores, generator.integers(0, classes, n).astype(np.int32)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 60, 151])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_equals_the_reference(n, seed, class_agnostic):
    boxes, scores, class_ids = random_boxes(seed, n)
    before = boxes.copy(), scores.copy(), class_ids.copy()
    for iou_threshold, max_detections in [(0.5, 300), (0.3, 5), (0.0, 300), (1.0, 300), (0.5, 0)]:
        options = (iou_threshold, max_detections, class_agnostic)
        kept = _native.nms(boxes, scores, class_ids, *options)
        assert kept.dtype == np.int32
        np.testing.assert_array_equal(kept, reference.nms(boxes, scores, class_ids, *options))
        strided = strided_copy(boxes), strided_copy(scores[None])[0], strided_copy(class_ids[None])[0]
        np.testing.assert_array_equal(_native.nms(*strided, *options), kept)
    for array, old in zip((boxes, scores, class_ids), before, strict=True):
        np.testing.assert_array_equal(array, old)


def kept_of_pair(second: list[float], iou_threshold: float, class_ids: tuple[int, int] = (0, 0)) -> list[int]:
    boxes = np.array([[0, 0, 20, 1], second], dtype=np.float32)
    scores = np.array([0.9, 0.8], dtype=np.float32)
    return _native.nms(boxes, scores, np.array(class_ids, dtype=np.int32), iou_threshold).tolist()


def test_overlap_just_under_at_and_over_the_threshold():
    # The first box is 20 x 1: a part of it that is n long has IoU n / 20.
    for n in range(1, 20):
        assert kept_of_pair([0, 0, n, 1], n / 20) == [0, 1], "exactly equal survives"
    assert kept_of_pair([0, 0, 13, 1], 0.65) == [0, 1]
    assert kept_of_pair([0, 0, np.nextafter(np.float32(13), np.float32(14)), 1], 0.65) == [0]
    assert kept_of_pair([0, 0, np.nextafter(np.float32(13), np.float32(12)), 1], 0.65) == [0, 1]


def test_classes_are_apart_unless_told_otherwise():
    assert kept_of_pair([0, 0, 20, 1], 0.5, (0, 1)) == [0, 1]
    assert kept_of_pair([0, 0, 20, 1], 0.5, (7, 7 + 1024)) == [0, 1]
    assert kept_of_pair([0, 0, 20, 1], 0.5, (-1, 1023)) == [0, 1]
    assert kept_of_pair([0, 0, 20, 1], 0.5, (-1, -1)) == [0]


def test_equal_scores_go_to_the_lower_index():
    boxes = np.tile(np.array([[0, 0, 4, 4]], dtype=np.float32), (5, 1))
    kept = _native.nms(boxes, np.ones(5, np.float32), np.array([0, 1, 0, 1, 2], np.int32))
    np.testing.assert_array_equal(kept, [0, 1, 4])


def test_boxes_without_area_never_overlap():
    boxes = np.array([[3, 3, 3, 3], [3, 3, 3, 3], [0, 5, 9, 5], [9, 9, 2, 2], [0, 0, 10, 10]], dtype=np.float32)
    kept = _native.nms(boxes, np.linspace(1, 0, 5, dtype=np.float32), np.zeros(5, np.int32), 0.0)
    np.testing.assert_array_equal(kept, [0, 1, 2, 3, 4])


def test_rows_that_cannot_be_ranked_or_compared_are_left_out():
    boxes = np.tile(np.array([[0, 0, 4, 4]], dtype=np.float32), (5, 1)) + 10 * np.arange(5, dtype=np.float32)[:, None]
    scores = np.array([0.1, np.nan, np.inf, -np.inf, 0.2], dtype=np.float32)
    boxes[4, 2] = np.inf
    np.testing.assert_array_equal(_native.nms(boxes, scores, np.zeros(5, np.int32)), [2, 0, 3])
    boxes[0, 0] = np.nan
    np.testing.assert_array_equal(_native.nms(boxes, scores, np.zeros(5, np.int32)), [2, 3])


@pytest.mark.parametrize("classes", [1, 5])
def test_more_kept_boxes_of_a_class_than_a_vector_holds(classes):
    generator = np.random.default_rng(classes)
    corners = generator.uniform(0, 400, (600, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 60, (600, 2))], axis=1).astype(np.float32)
    scores = generator.random(600).astype(np.float32)
    class_ids = (generator.integers(0, classes, 600) * 1024).astype(np.int32)  # all in one bucket
    kept = _native.nms(boxes, scores, class_ids, 0.3, 600)
    assert len(kept) > 100
    np.testing.assert_array_equal(kept, reference.nms(boxes, scores, class_ids, 0.3, 600))


def test_enormous_boxes_are_compared_without_overflowing():
    boxes = np.array([[-3e38, -3e38, 3e38, 3e38], [0, 0, 1, 1]], dtype=np.float32)
    kept = _native.nms(boxes, np.array([1, 0.5], np.float32), np.zeros(2, np.int32), 0.5)
    np.testing.assert_array_equal(kept, [0, 1])


def test_takes_wide_class_ids():
    boxes, scores, class_ids = random_boxes(0, 20)
    np.testing.assert_array_equal(
        _native.nms(boxes, scores, class_ids.astype(np.int64)), _native.nms(boxes, scores, class_ids)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((3, 85), np.float32)}, "boxes must have shape (N, 4), got (3, 85)"),
        ({"boxes": np.zeros(4, np.float32)}, "boxes must have shape (N, 4), got (4,)"),
        ({"boxes": np.zeros((3, 4))}, "boxes must have dtype float32, got float64"),
        ({"scores": np.zeros(2, np.float32)}, "scores must have shape (3,), got (2,)"),
        ({"scores": np.zeros((3, 1), np.float32)}, "scores must have shape (3,), got (3, 1)"),
        ({"class_ids": np.zeros(4, np.int32)}, "class_ids must have shape (3,), got (4,)"),
        ({"class_ids": np.zeros(3, np.float32)}, "class_ids must have dtype int32, got float32"),
        ({"iou_threshold": 1.5}, "iou_threshold must lie in 0..1, got 1.5"),
        ({"iou_threshold": float("nan")}, "iou_threshold must lie in 0..1, got nan"),
        ({"max_detections": -1}, "max_detections must be at least 0, got -1"),
    ],
)
def test_refuses_bad_arguments(change, message):
    arguments = {
        "boxes": np.zeros((3, 4), np.float32),
        "scores": np.zeros(3, np.float32),
        "class_ids": np.zeros(3, np.int32),
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.nms(**{**arguments, **change})


def test_lets_threads_run():
    boxes = (np.arange(12000, dtype=np.float32)[:, None] + np.array([0, 0, 1, 1], np.float32)).astype(np.float32)
    scores, class_ids = np.ones(12000, np.float32), np.zeros(12000, np.int32)
    assert_lets_threads_run(lambda: _native.nms(boxes, scores, class_ids, 0.5, 12000))
