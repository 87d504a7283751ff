"""Boxes and scores in every coding of the contract, against the twin, on four levels, from heads of every type."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native

from ...reference import boxes as reference
from .test_boxes import assert_same_detections
from .test_head_types import assert_same, change, in_type, lying_otherwise

pytestmark = pytest.mark.usefixtures("level")

STRIDES = [8, 16, 32, 64]
SIZE = (128, 192)
CELLS = sum((SIZE[0] // stride) * (SIZE[1] // stride) for stride in STRIDES)
BOX_COUNT = 997  # corners: any number, none that comes of a grid
CODINGS = list(itertools.product(("dfl", "ltrb", "xyxy"), ("logits", "probabilities")))
OTHERS = [coding for coding in CODINGS if coding != ("dfl", "logits")]


def heads_in(
    seed: int, box_coding: str, score_coding: str, classes: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Scores (C, N), boxes (rows, N), and the arguments that say what they are."""
    generator = np.random.default_rng(seed)
    count = BOX_COUNT if box_coding == "xyxy" else CELLS
    scores = generator.normal(-2, 2, (classes, count))
    if score_coding == "probabilities":
        scores = 1 / (1 + np.exp(-scores))
    if box_coding == "dfl":
        boxes = generator.normal(0, 3, (4 * 6, count))
    elif box_coding == "ltrb":
        boxes = generator.exponential(1.5, (4, count)) - 0.1
    else:
        corner, size = generator.uniform(-8, 180, (2, count)), generator.exponential(40, (2, count))
        boxes = np.concatenate([corner, corner + size])
    rules = {
        "strides": STRIDES,
        "input_size": SIZE,
        "box_coding": box_coding,
        "score_coding": score_coding,
        "box_count": BOX_COUNT if box_coding == "xyxy" else None,
    }
    return scores.astype(np.float32), boxes.astype(np.float32), rules


@pytest.mark.parametrize(("box_coding", "score_coding"), CODINGS)
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_reference(box_coding: str, score_coding: str, seed: int) -> None:
    scores, boxes, rules = heads_in(seed, box_coding, score_coding)
    for options in (
        {},
        {"score_threshold": 0.01, "iou_threshold": 0.3},
        {"score_threshold": 0.01, "class_agnostic": True},
        {"score_threshold": 0.01, "max_candidates": 11},
        {"score_threshold": 0.01, "max_detections": 3},
        {"score_threshold": 0.0, "max_candidates": 500},
        {"score_threshold": 1.0},
    ):
        found = _native.decode_boxes(scores, boxes, **rules, **options)
        assert_same_detections(found, reference.decode_boxes(scores, boxes, **rules, **options))
        assert_same(_native.decode_boxes(scores, boxes, **rules, **options, threads=3), found)


@pytest.mark.parametrize(("box_coding", "score_coding"), OTHERS)
@pytest.mark.parametrize("dtype", ["float16", "uint8", "int8"])
def test_heads_of_other_types_and_strides(box_coding: str, score_coding: str, dtype: str) -> None:
    scores, boxes, rules = heads_in(2, box_coding, score_coding)
    if score_coding == "probabilities" and dtype != "float16":
        codes = np.round(scores * 255).astype(np.uint8)
        shift = 0 if dtype == "uint8" else 128
        narrow: Any = ((codes.astype(np.int16) - shift).astype(dtype), 1 / 255, -shift)
        wide = codes.astype(np.float32) * np.float32(1 / 255)
    else:
        narrow, wide = in_type(scores, dtype)
    boxes, wide_boxes = in_type(boxes, dtype)
    for score_threshold in (0.0, 0.05, 0.5, 1.0):
        expected = _native.decode_boxes(wide, wide_boxes, **rules, score_threshold=score_threshold)
        assert_same(_native.decode_boxes(narrow, boxes, **rules, score_threshold=score_threshold), expected)
    expected = _native.decode_boxes(wide, wide_boxes, **rules, score_threshold=0.2)
    assert len(expected[1]) > 20
    for name in lying_otherwise(narrow[0] if isinstance(narrow, tuple) else narrow):
        lying = [change(head, lambda array, name=name: lying_otherwise(array)[name]) for head in (narrow, boxes)]
        assert_same(_native.decode_boxes(*lying, **rules, score_threshold=0.2), expected)


@pytest.mark.parametrize(("box_coding", "score_coding"), CODINGS)
@pytest.mark.parametrize("count", [1, 7, 90])
def test_columns_of_chosen_cells_only(box_coding: str, score_coding: str, count: int) -> None:
    scores, boxes, rules = heads_in(count, box_coding, score_coding)
    chosen = np.random.default_rng(count).permutation(scores.shape[1])[:count].astype(np.int32)
    some = scores[:, chosen], boxes[:, chosen]
    found = _native.decode_boxes(*some, **rules, score_threshold=0.02, cells=chosen)
    assert_same_detections(found, reference.decode_boxes(*some, **rules, score_threshold=0.02, cells=chosen))
    with pytest.raises(ValueError, match=f"cells must lie in 0..{scores.shape[1] - 1}, got {scores.shape[1]}"):
        _native.decode_boxes(*some, **rules, cells=np.full(count, scores.shape[1], np.int32))


def apart(count: int) -> NDArray[np.float32]:
    """Corners of boxes none of which touches another."""
    x = 10 * np.arange(count)
    return np.stack([x, x * 0, x + 5, x * 0 + 5]).astype(np.float32)


def of_corners(scores: NDArray[np.float32], boxes: NDArray[np.float32], threshold: float, **options: Any) -> Any:
    rules: dict[str, Any] = {"box_coding": "xyxy", "score_coding": "probabilities", "box_count": boxes.shape[1]}
    return _native.decode_boxes(scores, boxes, [8], (64, 64), threshold, **rules, **options)


@pytest.mark.parametrize("threshold", [0.5, 0.25, 0.3, 0.1, 1e-30, 0.001, np.nextafter(1.0, 0.0)])
def test_the_threshold_on_probabilities_is_strict_and_they_come_out_unchanged(threshold: float) -> None:
    near = np.array([threshold], np.float32)
    steps = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(2)), np.array([np.nan], np.float32)]
    scores = np.concatenate(steps)[None]
    _, found, _, columns = of_corners(scores, apart(4), threshold)
    expected = [i for i in (2, 1, 0) if float(scores[0, i]) > threshold]
    assert columns.tolist() == expected
    assert found.tolist() == scores[0, expected].tolist()


def test_probabilities_at_the_ends() -> None:
    scores = np.array([[0.0, 1.0, np.nan, 0.5]], np.float32)
    assert of_corners(scores, apart(4), 0.0)[3].tolist() == [1, 3, 0]  # nothing but NaN is left out
    assert of_corners(scores, apart(4), 1e-30)[3].tolist() == [1, 3]
    assert of_corners(scores, apart(4), 1.0)[3].tolist() == []
    assert of_corners(scores, apart(4), 0.0)[1].tolist() == [1.0, 0.5, 0.0]


def test_ties_of_probabilities_go_to_the_lower_class_then_the_lower_column() -> None:
    scores = np.array([[0.5, 0.75, 0.5], [0.75, 0.5, 0.5]], np.float32)
    _, _, class_ids, columns = of_corners(scores, apart(3), 0.1)
    expected = [(0, 1), (1, 0), (0, 0), (0, 2), (1, 1), (1, 2)]
    assert list(zip(class_ids.tolist(), columns.tolist(), strict=True)) == expected


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("box_coding", ["ltrb", "xyxy"])
def test_boxes_that_are_not_finite_are_left_out(poison: float, side: int, box_coding: str) -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    boxes = apart(4) if box_coding == "xyxy" else np.full((4, 4), 0.1, np.float32)
    boxes[side, 1] = poison
    count = 4 if box_coding == "xyxy" else None
    found = _native.decode_boxes(
        scores, boxes, [16], (32, 32), 0.1, box_coding=box_coding, score_coding="probabilities", box_count=count
    )  # fmt: skip
    assert found[3].tolist() == [0, 2, 3]


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_corners_turned_over_suppress_nothing_and_nothing_suppresses_them(class_agnostic: bool) -> None:
    huge = np.float32(3e38)
    boxes = np.array(
        [
            *([0, 0, 20, 20], [20, 0, 0, 20], [0, 20, 20, 0], [20, 20, 0, 0], [0, 0, 20, 20], [5, 5, 5, 20]),
            *([-huge, -huge, huge, huge], [huge, huge, -huge, -huge], [0, 0, 20, 20]),
        ],
        np.float32,
    ).T.copy()
    scores = np.linspace(0.9, 0.1, boxes.shape[1], dtype=np.float32)[None]
    found = of_corners(scores, boxes, 0.05, class_agnostic=class_agnostic)
    assert found[3].tolist() == [0, 1, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(found[0], boxes.T[found[3]])


def test_far_more_corners_than_a_grid_has_cells() -> None:
    generator = np.random.default_rng(0)
    count = 30000
    corner = generator.uniform(0, 600, (2, count))
    boxes = np.concatenate([corner, corner + generator.uniform(1, 60, (2, count))]).astype(np.float32)
    scores = generator.random((2, count), np.float32)
    found = of_corners(scores, boxes, 0.3, max_detections=50, max_candidates=400)
    expected = reference.decode_boxes(
        scores, boxes, [8], (64, 64), 0.3, max_detections=50, max_candidates=400,
        box_coding="xyxy", score_coding="probabilities", box_count=count,
    )  # fmt: skip
    assert_same(found, expected)
