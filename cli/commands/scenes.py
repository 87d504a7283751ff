"""`yolor-edge scenes`: a data set of drawn scenes."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import names, size
from ..output import count
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "scenes",
        _scenes,
        "OUT --count N --seed S [options]",
        "draw a data set of scenes with all four kinds of truth",
        "Writes images and annotations in COCO's layout; the same seed gives the same files.",
        "yolor-edge scenes scenes --count 200 --seed 1",
    )
    parser.add_argument("out", metavar="OUT", help="folder of the data set, made if missing")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many images")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="seed of the random numbers")
    parser.add_argument("--split", default="train", metavar="NAME", help="name of the split (default: train)")
    parser.add_argument(
        "--image-size", dest="size", type=size, metavar="HxW", help="size of every image (default: 224x288)"
    )
    parser.add_argument(
        "--shapes", type=names, metavar="A,B", help="shapes that are drawn, which are the classes then (default: all)"
    )


def _scenes(arguments: argparse.Namespace) -> int:
    from ..evaluation.scenes.scene_files import write_scenes

    options = {} if arguments.size is None else {"size": arguments.size}
    out = write_scenes(
        arguments.out,
        arguments.count,
        arguments.seed,
        split=arguments.split,
        progress=count,
        shapes=arguments.shapes,
        **options,
    )
    print(f"{arguments.count} scenes of seed {arguments.seed} are in {out}, split {arguments.split}")
    return 0
