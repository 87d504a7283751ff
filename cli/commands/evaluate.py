"""`yolor-edge evaluate`: scores of a checkpoint or a bundle on a data set."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_backend, add_caption, add_data, add_json, caption_options, load_options
from ..output import count, print_result
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "CHECKPOINT|BUNDLE --data DIR [options]",
        "score a checkpoint or a bundle on a data set",
        "Box AP and mask AP by COCO's protocol, mIoU and frequency-weighted IoU, BLEU-4 and CIDEr; on scenes "
        "also how often a caption names the largest object and states a true relation. A checkpoint needs "
        "torch, a bundle does not.",
        "yolor-edge evaluate runs/scenes --data scenes --split val",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BUNDLE", help="folder of a checkpoint, a run or a bundle")
    add_data(parser, "folder of the data set", required=True)
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N images (default: all)")
    add_json(parser)
    add_caption(parser)
    add_backend(parser)


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..scoring import evaluate_checkpoint_or_bundle

    found = evaluate_checkpoint_or_bundle(
        arguments.model,
        arguments.data,
        arguments.split,
        arguments.limit,
        load=load_options(arguments),
        caption=caption_options(arguments),
        progress=count,
    )
    print_result(arguments, found.to_json(), found.table())
    return 0
