"""`yolor-edge bench`: a bundle's latency on this machine, stage by stage."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ..options import add_backend, add_caption, add_data, add_json, add_tasks, caption_options, load_options
from ..output import count, print_result
from ..parsing import PROGRAM, Misuse, add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "bench",
        _bench,
        "BUNDLE --out DIR [options]",
        "measure a bundle's latency on this machine, stage by stage",
        "Writes report.json with every raw sample and report.md for people. With --data the same bundle is "
        "scored too, and the accuracy stands beside the latency.",
        "yolor-edge bench bundles/scenes --data scenes --split val --runs 200 --out report",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the report")
    add_json(parser)
    timing = parser.add_argument_group("timing")
    timing.add_argument(
        "--images",
        metavar="PATH",
        help="image, folder or glob (default: the images of --data, else the reference inputs)",
    )
    timing.add_argument("--runs", type=int, default=200, metavar="N", help="timed runs (default: 200)")
    timing.add_argument(
        "--seconds",
        dest="maximum_seconds",
        type=float,
        metavar="S",
        help="stop timing after S seconds, even if --runs is not reached (default: no limit)",
    )
    timing.add_argument("--warmup-seconds", type=float, metavar="S", help="shortest warm-up (default: 2)")
    add_tasks(timing, "tasks to time")
    timing.add_argument(
        "--score-threshold",
        type=float,
        metavar="X",
        help='least score of a box while timing (default: "thresholds" in bundle.json)',
    )
    accuracy = parser.add_argument_group("accuracy")
    add_data(accuracy, "data set to score the bundle on (default: the bundle is not scored)")
    accuracy.add_argument("--limit", type=int, metavar="N", help="score only its first N images (default: all)")
    add_caption(parser)
    add_backend(parser)


def _bench(arguments: argparse.Namespace) -> int:
    from ..benchmarks.report.benchmark import bench
    from ..benchmarks.report.measure import WarmUp
    from ..runtime.options import PredictOptions

    warmup = None
    if arguments.warmup_seconds is not None:
        if not 0 <= arguments.warmup_seconds <= 3600:
            raise Misuse(f"--warmup-seconds must be from 0 to 3600, got {arguments.warmup_seconds:g}")
        longest = max(WarmUp.maximum_seconds, 5 * arguments.warmup_seconds)
        warmup = WarmUp(arguments.warmup_seconds, longest)
    report = bench(
        arguments.bundle,
        arguments.out,
        arguments.images,
        arguments.runs,
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        load=load_options(arguments, arguments.bundle),
        predict=PredictOptions(arguments.tasks, arguments.score_threshold, caption=caption_options(arguments)),
        warmup=warmup,
        maximum_seconds=arguments.maximum_seconds,
        command=shlex.join([PROGRAM, *arguments.typed]),
        progress=count,
    )
    print_result(arguments, report.to_json(), f"{report.table()}\nreport: {Path(arguments.out) / 'report.md'}")
    return 0
