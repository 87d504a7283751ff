"""`yolor-edge run`: a whole source through a bundle, into annotated pictures or a video and JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .captioning import CaptionOptions
from .draw import DrawOptions, draw
from .errors import ImageError, UsageError
from .files import replacing_file
from .images import quiet_opencv, write_image
from .model import Model, load
from .results import Result
from .sources import Frame, Source, open_source

RESULTS_FILE = "results.jsonl"
_PICTURE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        out: The folder written to.
        done: Frames answered.
        failed: (name, reason) of each that could not be read.
        files: What was written: pictures or a video, and the JSON lines.
        seconds: From the first frame to the last file.
    """

    out: Path
    done: int
    failed: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """1 if anything could not be read, else 0."""
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "out": str(self.out),
            "done": self.done,
            "failed": [{"source": name, "error": reason} for name, reason in self.failed],
            "files": [str(file) for file in self.files],
            "seconds": round(self.seconds, 3),
        }


def run(
    bundle: Bundle | str | os.PathLike[str],
    source: str | os.PathLike[str] | int,
    out: str | os.PathLike[str],
    tasks: Collection[str] | None = None,
    *,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    beam_size: int = CaptionOptions.beam_size,
    caption_decoder: str | None = None,
    caption_budget_ms: float | None = None,
    pictures: bool = True,
    jsonl: bool = True,
    max_frames: int | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Answer for every picture of a source; draw the answers and write them down.

    A picture that cannot be read is reported and skipped. Every file appears whole or not at all; the JSON
    lines and a video appear at the end. Interrupting (Ctrl-C) a camera ends the run properly.

    Args:
        bundle: A bundle folder, or one already opened.
        source: An image file, a folder of images, a glob pattern, a video file or the index of a camera.
        out: Folder to write to, made if missing: annotated pictures under the names they came with, or one
            MP4 for a video or camera; and `results.jsonl`, one JSON object per frame.
        tasks: Which answers; None for all the model has.
        backend: What runs the graphs.
        precision: Of the graphs.
        threads: CPU threads; None for as many as this process may run on.
        score_threshold: Boxes score above this; None for the model's default.
        iou_threshold: Overlap from which the lower-scored box goes; None for the model's default.
        max_detections: Most boxes per picture; None for the model's default.
        beam_size: Of the caption search; 1 is greedy.
        caption_decoder: What writes captions, as in `load`.
        caption_budget_ms: Time for a caption, as in `CaptionOptions`; None for no limit.
        pictures: Write annotated pictures or video.
        jsonl: Write `results.jsonl`.
        max_frames: Stop after so many frames; None for all of them.
        report: Called with a line of text for every picture, and about once a second for video.

    Returns:
        What was done, what failed, what was written.

    Raises:
        UsageError: If an argument makes no sense, the source is not there, or `out` would overwrite it.
        ImageError: If a video or camera cannot be opened, or the annotated video cannot be written.
        BundleError: If the bundle is not whole and unaltered.
        BackendError: If the backend is not installed or fails.
        OSError: If the disk refuses.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max_frames must be at least 1, got {max_frames}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    stream = open_source(source)
    out = Path(out)
    _check_out(out, opened, stream)
    started = time.perf_counter()
    failed: list[tuple[str, str]] = []
    done = 0
    search = CaptionOptions(beam_size=beam_size, budget_ms=caption_budget_ms)
    with load(opened, backend, precision, threads, caption_decoder) as model, contextlib.ExitStack() as stack:
        chosen = model.spec.choose_tasks(tasks)
        writer = _Writer(stack, out, stream, model, pictures, jsonl)
        progress = _Progress(stream, max_frames, report)
        try:
            for frame in stream:
                if frame.image is None:
                    failed.append((frame.name, frame.error or "cannot be read"))
                    writer.write_failure(frame)
                    progress.failed(frame)
                else:
                    result = model.predict(
                        frame.image,
                        chosen,
                        score_threshold=score_threshold,
                        iou_threshold=iou_threshold,
                        max_detections=max_detections,
                        caption=search,
                    )
                    writer.write(frame, frame.image, result)
                    done += 1
                    progress.answered(frame, result)
                if max_frames is not None and frame.index + 1 >= max_frames:
                    break
        except KeyboardInterrupt:
            if stream.kind != "camera":
                raise
    return RunSummary(out, done, tuple(failed), tuple(writer.files), time.perf_counter() - started)


class _Writer:
    """Writes what a run answers; what is written over many frames is finished when the stack unwinds."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        out: Path,
        source: Source,
        model: Model,
        pictures: bool,
        jsonl: bool,
    ):
        self.files: list[Path] = []
        self._stack = stack
        self._out = out
        self._source = source
        self._pictures = pictures
        self._options = DrawOptions(is_steady=source.kind != "images", palette=model.spec.palette)
        self._video: _VideoFile | None = None
        self._lines: TextIO | None = None
        if jsonl:
            temporary = stack.enter_context(replacing_file(out / RESULTS_FILE))
            self._lines = stack.enter_context(temporary.open("w", encoding="utf-8"))
            self.files.append(out / RESULTS_FILE)

    def write(self, frame: Frame, image: NDArray[np.uint8], result: Result) -> None:
        """Write one frame's answers."""
        drawing = None
        if self._pictures:
            drawing = self._write_drawing(frame, draw(image, result, self._options))
        line: dict[str, Any] = {"source": frame.name, "index": frame.index}
        if drawing is not None:
            line["drawing"] = drawing
        self._write_line({**line, **result.to_json()})

    def write_failure(self, frame: Frame) -> None:
        """Write down that a frame could not be read."""
        self._write_line({"source": frame.name, "index": frame.index, "error": frame.error})

    def _write_line(self, content: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(content, ensure_ascii=False) + "\n")

    def _write_drawing(self, frame: Frame, drawing: NDArray[np.uint8]) -> str:
        """Write one drawing and return the name of its file inside the output folder."""
        if self._source.kind == "images":
            name = _drawing_name(frame.name)
            write_image(self._out / name, drawing)
            self.files.append(self._out / name)
            return name
        path = self._out / _video_name(self._source)
        if self._video is None:
            temporary = self._stack.enter_context(replacing_file(path))
            self._video = self._stack.enter_context(_VideoFile.open(temporary, path, self._source.fps, drawing))
            self.files.append(path)
        self._video.write(drawing)
        return path.name


class _VideoFile:
    """An MP4 being written."""

    def __init__(self, writer: cv2.VideoWriter, size: tuple[int, int]):
        self._writer = writer
        self._size = size
        self._written = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, temporary: Path, path: Path, fps: float, first: NDArray[np.uint8]) -> Iterator[_VideoFile]:
        """Open `temporary` for frames of the size of `first`, and check at the end that they are all there.

        Raises:
            ImageError: If it cannot be written, or came out incomplete; it is called `path` in the message.
        """
        height, width = first.shape[:2]
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with quiet_opencv():
            writer = cv2.VideoWriter(os.fspath(temporary), fourcc, fps, (width, height))
        if not writer.isOpened():
            raise ImageError(f"{path}: this OpenCV cannot write MP4 video; write pictures of single frames instead")
        video = cls(writer, (width, height))
        try:
            yield video
        finally:
            writer.release()
        with quiet_opencv():
            check = cv2.VideoCapture(os.fspath(temporary))
        frames = round(check.get(cv2.CAP_PROP_FRAME_COUNT))
        check.release()
        if frames < video._written:
            raise ImageError(
                f"{path}: only {max(0, frames)} of {video._written} frames were written; is the disk full?"
            )

    def write(self, drawing: NDArray[np.uint8]) -> None:
        """Append a frame; one of another size, as some cameras give, is resized."""
        if (drawing.shape[1], drawing.shape[0]) != self._size:
            drawing = np.asarray(cv2.resize(drawing, self._size), np.uint8)
        self._writer.write(drawing)
        self._written += 1


class _Progress:
    """Turns frames into lines of text: one per picture, about one a second for video."""

    def __init__(self, source: Source, max_frames: int | None, report: Callable[[str], None] | None):
        counts = [count for count in (source.expected, max_frames) if count is not None]
        self._total = f"/{min(counts)}" if counts else ""
        self._is_video = source.kind != "images"
        self._report = report
        self._last = 0.0

    def failed(self, frame: Frame) -> None:
        if self._report is not None:
            self._report(f"[{frame.index + 1}{self._total}] skipped: {frame.error}")

    def answered(self, frame: Frame, result: Result) -> None:
        if self._report is None:
            return
        now = time.perf_counter()
        if self._is_video and now - self._last < 1:
            return
        self._last = now
        self._report(f"[{frame.index + 1}{self._total}] {frame.name}: {summary_of(result)}")


def summary_of(result: Result) -> str:
    """One line for people: counts of objects, the largest semantic classes, the caption and the time."""
    parts = []
    if result.detected_names is not None:
        names = result.detected_names
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        parts.append(", ".join(f"{count} {name}" for name, count in counts.items()) or "no objects")
    areas = result.semantic_areas()
    if areas:
        total = sum(pixels for _, pixels in areas)
        largest = [f"{result.semantic_names[i]} {100 * pixels / total:.0f}%" for i, pixels in areas[:3]]
        parts.append(" ".join(largest))
    if result.caption is not None:
        parts.append(f'"{result.caption.text}"')
    parts.append(f"{result.timings_ms['total']:.0f} ms")
    return "; ".join(parts)


def _check_out(out: Path, bundle: Bundle, source: Source) -> None:
    """Refuse an output folder where writing would spoil what is read.

    Raises:
        UsageError: Saying why.
    """
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
    if any((out / name).resolve() in inputs for name in names):
        raise UsageError(f"{out}: writing there would overwrite the source; choose another folder")


def _drawing_name(name: str) -> str:
    """The name of a drawing: that of its picture, with .png added where the format is not for viewing."""
    return name if Path(name).suffix.lower() in _PICTURE_SUFFIXES else name + ".png"


def _video_name(source: Source) -> str:
    return f"camera-{source.camera}.mp4" if source.camera is not None else Path(source.name).stem + ".mp4"
