"""Figures and tables of a latency report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .percentiles import Percentile, Summary

TOO_FEW = "too few samples"


def percentile_text(found: Percentile) -> str:
    """In milliseconds, or that there are too few samples for it."""
    return TOO_FEW if found.value is None else ms_text(found.value)


def interval_text(found: Percentile) -> str:
    """Its 95 % interval; empty where there is no percentile."""
    if found.value is None:
        return ""
    low = "open" if found.low is None else ms_text(found.low)
    high = "open" if found.high is None else ms_text(found.high)
    return f"{low} to {high}"


def median_text(summary: Summary | None) -> str:
    """In milliseconds; a dash for none."""
    return "-" if summary is None else ms_text(summary.median)


def ms_text(value: float) -> str:
    """Three significant digits and never an exponent: 0.0123, 1.23, 12.3, 1234."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:.{digits}f}"


def milliseconds(value: Any) -> str:
    """With the unit; what is no number stays as it is."""
    return f"{ms_text(value)} ms" if isinstance(value, int | float) else str(value)


def megabytes(value: Any) -> str:
    """Bytes in MiB; what is no number stays as it is."""
    return f"{value / 2**20:.1f} MiB" if isinstance(value, int | float) else str(value)


def size_text(size: Sequence[int]) -> str:
    """(height, width) in words."""
    return f"{size[0]} x {size[1]}"


def listed(items: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def value_text(value: Any) -> str:
    """A JSON value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:g}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Headings first."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
