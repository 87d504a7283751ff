"""Panoptic quality against a plain implementation of its definition, and the merge of masks and maps by hand."""

from __future__ import annotations

import numpy as np
import pytest
from yolor_edge.evaluation.panoptic_scores import PanopticPrediction, PanopticScores, merge, semantic_classes_of
from yolor_edge.runtime.results import InstanceMasks, Result

NAMES = ("cat", "dog", "grass", "sky", "road")
THINGS = {0, 1}
Example = tuple[np.ndarray, dict[int, int], set[int], PanopticPrediction]


def random_example(rng: np.random.Generator) -> Example:
    """Blocks of segments on both sides, alike in most places, with unlabelled pixels and crowds."""
    truth = np.kron(rng.integers(0, 7, (3, 4)), np.ones((8, 8), int)).astype(np.int32) * 1000
    found = np.where(rng.random(truth.shape) < 0.75, truth // 1000, rng.integers(0, 8, truth.shape)).astype(np.int32)
    found = np.roll(found, int(rng.integers(0, 3)), axis=1)
    classes = {int(i): int(rng.integers(0, 5)) for i in np.unique(truth) if i}
    answers = {int(i): classes.get(int(i) * 1000, 0) for i in np.unique(found) if i}
    for i in answers:
        if rng.random() < 0.2:
            answers[i] = int(rng.integers(0, 5))
    # Segments are numbered without gaps.
    numbers = {old: new for new, old in enumerate(sorted(answers), 1)}
    segments = np.vectorize(lambda i: numbers.get(int(i), 0))(found).astype(np.int32)
    crowds = {i for i, c in classes.items() if c in THINGS and rng.random() < 0.3}
    crowds = {
        max(i for i in crowds if classes[i] == c) for c in {classes[i] for i in crowds}
    }  # one a class, as in COCO
    return truth, classes, crowds, PanopticPrediction(segments, {numbers[i]: c for i, c in answers.items()})


def plain_quality(examples: list[Example]) -> dict[int, tuple[float, float, float]]:
    """PQ, SQ and RQ by class, segment by segment, from the definition in the paper."""
    sums = {c: [0.0, 0, 0, 0] for c in range(len(NAMES))}
    for truth, classes, crowds, answer in examples:
        matched_truth, matched_found = set(), set()
        for i, truth_class in classes.items():
            for j, found_class in answer.classes.items():
                a, b = truth == i, answer.segments == j
                union = (a | (b & (truth != 0))).sum()
                if i not in crowds and truth_class == found_class and (a & b).sum() / union > 0.5:
                    matched_truth.add(i)
                    matched_found.add(j)
                    sums[truth_class][0] += (a & b).sum() / union
                    sums[truth_class][1] += 1
        for i, truth_class in classes.items():
            sums[truth_class][3] += i not in matched_truth and i not in crowds
        for j, found_class in answer.classes.items():
            b = answer.segments == j
            excused = b & (truth == 0)
            for i in crowds:
                excused |= b & (truth == i) & (classes[i] == found_class)
            sums[found_class][2] += j not in matched_found and excused.sum() <= 0.5 * b.sum()
    found = {}
    for c, (overlap, right, false, missed) in sums.items():
        total = right + false / 2 + missed / 2
        if total:
            found[c] = (overlap / total, overlap / right if right else 0.0, right / total)
    return found


def ours(examples: list[Example]) -> PanopticScores:
    scores = PanopticScores(NAMES, THINGS)
    for example in examples:
        scores.add(*example)
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples = [random_example(rng) for _ in range(6)]
    expected, figures = plain_quality(examples), ours(examples).figures()
    assert {NAMES.index(name): value for name, value in figures["pq_by_class"].items()} == pytest.approx(
        {c: pq for c, (pq, _, _) in expected.items()}
    )
    for group, members in (("", set(range(5))), ("_things", THINGS), ("_stuff", set(range(5)) - THINGS)):
        rows = [row for c, row in expected.items() if c in members]
        assert [figures[f"{name}{group}"] for name in ("pq", "sq", "rq")] == pytest.approx(np.mean(rows, axis=0))


def test_images_drawn_several_times() -> None:
    rng = np.random.default_rng(3)
    examples = [random_example(rng) for _ in range(6)]
    weights = np.array([[1] * 6, [0, 2, 1, 0, 3, 0], [0] * 6])
    expected = [ours([examples[i] for i in np.repeat(np.arange(6), one)]).figures()["pq"] for one in weights[:2]]
    found = ours(examples).resampled_pq(weights)
    assert found[:2].tolist() == pytest.approx(expected)
    assert np.isnan(found[2])
    assert ours([]).figures() == {}


def result_of(semantic_map: np.ndarray, *objects: tuple[float, int, tuple[int, int, int, int]]) -> Result:
    """Objects as (score, class, (y1, y2, x1, x2)), each filling its box."""
    masks = [(y1, x1, np.ones((y2 - y1, x2 - x1), np.uint8)) for _, _, (y1, y2, x1, x2) in objects]
    return Result(
        semantic_map.shape,
        boxes=np.array([[x1, y1, x2, y2] for _, _, (y1, y2, x1, x2) in objects], np.float32).reshape(-1, 4),
        scores=np.array([one[0] for one in objects], np.float32),
        class_ids=np.array([one[1] for one in objects], np.int32),
        masks=InstanceMasks(masks, semantic_map.shape),
        semantic_map=semantic_map,
    )


def test_the_merge_by_hand() -> None:
    semantic = np.full((20, 30), 2, np.uint8)
    semantic[:, 20:] = 0  # what the map says of things is not used
    semantic[0, :2] = 3  # 2 of 600 pixels are too few for a segment: 600 x 4096 / 307200 = 8
    result = result_of(
        semantic,
        (0.9, 0, (0, 10, 0, 10)),
        (0.8, 1, (0, 10, 4, 14)),  # 60 of 100 are covered
        (0.7, 1, (5, 15, 0, 12)),  # 50 of 120 are
        (0.6, 2, (0, 20, 20, 30)),  # a class that the maps lack
        (0.49, 0, (15, 20, 15, 30)),  # too unlikely
    )
    assert semantic_classes_of(("cat", "dog", "bird"), NAMES) == [0, 1, None]
    found = merge(result, [0, 1, None], THINGS)
    assert found.classes == {1: 0, 2: 1, 3: 2}
    expected = np.full((20, 30), 3)
    expected[:, 20:] = 0
    expected[5:15, :12] = 2
    expected[:10, :10] = 1
    assert (found.segments[1:] == expected[1:]).all()
    assert merge(result_of(np.full((20, 30), 9, np.uint8)), [], THINGS).classes == {1: 9}
    assert merge(result_of(np.full((20, 30), 1, np.uint8)), [0, 1], THINGS).classes == {}
