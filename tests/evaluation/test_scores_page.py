"""docs/scores.md names every score, and every option of `evaluate` that is its own."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from yolor_edge.evaluation.evaluator import ScoreOptions
from yolor_edge.evaluation.scores import Scores

PAGE = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")


def test_every_score_is_explained_and_no_other() -> None:
    (table,) = re.findall(r"## What the names mean\n(.*?)\nAP and AR", PAGE, re.DOTALL)
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(one.name for one in fields(Scores))


def test_every_option_is_explained() -> None:
    for one in fields(ScoreOptions):
        assert f"--{one.name.replace('_', '-')}" in PAGE
