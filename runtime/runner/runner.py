"""`yolor-edge run`: a whole source through a bundle, into annotated pictures or a video and JSON lines."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..bundle.bundle import Bundle
from ..captions.captioning import CaptionOptions
from ..drawing import TWO_PANELS, DrawOptions
from ..errors import UsageError
from ..model import load
from ..results import Result
from ..sources.capture import CameraOptions
from ..sources.sources import Source, open_source
from ..stream.stream_results import Answer
from ..vision.open_vision import check_post_processing
from .outputs import Outputs, OutputWriter
from .window import check_window


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        out: The folder written to.
        done: Frames answered.
        failed: (name, reason) of each that could not be read.
        files: What was written: pictures or a video, and the JSON lines.
        seconds: From the first frame to the last file.
        dropped: Frames of a live source that came while others were at work.
        stages_ms: Median milliseconds of each stage, as in `StreamStatistics`.
        is_interrupted: Files were left before their end by Ctrl-C; what was answered until then is written, whole.
    """

    out: Path
    done: int
    failed: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]
    seconds: float
    dropped: int = 0
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    is_interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 if files were left by Ctrl-C, 1 if anything could not be read, else 0."""
        if self.is_interrupted:
            return 130
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "out": str(self.out),
            "done": self.done,
            "failed": [{"source": name, "error": reason} for name, reason in self.failed],
            "dropped": self.dropped,
            "files": [str(file) for file in self.files],
            "seconds": round(self.seconds, 3),
            "stages_ms": {stage: round(ms, 3) for stage, ms in self.stages_ms.items()},
            "interrupted": self.is_interrupted,
        }


def run(
    bundle: Bundle | str | os.PathLike[str],
    source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str]],
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
    jsonl: bool | TextIO | str | os.PathLike[str] = True,
    show: bool = False,
    overlay: bool | None = None,
    drawing: DrawOptions = TWO_PANELS,
    caption_every: int | str = 1,
    camera: CameraOptions | None = None,
    max_frames: int | None = None,
    post_processing: str | None = None,
    report: Callable[[str], None] | None = None,
    report_seconds: float | None = None,
    report_width: int | None = None,
) -> RunSummary:
    """Answer for every picture of a source; draw the answers and write them down.

    A picture that cannot be read is reported and skipped. Every file appears whole or not at all; the JSON
    lines and a video appear at the end. Interrupting (Ctrl-C) ends the run properly, with all that was answered until
    then, and so does closing the window; a camera or a stream ends this way, and files count as interrupted. A video
    keeps the size of its first frame, into which later ones of another size are fitted; a frame of a live source is
    repeated for those that were dropped before it, which keeps the time.

    Args:
        bundle: A bundle folder, or one already opened.
        source: Whatever `open_source` takes: a picture or several, a folder, a glob pattern, a video, a camera, a URL,
            a pipeline.
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
        jsonl: Write `results.jsonl`; or, if a path, this file instead; or write the same lines to this, open for text,
            at once and one by one.
        show: Show the drawings in a window; q or Esc ends the run. For pictures, any other key brings the next.
        overlay: Write above the drawings how the stream is doing; None for live sources only.
        drawing: What the drawings show, and how.
        caption_every: Caption every so many frames, or with "scene-change" those that show another scene; the drawings
            of those between carry the last caption. In the JSON lines a caption is with its own frame; one of a live
            source, written while other frames went by, is in a later line, as "earlier_caption" with its frame's index.
        camera: What is asked of a camera or a stream.
        max_frames: Stop after so many frames; None for all of them.
        post_processing: "gpu" or "cpu", as in `load`.
        report: Called with a line of text for pictures that were answered, the last one at any rate, and for each that
            could not be read.
        report_seconds: At least so much time between lines of answers; None for a line for every picture, and about one
            a second for video.
        report_width: Lines of answers have at most so many letters; None for any number.

    Returns:
        What was done, what failed, what was written.

    Raises:
        UsageError: If an argument makes no sense, the source is not there, or writing would overwrite it or leave lines
            of an earlier run beside new drawings.
        KeyboardInterrupt: If files are interrupted before the first answer.
        ImageError: If a video or camera cannot be opened, or the annotated video cannot be written.
        BundleError: If the bundle is not whole and unaltered.
        BackendError: If the backend is not installed or fails.
        OSError: If the disk refuses.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"<max_frames> must be at least 1, got {max_frames}", argument="max_frames")
    lines = Path(jsonl) if isinstance(jsonl, str | os.PathLike) else jsonl
    wanted = Outputs(Path(out), pictures, lines, show, overlay, drawing)
    if show:
        check_window()
    check_post_processing(backend, post_processing)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    stream = open_source(source, camera, report)
    wanted.check(opened, stream)
    started = time.perf_counter()
    failed: list[tuple[str, str]] = []
    done = 0
    is_interrupted = False
    with (
        load(opened, backend, precision, threads, caption_decoder, post_processing=post_processing) as model,
        model.stream(
            stream,
            tasks,
            caption_every=caption_every,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            caption=CaptionOptions(beam_size=beam_size, budget_ms=caption_budget_ms),
        ) as answers,
        contextlib.ExitStack() as stack,
    ):
        writer = OutputWriter(stack, wanted, stream, model.spec, model.spec.choose_tasks(tasks))
        progress = _Progress(stream, max_frames, report, report_seconds, report_width)
        try:
            for answer in answers:
                is_wanted = True
                if answer.result is None:
                    failed.append((answer.frame.name, answer.error or "cannot be read"))
                    writer.write_failure(answer)
                    progress.failed(answer)
                else:
                    is_wanted = writer.write(answer, answer.result)
                    done += 1
                    progress.answered(answer, answer.result)
                if not is_wanted or (max_frames is not None and done + len(failed) >= max_frames):
                    break
        except KeyboardInterrupt:
            if stream.is_file and not done and not failed:
                raise
            is_interrupted = stream.is_file
        progress.end()
        figures = answers.statistics
    return RunSummary(
        out=wanted.out,
        done=done,
        failed=tuple(failed),
        files=tuple(writer.files),
        seconds=time.perf_counter() - started,
        dropped=figures.dropped,
        stages_ms=dict(figures.stages_ms),
        is_interrupted=is_interrupted,
    )


class _Progress:
    """Turns frames into lines of text, not too many of them; the last frame always has one."""

    def __init__(
        self,
        source: Source,
        max_frames: int | None,
        report: Callable[[str], None] | None,
        seconds: float | None,
        width: int | None,
    ):
        counts = [count for count in (source.expected, max_frames) if count is not None]
        self._total = f"/{min(counts)}" if counts else ""
        self._is_live = source.is_live
        self._report = report
        self._seconds = (1.0 if source.kind != "images" else 0.0) if seconds is None else seconds
        self._width = width
        self._last: float | None = None
        self._untold: tuple[int, str, Result] | None = None

    def failed(self, answer: Answer) -> None:
        if self._report is not None:
            word = "ended" if self._is_live and answer.frame.image is None else "skipped"
            self._report(f"[{answer.frame.index + 1}{self._total}] {word}: {answer.error}")

    def answered(self, answer: Answer, result: Result) -> None:
        now = time.perf_counter()
        self._untold = (answer.frame.index, answer.frame.name, result)
        if self._last is None or now - self._last >= self._seconds:
            self._last = now
            self.end()

    def end(self) -> None:
        """Tell of the last answer, if that has not been done."""
        untold, self._untold = self._untold, None
        if self._report is None or untold is None:
            return
        index, name, result = untold
        line = f"[{index + 1}{self._total}] {name}: {summary_of(result)}"
        if self._width is not None and len(line) > self._width:
            line = line[: max(0, self._width - 3)] + "..."
        self._report(line)


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
        shown = [(i, pixels) for i, pixels in areas[:3] if pixels >= total / 200] or areas[:1]
        largest = [f"{result.semantic_names[i]} {100 * pixels / total:.0f}%" for i, pixels in shown]
        parts.append(" ".join(largest))
    if result.caption is not None:
        parts.append(f'"{result.caption.text}"')
    parts.append(f"{result.timings_ms['total']:.0f} ms")
    return "; ".join(parts)
