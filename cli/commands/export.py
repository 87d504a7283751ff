"""`yolor-edge export`: a checkpoint becomes a bundle, in every precision asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..main import _command, _Misuse, _names, _say, _size


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = _command(
        commands,
        "export",
        _export,
        "turn a checkpoint into a bundle, proven step by step",
        "Folds BatchNorm and implicit knowledge, writes ONNX graphs, compares every step with the one before "
        "on the same pictures, and writes nothing where they differ.",
        "yolor-edge export runs/scenes --out bundles/scenes\n"
        "  yolor-edge export runs/scenes --out bundles/small --precision fp16,int8 --calibration scenes/train "
        "--data scenes",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a checkpoint or of a run")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder of the bundle; must not exist")
    parser.add_argument(
        "--input-size", type=_size, metavar="HxW", help="multiples of 32 (default: what it was trained at)"
    )
    parser.add_argument("--heads", type=_names, metavar="A,B", help="tasks to keep (default: all)")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="pictures, or folders of them, to prove the steps on (default: scenes)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="fix the images of a run to N (default: any number)")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="let the graph give only the K cells with the highest class logit"
    )
    parser.add_argument(
        "--semantic-map", action="store_true", help="let the graph give the semantic map instead of its logits"
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that lies at --out")
    parser.add_argument(
        "--precision",
        type=_names,
        metavar="P,Q",
        help="beside fp32: fp16, int8, or auto, which keeps int8 only if faster here (default: fp32 alone)",
    )
    parser.add_argument(
        "--calibration", metavar="LIST|DIR", help="pictures for int8: a folder, or a text file with one path a line"
    )
    parser.add_argument(
        "--calibration-method",
        default="percentile",
        metavar="M",
        help="minmax, percentile or entropy (default: percentile)",
    )
    parser.add_argument("--scales", metavar="FILE", help="calibration.json of an earlier export instead of pictures")
    parser.add_argument("--data", metavar="DIR", help="data set that int8 is scored on, in fp32 and int8")
    parser.add_argument("--split", metavar="S", help="its split (default: the first that starts with val)")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="X",
        help="largest drop of box AP, mask AP, mIoU and CIDEr that int8 may cost (default: 0.01)",
    )
    parser.add_argument(
        "--keep-float", metavar="FILE", help="layers to keep in a wider format, one a line, as diff --out writes them"
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
                raise _Misuse(f"--images {source.name}: is a video or a camera; give pictures or folders of them")
            images += source.files
    bundle = export_bundle(
        arguments.checkpoint,
        arguments.out,
        input_size=arguments.input_size,
        tasks=arguments.heads,
        golden_images=images,
        overwrite=arguments.force,
        precisions=PrecisionOptions(
            precisions=arguments.precision or (),
            calibration=arguments.calibration,
            method=arguments.calibration_method,
            scales=None if arguments.scales is None else Path(arguments.scales),
            data=arguments.data,
            split=arguments.split,
            max_drop=arguments.max_drop,
            keep_float=() if arguments.keep_float is None else read_layers(arguments.keep_float),
        ),
        progress=_say,
        options=GraphOptions(arguments.batch, arguments.top_k, arguments.semantic_map),
    )
    print(f"bundle: {bundle.path}")
    return 0
