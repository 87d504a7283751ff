"""`yolor-edge import`: a checkpoint of the official repositories becomes one of ours; nothing in it is run."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..options import add_json
from ..output import print_result, say
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "import",
        _import,
        "FILE.pt --out CHECKPOINT [options]",
        "read an official checkpoint: YOLOv7, YOLOR, YOLOv9, GELAN or Generalist YOLO",
        "The file is read without running anything in it, and the official code need not be there. Half precision, EMA "
        "and stripped files too. Parameters and FLOPs before and after folding are printed. docs/importing.md has the "
        "families. yolor-edge export makes a bundle of what was imported.",
        "yolor-edge import yolov7.pt --licence GPL-3.0 --out checkpoints/yolov7\n"
        "  yolor-edge import gyolo.pt --vocabulary vocab.txt --out checkpoints/gyolo",
    )
    parser.add_argument("file", metavar="FILE.pt", help="the official file")
    parser.add_argument("--out", required=True, metavar="CHECKPOINT", help="folder of the checkpoint to write")
    parser.add_argument(
        "--config",
        metavar="NAME|CFG",
        help="what the tensors of a bare state dict belong to: the name of a configuration, such as yolov7, or a "
        "Darknet .cfg (default: the file holds its network itself)",
    )
    parser.add_argument(
        "--vocabulary", metavar="FILE", help="words of the captions, one a line (default: none; needed for captions)"
    )
    parser.add_argument("--names", metavar="FILE", help="class names, one a line (default: those in the file)")
    parser.add_argument(
        "--force", dest="overwrite", action="store_true", help="replace a checkpoint that lies at --out"
    )
    parser.add_argument("--licence", metavar="NAME", help="of the weights, recorded and shown (default: unknown)")
    add_json(parser)


def _import(arguments: argparse.Namespace) -> int:
    from ..train.importing import import_checkpoint
    from ..train.network.layers import LayersConfig
    from ..train.network.layers_fold import layers_cost

    checkpoint = import_checkpoint(
        arguments.file,
        arguments.out,
        config=arguments.config,
        vocabulary=arguments.vocabulary,
        names=arguments.names,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
    )
    assert isinstance(checkpoint.layout, LayersConfig)
    cost = layers_cost(checkpoint.layout)
    facts = {
        "checkpoint": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        **checkpoint.layout.facts(),
        **asdict(cost),
        "licence": checkpoint.licence,
        "provenance": checkpoint.provenance,
    }
    lines = [checkpoint.layout.summary(), cost.table(), f"licence of the weights: {checkpoint.licence}"]
    if checkpoint.licence == "unknown":
        say("warning: the licence of the weights is unknown; say it with --licence, it travels into every bundle")
    print_result(arguments, facts, "\n".join([*lines, f"checkpoint: {checkpoint.path}"]))
    return 0
