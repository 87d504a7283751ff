"""`yolor-edge export`: a checkpoint becomes a bundle, in every precision asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..options import add_data, add_tasks, names, size
from ..output import say
from ..parsing import Misuse, add_command


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
        help="images, or folders of them, to check the conversions on (default: drawn scenes)",
    )
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision",
        dest="precisions",
        type=names,
        default=(),
        metavar="P,Q",
        help="beside fp32: fp16, int8, or auto, which keeps int8 only if it is faster here (default: fp32 alone)",
    )
    precision.add_argument(
        "--keep-float",
        metavar="FILE",
        help="layers to keep in a wider format, one a line, as yolor-edge diff --out writes them (default: none)",
    )
    int8 = parser.add_argument_group("int8")
    int8.add_argument(
        "--calibration", metavar="LIST|DIR", help="images to calibrate on: a folder, or a text file with a path a line"
    )
    int8.add_argument(
        "--calibration-method",
        dest="method",
        default="percentile",
        metavar="M",
        help="minmax, percentile or entropy (default: percentile)",
    )
    int8.add_argument("--scales", metavar="FILE", help="calibration.json of an earlier export, instead of images")
    add_data(int8, "data set to score int8 against fp32 on (default: int8 is not scored)")
    int8.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="X",
        help="largest drop of box AP, mask AP, mIoU and CIDEr to accept of int8 (default: 0.01)",
    )


def _export(arguments: argparse.Namespace) -> int:
    from ..export.precision.precisions import PrecisionOptions, read_layers
    from ..export.to_onnx import export_bundle
    from ..runtime.bundle.graph_options import GraphOptions
    from ..runtime.sources.sources import open_source

    images = None
    if arguments.images is not None:
        images = []
        for path in arguments.images:
            source = open_source(path)
            if source.kind != "images":
                raise Misuse(f"--images {source.name}: is a video or a camera; give images or folders of them")
            images += source.files
    bundle = export_bundle(
        arguments.checkpoint,
        arguments.out,
        input_size=arguments.input_size,
        tasks=arguments.tasks,
        images=images,
        overwrite=arguments.overwrite,
        precisions=PrecisionOptions(
            precisions=arguments.precisions,
            calibration=arguments.calibration,
            method=arguments.method,
            scales=None if arguments.scales is None else Path(arguments.scales),
            data=arguments.data,
            split=arguments.split,
            max_drop=arguments.max_drop,
            keep_float=() if arguments.keep_float is None else read_layers(arguments.keep_float),
        ),
        progress=say,
        options=GraphOptions(arguments.batch, arguments.top_k, arguments.semantic_map),
    )
    print(f"bundle: {bundle.path}")
    return 0
