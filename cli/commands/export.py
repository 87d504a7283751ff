"""`yolor-edge export`: a checkpoint becomes a bundle, in every precision asked for."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_precision, add_tasks, image_files, precision_options, size
from ..output import print_bundle, say
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "export",
        _export,
        "CHECKPOINT --out BUNDLE [options]",
        "turn a checkpoint into a bundle; each conversion is checked against the previous one",
        "Folds BatchNorm and implicit knowledge, writes ONNX graphs, compares each with the step before it "
        "on the same images, and writes nothing where they differ.",
        "yolor-edge export runs/scenes --out bundles/scenes\n"
        "  yolor-edge export runs/scenes --out bundles/small --precision fp16,int8 --calibration scenes/train "
        "--data scenes",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="folder of a checkpoint or of a run, imported or trained"
    )
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder of the bundle; must not exist")
    parser.add_argument("--force", dest="overwrite", action="store_true", help="replace a bundle that lies at --out")
    graph = parser.add_argument_group("graphs")
    graph.add_argument(
        "--input-size",
        type=size,
        metavar="HxW",
        help="multiples of 32, or of 64 for networks of four levels; one number for a square (default: what it was "
        "trained at)",
    )
    add_tasks(graph, "tasks to keep")
    graph.add_argument("--batch", type=int, metavar="N", help="fix the batch size to N (default: any)")
    graph.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="output only the K cells with the highest class score (default: all cells)",
    )
    graph.add_argument(
        "--semantic-map",
        action="store_true",
        help="include the argmax in the graph: output class indices, not logits",
    )
    graph.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="images, or folders of them, to check the conversions on; three that show most are kept for verify "
        "(default: those of --data, else of the run's data set, else drawn scenes)",
    )
    add_precision(parser)


def _export(arguments: argparse.Namespace) -> int:
    from ..export.to_onnx import export_bundle
    from ..runtime.bundle.graph_options import GraphOptions

    bundle = export_bundle(
        arguments.checkpoint,
        arguments.out,
        input_size=arguments.input_size,
        tasks=arguments.tasks,
        images=image_files(arguments.images),
        overwrite=arguments.overwrite,
        precisions=precision_options(arguments),
        progress=say,
        options=GraphOptions(arguments.batch, arguments.top_k, arguments.semantic_map),
    )
    return print_bundle(bundle)
