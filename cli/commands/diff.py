"""`yolor-edge diff`: where two precisions of one network part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..main import _add_json, _command, _counter, _print


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = _command(
        commands,
        "diff",
        _diff,
        "find where two precisions of one network part",
        "Runs both on the golden inputs of A, and shows for every stage of the network its range in both, the worst "
        "and the mean difference, and what its worst layer adds itself. Names the first stage over the tolerance and "
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
        help="noise that a stage may have, relative to its signal (default: 0.1 for int8, 0.01 for fp16, else 0.0001)",
    )
    parser.add_argument("--out", metavar="FILE", help="also write the layers to keep in float, one a line")
    parser.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: all cores)")
    _add_json(parser)


def _diff(arguments: argparse.Namespace) -> int:
    from ..export.parity.stage_diff import diff
    from ..runtime.errors import UsageError
    from ..runtime.files import check_can_be_written, write_atomically

    if arguments.out is not None:
        if Path(arguments.out).is_dir():
            raise UsageError(f"{arguments.out}: is a folder, expected the name of a file to write")
        check_can_be_written(Path(arguments.out))
    found = diff(
        arguments.a, arguments.b, arguments.tolerance, threads=arguments.threads, progress=_counter("comparing")
    )
    if arguments.out is not None:
        write_atomically(Path(arguments.out), found.keep_float_text())
    _print(arguments, found.to_json(), found.table())
    return 0 if found.passed else 1
