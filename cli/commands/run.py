"""`yolor-edge run`: inference on images, a video, a camera or a stream; results are drawn, shown and written."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..options import add_backend, add_caption, add_json, add_tasks, caption_options, load_options, names
from ..output import print_result, say
from ..parsing import Misuse, add_command
from ..runtime.errors import UsageError
from ..termination import terminated_like_interrupted

if TYPE_CHECKING:
    from ..runtime.drawing import DrawOptions
    from ..runtime.runner.runner import RunSummary
    from ..runtime.tracking.regions import Line, Zone
    from ..runtime.tracking.tracker import TrackerOptions

Parsed = TypeVar("Parsed")

# Between lines of progress where nobody is likely to watch.
_SECONDS_IN_A_FILE = 10.0
_OF_BUNDLE = '(default: "thresholds" in bundle.json)'


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "run",
        _run,
        "BUNDLE SOURCE [SOURCE ...] [options]",
        "run inference on images, a video, a camera or a stream, and draw the results",
        "Writes annotated images, or one MP4 for a video, camera or stream, and results.jsonl with one JSON object "
        "for each frame. An image that cannot be read is reported and skipped, and the exit code is 1 then. Ctrl-C "
        "ends the run and keeps the results so far; for files the exit code is 130 then. Progress goes to "
        "stderr. When a camera is faster than inference, the oldest frames are dropped and counted; no frame of a file "
        "is dropped.",
        "yolor-edge run bundles/scenes holiday.mp4 --out results\n"
        "  yolor-edge run bundles/scenes 0 --camera-size 1280x720 --show\n"
        "  yolor-edge run bundles/scenes rtsp://user:password@10.0.0.7/stream1 --no-pictures --jsonl -\n"
        '  yolor-edge run bundles/scenes "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx"\n'
        "  ffmpeg -i clip.ts -f rawvideo -pix_fmt bgr24 - | yolor-edge run bundles/scenes - --camera-size 1280x720",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="image or several, folder, glob, video; camera index or /dev/videoN; URL (rtsp, http, ...); GStreamer "
        "pipeline in quotes; or - for raw frames on standard input",
    )
    results = parser.add_argument_group("results")
    add_tasks(results, "tasks to run")
    results.add_argument("--score-threshold", type=float, metavar="X", help=f"least score of a box {_OF_BUNDLE}")
    results.add_argument(
        "--iou-threshold", type=float, metavar="X", help=f"of two boxes that overlap more, one is dropped {_OF_BUNDLE}"
    )
    results.add_argument("--max-detections", type=int, metavar="N", help=f"most boxes of an image {_OF_BUNDLE}")
    captions = add_caption(parser)
    captions.add_argument(
        "--caption-every",
        type=_caption_every,
        default=1,
        metavar="N",
        help="caption every N frames, or with scene-change those that show another scene (default: 1)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default="yolor-edge-out", metavar="DIR", help="folder to write to (default: yolor-edge-out)"
    )
    output.add_argument("--no-pictures", action="store_true", help="write no annotated images or video")
    output.add_argument("--no-jsonl", action="store_true", help="write no JSON lines")
    output.add_argument(
        "--jsonl",
        metavar="FILE",
        help="write the JSON lines to FILE; with - print them, and nothing else, on stdout (default: results.jsonl in "
        "--out)",
    )
    output.add_argument(
        "--append",
        action="store_true",
        help="go on in a file of JSON lines that is there already (a video or drawing of the same name is replaced)",
    )
    output.add_argument("--force", action="store_true", help="replace a file of JSON lines that is there already")
    output.add_argument("--show", action="store_true", help="show the results in a window; q closes it and ends")
    drawing = parser.add_argument_group("drawing")
    drawing.add_argument(
        "--draw",
        type=names,
        metavar="A,B",
        help="draw only these of boxes, masks, labels, scores, semantic, caption (default: all that is predicted)",
    )
    drawing.add_argument(
        "--panels",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 puts the semantic map beside the image and the caption below, enlarging small images; 1 lays boxes and "
        "masks on the image at its own size, and map and caption where --draw names them (default: 2)",
    )
    drawing.add_argument(
        "--line-width", type=int, metavar="N", help="pixels of drawn lines (default: by the size of the drawing)"
    )
    drawing.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        help="draw frame number, frame rate, drops and stage times as well (default: for cameras and streams)",
    )
    add_json(output)
    tracking = parser.add_argument_group("tracking")
    tracking.add_argument(
        "--track",
        action="store_true",
        help="follow objects from frame to frame: ids in the JSON lines and the drawings (default: off, on with any "
        "option below)",
    )
    tracking.add_argument(
        "--track-options",
        type=_tracker_options,
        metavar="NAME=X,...",
        help="of high_score, low_score, new_score, overlap, confirm_frames, lost_frames, lost_seconds, class_agnostic, "
        "by_masks, camera_motion (default: high_score=0.5,low_score=0.1,new_score=0.6,overlap=0.2,confirm_frames=2,"
        "lost_frames=30, the others off)",
    )
    tracking.add_argument(
        "--line",
        action="append",
        type=_line,
        default=[],
        metavar="[NAME=]X1,Y1,X2,Y2",
        help="count by class who crosses this line, in pixels; in is from the left of one who looks along it to the "
        "right; may be given several times (default: none)",
    )
    tracking.add_argument(
        "--zone",
        action="append",
        type=_zone,
        default=[],
        metavar="[NAME=]X1,Y1,X2,Y2,X3,Y3,...",
        help="count by class who goes into this polygon and out; may be given several times (default: none)",
    )
    tracking.add_argument(
        "--anchor",
        choices=("centre", "bottom"),
        default="centre",
        help="what of its box stands for an object at lines and zones: the centre, or the middle of the lower edge "
        "(default: centre)",
    )
    frames = parser.add_argument_group("cameras, streams and standard input")
    frames.add_argument(
        "--camera-size",
        type=_width_by_height,
        metavar="WIDTHxHEIGHT",
        help="size to ask a camera for, such as 1280x720 (default: its own); of the frames on standard input",
    )
    frames.add_argument(
        "--camera-fps", type=float, metavar="X", help="frames per second to ask a camera for (default: its own)"
    )
    frames.add_argument(
        "--layout",
        choices=("bgr", "rgb", "bgra", "rgba", "grey", "nv12", "yuyv"),
        help="pixel layout of the frames on standard input (default: bgr)",
    )
    frames.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames (default: no limit)")
    frames.add_argument(
        "--reconnect",
        dest="reconnect_seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to retry when a camera or a stream is lost; 0 ends at once (default: 10)",
    )
    add_backend(parser)


def _run(arguments: argparse.Namespace) -> int:
    from ..runtime.options import PredictOptions
    from ..runtime.runner.outputs import RunOptions
    from ..runtime.runner.runner import RunLines, run
    from ..runtime.sources.capture import CameraOptions

    to_stdout = arguments.jsonl in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
    if to_stdout and (arguments.json or arguments.no_jsonl):
        other = "--json" if arguments.json else "--no-jsonl"
        raise Misuse(f"--jsonl - prints the JSON lines on stdout; leave out {other}")
    if arguments.jsonl and arguments.no_jsonl:
        raise Misuse(f"--jsonl {arguments.jsonl} writes the JSON lines; leave out --no-jsonl")
    if arguments.no_pictures and arguments.no_jsonl and not arguments.show:
        raise Misuse("--no-pictures and --no-jsonl leave nothing to write; leave out one of them, or add --show")
    if len(arguments.source) > 1:
        addresses = [source for source in arguments.source if source.startswith("-") or "://" in source]
        if addresses:
            raise Misuse("several sources at once must be image files; give cameras and addresses one by one")
    is_terminal = sys.stderr.isatty()
    with terminated_like_interrupted():
        summary = run(
            arguments.bundle,
            arguments.source[0] if len(arguments.source) == 1 else arguments.source,
            arguments.out,
            RunOptions(
                drawings=not arguments.no_pictures,
                jsonl=sys.stdout if to_stdout else arguments.jsonl or not arguments.no_jsonl,
                append=arguments.append,
                force=arguments.force,
                show=arguments.show,
                overlay=arguments.overlay,
                drawing=_drawing(arguments),
                caption_every=arguments.caption_every,
                max_frames=arguments.max_frames,
                track=arguments.track_options or arguments.track,
                regions=(*arguments.line, *arguments.zone),
                anchor=arguments.anchor,
            ),
            load=load_options(arguments, arguments.bundle),
            predict=PredictOptions(
                arguments.tasks,
                arguments.score_threshold,
                arguments.iou_threshold,
                arguments.max_detections,
                caption=caption_options(arguments),
            ),
            camera=CameraOptions(
                arguments.camera_size, arguments.camera_fps, arguments.reconnect_seconds, arguments.layout
            ),
            progress=RunLines(
                say,
                seconds=None if is_terminal else _SECONDS_IN_A_FILE,
                width=shutil.get_terminal_size().columns - 1 if is_terminal else None,
            ),
        )
    if to_stdout:
        say(_text(summary))
    else:
        print_result(arguments, summary.to_json(), _text(summary))
    return summary.exit_code


def _drawing(arguments: argparse.Namespace) -> DrawOptions:
    from ..runtime.drawing import DrawOptions

    others = {"panels": arguments.panels, "line_width": arguments.line_width}
    return DrawOptions(**others) if arguments.draw is None else DrawOptions.of_parts(arguments.draw, **others)


def _text(summary: RunSummary) -> str:
    skipped = f", {len(summary.failed)} could not be read" if summary.failed else ""
    dropped = f", {summary.dropped} dropped" if summary.dropped else ""
    broken = f", {summary.not_finite} with NaN or infinity from the network" if summary.not_finite else ""
    place = ""
    if summary.files:
        only = summary.files[0] if len(summary.files) == 1 else summary.out
        place = f"; see {only}"
    begin = "interrupted, kept what was done: " if summary.is_interrupted else ""
    counts = f"; {summary.counts_text}" if summary.counts_text else ""
    return f"{begin}{summary.done} answered{skipped}{dropped}{broken}, {summary.seconds:.1f} s{counts}{place}"


def _tracker_options(text: str) -> TrackerOptions:
    from ..runtime.tracking.tracker import TrackerOptions

    return _parsed(TrackerOptions.of_text, text)


def _line(text: str) -> Line:
    from ..runtime.tracking.regions import Line

    return _parsed(Line.of_text, text)


def _zone(text: str) -> Zone:
    from ..runtime.tracking.regions import Zone

    return _parsed(Zone.of_text, text)


def _parsed(parse: Callable[[str], Parsed], text: str) -> Parsed:
    """What a text means, with a complaint that argparse puts the option's name before."""
    try:
        return parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.spelled(lambda name: name)) from None


def _width_by_height(text: str) -> tuple[int, int]:
    """ "WxH", as cameras are spoken of, as (height, width)."""
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT such as 1280x720, got "{text}"')
    return int(found[2]), int(found[1])


def _caption_every(text: str) -> int | str:
    """A number of frames, or "scene-change"; whether the number makes sense is for the stream to say."""
    if text == "scene-change":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a number of frames or scene-change, got "{text}"') from None
