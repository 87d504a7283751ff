"""`yolor-edge diff`: where two precisions of one network differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..options import add_json, add_threads
from ..output import count, print_result
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "diff",
        _diff,
        "A B [options]",
        "find where two precisions of one network differ",
        "Runs both on the reference inputs of A, and shows for every stage of the network its range in both, the worst "
        "and the mean difference, and what its worst layer adds. Names the first stage over the tolerance and "
        "which of its layers to keep in float; export --keep-float takes that list. Exit code 1 if a stage is over "
        "the tolerance.",
        "yolor-edge diff bundles/scenes:fp32 bundles/scenes:int8 --out keep.txt",
    )
    for name in "AB":
        parser.add_argument(name.lower(), metavar=name, help="a bundle, or BUNDLE:PRECISION (default precision: fp32)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest noise of a stage, relative to its signal (default: 0.1 for int8, 0.01 for fp16, else 0.0001)",
    )
    parser.add_argument("--out", metavar="FILE", help="also write the layers to keep in float, one a line")
    add_threads(parser)
    add_json(parser)


def _diff(arguments: argparse.Namespace) -> int:
    from ..export.parity.stage_diff import diff
    from ..runtime.errors import UsageError
    from ..runtime.files import check_can_be_written, write_atomically

    if arguments.out is not None:
        if Path(arguments.out).is_dir():
            raise UsageError(f"{arguments.out}: is a folder, expected the name of a file to write")
        check_can_be_written(Path(arguments.out))
    found = diff(arguments.a, arguments.b, arguments.tolerance, threads=arguments.threads, progress=count)
    if arguments.out is not None:
        write_atomically(Path(arguments.out), found.keep_float_text())
    print_result(arguments, found.to_json(), found.table())
    return 0 if found.passed else 1
