from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native

from ...reference import boxes as reference
from ..manners import assert_lets_threads_run, strided_copy

pytestmark = pytest.mark.usefixtures("level")

STRIDES = [8, 16, 32]


def random_heads(
    seed: int, input_size: tuple[int, int], classes: int = 3, bins: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    cells = len(reference.cell_centres(STRIDES, input_size))
    class_logits = generator.normal(-2, 2, (classes, cells)).astype(np.float32)
    box_bins = generator.normal(0, 3, (4 * bins, cells)).astype(np.float32)
    return class_logits, box_bins


def assert_same_detections(actual, expected):
    boxes, scores, class_ids, cells = actual
    assert [a.dtype for a in actual] == [np.float32, np.float32, np.int32, np.int32]
    assert boxes.shape == (len(scores), 4)
    np.testing.assert_array_equal(class_ids, expected[2])
    np.testing.assert_array_equal(cells, expected[3])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(boxes, expected[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("input_size", [(32, 32), (64, 96), (96, 32)])
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(input_size, classes, seed):
    class_logits, box_bins = random_heads(seed, input_size, classes)
    before = class_logits.copy(), box_bins.copy()
    for options in [
        {},
        {"score_threshold": 0.01, "iou_threshold": 0.3},
        {"score_threshold": 0.01, "class_agnostic": True},
        {"score_threshold": 0.01, "max_candidates": 11},
        {"score_threshold": 0.01, "max_detections": 3},
        {"max_detections": 0},
        {"max_candidates": 0},
        {"score_threshold": 0.9999},
    ]:
        expected = reference.decode_boxes(class_logits, box_bins, STRIDES, input_size, **options)
        actual = _native.decode_boxes(class_logits, box_bins, STRIDES, input_size, **options)
        assert_same_detections(actual, expected)
        strided = _native.decode_boxes(
            strided_copy(class_logits), strided_copy(box_bins), STRIDES, input_size, **options
        )
        for a, b in zip(actual, strided, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(class_logits, before[0])
    np.testing.assert_array_equal(box_bins, before[1])


@pytest.mark.parametrize("bins", [1, 2, 17])
def test_any_number_of_bins(bins):
    class_logits, box_bins = random_heads(0, (64, 64), bins=bins)
    options: dict[str, Any] = {"score_threshold": 0.4}
    expected = reference.decode_boxes(class_logits, box_bins, STRIDES, (64, 64), **options)
    assert_same_detections(_native.decode_boxes(class_logits, box_bins, STRIDES, (64, 64), **options), expected)


def test_no_classes_no_levels():
    _, box_bins = random_heads(0, (32, 32))
    empty = _native.decode_boxes(np.zeros((0, 21), np.float32), box_bins, STRIDES, (32, 32))
    assert [a.shape for a in empty] == [(0, 4), (0,), (0,), (0,)]
    empty = _native.decode_boxes(np.zeros((3, 0), np.float32), np.zeros((64, 0), np.float32), [], (32, 32))
    assert [a.shape for a in empty] == [(0, 4), (0,), (0,), (0,)]


def test_a_known_box():
    # One cell of stride 32 with all weight on bins 1, 0.5, 1, 0.25 on average: left, top, right, bottom.
    box_bins = np.full((8, 1), -200, dtype=np.float32)
    box_bins[1] = 0  # left: bin 1
    box_bins[2:4] = 0  # top: half bin 0, half bin 1
    box_bins[5] = 0  # right: bin 1
    box_bins[6], box_bins[7] = np.log(3), 0  # bottom: three quarters bin 0
    boxes, scores, class_ids, cells = _native.decode_boxes(
        np.array([[-5], [0.5]], np.float32), box_bins, [32], (32, 32)
    )
    np.testing.assert_allclose(boxes, [[-16, 0, 48, 24]], atol=1e-5)
    np.testing.assert_allclose(scores, [1 / (1 + np.exp(-0.5))], rtol=1e-6)
    assert (class_ids.tolist(), cells.tolist()) == ([1], [0])


def far_apart(cells: int) -> np.ndarray:
    """Bins of boxes without extent: no two of them overlap."""
    box_bins = np.full((4 * 2, cells), -200, dtype=np.float32)
    box_bins[::2] = 0
    return box_bins


@pytest.mark.parametrize("score_threshold", [0.5, 0.25, 0.001, 0.3, 1e-30])
def test_threshold_is_strict_and_applied_to_logits(score_threshold):
    limit = np.log(score_threshold / (1 - score_threshold))
    near = np.array([limit], dtype=np.float32)  # arrays, since numpy 1 makes float64 of a scalar and a number
    infinity = np.array([np.inf], np.float32)
    logits = np.concatenate([np.nextafter(near, -infinity), near, np.nextafter(near, infinity), near])[None]
    logits[0, 3] = np.nan
    _, _, _, cells = _native.decode_boxes(logits, far_apart(4), [16], (32, 32), score_threshold)
    expected = [i for i in (2, 1, 0) if float(logits[0, i]) > limit]
    assert cells.tolist() == expected


def test_thresholds_at_and_beyond_the_ends():
    logits = np.array([[-np.inf, np.nan, np.inf, -1e30]], dtype=np.float32)
    for score_threshold in (0.0, -1.0, -np.inf):
        _, scores, _, cells = _native.decode_boxes(logits, far_apart(4), [16], (32, 32), score_threshold)
        assert cells.tolist() == [2, 3, 0]
        assert scores.tolist() == [1, 0, 0]
    for score_threshold in (1.0, 2.0, np.inf):
        assert len(_native.decode_boxes(logits, far_apart(4), [16], (32, 32), score_threshold)[1]) == 0


def test_ties_go_to_the_lower_class_then_the_lower_cell():
    logits = np.array([[1, 2, 0.0, 1], [2, 1, -0.0, 1]], dtype=np.float32)
    _, _, class_ids, cells = _native.decode_boxes(logits, far_apart(4), [16], (32, 32), 0.1)
    expected = [(0, 1), (1, 0), (0, 0), (0, 3), (1, 1), (1, 3), (0, 2), (1, 2)]
    assert list(zip(class_ids.tolist(), cells.tolist(), strict=True)) == expected
    for limit in range(9):
        _, _, class_ids, cells = _native.decode_boxes(logits, far_apart(4), [16], (32, 32), 0.1, max_candidates=limit)
        assert list(zip(class_ids.tolist(), cells.tolist(), strict=True)) == expected[:limit]


def test_all_logits_equal():
    cells = len(reference.cell_centres(STRIDES, (64, 64)))
    logits = np.zeros((3, cells), dtype=np.float32)
    _, scores, class_ids, found = _native.decode_boxes(
        logits, far_apart(cells), STRIDES, (64, 64), 0.1, max_detections=9999
    )
    assert set(scores.tolist()) == {0.5}
    np.testing.assert_array_equal(class_ids, np.repeat(np.arange(3), cells))
    np.testing.assert_array_equal(found, np.tile(np.arange(cells), 3))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_finite_are_left_out(poison):
    logits = np.array([[3, 2, 1, 0]], dtype=np.float32)
    box_bins = far_apart(4)
    box_bins[2:4, 1] = poison
    _, _, _, cells = _native.decode_boxes(logits, box_bins, [16], (32, 32), 0.1)
    assert cells.tolist() == [0, 2, 3]
    box_bins = far_apart(4)
    box_bins[3, 1] = poison  # beside a finite bin, minus infinity is a weight of nothing
    _, _, _, cells = _native.decode_boxes(logits, box_bins, [16], (32, 32), 0.1)
    assert cells.tolist() == ([0, 1, 2, 3] if poison == -np.inf else [0, 2, 3])


def test_half_precision_heads():
    class_logits, box_bins = (head.astype(np.float16) for head in random_heads(3, (64, 96)))
    narrow = _native.decode_boxes(class_logits, box_bins, STRIDES, (64, 96), 0.01)
    wide = _native.decode_boxes(class_logits.astype(np.float32), box_bins.astype(np.float32), STRIDES, (64, 96), 0.01)
    strided = _native.decode_boxes(strided_copy(class_logits), strided_copy(box_bins), STRIDES, (64, 96), 0.01)
    assert len(narrow[1]) > 0
    for a, b, c in zip(narrow, wide, strided, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_every_cell_a_candidate_and_every_box_the_same():
    cells = 8400
    logits = np.full((2, cells), 3.0, np.float32)
    box_bins = np.zeros((64, cells), np.float32)
    box_bins[:, :] = -50
    centres = reference.cell_centres(STRIDES, (640, 640))
    for side, middle in enumerate([centres[:, 0], centres[:, 1], 640 - centres[:, 0], 640 - centres[:, 1]]):
        distance = np.clip(np.round(middle / centres[:, 2]), 0, 15).astype(int)
        box_bins[16 * side + distance, np.arange(cells)] = 50
    kept = _native.decode_boxes(logits, box_bins, STRIDES, (640, 640), max_detections=10000)
    expected = reference.nms(
        reference.all_boxes(box_bins, STRIDES, (640, 640)), logits[0], np.zeros(cells, np.int32), 0.65, 10000
    )
    np.testing.assert_array_equal(kept[3][kept[2] == 0], expected)
    np.testing.assert_array_equal(kept[3][kept[2] == 1], expected)
    agnostic = _native.decode_boxes(logits, box_bins, STRIDES, (640, 640), max_detections=10000, class_agnostic=True)
    np.testing.assert_array_equal(agnostic[3], expected)


@pytest.mark.parametrize("max_detections", [1, 3, 40, 1000])
def test_a_search_over_many_portions_is_the_search_over_all(max_detections):
    """Boxes so alike that few stay: the candidates are gone through portion by portion."""
    class_logits, box_bins = random_heads(5, (256, 256), classes=2)
    box_bins[:] = box_bins[:, :1]
    options: dict[str, Any] = {"score_threshold": 0.01, "iou_threshold": 0.2, "max_detections": max_detections}
    expected = reference.decode_boxes(class_logits, box_bins, STRIDES, (256, 256), **options)
    assert_same_detections(_native.decode_boxes(class_logits, box_bins, STRIDES, (256, 256), **options), expected)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_heads_that_are_not_finite_anywhere(poison):
    heads = np.full((3, 21), poison, np.float32), np.full((64, 21), poison, np.float32)
    for score_threshold in (0.25, 0.0):
        found = _native.decode_boxes(heads[0], heads[1], STRIDES, (32, 32), score_threshold)
        assert [len(a) for a in found] == [0, 0, 0, 0]


def test_many_candidates():
    class_logits, box_bins = random_heads(0, (256, 256), classes=24)
    class_logits += 4
    actual = _native.decode_boxes(class_logits, box_bins, STRIDES, (256, 256), 0.001, max_detections=50)
    expected = reference.decode_boxes(
        class_logits, box_bins, STRIDES, (256, 256), 0.001, max_candidates=2000, max_detections=50
    )
    assert (class_logits > -6).sum() > 30000
    assert_same_detections(actual, expected)  # the first 50 are found among the best 2000


@pytest.mark.parametrize("max_candidates", [1, 100, 900])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_best_of_many_more_candidates_ties_and_all(max_candidates, order):
    """Far more pass than are wanted: those that cannot be among them go while the rest are looked through."""
    class_logits, box_bins = random_heads(0, (256, 256), classes=30)
    class_logits[:] = np.round(class_logits * 2) / 2
    options: dict[str, Any] = {"score_threshold": -1.0, "max_candidates": max_candidates, "max_detections": 60}
    expected = reference.decode_boxes(class_logits, box_bins, STRIDES, (256, 256), **options)
    lying: Any = np.asarray(class_logits, order=order)
    assert_same_detections(_native.decode_boxes(lying, box_bins, STRIDES, (256, 256), **options), expected)


def test_no_candidates():
    class_logits, box_bins = random_heads(0, (64, 96))
    class_logits[:] = -9
    found = _native.decode_boxes(class_logits, box_bins, STRIDES, (64, 96))
    assert [(a.shape, a.dtype) for a in found] == [
        ((0, 4), np.float32),
        ((0,), np.float32),
        ((0,), np.int32),
        ((0,), np.int32),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": np.zeros((3, 20), np.float32)},
            "scores must have shape (C, 21), got (3, 20)",
        ),
        (
            {"scores": np.zeros((1, 3, 21), np.float32)},
            "scores must have shape (C, 21), got (1, 3, 21)",
        ),
        (
            {"scores": np.zeros((3, 21))},
            "scores must have dtype float32, got float64",
        ),
        (
            {"boxes": np.zeros((64, 20), np.float32)},
            "boxes must have shape (4 * bins, 21), got (64, 20)",
        ),
        (
            {"boxes": np.zeros((63, 21), np.float32)},
            "boxes must have shape (4 * bins, 21), got (63, 21)",
        ),
        ({"boxes": np.zeros((0, 21), np.float32)}, "boxes must have shape (4 * bins, 21), got (0, 21)"),
        (
            {"input_size": (32, 40)},
            "input_size must be divisible by every stride, got (32, 40) and stride 16",
        ),
        ({"input_size": (0, 32)}, "input_size must be (height, width), each 1 to 1048576, got (0, 32)"),
        ({"strides": [8, 0]}, "strides must be at least 1, got 0"),
        ({"score_threshold": float("nan")}, "score_threshold must be a number, got nan"),
        ({"iou_threshold": -0.1}, "iou_threshold must lie in 0..1, got -0.1"),
        ({"max_detections": -1}, "max_detections must be at least 0, got -1"),
        ({"max_candidates": -1}, "max_candidates must be at least 0, got -1"),
        ({"box_coding": "cxcywh"}, "box_coding must be one of dfl, ltrb, xyxy, got cxcywh"),
        ({"score_coding": "sigmoid"}, "score_coding must be one of logits, probabilities, got sigmoid"),
        ({"box_coding": "ltrb"}, "boxes must have shape (4, 21), got (64, 21)"),
        ({"box_coding": "xyxy"}, "box_count goes with the box_coding xyxy, and with no other"),
        ({"box_count": 21}, "box_count goes with the box_coding xyxy, and with no other"),
        ({"box_coding": "xyxy", "box_count": 0}, "box_count must be at least 1, got 0"),
        ({"box_coding": "xyxy", "box_count": 22}, "scores must have shape (C, 22), got (3, 21)"),
        ({"box_coding": "xyxy", "box_count": 21}, "boxes must have shape (4, 21), got (64, 21)"),
    ],
)
def test_refuses_bad_arguments(change, message):
    arguments = {
        "scores": np.zeros((3, 21), np.float32),
        "boxes": np.zeros((64, 21), np.float32),
        "strides": STRIDES,
        "input_size": (32, 32),
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.decode_boxes(**{**arguments, **change})


def test_lets_threads_run():
    class_logits, box_bins = random_heads(0, (640, 640), classes=80, bins=4)
    assert_lets_threads_run(
        lambda: _native.decode_boxes(class_logits, box_bins, STRIDES, (640, 640), 0.0, 1.0, 2000, 1 << 30)
    )


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("input_size", [(64, 96), (96, 32)])
def test_columns_of_chosen_cells_only(input_size, count):
    """Whatever order the cells are in, each box lies where its cell is, and comes with its column."""
    class_logits, box_bins = random_heads(count, input_size)
    chosen = np.random.default_rng(count).permutation(class_logits.shape[1])[:count].astype(np.int32)
    options: dict[str, Any] = {"score_threshold": 0.05}
    hidden = class_logits.copy()
    hidden[:, np.setdiff1d(np.arange(class_logits.shape[1]), chosen)] = -np.inf
    expected = reference.decode_boxes(hidden, box_bins, STRIDES, input_size, **options)
    boxes, scores, class_ids, columns = _native.decode_boxes(
        class_logits[:, chosen], box_bins[:, chosen], STRIDES, input_size, **options, cells=chosen
    )
    assert len(boxes) > 0
    assert columns.dtype == np.int32
    assert_same_detections((boxes, scores, class_ids, chosen[columns]), expected)
    strided = _native.decode_boxes(
        class_logits[:, chosen], box_bins[:, chosen], STRIDES, input_size, **options, cells=np.repeat(chosen, 2)[::2]
    )
    np.testing.assert_array_equal(strided[0], boxes)


def test_all_cells_chosen_is_as_none_chosen():
    class_logits, box_bins = random_heads(3, (64, 64))
    every = np.arange(class_logits.shape[1], dtype=np.int32)
    plain = _native.decode_boxes(class_logits, box_bins, STRIDES, (64, 64))
    for a, b in zip(plain, _native.decode_boxes(class_logits, box_bins, STRIDES, (64, 64), cells=every), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.array([0, 21], np.int32), "cells must lie in 0..20, got 21"),
        (np.array([0, -1], np.int32), "cells must lie in 0..20, got -1"),
        (np.array([0, 1], np.int64), "cells must have dtype int32, got int64"),
        (np.array([[0, 1]], np.int32), r"cells must have shape \(K,\), K at least 1, got \(1, 2\)"),
        (np.array([], np.int32), r"cells must have shape \(K,\), K at least 1, got \(0,\)"),
        (np.array([0, 1, 2], np.int32), r"scores must have shape \(C, 3\), got \(3, 2\)"),
    ],
)
def test_cells_that_are_none(cells, message):
    with pytest.raises(ValueError, match=message):
        _native.decode_boxes(np.zeros((3, 2), np.float32), np.zeros((8, 2), np.float32), STRIDES, (32, 32), cells=cells)
