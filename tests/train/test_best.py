"""The best epoch and an early end follow from the log alone."""

from __future__ import annotations

from typing import Any

import pytest
from yolor_edge.train.best import best_epoch, epochs_without_better, main_score, score_line


def log_of(*scores: float | None) -> list[dict[str, Any]]:
    return [{"epoch": i, **({} if s is None else {"score": s})} for i, s in enumerate(scores, 1)]


def test_the_score_is_the_mean_of_what_was_scored() -> None:
    scores = {"box_ap": 0.5, "box_ap50": 0.9, "mask_ap": None, "miou": 0.3, "cider": 1.1}
    assert main_score(scores) == pytest.approx(0.4)
    assert score_line(scores) == "0.4000, the mean of box AP 0.500, mIoU 0.300"
    assert main_score({"cider": 1.0}) is None


@pytest.mark.parametrize(
    ("scores", "since", "best", "without"),
    [
        ((), 0, None, 0),
        ((None, None), 0, None, 0),
        ((0.1, 0.3, 0.2), 0, 2, 1),
        ((0.1, 0.3, 0.2, None), 0, 2, 1),  # the last was not scored yet
        ((0.3, None, None, 0.2), 0, 1, 3),
        ((0.0, 0.0, 0.0), 0, 3, 2),  # of equal ones the last is kept, but it is no better one
        ((0.3, 0.1, 0.2, 0.1, 0.2), 4, 1, 1),
        ((0.3, 0.1), 5, 1, 0),
    ],
)
def test_which_is_best_and_for_how_long(
    scores: tuple[float | None, ...], since: int, best: int | None, without: int
) -> None:
    log = log_of(*scores)
    assert best_epoch(log) == best
    assert epochs_without_better(log, since) == without
