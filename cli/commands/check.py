"""`yolor-edge check`: a look at a data set before anything is learned from it."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_json, add_val_share, size
from ..output import count, print_result, say
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "check",
        _check,
        "DATA [DATA ...] [options]",
        "look at a data set: what there is, what is wrong, what is doubtful",
        "Prints a line for each kind of truth and split, and draws sample images with their labels. Every image and "
        "map is read once, and remembered while the file stays as it is. Exit code 1 if something is wrong.",
        "yolor-edge check my-data --out labels.png",
    )
    parser.add_argument("data", nargs="+", metavar="DATA", help="folder of a data set; docs/data.md shows the layouts")
    parser.add_argument("--split", metavar="S", help="look at this split alone (default: all)")
    parser.add_argument(
        "--out", default="labels.png", metavar="FILE", help="where the labels are drawn to (default: labels.png)"
    )
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    parser.add_argument("--fast", action="store_true", help="look at the annotations alone; read no image")
    parser.add_argument(
        "--input-size", type=size, metavar="HxW", help="input of the network, for what is too small (default: as it is)"
    )
    add_val_share(parser)
    add_json(parser)


def _check(arguments: argparse.Namespace) -> int:
    from ..evaluation.dataset.check import check_dataset

    out = None if arguments.no_picture else arguments.out
    found = check_dataset(
        arguments.data,
        arguments.split,
        out,
        val_share=arguments.val_share or 0.0,
        seed=arguments.seed or 0,
        read_files=not arguments.fast,
        input_size=arguments.input_size,
        progress=count,
    )
    print_result(arguments, found.to_json(), found.table())
    if out is not None:
        say(f"labels: {out}")
    return 1 if found.all_problems else 0
