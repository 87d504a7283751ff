"""Timing a model on images: every run kept as it was, the warm-up apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.errors import UsageError
from ...runtime.images.image_files import read_image
from ...runtime.model import Model
from ...runtime.options import PredictOptions
from ...runtime.progress import Count
from .machine import describe_state
from .percentiles import percentile

STAGES = ("decode", "preprocess", "network", "boxes", "masks", "semantic", "caption")
"""In the order they run; together they are the whole of one prediction."""
DETAILS = ("caption_first_token", "caption_per_token")
"""Parts of the stage "caption"."""


@dataclass(frozen=True)
class WarmUp:
    """When a model counts as warm: after a time, once it has become steady; not after a fixed count of runs.

    Steady means that the median of the last runs differs from that of as many before by at most `tolerance`,
    where "the last runs" are one pass over the images, but at least 5 and at most 50 runs.

    Attributes:
        minimum_seconds: Never shorter.
        maximum_seconds: Never longer; measured all the same, and the report says that it was not steady.
        tolerance: Relative difference of the two medians.
    """

    minimum_seconds: float = 2.0
    maximum_seconds: float = 30.0
    tolerance: float = 0.1


@dataclass(frozen=True)
class Run:
    """One prediction, from the path of a file to its result.

    Attributes:
        picture: Which one, as an index into the images measured.
        started_s: Seconds since the first run of the warm-up.
        end_to_end_ms: Around the whole call, taken outside of it.
        stages_ms: By name, of `STAGES` and `DETAILS`, those that ran. "caption_per_token" is there from the
            second token on.
        objects: Boxes found; None where boxes were not asked for.
        caption_tokens: Decoder runs; None where no caption was asked for.
    """

    picture: int
    started_s: float
    end_to_end_ms: float
    stages_ms: dict[str, float]
    objects: int | None
    caption_tokens: int | None

    @property
    def stage_sum_ms(self) -> float:
        return sum(self.stages_ms.get(stage, 0.0) for stage in STAGES)


@dataclass(frozen=True)
class MeasuredImage:
    """A file that was measured with; its size is (height, width) in pixels."""

    name: str
    size: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class Measurement:
    """All that was measured.

    Attributes:
        pictures: What was predicted, in turn.
        warmup: Runs that do not count; the first of them is the model's first inference.
        runs: Runs that count.
        is_steady: Whether the warm-up ended because the model was steady.
        states: Clocks, temperature and load at the start, in the middle and at the end.
    """

    pictures: tuple[MeasuredImage, ...]
    warmup: tuple[Run, ...]
    runs: tuple[Run, ...]
    is_steady: bool
    states: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def first_inference_ms(self) -> float:
        return self.warmup[0].end_to_end_ms

    def samples(self, stage: str) -> list[float]:
        """Milliseconds of one stage over the runs that count and have it."""
        return [run.stages_ms[stage] for run in self.runs if stage in run.stages_ms]


def measure(
    model: Model,
    pictures: Sequence[str | os.PathLike[str]],
    runs: int = 200,
    predict: PredictOptions = PredictOptions(),
    *,
    warmup: WarmUp | None = None,
    maximum_seconds: float | None = None,
    progress: Count | None = None,
) -> Measurement:
    """Predict images one after the other, each as soon as the last is done, and keep every time.

    A run begins with the path of an image and ends with its result in memory; on the CPU nothing is left to
    wait for then. The masks are the crops that a result holds, not blown up to whole images.

    Args:
        model: What to measure.
        pictures: Image files, taken in turn from the first on; at most the first `runs` are used.
        runs: How many runs count, at least 1.
        predict: What is asked of each image.
        warmup: When to begin counting; None for the defaults.
        maximum_seconds: End the counted runs after this time, with fewer than `runs`; None for no limit.
        progress: Called with runs done and runs in all, outside of what is timed.

    Returns:
        Raw samples; figures are made from them by `percentiles`.

    Raises:
        UsageError: If an argument makes no sense.
        ImageError: If an image cannot be read; before anything is timed.
    """
    if runs < 1:
        raise UsageError(f"<runs> must be at least 1, got {runs}", argument="runs")
    if maximum_seconds is not None and not 0 <= maximum_seconds < float("inf"):
        raise UsageError(f"<maximum_seconds> must be at least 0, got {maximum_seconds:g}", argument="maximum_seconds")
    if not pictures:
        raise UsageError("there is no image to measure with")
    paths = [Path(path) for path in pictures[:runs]]
    # Looked at beforehand, so that a bad file is not met in the middle; it also brings the files into memory.
    described = tuple(_describe(path) for path in paths)
    model.spec.choose_tasks(predict.tasks)  # refused before anything is timed
    begun = time.perf_counter_ns()

    def once(index: int) -> Run:
        started = time.perf_counter_ns()
        result = model.predict(paths[index % len(paths)], options=predict)
        took = (time.perf_counter_ns() - started) / 1e6
        times = result.timings_ms
        tokens = int(times["caption_tokens"]) if "caption_tokens" in times else None
        stages = {name: times[name] for name in (*STAGES, *DETAILS) if name in times}
        if tokens == 1:
            stages.pop("caption_per_token", None)
        return Run(
            picture=index % len(paths),
            started_s=(started - begun) / 1e9,
            end_to_end_ms=took,
            stages_ms=stages,
            objects=None if result.boxes is None else len(result.boxes),
            caption_tokens=tokens,
        )

    warm, is_steady = _warm_up(once, warmup or WarmUp(), len(paths))
    states = {"start": describe_state()}
    counted: list[Run] = []
    counting_from = time.perf_counter()
    for index in range(runs):
        counted.append(once(index))
        if index == runs // 2:
            states["middle"] = describe_state()
        if progress is not None:
            progress("timing", index + 1, runs)
        if maximum_seconds is not None and time.perf_counter() - counting_from > maximum_seconds:
            break
    states["end"] = describe_state()
    return Measurement(described, tuple(warm), tuple(counted), is_steady, states)


def _warm_up(once: Callable[[int], Run], rule: WarmUp, pictures: int) -> tuple[list[Run], bool]:
    """Run until `rule` is met; the runs, and whether the model had become steady."""
    window = min(max(pictures, 5), 50)
    done: list[Run] = []
    started = time.perf_counter()
    while True:
        done.append(once(len(done)))
        elapsed = time.perf_counter() - started
        if elapsed >= rule.minimum_seconds and _is_steady(done, window, rule.tolerance):
            return done, True
        if elapsed >= rule.maximum_seconds:
            return done, False


def _is_steady(runs: Sequence[Run], window: int, tolerance: float) -> bool:
    if len(runs) < 2 * window:
        return False
    medians = []
    for part in (runs[-2 * window : -window], runs[-window:]):
        medians.append(percentile(sorted(run.end_to_end_ms for run in part), 0.5).value or 0.0)
    return abs(medians[1] - medians[0]) <= tolerance * medians[0]


def _describe(path: Path) -> MeasuredImage:
    height, width = read_image(path).shape[:2]
    return MeasuredImage(path.name, (height, width), path.stat().st_size)
