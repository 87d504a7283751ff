"""What a run writes: annotated pictures or one video, JSON lines, and a window to look at meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.spec import ModelSpec
from ..drawing.overlay import Overlay, time_of_day
from ..drawing.panels import DrawOptions, draw
from ..errors import UsageError
from ..files import replacing_file
from ..images.image_files import to_bgr, write_image
from ..results import Caption, Result
from ..sources.sources import Frame, Source
from ..stream.stream_results import Answer
from .video_file import VideoFile
from .window import Window

RESULTS_FILE = "results.jsonl"
_PICTURE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})


@dataclass(frozen=True)
class Outputs:
    """What is wanted of a run.

    Attributes:
        out: Folder to write to.
        pictures: Write annotated pictures or a video there.
        jsonl: Write JSON lines there; or where to instead, a file's path or something open for writing text.
        show: Show the drawings in a window.
        overlay: Write above the drawings how the stream is doing; None for live sources only.
    """

    out: Path
    pictures: bool = True
    jsonl: bool | TextIO | Path = True
    show: bool = False
    overlay: bool | None = None

    def check(self, bundle: Bundle, source: Source) -> None:
        """Refuse outputs that are none, that would spoil what is read, or that would not belong together.

        Raises:
            UsageError: Saying why.
        """
        if not self.pictures and self.jsonl is False and not self.show:
            raise UsageError("neither pictures nor JSON lines are to be written, and nothing to be shown; ask for one")
        if isinstance(self.jsonl, Path):
            self._check_lines(self.jsonl, bundle, source)
        if not self.pictures and self.jsonl is not True:
            return
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out}: is a file, expected a folder to write to")
        place, home = self.out.resolve(), bundle.path.resolve()
        if place == home or home in place.parents:
            raise UsageError(f"{self.out}: lies inside the bundle, whose files must not change; choose another folder")
        inputs = {file.resolve() for file in source.files}
        if source.kind == "images":
            names = [_drawing_name(file.relative_to(source.root).as_posix()) for file in source.files]
        else:
            names = [_video_name(source)]
        if any((self.out / name).resolve() in inputs for name in names):
            raise UsageError(f"{self.out}: writing there would overwrite the source; choose another folder")
        old = self.out / RESULTS_FILE
        if old.exists() and (self.lines_file is None or self.lines_file.resolve() != old.resolve()):
            raise UsageError(
                f"{old}: is of an earlier run and would lie beside other drawings; remove it, or choose another folder"
            )

    @property
    def lines_file(self) -> Path | None:
        """The file that JSON lines are written to."""
        return self.jsonl if isinstance(self.jsonl, Path) else self.out / RESULTS_FILE if self.jsonl is True else None

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
        wanted: Outputs,
        source: Source,
        spec: ModelSpec,
        tasks: Collection[str],
    ):
        self.files: list[Path] = []
        self._stack = stack
        self._wanted = wanted
        self._source = source
        self._options = DrawOptions(is_steady=source.kind != "images", palette=spec.palette)
        self._has_captions = "caption" in tasks
        self._caption_frame: int | None = None  # of the last caption written down
        self._video: VideoFile | None = None
        self._lines: TextIO | None = None
        self._overlay = Overlay() if wanted.overlay or (wanted.overlay is None and source.is_live) else None
        self._window = None
        if wanted.show:
            self._window = stack.enter_context(Window(f"yolor-edge: {source.name}", waits=source.kind == "images"))
        if wanted.lines_file is not None:
            temporary = stack.enter_context(replacing_file(wanted.lines_file))
            self._lines = stack.enter_context(temporary.open("w", encoding="utf-8", errors="backslashreplace"))
            self.files.append(wanted.lines_file)
        elif not isinstance(wanted.jsonl, bool | Path):
            self._lines = wanted.jsonl

    def write(self, answer: Answer, result: Result) -> bool:
        """Write and show one frame's answers; False if whoever looks at the window wants no more.

        Args:
            answer: What a stream gave.
            result: Of the answer.
        """
        frame = answer.frame
        line: dict[str, Any] = {"source": frame.name, "index": frame.index, **_times(frame)}
        drawing = None
        if self._overlay is not None:
            self._overlay.count(answer.dropped)
        if self._wanted.pictures or self._window is not None:
            drawing = self._drawing(answer, result)
        if drawing is not None and self._wanted.pictures:
            line["drawing"] = self._write_drawing(frame, drawing, 1 + answer.dropped)
        self._write_line({**line, **self._drops(answer), **result.to_json(), **self._caption_beside(answer, result)})
        return self._window is None or drawing is None or self._window.show(drawing)

    def write_failure(self, answer: Answer) -> None:
        """Write down that a frame could not be read."""
        frame = answer.frame
        line = {"source": frame.name, "index": frame.index, **_times(frame), **self._drops(answer)}
        self._write_line({**line, "error": answer.error})

    def _drops(self, answer: Answer) -> dict[str, int]:
        """Frames that were dropped directly before this one, of a source where that can be."""
        return {"dropped": answer.dropped} if self._source.is_live else {}

    def _caption_beside(self, answer: Answer, result: Result) -> dict[str, Any]:
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

    def _drawing(self, answer: Answer, result: Result) -> NDArray[np.uint8]:
        image = answer.frame.image
        if image is None:  # a stream has no result without a picture
            raise ValueError(f"{answer.frame.name}: there is nothing to draw on")
        if self._has_captions and result.caption is None and self._options.is_steady:
            # The last one, or a bar that waits for the first: the drawings of a stream keep their size.
            result = replace(result, caption=answer.caption or Caption("...", (), 0.0, 0.0))
        drawing = draw(to_bgr(image, self._source.layout), result, self._options)
        if self._overlay is None:
            return drawing
        return self._overlay.drawn(drawing, answer.frame.index, result.timings_ms, time_of_day(answer.frame))

    def _write_line(self, content: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(content, ensure_ascii=False) + "\n")
            if self._lines is self._wanted.jsonl:
                self._lines.flush()  # somebody reads along

    def _write_drawing(self, frame: Frame, drawing: NDArray[np.uint8], times: int) -> str:
        """Write one drawing and return the name of its file inside the output folder."""
        if self._source.kind == "images":
            name = _drawing_name(frame.name)
            write_image(self._wanted.out / name, drawing)
            self.files.append(self._wanted.out / name)
            return name
        path = self._wanted.out / _video_name(self._source)
        if self._video is None:
            temporary = self._stack.enter_context(replacing_file(path))
            self._video = self._stack.enter_context(VideoFile.open(temporary, path, self._source.fps, drawing))
            self.files.append(path)
            times = 1  # what was dropped before the first frame is no part of the video
        self._video.write(drawing, times)
        return path.name


def _times(frame: Frame) -> dict[str, float]:
    """The times of a frame as JSON has them: seconds, to the microsecond; those that it has."""
    times = {} if frame.captured_ns is None else {"captured_s": round(frame.captured_ns / 1e9, 6)}
    if frame.captured_unix_ns is not None:
        times["captured_unix_s"] = round(frame.captured_unix_ns / 1e9, 6)
    if frame.position_s is not None:
        times["position_s"] = round(frame.position_s, 6)
    return times


def _drawing_name(name: str) -> str:
    """The name of a drawing: that of its picture, with .png added where the format is not for viewing."""
    return name if Path(name).suffix.lower() in _PICTURE_SUFFIXES else name + ".png"


def _video_name(source: Source) -> str:
    return f"{source.file_stem}.mp4"
