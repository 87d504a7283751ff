"""`yolor-edge adopt`: a detector that another project exported to ONNX becomes a bundle."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_precision, image_files, precision_options, size
from ..output import print_bundle, say
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "adopt",
        _adopt,
        "MODEL.onnx --classes FILE --out BUNDLE [options]",
        "turn the ONNX detector of another project into a bundle",
        "Boxes, with instance masks where it has them. What its outputs mean is found by their shapes and by their "
        "values on images; a few nodes rewire them, and the result is compared with the original. docs/adopting.md has "
        "the layouts and what common exporters want.",
        "yolor-edge adopt detector.onnx --classes names.txt --out bundles/detector --images pictures\n"
        "  yolor-edge adopt yolox_s.onnx --classes coco.txt --out bundles/yolox --scale 1 --channel-order BGR",
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="the ONNX file; its external data lies beside it")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder of the bundle; must not exist")
    parser.add_argument("--force", dest="overwrite", action="store_true", help="replace a bundle that lies at --out")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line (default: those in the file)")
    parser.add_argument(
        "--licence", metavar="NAME", help="of the weights, recorded and shown (default: as in the file)"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="images, or folders of them, to try and check it on; some with objects (default: drawn scenes)",
    )
    form = parser.add_argument_group("outputs and input")
    form.add_argument(
        "--layout",
        metavar="A,B",
        help="what is known of the outputs: classes, objectness, detections or pair; xyxy, cxcywh or yxyx; pixels or "
        "normalised; probabilities or logits; boxes=OUTPUT (default: found)",
    )
    form.add_argument(
        "--input-size",
        type=size,
        metavar="HxW",
        help="where the file leaves it open; one number for a square (default: as in the file)",
    )
    form.add_argument("--channel-order", default="RGB", metavar="RGB|BGR", help="what it was trained on (default: RGB)")
    form.add_argument(
        "--scale",
        type=float,
        metavar="X",
        help="factor on pixels from 0 to 255 (default: 1/255, or 1 where the graph scales them itself)",
    )
    form.add_argument("--mean", type=_three, metavar="A,B,C", help="subtracted from scaled pixels (default: 0)")
    form.add_argument("--std", type=_three, metavar="A,B,C", help="divided by, after that (default: 1)")
    add_precision(parser)


def _adopt(arguments: argparse.Namespace) -> int:
    from ..export.adopting.adopt import adopt

    bundle = adopt(
        arguments.model,
        arguments.out,
        arguments.classes,
        layout=arguments.layout,
        input_size=arguments.input_size,
        channel_order=arguments.channel_order,
        scale=arguments.scale,
        mean=arguments.mean,
        std=arguments.std,
        licence=arguments.licence,
        images=image_files(arguments.images),
        overwrite=arguments.overwrite,
        precisions=precision_options(arguments),
        progress=say,
    )
    return print_bundle(bundle)


def _three(text: str) -> tuple[float, ...]:
    """ "0.485,0.456,0.406" as numbers."""
    try:
        found = tuple(float(number) for number in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3:
        raise argparse.ArgumentTypeError(f'expected three numbers with commas between, got "{text}"')
    return found
