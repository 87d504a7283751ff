"""Answers for a source that goes on: a camera, a video, a folder, or images from anywhere, in a `with` block.

>>> with model.stream("rtsp://camera/live", caption_every="scene-change") as stream:  # doctest: +SKIP
...     for answer in stream:
...         print(answer.frame.index, answer.dropped, answer.result.boxes, answer.caption)
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_flag, described
from ..errors import UsageError
from ..execution.parts import ContextPool, ModelParts
from ..images.image_files import to_bgr
from ..images.preprocess import PixelLayout
from ..sources.sources import Frame, Source, open_source
from ..tracking.tracker import Tracker, TrackerOptions
from ..vision.contexts import Request
from .pipeline import Pipeline, PipelinePlan
from .stream_results import StreamResult, StreamStatistics

StreamSource = str | os.PathLike[str] | int | Source | Iterable[Frame | NDArray[np.uint8] | str | os.PathLike[str]]

DROPS = ("auto", "oldest", "none")
SCENE_CHANGE = "scene-change"
MOST_IN_FLIGHT = 64


@dataclass(frozen=True)
class StreamOptions:
    """How a stream runs.

    Attributes:
        in_flight: Images worked on at once, each with its own memory on the device. With 1 an image takes as long as
            with `predict`, and only reading runs beside it; more raise the images per second.
        drop: What happens when images come faster than results: "oldest" leaves out the oldest that is waiting, "none"
            lets the source wait, "auto" is "oldest" for what is live (a camera or an address) and "none" for files and
            iterables.
        caption_every: Caption every so many images, or those that show another scene than the one captioned last
            ("scene-change", see `SceneChange`). Others carry the last caption, see `StreamResult`.
        wait_for_captions: If false, captions run in the background and arrive with a later frame; at most one waits, a
            newer one replaces it. None to wait where every image is captioned or none may be dropped.
        layout: Of the images of an iterable, as for `Model.predict`; sources that are opened have their own.
        track: Follow objects from frame to frame: True, or how. Results have `track_ids` then. Each stream has a
            tracker of its own. The network's boxes down to the tracker's `low_score` go on with tracks; of those that
            score no more than `score_threshold`, the ones with an id stay.

    Raises:
        UsageError: If an option makes no sense.
    """

    in_flight: int = 2
    drop: str = "auto"
    caption_every: int | str = 1
    wait_for_captions: bool | None = None
    layout: PixelLayout = "bgr"
    track: bool | TrackerOptions = False

    def __post_init__(self) -> None:
        if not _is_count(self.in_flight) or self.in_flight > MOST_IN_FLIGHT:
            raise UsageError(
                f"<in_flight> must be a number from 1 to {MOST_IN_FLIGHT}, got {self.in_flight!r}", argument="in_flight"
            )
        if self.drop not in DROPS:
            raise UsageError(f"<drop> must be one of {', '.join(DROPS)}, got {self.drop!r}", argument="drop")
        if self.caption_every != SCENE_CHANGE and not _is_count(self.caption_every):
            raise UsageError(
                f'<caption_every> must be a number of at least 1 or "{SCENE_CHANGE}", got {self.caption_every!r}',
                argument="caption_every",
            )
        check_flag("wait_for_captions", self.wait_for_captions, or_none=True)
        if self.layout not in get_args(PixelLayout):
            raise UsageError(
                f"<layout> must be one of {', '.join(get_args(PixelLayout))}, got {self.layout!r}", argument="layout"
            )
        if not isinstance(self.track, bool | TrackerOptions):
            raise UsageError(
                f"<track> must be True, False or TrackerOptions, got {described(self.track)}", argument="track"
            )

    @property
    def tracker(self) -> TrackerOptions | None:
        """How to track; None for not at all."""
        return (TrackerOptions() if self.track else None) if isinstance(self.track, bool) else self.track

    def plan(self, is_live: bool) -> PipelinePlan:
        """What that means for a source."""
        drops = self.drop == "oldest" or (self.drop == "auto" and is_live)
        waits = self.wait_for_captions
        every = self.caption_every if isinstance(self.caption_every, int) else None
        waits = (every == 1 or not drops) if waits is None else waits
        return PipelinePlan(self.in_flight, drops, every, waits, self.layout)


class Stream:
    """Answers in the order of their images; made by `Model.stream`, iterated over once.

    It starts with its `with` block or the first answer asked for. It stops, and its threads end, with the block, an
    error, the last answer, `close`, or the model's `close`; the first also when the loop is left by `break` or Ctrl-C.
    Stopping waits for images at work, and for the source to give the image it is about to give, but no longer than
    seconds: a source that is stuck keeps one sleeping thread, without any part of the model, until it moves again.

    One image that cannot be read, or is none, has a `StreamResult` with an error. What ends the stream is raised
    where its answer would have come: `BackendError` where the network fails, and whatever the source raises.

    Args:
        parts: Of the model.
        slots: Of the model.
        source: See `Model.stream`.
        request: What to answer.
        options: How.

    Raises:
        UsageError: If nothing is at the source.
        ImageError: If a video or camera cannot be opened.
    """

    def __init__(
        self, parts: ModelParts, contexts: ContextPool, source: StreamSource, request: Request, options: StreamOptions
    ):
        is_to_be_opened = isinstance(source, str | os.PathLike | int) and not isinstance(source, bool)
        if options.layout != "bgr" and (is_to_be_opened or isinstance(source, Source)):
            raise UsageError(
                f"layout {options.layout!r} is for an iterable of arrays; files, cameras and "
                "addresses give images in colour by themselves"
            )
        frames: Any = open_source(source) if is_to_be_opened else source  # type: ignore[arg-type]
        if not isinstance(frames, Iterable) or isinstance(frames, np.ndarray | bytes):
            raise UsageError(
                "<source> must be a path, an address, the index of a camera, or an iterable of images, "
                f"got {type(source).__name__}",
                argument="source",
            )
        if isinstance(frames, Source):
            options = replace(options, layout=frames.layout)
        is_live = getattr(frames, "is_live", getattr(frames, "kind", None) == "camera")
        self.source = frames
        self._home = parts.home
        self._tracking = None
        if options.tracker is not None:
            if "boxes" not in request.tasks:
                raise UsageError('<track> needs boxes; ask for the task "boxes" too', argument="track")
            self._tracking = _Tracking(options.tracker, request.limits.score, options.layout)
            lower = min(request.limits.score, options.tracker.low_score)
            request = replace(request, limits=replace(request.limits, score=lower))
        self._pipeline = Pipeline(parts, contexts, frames, request, options.plan(bool(is_live)))
        self._is_started = False
        # Threads know the pipeline, not the stream: one that nobody holds any more stops, at the latest at exit.
        weakref.finalize(self, self._pipeline.stop)

    def __enter__(self) -> Stream:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Stream:
        self._start()
        return self

    def __next__(self) -> StreamResult:
        self._start()
        try:
            answer = self._pipeline.next()
            if answer is not None and self._tracking is not None:
                answer = self._tracking.tracked(answer)
                if answer.result is not None:
                    self._pipeline.note("track", answer.result.timings_ms["track"])
        except BaseException:
            self.close()
            raise
        if answer is None:
            self.close()
            raise StopIteration
        return answer

    @property
    def statistics(self) -> StreamStatistics:
        """How it is doing, at any moment and from any thread."""
        return self._pipeline.figures()

    def close(self) -> None:
        """Stop; there are no more answers. Closing twice is harmless."""
        self._pipeline.stop()

    def end_with_model(self, error: str) -> None:
        """Stop since the model is being closed; whoever asks for an answer is told this error."""
        self._pipeline.stop(error)

    def _start(self) -> None:
        self._home.check()
        if not self._is_started:
            self._is_started = True
            try:
                self._pipeline.start()
            except BaseException:
                self._pipeline.stop()
                raise


class _Tracking:
    """The tracker of one stream.

    Args:
        options: How.
        score: Objects without a track stay if they score above this.
        layout: Of the images.
    """

    def __init__(self, options: TrackerOptions, score: float, layout: PixelLayout):
        self._tracker = Tracker(options)
        self._score = score
        self._layout: PixelLayout = layout
        self._missed = 0  # frames since the last one with a result

    def tracked(self, answer: StreamResult) -> StreamResult:
        self._missed += answer.dropped
        frame = answer.frame
        if answer.result is None or frame.image is None:
            self._missed += 1
            return answer
        started = time.perf_counter()
        time_s = frame.position_s if frame.captured_ns is None else frame.captured_ns / 1e9
        image = to_bgr(frame.image, self._layout) if self._tracker.options.camera_motion else None
        result = self._tracker.update(answer.result, image, frames=1 + self._missed, time_s=time_s)
        self._missed = 0
        if result.scores is not None and result.track_ids is not None:
            result = result[(result.scores > self._score) | (result.track_ids >= 0)]
        ms = (time.perf_counter() - started) * 1e3
        times = {**result.timings_ms, "track": ms}
        if "total" in times:
            times["total"] = times.pop("total") + ms
        return replace(answer, result=replace(result, timings_ms=times))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
