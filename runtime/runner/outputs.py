"""What a run writes: annotated images or one video, JSON lines, and a window to look at meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.spec import ModelSpec
from ..drawing import TWO_PANELS, DrawnRegion, DrawOptions, draw
from ..errors import UsageError
from ..files import LineFile, replacing_file
from ..images.image_files import to_bgr, write_image
from ..progress import Say
from ..results import Caption, Result
from ..sources.sources import Frame, Source
from ..stream.stream_results import StreamResult
from ..tracking.regions import Anchor, Region, RegionCounter, check_regions
from ..tracking.tracker import TrackerOptions
from .overlay import Overlay, time_of_day
from .video_file import VideoFile
from .window import Window

RESULTS_FILE = "results.jsonl"
_PICTURE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})


@dataclass(frozen=True)
class RunOptions:
    """What a run writes and shows, and when it stops.

    Attributes:
        drawings: Write annotated images, or a video, to the folder.
        jsonl: Write `results.jsonl` there, one JSON object per frame; or, if a path, this file instead; or write the
            same lines to this, open for text. Lines are written at once and one by one.
        append: Go on in a file of JSON lines that is there already, behind its last whole line. Drawings of the same
            name are replaced.
        force: Replace one that is there already; other drawings beside it stay. Without either it is an error, unless
            it holds no results.
        show: Show the drawings in a window; q or Esc ends the run. For images, any other key brings the next.
        overlay: Write above the drawings how the stream is doing; None for live sources only.
        drawing: What the drawings show, and how. A video keeps its size in any case, and the bundle's palette is used
            where there is no other.
        caption_every: Caption every so many frames, or with "scene-change" those that show another scene; the drawings
            of those between carry the last caption. In the JSON lines a caption is with its own frame; one of a live
            source, written while other frames went by, is in a later line, as "earlier_caption" with its frame's index.
        max_frames: Stop after so many frames; None for all of them.
        track: Follow objects from frame to frame, as in `StreamOptions`.
        regions: Lines and zones in pixels of the frames: who crosses them is counted, written and drawn. They need
            tracks, so objects are followed then.
        anchor: What stands for an object there: "centre" of its box, or "bottom", the middle of the lower edge.

    Raises:
        UsageError: If an option makes no sense, or nothing is to be written or shown.
    """

    drawings: bool = True
    jsonl: bool | TextIO | str | os.PathLike[str] = True
    append: bool = False
    force: bool = False
    show: bool = False
    overlay: bool | None = None
    drawing: DrawOptions = TWO_PANELS
    caption_every: int | str = 1
    max_frames: int | None = None
    track: bool | TrackerOptions = False
    regions: tuple[Region, ...] = ()
    anchor: Anchor = "centre"

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"<max_frames> must be at least 1, got {self.max_frames}", argument="max_frames")
        if self.append and self.force:
            raise UsageError(
                "<append> goes on in the file of an earlier run, <force> replaces it; leave out one of them",
                argument=("append", "force"),
            )
        check_regions(self.regions, self.anchor)
        if not self.drawings and self.jsonl is False and not self.show:
            raise UsageError("neither drawings nor JSON lines are to be written, and nothing to be shown; ask for one")

    def lines_file(self, out: Path) -> Path | None:
        """The file that JSON lines are written to."""
        if isinstance(self.jsonl, str | os.PathLike):
            return Path(self.jsonl)
        return out / RESULTS_FILE if self.jsonl is True else None

    def check(self, out: Path, bundle: Bundle, source: Source) -> None:
        """Refuse outputs that would spoil what is read, or that would not belong together.

        Raises:
            UsageError: Saying why.
        """
        lines = self.lines_file(out)
        if lines is not None and self.jsonl is not True:
            self._check_lines(lines, bundle, source)
        if self.drawings or self.jsonl is True:
            self._check_folder(out, lines, bundle, source)
        if lines is not None and not self.append and not self.force and _holds_results(lines):
            raise UsageError(
                f"{lines}: holds the results of an earlier run; go on in it with <append>, replace it with <force>, or "
                "choose another <out>",
                argument=("append", "force", "out"),
            )

    def _check_folder(self, out: Path, lines: Path | None, bundle: Bundle, source: Source) -> None:
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out}: is a file, expected a folder to write to")
        place, home = out.resolve(), bundle.path.resolve()
        if place == home or home in place.parents:
            raise UsageError(f"{out}: lies inside the bundle, whose files must not change; choose another folder")
        inputs = {file.resolve() for file in source.files}
        if source.kind == "images":
            names = [_drawing_name(file.relative_to(source.root).as_posix()) for file in source.files]
        else:
            names = [_video_name(source)]
        written = {(out / name).resolve() for name in (*names, RESULTS_FILE)}  # what links there lead to
        if written & inputs:
            raise UsageError(f"{out}: writing there would overwrite the source; choose another folder")
        if any(home in file.parents for file in written):
            raise UsageError(f"{out}: has a link into the bundle, whose files must not change; choose another folder")
        old = out / RESULTS_FILE
        if old.exists() and (lines is None or lines.resolve() != old.resolve()):
            raise UsageError(
                f"{old}: is of an earlier run and would lie beside other drawings; remove it, or choose another folder"
            )

    def _check_lines(self, path: Path, bundle: Bundle, source: Source) -> None:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder, expected the name of a file for the JSON lines")
        if bundle.path.resolve() in path.resolve().parents:
            raise UsageError(f"{path}: lies inside the bundle, whose files must not change; choose another file")
        if path.resolve() in {file.resolve() for file in source.files}:
            raise UsageError(f"{path}: writing there would overwrite the source; choose another file")


class OutputWriter:
    """Writes what a run answers; what is written over many frames is finished when the stack unwinds."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        out: Path,
        options: RunOptions,
        source: Source,
        spec: ModelSpec,
        tasks: Collection[str],
        report: Say | None = None,
    ):
        self.files: list[Path] = []
        self._stack = stack
        self._out = out
        self._options = options
        self._source = source
        self._drawing_options = replace(
            options.drawing,
            is_steady=options.drawing.is_steady or source.kind != "images",
            palette=options.drawing.palette or spec.palette,
        )
        self.counter = RegionCounter(options.regions, options.anchor) if options.regions else None
        self._has_captions = "caption" in tasks
        self._caption_frame: int | None = None  # of the last caption written down
        self._video: VideoFile | None = None
        self._report = report
        self._begin_ns: int | None = None  # of a live source's video
        self._lines: TextIO | LineFile | None = None
        self._overlay = Overlay() if options.overlay or (options.overlay is None and source.is_live) else None
        self._window = None
        if options.show:
            self._window = stack.enter_context(Window(f"yolor-edge: {source.name}", waits=source.kind == "images"))
        file = options.lines_file(out)
        if file is not None:
            self._lines = stack.enter_context(LineFile(file, options.append))
            self.files.append(file)
        elif not isinstance(options.jsonl, bool | str | os.PathLike):
            self._lines = options.jsonl

    def write(self, answer: StreamResult, result: Result) -> bool:
        """Write and show one frame's answers; False if whoever looks at the window wants no more.

        Args:
            answer: What a stream gave.
            result: Of the answer.
        """
        frame = answer.frame
        line: dict[str, Any] = {"source": frame.name, "index": frame.index, **_times(frame)}
        events = {}
        if self.counter is not None:
            crossings = self.counter.update(result)
            events = {"events": [crossing.to_json() for crossing in crossings]} if crossings else {}
        drawing = None
        if self._overlay is not None:
            self._overlay.count(answer.dropped)
        if self._options.drawings or self._window is not None:
            drawing = self._drawing(answer, result)
        if drawing is not None and self._options.drawings:
            line["drawing"] = self._write_drawing(frame, drawing, 1 + answer.dropped)
        beside = self._caption_beside(answer, result)
        self._write_line({**line, **self._drops(answer), **result.to_json(), **events, **beside})
        return self._window is None or drawing is None or self._window.show(drawing)

    def write_failure(self, answer: StreamResult) -> None:
        """Write down that a frame could not be read."""
        frame = answer.frame
        line = {"source": frame.name, "index": frame.index, **_times(frame), **self._drops(answer)}
        self._write_line({**line, "error": answer.error})

    def write_counts(self) -> None:
        """Write down what was counted at lines and zones; for the end."""
        if self.counter is not None:
            self._write_line({"counts": self.counter.counts()})

    def _drops(self, answer: StreamResult) -> dict[str, int]:
        """Frames that were dropped directly before this one, of a source where that can be."""
        return {"dropped": answer.dropped} if self._source.is_live else {}

    def _caption_beside(self, answer: StreamResult, result: Result) -> dict[str, Any]:
        """A new caption that was written beside and is not in the result: under "caption" if it is this frame's own."""
        if answer.caption is None or answer.caption_frame == self._caption_frame:
            return {}
        self._caption_frame = answer.caption_frame
        if result.caption is not None:
            return {}
        caption = Result(result.image_size, caption=answer.caption).to_json()["caption"]
        if answer.caption_frame == answer.frame.index:
            return {"caption": caption}
        return {"earlier_caption": {"index": answer.caption_frame, **caption}}

    def _drawing(self, answer: StreamResult, result: Result) -> NDArray[np.uint8]:
        frame = answer.frame
        if frame.image is None:  # a stream has no result without an image
            raise ValueError(f"{frame.name}: there is nothing to draw on")
        if self._has_captions and result.caption is None and self._drawing_options.is_steady:
            # The last one, or a bar that waits for the first: the drawings of a stream keep their size.
            result = replace(result, caption=answer.caption or Caption("...", (), 0.0, 0.0))
        options = self._drawing_options
        if self.counter is not None:
            regions = [DrawnRegion(one.points, one.kind == "zone", text) for one, text in self.counter.labels()]
            options = replace(options, regions=tuple(regions))
        drawing = draw(to_bgr(frame.image, self._source.layout), result, options)
        if self._overlay is None:
            return drawing
        return self._overlay.drawn(
            drawing, frame.index, result.timings_ms, time_of_day(frame.captured_unix_ns, frame.position_s)
        )

    def _write_line(self, content: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(content, ensure_ascii=False) + "\n")
            if not isinstance(self._lines, LineFile):
                self._lines.flush()  # somebody reads along

    def _seconds(self, frame: Frame) -> float | None:
        """When a frame is to be seen in the video: as in the file that it is of, or as it was captured."""
        if not self._source.is_live or frame.captured_ns is None:
            return frame.position_s
        if self._begin_ns is None:
            self._begin_ns = frame.captured_ns
        return (frame.captured_ns - self._begin_ns) / 1e9

    def _write_drawing(self, frame: Frame, drawing: NDArray[np.uint8], times: int) -> str:
        """Write one drawing and return the name of its file inside the output folder."""
        if self._source.kind == "images":
            name = _drawing_name(frame.name)
            write_image(self._out / name, drawing)
            self.files.append(self._out / name)
            return name
        path = self._out / _video_name(self._source)
        if self._video is None:
            temporary = self._stack.enter_context(replacing_file(path))
            sound = self._source.files[0] if self._source.files else None
            self._video = self._stack.enter_context(
                VideoFile.open(temporary, path, self._source.fps, drawing, sound, self._report)
            )
            self.files.append(path)
            times = 1  # what was dropped before the first frame is no part of the video
        self._video.write(drawing, times, self._seconds(frame))
        return path.name


def _holds_results(lines: Path) -> bool:
    """Whether there is a file with a line that says more than why an image could not be read."""
    if not lines.is_file():
        return False
    with lines.open("rb") as stream:
        return any(b'"error":' not in line for line in stream)


def _times(frame: Frame) -> dict[str, float]:
    """The times of a frame as JSON has them: seconds, to the microsecond; those that it has."""
    times = {} if frame.captured_ns is None else {"captured_s": round(frame.captured_ns / 1e9, 6)}
    if frame.captured_unix_ns is not None:
        times["captured_unix_s"] = round(frame.captured_unix_ns / 1e9, 6)
    if frame.position_s is not None:
        times["position_s"] = round(frame.position_s, 6)
    return times


def _drawing_name(name: str) -> str:
    """The name of a drawing: that of its image, with .png added where the format is not for viewing."""
    return name if Path(name).suffix.lower() in _PICTURE_SUFFIXES else name + ".png"


def _video_name(source: Source) -> str:
    return f"{source.file_stem}.mp4"
