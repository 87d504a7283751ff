"""`yolor-edge evaluate`: scores of a checkpoint or a bundle on a data set."""

from __future__ import annotations

import argparse
from typing import Any

from ..main import (
    _add_backend,
    _add_caption,
    _add_into,
    _add_json,
    _backend,
    _caption,
    _command,
    _counter,
    _into,
    _print,
)


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = _command(
        commands,
        "evaluate",
        _evaluate,
        "score a checkpoint or a bundle on a data set",
        "Box AP and mask AP by COCO's protocol, mIoU and frequency-weighted IoU, BLEU-4 and CIDEr; on scenes "
        "also how often a caption names the largest object and states a true relation. A checkpoint needs "
        "torch, a bundle does not.",
        "yolor-edge evaluate runs/scenes --data scenes --split val",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BUNDLE", help="folder of a checkpoint, a run or a bundle")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", metavar="S", help="split to score on (default: the first that starts with val)")
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N images")
    _add_caption(parser)
    _add_backend(parser)
    _add_into(parser)
    _add_json(parser)


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..runtime.captions.captioning import CaptionOptions
    from ..scoring import evaluate_checkpoint_or_bundle

    write = _into(arguments)
    options = _caption(arguments)
    chosen = options.pop("caption_decoder", None)
    if "caption_budget_ms" in options:
        options["budget_ms"] = options.pop("caption_budget_ms")
    found = evaluate_checkpoint_or_bundle(
        arguments.model,
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        caption=CaptionOptions(**options) if options else None,
        caption_decoder=chosen,
        progress=_counter("scoring"),
        **_backend(arguments),
    )
    write(found.table())
    return _print(arguments, found.to_json(), found.table())
