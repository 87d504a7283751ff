"""`yolor-edge scenes`: a data set of drawn scenes."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import names, size
from ..output import count
from ..parsing import Misuse, add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "scenes",
        _scenes,
        "OUT --count N --seed S [options]",
        "draw a data set of scenes with all four kinds of truth, or sequences with tracks",
        "Writes images and annotations in COCO's layout, or with --video sequences in the layout of the MOT Challenge; "
        "the same seed gives the same files.",
        "yolor-edge scenes scenes --count 200 --seed 1\n"
        "  yolor-edge scenes sequences --video --count 4 --seed 1 --frames 150",
    )
    parser.add_argument("out", metavar="OUT", help="folder of the data set, made if missing")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many images, or sequences")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="seed of the random numbers")
    parser.add_argument("--split", default="train", metavar="NAME", help="name of the split (default: train)")
    parser.add_argument(
        "--image-size",
        dest="size",
        type=size,
        metavar="HxW",
        help="size of every image (default: 224x288; 360x640 for sequences)",
    )
    parser.add_argument(
        "--shapes", type=names, metavar="A,B", help="shapes that are drawn, which are the classes then (default: all)"
    )
    video = parser.add_argument_group("sequences")
    video.add_argument("--video", action="store_true", help="draw sequences of moving shapes (default: single images)")
    video.add_argument("--frames", type=int, metavar="N", help="images of each sequence (default: 150)")
    video.add_argument("--fps", type=float, metavar="X", help="frames per second that they say (default: 25)")
    video.add_argument("--objects", type=int, metavar="N", help="shapes that come by in each sequence (default: 16)")
    video.add_argument("--camera", choices=("still", "moving"), help="moving pans and trembles (default: still)")


def _scenes(arguments: argparse.Namespace) -> int:
    from ..evaluation.scenes.scene_files import write_scenes
    from ..evaluation.scenes.scene_videos import write_videos

    options = {} if arguments.size is None else {"size": arguments.size}
    given = {name: getattr(arguments, name) for name in ("frames", "fps", "objects", "camera")}
    of_video = {name: value for name, value in given.items() if value is not None}
    if of_video and not arguments.video:
        raise Misuse(f"--{next(iter(of_video))} is for sequences; add --video")
    write = write_videos if arguments.video else write_scenes
    out = write(
        arguments.out,
        arguments.count,
        arguments.seed,
        split=arguments.split,
        progress=count,
        shapes=arguments.shapes,
        **options,
        **of_video,
    )
    what = "sequences" if arguments.video else "scenes"
    print(f"{arguments.count} {what} of seed {arguments.seed} are in {out}, split {arguments.split}")
    return 0
