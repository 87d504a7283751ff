"""What a stream gives: an answer for each image, and figures of how it is doing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..results import Caption, Result
from ..sources.sources import Frame

# Answers that medians and frames per second are taken over.
WINDOW = 256


@dataclass(frozen=True, repr=False)
class StreamResult:
    """What a stream says about one image.

    `result.caption` is only ever the image's own. `caption` is the last one there is, and `caption_frame` says whose:
    an image is described as it was `frame.index - caption_frame` images ago.

    Attributes:
        frame: The image, and its number in the source.
        result: The answers; None when `error` is set.
        error: Why there are none, in one line; the stream goes on.
        dropped: Images left out between the answer before and this one.
        caption: The image's own, or else the last one of an image before; None while there is none, or without the
            task.
        caption_frame: `index` of the frame that `caption` describes.
        latency_ms: From when the image was read until its answer was handed over.
    """

    frame: Frame
    result: Result | None
    error: str | None
    dropped: int
    caption: Caption | None
    caption_frame: int | None
    latency_ms: float

    def __repr__(self) -> str:
        """One line, without arrays and token ids."""
        what = f", {self.result!r}" if self.error is None else f", error={self.error!r}"
        if self.error is not None and self.error == self.frame.error:
            what = ""  # the frame says it
        caption = "" if self.caption is None else f", caption={self.caption.text!r} of {self.caption_frame}"
        return f"StreamResult({self.frame!r}{what}, dropped={self.dropped}{caption}, latency_ms={self.latency_ms:.1f})"

    @property
    def captured_ns(self) -> int | None:
        """When the image was captured, on the clock of `time.monotonic_ns()`; see `Frame`."""
        return self.frame.captured_ns

    @property
    def captured_unix_ns(self) -> int | None:
        """The same moment in nanoseconds since 1970; see `Frame`."""
        return self.frame.captured_unix_ns

    @property
    def position_s(self) -> float | None:
        """Where the image lies in its video file, in seconds; see `Frame`."""
        return self.frame.position_s


@dataclass(frozen=True)
class StreamStatistics:
    """How a stream is doing.

    Attributes:
        read: Images that came from the source, readable or not.
        answered: Answers with a result.
        failed: Answers with an error.
        dropped: Images left out.
        captioned: Captions written.
        not_finite: Images for which the network gave NaN or infinity since the stream began; see `Model.not_finite`.
        seconds: From the start until now, or until the stream ended.
        fps: Answers per second over the last `WINDOW`; 0 before the second.
        stages_ms: Median milliseconds over the last `WINDOW` answers by stage: "decode" is what the source took, with
            waiting for a live one; "wait" is from there until work on the image began; then the stages of
            `Result.timings_ms` with their "total"; "latency" is from the image read to its answer handed over. A
            caption written beside is "caption"; "track" is beside the others too.
    """

    read: int
    answered: int
    failed: int
    dropped: int
    captioned: int
    seconds: float
    fps: float
    stages_ms: Mapping[str, float]
    not_finite: int = 0


class StreamFigures:
    """Adds up what `StreamStatistics` tells; for one thread at a time."""

    def __init__(self) -> None:
        self.read = self.answered = self.failed = self.dropped = self.captioned = 0
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._handed_over: deque[float] = deque(maxlen=WINDOW)
        self._stages: dict[str, deque[float]] = {}

    def add(self, stage: str, ms: float) -> None:
        """One image took so long for a stage."""
        self._stages.setdefault(stage, deque(maxlen=WINDOW)).append(ms)

    def hand_over(self, answer: StreamResult) -> None:
        """An answer leaves the stream."""
        self._handed_over.append(time.perf_counter())
        self.add("latency", answer.latency_ms)
        if answer.result is None:
            self.failed += 1
            return
        self.answered += 1
        for stage, ms in answer.result.timings_ms.items():
            if stage != "caption_tokens":  # a count
                self.add(stage, ms)

    def end(self) -> None:
        """Time stands still from now on."""
        if self._ended is None:
            self._ended = time.perf_counter()

    def summary(self, not_finite: int = 0) -> StreamStatistics:
        """The figures so far, with a count that the model keeps."""
        times = self._handed_over
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return StreamStatistics(
            self.read,
            self.answered,
            self.failed,
            self.dropped,
            self.captioned,
            (self._ended or time.perf_counter()) - self._started,
            (len(times) - 1) / span if span > 0 else 0.0,
            {stage: float(np.median(values)) for stage, values in self._stages.items()},
            not_finite,
        )
