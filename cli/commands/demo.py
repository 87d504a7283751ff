"""`yolor-edge demo`: the whole chain on the demo checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_threads
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "[options]",
        "export the demo checkpoint, verify it, run it on images and measure it",
        "The checkpoint and the images are in the folder demo of the repository.",
        "yolor-edge demo --out demo-out",
    )
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="folder to write to (default: demo-out)")
    parser.add_argument("--checkpoint", metavar="DIR", help="another checkpoint (default: demo/checkpoint)")
    parser.add_argument("--images", metavar="PATH", help="another image, folder or glob (default: demo/images)")
    add_threads(parser)


def _demo(arguments: argparse.Namespace) -> int:
    from ..demo import demo

    return demo(
        arguments.out,
        checkpoint=arguments.checkpoint,
        images=arguments.images,
        threads=arguments.threads,
        say=print,
    )
