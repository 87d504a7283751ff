"""`yolor-edge compare`: two latency reports beside each other."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..options import add_json
from ..output import print_result
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "compare",
        _compare,
        "A B [A B ...] [options]",
        "compare two latency reports",
        "Shows for every stage the medians of A and B, their ratio with its interval, and whether B is faster, slower, "
        "or no different as far as these runs can tell; then the scores of both, and what differs between bundles, "
        "machines and settings. Reports measured in different ways (tasks, thresholds, images) are refused. "
        "Exit code 1 if B is slower than --max-slower allows.",
        "yolor-edge compare reports/fp32 reports/int8",
        needs_opencv=False,
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
        help="fail if B certainly takes that much longer end to end, for a build that guards its latency (default: "
        "never fail)",
    )
    add_json(parser)


def _percent(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


_percent.__name__ = "number of percent"


def _compare(arguments: argparse.Namespace) -> int:
    from ..benchmarks.report.comparison import compare

    found = compare(arguments.reports)
    print_result(arguments, found.to_json(), found.table())
    return 1 if arguments.max_slower is not None and found.is_slower_by(arguments.max_slower) else 0
