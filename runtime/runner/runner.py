"""`yolor-edge run`: a whole source through a bundle, into annotated images or a video and JSON lines."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle.bundle import Bundle
from ..model import load as open_model
from ..options import LoadOptions, PredictOptions
from ..progress import Say
from ..results import Result
from ..sources.capture import CameraOptions
from ..sources.sources import Source, open_source
from ..stream.stream_results import StreamResult
from ..vision.open_vision import check_processing
from .outputs import OutputWriter, RunOptions
from .window import check_window


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        out: The folder written to.
        done: Frames answered.
        failed: (name, reason) of each that could not be read.
        files: What was written: images or a video, and the JSON lines.
        seconds: From the first frame to the last file.
        dropped: Frames of a live source that came while others were at work.
        stages_ms: Median milliseconds of each stage, as in `StreamStatistics`.
        counts: At lines and zones by name, as `RegionCounter.counts` has them.
        counts_text: The same in one line for people.
        not_finite: Images for which the network gave NaN or infinity, as in `StreamStatistics`.
        is_interrupted: Files were left before their end by Ctrl-C; what was answered until then is written, whole.
    """

    out: Path
    done: int
    failed: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]
    seconds: float
    dropped: int = 0
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    counts_text: str = ""
    is_interrupted: bool = False
    not_finite: int = 0

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
            **({"counts": dict(self.counts)} if self.counts else {}),
            "interrupted": self.is_interrupted,
            "not_finite": self.not_finite,
        }


@dataclass(frozen=True)
class RunLines:
    """Where lines of progress go, and how many of them.

    Attributes:
        say: Called with a line of text for images that were answered, the last one at any rate, and for each that could
            not be read.
        seconds: At least so much time between lines of results; None for a line for every image, and about one a second
            for video.
        width: Lines of results have at most so many letters; None for any number.
    """

    say: Say
    seconds: float | None = None
    width: int | None = None


def run(
    bundle: Bundle | str | os.PathLike[str],
    source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: RunOptions = RunOptions(),
    *,
    load: LoadOptions = LoadOptions(),
    predict: PredictOptions = PredictOptions(),
    camera: CameraOptions | None = None,
    progress: RunLines | None = None,
) -> RunSummary:
    """Predict for every image of a source; draw the results and write them down.

    An image that cannot be read is reported and skipped. JSON lines are written as they come, each of them whole; any
    other file appears whole or not at all, a video at the end. Interrupting (Ctrl-C) ends the run properly, with all
    results until then, and so does closing the window; a camera or a stream ends this way, and files count as
    interrupted. A video keeps the size of its first frame, into which later ones of another size are fitted; a frame of
    a live source is repeated for those that were dropped before it, which keeps the time.

    Args:
        bundle: A bundle folder, or one already opened.
        source: Whatever `open_source` takes: an image or several, a folder, a glob pattern, a video, a camera, a URL,
            a pipeline.
        out: Folder to write to, made if missing: annotated images under the names they came with, or one
            MP4 for a video or camera; and `results.jsonl`, one JSON object per frame.
        options: What is written and shown, and when the run stops.
        load: How the bundle is opened.
        predict: What is asked of each image.
        camera: What is asked of a camera or a stream.
        progress: Where lines of progress go; None for nowhere.

    Returns:
        What was done, what failed, what was written.

    Raises:
        UsageError: If an argument makes no sense, the source is not there, or writing would overwrite it or leave lines
            of an earlier run beside new drawings.
        KeyboardInterrupt: If files are interrupted before the first result.
        ImageError: If a video or camera cannot be opened, or the annotated video cannot be written.
        BundleError: If the bundle is not whole and unaltered.
        BackendError: If the backend is not installed or fails.
        OSError: If the disk refuses.
    """
    if options.show:
        check_window()
    check_processing(load.backend, load.processing)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    folder = Path(out)
    stream = open_source(source, camera, None if progress is None else progress.say)
    options.check(folder, opened, stream)
    started = time.perf_counter()
    failed: list[tuple[str, str]] = []
    done = 0
    is_interrupted = False
    with (
        open_model(opened, options=load) as model,
        model.stream(
            stream, options=predict, caption_every=options.caption_every, track=options.track or bool(options.regions)
        ) as answers,
        contextlib.ExitStack() as stack,
    ):
        tasks, say = model.spec.choose_tasks(predict.tasks), None if progress is None else progress.say
        writer = OutputWriter(stack, folder, options, stream, model.spec, tasks, say)
        lines = _Progress(stream, options.max_frames, progress)
        try:
            for answer in answers:
                is_wanted = True
                if answer.result is None:
                    failed.append((answer.frame.name, answer.error or "cannot be read"))
                    writer.write_failure(answer)
                    lines.failed(answer)
                else:
                    is_wanted = writer.write(answer, answer.result)
                    done += 1
                    lines.answered(answer, answer.result)
                if not is_wanted or (options.max_frames is not None and done + len(failed) >= options.max_frames):
                    break
        except KeyboardInterrupt:
            if stream.is_file and not done and not failed:
                raise
            is_interrupted = stream.is_file
        lines.end()
        writer.write_counts()
        figures = answers.statistics
    return RunSummary(
        out=folder,
        done=done,
        failed=tuple(failed),
        files=tuple(writer.files),
        seconds=time.perf_counter() - started,
        dropped=figures.dropped,
        stages_ms=dict(figures.stages_ms),
        counts={} if writer.counter is None else writer.counter.counts(),
        counts_text="" if writer.counter is None else writer.counter.summary(),
        is_interrupted=is_interrupted,
        not_finite=figures.not_finite,
    )


class _Progress:
    """Turns frames into lines of text, not too many of them; the last frame always has one."""

    def __init__(self, source: Source, max_frames: int | None, lines: RunLines | None):
        counts = [count for count in (source.expected, max_frames) if count is not None]
        self._total = f"/{min(counts)}" if counts else ""
        self._has_end = source.kind != "images"
        self._report = None if lines is None else lines.say
        seconds = None if lines is None else lines.seconds
        self._seconds = (1.0 if source.kind != "images" else 0.0) if seconds is None else seconds
        self._width = None if lines is None else lines.width
        self._last: float | None = None
        self._untold: tuple[int, str, Result] | None = None

    def failed(self, answer: StreamResult) -> None:
        if self._report is not None:
            word = "skipped"
            if self._has_end and answer.frame.image is None:
                word = "ended"
                self.end()
            self._report(f"[{answer.frame.index + 1}{self._total}] {word}: {answer.error}")

    def answered(self, answer: StreamResult, result: Result) -> None:
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
