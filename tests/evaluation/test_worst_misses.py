"""What counts as a miss, which images are the worst, and that they are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.worst_misses import WorstMisses, misses_of
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.results import Caption, Result

from .test_scores import ONE, SIZE, TWO, FixedMap, perfect_result, truth_of


def test_misses_by_hand() -> None:
    truth = truth_of([*TWO, [0.0, 34.0, 8.0, 40.0]], [0, 1, 0])
    answer = perfect_result(truth_of([TWO[0], [30.0, 6.0, 50.0, 35.0], [10.0, 34.0, 18.0, 40.0]], [0, 0, 1]))
    misses = misses_of(truth, answer)
    assert (misses.missed, misses.false, misses.confused) == ((2,), (2,), ((1, 1),))
    assert misses.cost == 3
    assert str(misses) == "1 missed, 1 false, 1 of another class"
    assert misses_of(truth, perfect_result(truth)).cost == 0


def test_each_object_is_found_once_and_a_crowd_excuses() -> None:
    truth = truth_of(TWO, [0, 0], [False, True])
    answer = perfect_result(truth_of([*ONE, *ONE, [32.0, 8.0, 40.0, 20.0]], [0, 0, 0]))
    answer = replace(answer, scores=np.array([0.5, 0.9, 0.8], np.float32))
    assert misses_of(truth, answer).false == (0,)  # the second box on the same object, by score
    assert misses_of(truth, answer).missed == ()


def test_wrong_pixels() -> None:
    expected = np.zeros(SIZE, np.uint8)
    expected[:10] = 255
    truth = replace(truth_of([], []), semantic=FixedMap(expected))
    predicted = np.zeros(SIZE, np.uint8)
    predicted[:25] = 1
    misses = misses_of(truth, Result(SIZE, semantic_map=predicted))
    assert misses.wrong_pixels == pytest.approx(0.5)
    assert str(misses).endswith("50% of the pixels of another class")


def test_the_worst_images_are_drawn(scenes: Path, tmp_path: Path) -> None:
    dataset = CocoDataset.open(scenes)
    worst = WorstMisses(tmp_path / "worst", dataset, 2, 0.5)
    for index in range(4):
        truth = dataset[index]
        result = perfect_result(truth)
        assert result.scores is not None
        kept = result.scores >= (2 if index == 2 else 0)  # of the third image nothing is found
        result = replace(result[kept], caption=Caption("a star", (), 0.0, 0.0), class_names=dataset.class_names)
        if index == 1 and result.scores is not None:
            result = replace(result, scores=np.where(np.arange(len(result)) == 0, 0.4, result.scores))
        worst.add(truth, result)
    paths = worst.write()
    assert [path.name for path in paths] == [
        f"001-{dataset[2].path.stem}.jpg",
        f"002-{dataset[1].path.stem}.jpg",
    ]
    assert sorted(paths) == sorted((tmp_path / "worst").iterdir())
    drawing = cv2.imread(str(paths[0]))
    assert drawing is not None
    assert drawing.shape[1] == 2 * 640 + 6
    # What was missed is red, on the left alone; the rest is the same picture.
    red = (np.abs(drawing[40:480].astype(int) - [40, 40, 230]).max(2) < 40).sum(0)
    assert red[:640].sum() > red[646:].sum() + 500
    with pytest.raises(UsageError, match="worst: exists already; name a new folder"):
        WorstMisses(tmp_path / "worst", dataset, 2, 0.5)
