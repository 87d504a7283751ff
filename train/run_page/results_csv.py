"""`results.csv`: one row an epoch, what a spreadsheet wants of the log."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_text(log: Sequence[Mapping[str, Any]]) -> str:
    """A row for each entry of the log: seconds, rate, losses, the score and the scores of the tasks.

    A cell is empty where an epoch was not scored.
    """
    rows = [_row(entry) for entry in log]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or ["epoch"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def scalars_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Every single score of an entry by its name, those by class left out."""
    scores = entry.get("validation", {}).get("scores", {})
    return {name: value for name, value in scores.items() if isinstance(value, int | float) and name != "images"}


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    losses = {f"loss_{name}": value for name, value in entry["losses"].items()}
    first = {"epoch": entry["epoch"], "seconds": entry["seconds"], "learning_rate": f"{entry['learning_rate']:.6g}"}
    scores = {} if entry.get("score") is None else {"score": entry["score"], **scalars_of(entry)}
    return {**first, **losses, **{name: round(value, 5) for name, value in scores.items()}}
