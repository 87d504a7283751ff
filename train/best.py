"""Which epoch of a run is the best, by one number, and when there has been no better one for long enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAIN_SCORES = {"box_ap": "box AP", "mask_ap": "mask AP", "miou": "mIoU", "bleu4": "BLEU-4"}
"""The fields of `evaluation.scores.Scores` that speak for the tasks, and their names; all lie in 0..1."""
FORMULA = "the mean of box AP, mask AP, mIoU and BLEU-4, of those tasks that are trained and validated"


def main_score(scores: Mapping[str, Any]) -> float | None:
    """The number that the best epoch is chosen by (`FORMULA`); None where no task was scored.

    Args:
        scores: As `Scores.to_json` has them.
    """
    found = [scores[name] for name in MAIN_SCORES if scores.get(name) is not None]
    return sum(found) / len(found) if found else None


def score_line(scores: Mapping[str, Any]) -> str:
    """The score and what it is the mean of, for people."""
    found = [f"{label} {scores[name]:.3f}" for name, label in MAIN_SCORES.items() if scores.get(name) is not None]
    score = main_score(scores)
    return "nothing" if score is None else f"{score:.4f}, the mean of {', '.join(found)}"


def best_epoch(log: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch, from 1, with the highest score; of equal ones the last. None where none was scored."""
    scored = [(entry["score"], entry["epoch"]) for entry in log if entry.get("score") is not None]
    return max(scored)[1] if scored else None


def epochs_without_better(log: Sequence[Mapping[str, Any]], since: int = 0) -> int:
    """How many epochs have passed since the highest score was first reached, or since epoch `since` if that is later.

    Epochs that were not scored count, once one after them was.
    """
    scored = [(entry["score"], -entry["epoch"]) for entry in log if entry.get("score") is not None]
    if not scored:
        return 0
    return max(0, max(-epoch for _, epoch in scored) - max(-max(scored)[1], since))
