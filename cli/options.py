"""Types of arguments, and groups of options, that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .output import say

if TYPE_CHECKING:
    from .export.precision.precisions import PrecisionOptions
    from .runtime.captions.captioning import CaptionOptions
    from .runtime.options import LoadOptions

Group = argparse._ActionsContainer  # a parser, or a group of its options


def size(text: str) -> tuple[int, int]:
    """ "HxW" as (height, width); a single number is both."""
    found = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f'expected HEIGHTxWIDTH such as 480x640, or one number for both, got "{text}"')
    return int(found[1]), int(found[2] or found[1])


def names(text: str, such_as: str = "boxes,masks") -> tuple[str, ...]:
    """ "a,b" as names; whether they are known is for the command to say."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f'expected names with commas between, such as {such_as}, got "{text}"')
    return found


def max_drop(text: str) -> float | dict[str, float]:
    """ "0.01" as a number, "boxes=0.01,caption=0.05" by task; whether the tasks are known is for the command to say."""
    try:
        if "=" not in text:
            return float(text)
        parts = [part.split("=") for part in text.split(",")]
        return {task.strip(): float(value) for task, value in parts}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected a number such as 0.01, or one for each task such as boxes=0.01,caption=0.05, got "{text}"'
        ) from None


def targets(text: str) -> tuple[str, ...]:
    """ "sm_86,sm_89" as names; whether they are known is for the flavour to say."""
    return names(text, "sm_86,sm_89")


def numbers(text: str) -> tuple[int, ...]:
    """ "1,4" as numbers; whether they can be is for the command to say."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected whole numbers with commas between, such as 1,4, got "{text}"'
        ) from None


def with_dashes(text: str) -> str:
    """The name of a backend or a flavour, "tensorrt-rtx", also where it was typed as the module is called."""
    return text.replace("_", "-")


class _Several(argparse.Action):
    """The value of an option that was given once; a list of values where it was given more often."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, *_: object) -> None:
        before = getattr(namespace, self.dest)
        several = values if before is None else [*(before if isinstance(before, list) else [before]), values]
        setattr(namespace, self.dest, several)


def add_data_folders(group: Group, what: str, required: bool = False) -> None:
    """`--data`, which may be given several times."""
    more = "given several times, the data sets are put together"
    group.add_argument("--data", action=_Several, required=required, metavar="DIR", help=f"{what}; {more}")


def add_data(group: Group, what: str, required: bool = False) -> None:
    """`--data` and `--split`."""
    add_data_folders(group, what, required)
    group.add_argument(
        "--split",
        metavar="S",
        help="split of the data set, or val@0.1 for what --val-share 0.1 holds out (default: the first that starts "
        "with val)",
    )


def add_val_share(group: Group) -> None:
    """`--val-share` and `--seed`."""
    group.add_argument(
        "--val-share",
        type=float,
        metavar="X",
        help="share of the images held out for validation where the data has no split for it, chosen by file name, so "
        "that images added later move none (default: none)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of that choice and of the training (default: 0)")


def add_tasks(group: Group, what: str) -> None:
    """`--tasks`."""
    group.add_argument(
        "--tasks", type=names, metavar="A,B", help=f"{what}: some of boxes, masks, semantic, caption (default: all)"
    )


def add_captioner(group: Group) -> None:
    """`--captioner`."""
    group.add_argument(
        "--captioner",
        choices=("catr", "grit"),
        help="caption decoder: catr attends to a grid of the image, grit also to the likeliest cells of boxes and "
        "semantic classes (default: catr)",
    )


def add_threads(group: Group) -> None:
    """`--threads`."""
    group.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: all cores)")


def add_backend(parser: argparse.ArgumentParser, every: bool = False) -> None:
    """The group of what runs a bundle.

    Args:
        parser: Of the command.
        every: Whether the command goes through all backends and precisions unless told otherwise.
    """
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--backend",
        type=with_dashes,
        default=None if every else "onnxruntime",
        metavar="NAME",
        help="only this backend (default: all that are installed)"
        if every
        else "onnxruntime, onnxruntime-cuda, openvino, tensorrt, tensorrt-rtx, or auto: the fastest that is installed, "
        "as measured here (default: onnxruntime)",
    )
    group.add_argument(
        "--precision",
        default=None if every else "fp32",
        metavar="P",
        help="only this precision (default: all that the bundle holds)"
        if every
        else "fp32, fp16, int8, or auto: the fastest that was scored within the budget, as measured here at first use, "
        "in some seconds (default: fp32)",
    )
    add_threads(group)
    group.add_argument(
        "--processing",
        choices=("gpu", "cpu"),
        help="where images are letterboxed and the network's outputs become results, which are the same "
        "(default: gpu with the TensorRT backends, cpu with the others)",
    )
    group.add_argument(
        "--build-if-missing",
        action="store_true",
        help="build the TensorRT engines that are missing for this device first (default: fail without them)",
    )


def load_options(arguments: argparse.Namespace, model: str | Path, scores: bool = False) -> LoadOptions:
    """What `add_backend` and `add_caption` say, after building what `--build-if-missing` asks for.

    What "auto" is here is told in a line, and so is that a graph was not scored where it is about to run.

    Args:
        arguments: Of the command line.
        model: Folder of the bundle; a checkpoint has no graphs to choose from.
        scores: Whether the command is about to score the graph itself.
    """
    from .runtime.options import LoadOptions

    build_if_asked(arguments)
    decoder = getattr(arguments, "caption_decoder", None)
    options = LoadOptions(arguments.backend, arguments.precision, arguments.threads, decoder, arguments.processing)
    path = Path(model)
    is_usual = options.precision == "fp32" and options.backend != "auto"
    if is_usual or not (path / "bundle.json").is_file():
        return options
    from .runtime.backends.registry import BACKENDS
    from .runtime.backends.scored import unscored
    from .runtime.bundle.bundle import Bundle
    from .runtime.model import with_fastest

    bundle = Bundle.open(path)
    options = with_fastest(bundle, options, say)
    is_known = options.backend in BACKENDS and options.precision in bundle.precisions
    gap = unscored(bundle, options.backend, options.precision) if is_known else ""
    if gap and not scores:
        say(f"warning: {gap}")
    return options


def build_if_asked(arguments: argparse.Namespace) -> None:
    """Build what `--build-if-missing` asks for."""
    if arguments.build_if_missing:
        from .missing_engines import build_as_asked

        build_as_asked(arguments, say)


def add_caption(parser: argparse.ArgumentParser) -> Group:
    """The group of how captions are written; more can be added to it."""
    group = parser.add_argument_group("captions")
    group.add_argument(
        "--beam-size",
        type=int,
        metavar="K",
        help="width of the beam search; 1 is greedy (default: the model's own, 3 for ours)",
    )
    group.add_argument(
        "--caption-decoder",
        metavar="D",
        help="native, native-int8 (faster; captions can differ slightly from fp32) or graph (default: the fastest, "
        "as measured when engines were built here; else native if the bundle holds its weights)",
    )
    group.add_argument(
        "--caption-budget-ms",
        dest="budget_ms",
        type=float,
        metavar="MS",
        help="end a caption after so many milliseconds, with the words it has by then (default: no limit)",
    )
    return group


def caption_options(arguments: argparse.Namespace) -> CaptionOptions:
    """What `add_caption` says of the search."""
    from .runtime.captions.captioning import CaptionOptions
    from .runtime.options import chosen

    return chosen(CaptionOptions(), beam_size=arguments.beam_size, budget_ms=arguments.budget_ms)


def add_json(group: Group) -> None:
    """`--json`."""
    group.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def image_files(paths: Sequence[str] | None) -> list[Path] | None:
    """The images that `--images` names, one by one or in folders; None without it."""
    from .runtime.sources.sources import open_images

    if paths is None:
        return None
    return [file for path in paths for file in open_images(path).files]


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The groups of what is written beside fp32, and how."""
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision",
        dest="precisions",
        type=names,
        default=(),
        metavar="P,Q",
        help="beside fp32: fp16, int8, or auto, which is both as far as they meet the budget (default: fp32 alone)",
    )
    precision.add_argument(
        "--keep-float",
        metavar="FILE",
        help="layers to keep in a wider format, one a line, as yolor-edge diff --out writes them (default: none)",
    )
    precision.add_argument(
        "--keep-failed",
        action="store_true",
        help="keep the graphs of a precision that does not pass in the bundle as *.failed.onnx, with a list for "
        "--keep-float (default: what did not pass is named and left out)",
    )
    int8 = parser.add_argument_group("calibration and scores")
    int8.add_argument(
        "--calibration",
        metavar="LIST|DIR",
        help="images to calibrate int8 on, and to see the range of fp16 on: a folder, or a text file with a path a "
        "line (default for fp16: the reference images)",
    )
    int8.add_argument(
        "--calibration-method",
        dest="method",
        default="percentile",
        metavar="M",
        help="minmax, percentile or entropy (default: percentile)",
    )
    int8.add_argument("--scales", metavar="FILE", help="calibration.json of an earlier export, instead of images")
    add_data(int8, "data set to score fp16 and int8 against fp32 on (default: they are not scored)")
    int8.add_argument(
        "--max-drop",
        type=max_drop,
        default=0.01,
        metavar="X|TASK=X,...",
        help="largest drop of box AP, mask AP, mIoU and CIDEr to accept of fp16 and int8, or of some tasks as in "
        "boxes=0.01,caption=0.05 (default: 0.01)",
    )


def precision_options(arguments: argparse.Namespace) -> PrecisionOptions:
    """What `add_precision` says."""
    from .export.precision.precisions import PrecisionOptions, read_layers

    return PrecisionOptions(
        precisions=arguments.precisions,
        calibration=arguments.calibration,
        method=arguments.method,
        scales=None if arguments.scales is None else Path(arguments.scales),
        data=arguments.data,
        split=arguments.split,
        max_drop=arguments.max_drop,
        keep_float=() if arguments.keep_float is None else read_layers(arguments.keep_float),
        keep_failed=arguments.keep_failed,
    )
