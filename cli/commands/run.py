"""`yolor-edge run`: answers for pictures, a video, a camera or a stream, drawn, shown and written down."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..termination import terminated_like_interrupted

if TYPE_CHECKING:
    from ..runtime.drawing import DrawOptions
    from ..runtime.runner.runner import RunSummary

# Between lines of progress where nobody is likely to watch.
_SECONDS_IN_A_FILE = 10.0
_OF_BUNDLE = '(default: "thresholds" in bundle.json)'


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    from .. import main as cli

    parser = cli._command(
        commands,
        "run",
        _run,
        "answer for pictures, a video, a camera or a stream, and draw the answers",
        "Writes annotated pictures, or one MP4 for a video, camera or stream, and results.jsonl with one JSON object "
        "for each frame. A picture that cannot be read is reported and skipped, and the exit code is 1 then. Ctrl-C "
        "ends the run and keeps what was answered until then; for files the exit code is 130 then. Progress goes to "
        "stderr. Frames that come from a camera faster than they can be answered are "
        "dropped, the oldest first, and counted; files are always answered whole.",
        "yolor-edge run bundles/scenes holiday.mp4 --out answers\n"
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
        help="picture or several, folder, glob, video; camera index or /dev/videoN; URL (rtsp, http, ...); GStreamer "
        "pipeline in quotes; or - for bare frames on standard input",
    )
    parser.add_argument("--out", default="yolor-edge-out", metavar="DIR", help="folder (default: yolor-edge-out)")
    parser.add_argument(
        "--tasks", type=cli._names, metavar="A,B", help="of boxes, masks, semantic, caption (default: all)"
    )
    parser.add_argument("--score-threshold", type=float, metavar="X", help=f"boxes score above this {_OF_BUNDLE}")
    parser.add_argument(
        "--iou-threshold", type=float, metavar="X", help=f"of two boxes that overlap more, one goes {_OF_BUNDLE}"
    )
    parser.add_argument("--max-detections", type=int, metavar="N", help=f"most boxes of one picture {_OF_BUNDLE}")
    cli._add_caption(parser)
    parser.add_argument(
        "--caption-every",
        type=_caption_every,
        default=1,
        metavar="N",
        help="caption every N frames, or with scene-change those that show another scene (default: 1)",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--no-pictures", action="store_true", help="write only results.jsonl")
    parser.add_argument("--no-jsonl", action="store_true", help="write only pictures or video")
    parser.add_argument(
        "--jsonl",
        metavar="FILE",
        help="write the JSON lines to FILE instead of results.jsonl; with - print them, and nothing else, on stdout",
    )
    parser.add_argument("--show", action="store_true", help="show the answers in a window; q ends")
    parser.add_argument(
        "--draw",
        type=cli._names,
        metavar="A,B",
        help="draw only these of boxes, masks, labels, scores, semantic, caption (default: all that is predicted)",
    )
    parser.add_argument(
        "--panels",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 puts the semantic map beside the image and the caption below, enlarging small images; 1 lays boxes and "
        "masks on the image at its own size, and map and caption where --draw names them (default: 2)",
    )
    parser.add_argument(
        "--line-width", type=int, metavar="N", help="pixels of drawn lines (default: by the size of the drawing)"
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        help="write frame number, rate, drops and stage times above the drawings (default: for cameras and streams)",
    )
    parser.add_argument(
        "--camera-size",
        type=_width_by_height,
        metavar="WIDTHxHEIGHT",
        help="wanted of a camera, such as 1280x720; of standard input, the size of its frames",
    )
    parser.add_argument(
        "--layout",
        choices=("bgr", "rgb", "bgra", "rgba", "grey", "nv12", "yuyv"),
        help="of the bare frames on standard input (default: bgr)",
    )
    parser.add_argument("--camera-fps", type=float, metavar="X", help="frames per second wanted of a camera")
    parser.add_argument(
        "--reconnect",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to try again when a camera or a stream is lost; 0 ends at once (default: 10)",
    )
    cli._add_backend(parser)
    cli._add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    from .. import main as cli
    from ..runtime.runner.runner import run
    from ..runtime.sources.capture import CameraOptions

    to_stdout = arguments.jsonl == "-"
    if to_stdout and (arguments.json or arguments.no_jsonl):
        other = "--json" if arguments.json else "--no-jsonl"
        raise cli._Misuse(f"--jsonl - prints the JSON lines on stdout; leave out {other}")
    if arguments.jsonl and arguments.no_jsonl:
        raise cli._Misuse(f"--jsonl {arguments.jsonl} writes the JSON lines; leave out --no-jsonl")
    if arguments.no_pictures and arguments.no_jsonl and not arguments.show:
        raise cli._Misuse("--no-pictures and --no-jsonl leave nothing to write; leave out one of them, or add --show")
    if len(arguments.source) > 1:
        addresses = [source for source in arguments.source if source.startswith("-") or "://" in source]
        if addresses:
            raise cli._Misuse("several sources at once must be picture files; give cameras and addresses one by one")
    is_terminal = sys.stderr.isatty()
    with terminated_like_interrupted():
        summary = run(
            arguments.bundle,
            arguments.source[0] if len(arguments.source) == 1 else arguments.source,
            arguments.out,
            arguments.tasks,
            score_threshold=arguments.score_threshold,
            iou_threshold=arguments.iou_threshold,
            max_detections=arguments.max_detections,
            pictures=not arguments.no_pictures,
            jsonl=sys.stdout if to_stdout else arguments.jsonl or not arguments.no_jsonl,
            show=arguments.show,
            overlay=arguments.overlay,
            drawing=_drawing(arguments),
            caption_every=arguments.caption_every,
            camera=CameraOptions(arguments.camera_size, arguments.camera_fps, arguments.reconnect, arguments.layout),
            max_frames=arguments.max_frames,
            report=cli._say,
            report_seconds=None if is_terminal else _SECONDS_IN_A_FILE,
            report_width=shutil.get_terminal_size().columns - 1 if is_terminal else None,
            **cli._caption(arguments),
            **cli._backend(arguments),
        )
    if to_stdout:
        cli._say(_text(summary))
    else:
        cli._print(arguments, summary.to_json(), _text(summary))
    return summary.exit_code


def _drawing(arguments: argparse.Namespace) -> DrawOptions:
    from ..runtime.drawing import DrawOptions

    others = {"panels": arguments.panels, "line_width": arguments.line_width}
    return DrawOptions(**others) if arguments.draw is None else DrawOptions.of_parts(arguments.draw, **others)


def _text(summary: RunSummary) -> str:
    skipped = f", {len(summary.failed)} could not be read" if summary.failed else ""
    dropped = f", {summary.dropped} dropped" if summary.dropped else ""
    place = ""
    if summary.files:
        only = summary.files[0] if len(summary.files) == 1 else summary.out
        place = f"; see {only}"
    begin = "interrupted, kept what was done: " if summary.is_interrupted else ""
    return f"{begin}{summary.done} answered{skipped}{dropped}, {summary.seconds:.1f} s{place}"


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
