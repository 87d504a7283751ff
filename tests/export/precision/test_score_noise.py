"""Scores with their noise: the same figures as the evaluation gives, and what the images can tell of a drop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.segmentations import coco_mask
from yolor_edge.evaluation.dataset.truth import Truth
from yolor_edge.evaluation.scores import Predictions
from yolor_edge.export.precision.score_noise import ImageScores, allowed_drops, check_max_drop, verdict_of
from yolor_edge.runtime.bundle.spec import ModelSpec, Thresholds
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.results import Caption, InstanceMasks, Result

SIZE = (48, 64)
CLASSES = ("circle", "star", "ring")
SPEC = cast(ModelSpec, SimpleNamespace(class_names=CLASSES, semantic_names=CLASSES, thresholds=Thresholds(score=0.5)))
WORDS = ("a", "red", "circle", "left", "of", "two", "stars")


class FixedMap:
    def __init__(self, semantic: np.ndarray) -> None:
        self.semantic = semantic

    def read(self, size: tuple[int, int]) -> np.ndarray:
        return self.semantic


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 30, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(6, 18, (count, 2))], 1).astype(np.float32)


def masks_of(boxes: np.ndarray) -> list[np.ndarray]:
    masks = []
    for x1, y1, x2, y2 in boxes.astype(int):
        mask = np.zeros(SIZE, np.uint8, order="F")
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = 1
        masks.append(mask)
    return masks


def image(rng: np.random.Generator, place: int) -> Truth:
    count = int(rng.integers(0, 5))
    boxes = boxes_of(rng, count)
    rles = [{"size": list(SIZE), "counts": coco_mask.encode(mask)["counts"].decode()} for mask in masks_of(boxes)]
    return Truth(
        image_id=place,
        path=Path("1.png"),
        size=SIZE,
        boxes=boxes,
        class_ids=rng.integers(0, 3, count),
        crowd=rng.random(count) < 0.15,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        segmentations=tuple(rles),
        semantic=cast(Any, FixedMap(rng.integers(0, 3, SIZE).astype(np.uint8))),
        captions=tuple(" ".join(rng.choice(WORDS, 5)) for _ in range(2)),
    )


def answer(rng: np.random.Generator, truth: Truth) -> Result:
    """The truth somewhat moved, and as many boxes where nothing is."""
    assert truth.boxes is not None and truth.class_ids is not None and truth.captions
    boxes = np.concatenate([truth.boxes + rng.normal(0, 1, truth.boxes.shape), boxes_of(rng, 4)]).astype(np.float32)
    classes = np.concatenate([truth.class_ids, rng.integers(0, 3, 4)]).astype(np.int32)
    scores = rng.random(len(boxes)).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    expected = truth.semantic_map()
    assert expected is not None
    wrong = rng.random(SIZE) < 0.2
    return Result(
        image_size=SIZE,
        boxes=boxes[order],
        scores=scores[order],
        class_ids=classes[order],
        masks=InstanceMasks([(0, 0, mask) for mask in masks_of(boxes[order])], image_size=SIZE),
        semantic_map=np.where(wrong, (expected + 1) % 3, expected).astype(np.uint8),
        caption=Caption(truth.captions[0].replace("red", "blue"), (), 0.0, 0.0),
    )


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Truth, Result]]:
    rng = np.random.default_rng(3)
    truths = [image(rng, place) for place in range(12)]
    return [(truth, answer(rng, truth)) for truth in truths]


def scored(pairs: list[tuple[Truth, Result]]) -> ImageScores:
    found = ImageScores(SPEC)
    for truth, result in pairs:
        found.add(truth, result)
    return found


def evaluated(pairs: list[tuple[Truth, Result]]) -> dict[str, float]:
    predictions = Predictions(CLASSES, CLASSES)
    for truth, result in pairs:
        predictions.add(truth, result)
    scores = predictions.finish()
    return {"box AP": scores.box_ap, "mask AP": scores.mask_ap, "mIoU": scores.miou, "CIDEr": scores.cider}  # type: ignore[dict-item]


def test_scores_are_those_of_the_evaluation(pairs: list[tuple[Truth, Result]]) -> None:
    assert dict(scored(pairs)) == pytest.approx(evaluated(pairs), abs=1e-6)


def test_truth_that_is_partial_or_sticks_out_is_scored_as_the_evaluation_does(
    pairs: list[tuple[Truth, Result]],
) -> None:
    """A box without an outline, boxes beyond the image, classes that nobody labelled."""
    partial = []
    for place, (truth, result) in enumerate(pairs):
        assert truth.boxes is not None and truth.segmentations is not None
        annotated = np.hstack([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2] + 5]).astype(np.float64)
        outlines = (None, *truth.segmentations[1:]) if truth.segmentations else ()
        known = np.array([True, True, False]) if place % 2 else None
        changed = dataclasses.replace(
            truth, annotated_boxes=annotated, segmentations=outlines, known_classes=known, semantic=truth.semantic
        )
        partial.append((changed, result))
    assert dict(scored(partial)) == pytest.approx(evaluated(partial), abs=1e-6)
    assert dict(scored(partial)) != pytest.approx(dict(scored(pairs)), abs=1e-3)


def test_a_draw_scores_as_if_its_images_were_there_so_often(pairs: list[tuple[Truth, Result]]) -> None:
    found = scored(pairs)
    draws = np.random.default_rng(0).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), 200)
    repeated = [pair for pair, times in zip(pairs, draws[0], strict=True) for _ in range(times)]
    expected = evaluated(repeated)
    for name in ("box AP", "mask AP", "mIoU"):  # rare words of captions stay those of all images
        assert found.drawn(name)[0] == pytest.approx(expected[name], abs=1e-6)


def test_the_same_answers_are_within_and_agree(pairs: list[tuple[Truth, Result]]) -> None:
    found, same = scored(pairs), scored(pairs)
    verdict = found.verdict("box AP", same, 0.01)
    assert (verdict.answer, verdict.low, verdict.high) == ("within", 0.0, 0.0)
    agreement = found.agreement(same)
    assert (agreement.precision, agreement.recall, agreement.captions, agreement.tokens) == (1.0, 1.0, 1.0, 1.0)
    assert (agreement.kept or 0) == (agreement.kept_in_fp32 or 0) > 0


def test_scores_that_sink_show_in_what_is_kept_and_not_in_ap(pairs: list[tuple[Truth, Result]]) -> None:
    sunk = [(truth, dataclasses.replace(result, scores=result.scores * 0.7)) for truth, result in pairs]  # type: ignore[operator]
    found, other = scored(pairs), scored(sunk)
    assert found["box AP"] == other["box AP"]
    agreement = found.agreement(other)
    assert agreement.precision == 1.0
    assert agreement.recall is not None and agreement.recall < 0.8


def test_words_that_differ_are_counted(pairs: list[tuple[Truth, Result]]) -> None:
    other = [
        (truth, dataclasses.replace(result, caption=Caption(f"{result.caption.text} indeed", (), 0.0, 0.0)))  # type: ignore[union-attr]
        for truth, result in pairs
    ]
    agreement = scored(pairs).agreement(scored(other))
    assert agreement.captions == 0.0
    assert agreement.tokens == pytest.approx(2 * 5 / 11)


def test_a_drop_of_one_image_cannot_be_told(pairs: list[tuple[Truth, Result]]) -> None:
    """One image of twelve loses all it has: more than allowed, or chance."""
    spoilt = [
        (truth, answer(np.random.default_rng(8), truth) if i == 5 else result)
        for i, (truth, result) in enumerate(pairs)
    ]
    found, other = scored(pairs), scored(spoilt)
    verdict = found.verdict("mask AP", other, abs(found["mask AP"] - other["mask AP"]) * 1.2)
    assert verdict.answer == "cannot be told"
    assert verdict.low < verdict.drop < verdict.high
    assert verdict.needed is not None and verdict.needed > 12
    assert str(verdict).startswith("cannot be told on 12 images: the drop lies in ")


@pytest.mark.parametrize(
    ("drop", "low", "high", "images", "answer", "needed"),
    [
        (0.002, -0.001, 0.008, 20, "within", None),
        (0.05, 0.02, 0.08, 20, "beyond", None),
        (0.005, -0.01, 0.02, 20, "cannot be told", 180),  # three times too wide: nine times the images
        (0.01, -0.01, 0.02, 20, "cannot be told", None),
        (0.0, 0.0, 0.0, 1, "cannot be told", None),
    ],
)
def test_answers(drop: float, low: float, high: float, images: int, answer: str, needed: int | None) -> None:
    verdict = verdict_of(drop, low, high, 0.01, images)
    assert (verdict.answer, verdict.needed) == (answer, needed)


def test_a_budget_by_task() -> None:
    assert allowed_drops(0.02) == {"box AP": 0.02, "mask AP": 0.02, "mIoU": 0.02, "CIDEr": 0.02}
    assert allowed_drops({"caption": 0.05}) == {"box AP": 0.01, "mask AP": 0.01, "mIoU": 0.01, "CIDEr": 0.05}
    with pytest.raises(UsageError, match=r"there is no task 'captions'; the tasks are boxes, masks"):
        check_max_drop({"captions": 0.05})
    with pytest.raises(UsageError, match=r"of masks must not be negative, got -1"):
        check_max_drop({"masks": -1})
