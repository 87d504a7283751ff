"""`yolor-edge evaluate`: scores of a checkpoint or a bundle on a data set."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_backend, add_caption, add_data, add_json, caption_options, load_options
from ..output import count, print_result
from ..parsing import Misuse, add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "CHECKPOINT|BUNDLE --data DIR [options]",
        "score a checkpoint or a bundle on a data set",
        "Box and mask AP and AR by COCO's protocol, by size and by class, mIoU and frequency-weighted IoU, panoptic "
        "quality, BLEU, CIDEr and ROUGE-L, the main ones with a 95 % interval over images; on scenes also how often a "
        "caption names the largest object and states a true relation. A checkpoint needs torch, a bundle does not.",
        "yolor-edge evaluate runs/scenes --data scenes --split val",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BUNDLE", help="folder of a checkpoint, a run or a bundle")
    add_data(parser, "folder of the data set", required=True)
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N images (default: all)")
    parser.add_argument("--by-class", action="store_true", help="also print a line for each class")
    parser.add_argument(
        "--resamples",
        type=int,
        default=300,
        metavar="N",
        help="draw the images anew so often for the intervals; 0 for none (default: 300)",
    )
    parser.add_argument(
        "--boundary-ignore",
        type=int,
        default=0,
        metavar="PIXELS",
        help="also give the mIoU without what lies so near to a border between classes (default: do not)",
    )
    parser.add_argument(
        "--save-predictions",
        metavar="DIR",
        help="write boxes, masks, captions and panoptic maps to a new folder, in COCO's results format (default: none)",
    )
    parser.add_argument(
        "--draw-worst",
        metavar="DIR",
        help="draw the images with the most misses, truth beside prediction, to a new folder (default: none)",
    )
    parser.add_argument("--worst", type=int, metavar="N", help="images that --draw-worst draws (default: 20)")
    torch = parser.add_argument_group("checkpoint")
    torch.add_argument("--device", metavar="D", help="auto, cpu or cuda:N (default: auto, a GPU if there is one)")
    torch.add_argument(
        "--batch", type=int, metavar="N", help="images that pass the network at once (default: 16 on a GPU, else 1)"
    )
    add_json(parser)
    add_caption(parser)
    add_backend(parser)


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..evaluation.evaluator import ScoreOptions
    from ..scoring import evaluate_checkpoint_or_bundle

    if arguments.worst is not None and arguments.draw_worst is None:
        raise Misuse("--worst says how many images --draw-worst DIR draws; give that too")
    options = ScoreOptions(
        resamples=arguments.resamples,
        boundary_ignore=arguments.boundary_ignore,
        save_predictions=arguments.save_predictions,
        draw_worst=arguments.draw_worst,
        worst=20 if arguments.worst is None else arguments.worst,
    )
    found = evaluate_checkpoint_or_bundle(
        arguments.model,
        arguments.data,
        arguments.split,
        arguments.limit,
        load=load_options(arguments, arguments.model, scores=True),
        caption=caption_options(arguments),
        progress=count,
        options=options,
        device=arguments.device,
        batch=arguments.batch,
    )
    text = found.table()
    if arguments.by_class:
        text += f"\n\n{found.class_table()}"
    print_result(arguments, found.to_json(), text)
    return 0
