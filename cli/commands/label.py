"""`yolor-edge label`: a data set from images, labelled by a teacher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..options import add_backend, add_caption, add_json, add_tasks, caption_options, load_options
from ..output import count, print_result, say
from ..parsing import Misuse, add_command
from ..termination import terminated_like_interrupted


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "label",
        _label,
        "BUNDLE|CHECKPOINT IMAGES [IMAGES ...] --out DIR [options]",
        "make a data set of images without labels, from a teacher's predictions",
        "Writes boxes, masks, semantic maps and captions in COCO's layout, to train on. The data set says that a "
        "machine made them, which one, and the licence of its weights. It appears whole or not at all; the same "
        "command goes on where it was interrupted. An image that cannot be read is named and left out, and the exit "
        "code is 1 then. "
        "A checkpoint needs torch, a bundle does not.",
        "yolor-edge label runs/teacher photographs --out labelled\n"
        '  yolor-edge label bundles/teacher "more/*.jpg" --out labelled --split train-more --score-threshold 0.6',
    )
    parser.add_argument("teacher", metavar="BUNDLE|CHECKPOINT", help="folder of a bundle, a checkpoint or a run")
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="folder of images, glob in quotes, or image files")
    data = parser.add_argument_group("data set")
    data.add_argument("--out", required=True, metavar="DIR", help="folder of the data set, made if missing")
    data.add_argument("--split", default="train", metavar="NAME", help="name of the split (default: train)")
    data.add_argument("--copy", action="store_true", help="copy the images (default: link to them)")
    add_json(data)
    labels = parser.add_argument_group("labels")
    add_tasks(labels, "tasks to label")
    labels.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="X",
        help="boxes that score above X are objects (default: 0.5)",
    )
    labels.add_argument(
        "--doubtful-threshold",
        type=float,
        metavar="X",
        help="boxes between X and --score-threshold are marked as crowds, which are neither objects nor background in "
        "training (default: half of --score-threshold)",
    )
    labels.add_argument(
        "--caption-threshold",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out captions whose words have a lower mean probability (default: 0, none)",
    )
    labels.add_argument(
        "--device", metavar="NAME", help="of a checkpoint: auto, cpu or cuda:N (default: the GPU if there is one)"
    )
    add_caption(parser)
    add_backend(parser)


def _label(arguments: argparse.Namespace) -> int:
    from ..evaluation.labelling import LabelOptions, label

    options = LabelOptions(
        arguments.tasks,
        arguments.score_threshold,
        arguments.doubtful_threshold,
        arguments.caption_threshold,
        arguments.split,
        arguments.copy,
    )
    how: dict[str, Any] = {"caption": caption_options(arguments), "progress": count, "report": say}
    images = arguments.images[0] if len(arguments.images) == 1 else arguments.images
    folder = Path(arguments.teacher)
    with terminated_like_interrupted():
        if (folder / "bundle.json").is_file():
            if arguments.device is not None:
                raise Misuse("--device is for a checkpoint; a bundle runs on its --backend")
            summary = label(folder, images, arguments.out, options, load=load_options(arguments, folder), **how)
        else:
            _check_checkpoint(arguments, folder)
            from ..train.labelling import label_by_checkpoint

            summary = label_by_checkpoint(
                folder, images, arguments.out, options, device=arguments.device or "auto", **how
            )
    print_result(arguments, summary.to_json(), str(summary))
    return summary.exit_code


def _check_checkpoint(arguments: argparse.Namespace, folder: Path) -> None:
    """Tell a wrong folder from a right one where torch is not installed, and options that are for bundles."""
    if not folder.exists():
        raise Misuse(f"{folder}: does not exist; expected the folder of a checkpoint or a bundle")
    if not any((place / "checkpoint.json").is_file() for place in (folder, folder / "checkpoint")):
        raise Misuse(
            f"{folder}: is neither a checkpoint nor a bundle (no checkpoint.json or bundle.json in it); "
            "expected a folder written by yolor-edge train or yolor-edge export"
        )
    foreign = [
        option
        for option, is_given in (
            ("--backend", arguments.backend != "onnxruntime"),
            ("--precision", arguments.precision != "fp32"),
            ("--caption-decoder", arguments.caption_decoder is not None),
            ("--processing", arguments.processing is not None),
            ("--threads", arguments.threads is not None),
        )
        if is_given
    ]
    if foreign:
        raise Misuse(f"{folder}: is a checkpoint, which runs in torch; {', '.join(foreign)} is for a bundle")
