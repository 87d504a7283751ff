"""`yolor-edge scenes`: a data set of drawn scenes."""

from __future__ import annotations

import argparse
from typing import Any

from ..main import _command, _counter, _size


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = _command(
        commands,
        "scenes",
        _scenes,
        "draw a data set of scenes with all four kinds of truth",
        "Writes pictures and annotations in COCO's layout; the same seed gives the same files.",
        "yolor-edge scenes scenes --images 200 --seed 1",
    )
    parser.add_argument("out", metavar="OUT", help="folder of the data set, made if missing")
    parser.add_argument("--images", type=int, required=True, metavar="N", help="how many pictures")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="names the series of scenes")
    parser.add_argument("--split", default="train", metavar="NAME", help="name of the split (default: train)")
    parser.add_argument("--size", type=_size, metavar="HxW", help="size of every picture (default: 224x288)")


def _scenes(arguments: argparse.Namespace) -> int:
    from ..evaluation.scenes.scene_files import write_scenes

    options = {} if arguments.size is None else {"size": arguments.size}
    out = write_scenes(
        arguments.out,
        arguments.images,
        arguments.seed,
        split=arguments.split,
        progress=_counter("drawing"),
        **options,
    )
    print(f"{arguments.images} scenes of seed {arguments.seed} are in {out}, split {arguments.split}")
    return 0
