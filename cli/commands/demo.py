"""`yolor-edge demo`: the whole chain on the demo checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from ..main import _command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = _command(
        commands,
        "demo",
        _demo,
        "export the demo checkpoint, verify it, run it on pictures and measure it",
        "The checkpoint and the pictures lie in the folder demo of the repository.",
        "yolor-edge demo --out demo-out",
    )
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="folder to write to (default: demo-out)")
    parser.add_argument("--checkpoint", metavar="DIR", help="another checkpoint")
    parser.add_argument("--images", metavar="PATH", help="another picture, folder or glob")
    parser.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: all cores)")


def _demo(arguments: argparse.Namespace) -> int:
    from ..demo import demo

    return demo(
        arguments.out,
        checkpoint=arguments.checkpoint,
        images=arguments.images,
        threads=arguments.threads,
        say=print,
    )
