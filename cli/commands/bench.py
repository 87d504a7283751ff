"""`yolor-edge bench`: a bundle's latency on this machine, stage by stage."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ..main import (
    _PROGRAM,
    _add_backend,
    _add_caption,
    _add_into,
    _add_json,
    _backend,
    _caption,
    _command,
    _counters,
    _into,
    _Misuse,
    _names,
    _print,
)


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = _command(
        commands,
        "bench",
        _bench,
        "measure a bundle's latency on this machine, stage by stage",
        "Writes report.json with every raw sample and report.md for people. With --data the same bundle is "
        "scored too, and the accuracy stands beside the latency.",
        "yolor-edge bench bundles/scenes --data scenes --split val --runs 200 --out report",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="picture, folder or glob (default: those of --data, else golden inputs)",
    )
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="runs that count (default: 200)")
    parser.add_argument("--seconds", type=float, metavar="S", help="end the runs that count after S seconds")
    parser.add_argument("--warmup-seconds", type=float, metavar="S", help="shortest warm-up (default: 2)")
    parser.add_argument("--data", metavar="DIR", help="data set to score the bundle on")
    parser.add_argument("--split", metavar="S", help="its split (default: the first that starts with val)")
    parser.add_argument("--limit", type=int, metavar="N", help="score only its first N images")
    parser.add_argument("--tasks", type=_names, metavar="A,B", help="tasks to time (default: all)")
    parser.add_argument("--score-threshold", type=float, metavar="X", help="boxes score above this while timing")
    _add_caption(parser)
    _add_backend(parser)
    _add_into(parser)
    _add_json(parser)


def _bench(arguments: argparse.Namespace) -> int:
    from ..benchmarks.report.benchmark import bench
    from ..benchmarks.report.measure import WarmUp

    write = _into(arguments)
    options = _caption(arguments)
    if arguments.warmup_seconds is not None:
        if not 0 <= arguments.warmup_seconds <= 3600:
            raise _Misuse(f"--warmup-seconds must be from 0 to 3600, got {arguments.warmup_seconds:g}")
        longest = max(WarmUp.maximum_seconds, 5 * arguments.warmup_seconds)
        options["warmup"] = WarmUp(arguments.warmup_seconds, longest)
    report = bench(
        arguments.bundle,
        arguments.out,
        arguments.images,
        arguments.runs,
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        tasks=arguments.tasks,
        score_threshold=arguments.score_threshold,
        maximum_seconds=arguments.seconds,
        command=shlex.join([_PROGRAM, *arguments.typed]),
        progress=_counters(),
        **options,
        **_backend(arguments),
    )
    write(report.table())
    text = f"{report.table()}\nreport: {Path(arguments.out) / 'report.md'}"
    return _print(arguments, report.to_json(), text)
