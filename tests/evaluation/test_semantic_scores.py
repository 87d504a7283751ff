"""IoU of semantic maps: with and without the pixels near borders, and of images drawn several times."""

from __future__ import annotations

import numpy as np
import pytest
from yolor_edge.evaluation.semantic_scores import SemanticScores, near_borders

NAMES = ("circle", "star", "grass")


def test_near_borders_by_hand() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[:, 5:] = 2
    expected = np.zeros((6, 8), bool)
    expected[:, 4:6] = True
    assert (near_borders(labels, 1) == expected).all()
    expected[:, 3:7] = True
    assert (near_borders(labels, 2) == expected).all()
    assert not near_borders(np.full((6, 8), 7, np.uint8), 3).any()


def test_what_lies_near_a_border_does_not_count() -> None:
    expected = np.zeros((20, 30), np.uint8)
    expected[:, 15:] = 2
    predicted = np.zeros((20, 30), np.uint8)
    predicted[:, 17:] = 2  # off by two pixels
    for distance, iou in ((0, (15 / 17 + 13 / 15) / 2), (1, (14 / 15 + 13 / 14) / 2), (2, 1.0)):
        scores = SemanticScores(NAMES, distance)
        scores.add(expected, predicted)
        assert scores.figures()["miou"] == pytest.approx(iou)


def test_images_drawn_several_times() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(5):
        expected = rng.integers(0, 4, (12, 16)).astype(np.uint8)
        expected[expected == 3] = 255
        pairs.append((expected, np.where(rng.random((12, 16)) < 0.7, expected % 255, 1).astype(np.uint8)))

    def of(rows: list[int]) -> SemanticScores:
        scores = SemanticScores(NAMES)
        for row in rows:
            scores.add(*pairs[row])
        return scores

    weights = np.array([[1] * 5, [0, 3, 0, 2, 0], [0] * 5])
    expected = [of(np.repeat(np.arange(5), one).tolist()).figures()["miou"] for one in weights[:2]]
    found = of(list(range(5))).resampled_miou(weights)
    assert found[:2].tolist() == pytest.approx(expected)
    assert np.isnan(found[2])
    assert SemanticScores(NAMES).figures() == {}
