"""`yolor-edge compare`: two latency reports beside each other."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..main import _add_json, _command, _print


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = _command(
        commands,
        "compare",
        _compare,
        "compare two latency reports",
        "Shows for every stage the medians of A and B, their ratio with its interval, and whether B is faster, slower, "
        "or no different as far as these runs can tell; then the scores of both, and what differs between bundles, "
        "machines and settings. Reports that were measured in another way (tasks, thresholds, pictures) are refused. "
        "Exit code 1 if B is slower than --max-slower allows.",
        "yolor-edge compare reports/fp32 reports/int8",
    )
    parser.add_argument(
        "reports",
        nargs="+",
        metavar="REPORT",
        help="A B, or in turn A B A B and so on: a report.json of yolor-edge bench, or its folder. With several pairs "
        "the interval covers what changes from one run to the next as well",
    )
    parser.add_argument(
        "--max-slower",
        type=_percent,
        metavar="PERCENT",
        help="fail if B certainly takes that much longer end to end, for a build that guards its latency",
    )
    _add_json(parser)


def _percent(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


_percent.__name__ = "number of percent"


def _compare(arguments: argparse.Namespace) -> int:
    from ..benchmarks.report.comparison import compare

    found = compare(arguments.reports)
    _print(arguments, found.to_json(), found.table())
    return 1 if arguments.max_slower is not None and found.is_slower_by(arguments.max_slower) else 0
