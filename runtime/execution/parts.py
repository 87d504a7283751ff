"""What a model is made of, shared by its clones: the vision part, whatever writes captions, and whose they are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.guards import HomeProcess, Shared
from ..bundle.spec import ModelSpec
from ..captions.captioning import CaptionOptions, CaptionWriter
from ..errors import BackendError
from ..images.preprocess import PixelLayout, image_size_of, kernel_view
from ..results import Caption, Result
from ..vision.contexts import ExecutionContext, Request, Vision


class Stopwatch:
    """Milliseconds of each stage since the one before, and of all together."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._started = self._lap_started = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        """The stage ends now."""
        now = time.perf_counter_ns()
        self.ms[stage] = (now - self._lap_started) / 1e6
        self._lap_started = now

    def finished(self) -> dict[str, float]:
        """All stages, with their "total"."""
        self.ms["total"] = (time.perf_counter_ns() - self._started) / 1e6
        return self.ms


class ModelParts:
    """The network of a model and its clones; freed when the last of them is closed and no call is at work.

    Args:
        spec: What the model is.
        vision: From pixels to all answers but the caption.
        captions: Writes captions, for any number of threads at once; None without the task.
        free: Frees both.
        facts: What a report should say of the parts, by part.
    """

    def __init__(
        self,
        spec: ModelSpec,
        vision: Vision,
        captions: CaptionWriter | None,
        free: Callable[[], None],
        facts: Callable[[], dict[str, dict[str, str]]] = dict,
    ):
        self.spec = spec
        self.facts = facts
        self.home = HomeProcess(spec.name, (vision, captions, free))
        self.shared = Shared(spec.name, free)  # released only where it was loaded
        self._vision = vision
        self._captions = captions

    @property
    def processing(self) -> str:
        """Where the vision part turns pixels into a tensor and heads into answers: "gpu" or "cpu"."""
        return self._vision.processing

    @property
    def not_finite(self) -> int:
        """Images so far for which the network gave NaN or infinity, of those that were looked at."""
        return self._vision.check.images

    def context(self) -> ExecutionContext:
        """Memory for one more image in flight.

        Raises:
            BackendError: If the device has none left.
        """
        return self._vision.context()

    def answer(
        self,
        context: ExecutionContext,
        image: NDArray[np.uint8],
        request: Request,
        stages: Stopwatch,
        take_memory: Callable[[NDArray[np.float32]], None] | None = None,
        layout: PixelLayout = "bgr",
    ) -> Result:
        """Take one image through an execution context, from pixels to all answers asked for.

        Args:
            slot: In use by nobody else.
            image: As `check_image` wants it.
            request: What to answer; with no task at all there is nothing to do.
            stages: Gets a lap for each stage, and is finished.
            take_memory: Called with the caption memory, (1, L, D), which changes after the call, instead of writing a
                caption.
            layout: How the bytes of the image mean pixels.

        Raises:
            BackendError: If the network or the decoder fails.
        """
        answers: dict[str, Any] = {}
        if request.tasks:
            context.prepare(*kernel_view(image, layout))
            stages.lap("preprocess")
            context.infer(request.tasks)
            stages.lap("network")
            answers = context.finish(request, stages.lap)
        if "caption" in request.tasks and take_memory is not None:
            take_memory(context.caption_memory)
        elif "caption" in request.tasks:
            answers["caption"], times = self.caption(context.caption_memory, request.caption)
            stages.lap("caption")
            stages.ms.update(times)
        return Result(
            image_size=image_size_of(image, layout),
            class_names=self.spec.class_names,
            semantic_names=self.spec.semantic_names,
            category_ids=self.spec.category_ids,
            timings_ms=stages.finished(),
            **answers,
        )

    def caption(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, dict[str, float]]:
        """The caption for a memory (1, L, D), and its own stages by name, in milliseconds.

        Raises:
            BackendError: If the decoder fails.
        """
        if self._captions is None:  # the model's constructor has checked that a caption task has its decoder
            raise BackendError(f"{self.spec.name}: has no caption decoder")
        caption, times = self._captions.write(memory, options)
        return caption, {
            "caption_first_token": times.first_token_ms,
            "caption_per_token": times.per_token_ms,
            "caption_tokens": times.tokens,
        }


class ContextPool:
    """The contexts of one model, lent to one call at a time and kept from call to call.

    As many are made as there were calls at once. One whose call failed or was interrupted is not used again.
    """

    def __init__(self, parts: ModelParts):
        self._parts = parts
        self._idle: list[ExecutionContext] = []
        self._is_closed = False

    def acquire(self) -> ExecutionContext:
        """An execution context that nobody else is using.

        Raises:
            BackendError: If the device has no memory left for one.
        """
        try:
            return self._idle.pop()  # atomic, like append below
        except IndexError:
            return self._parts.context()

    def release(self, context: ExecutionContext) -> None:
        """Take back an execution context that is ready for the next image."""
        self._idle.append(context)
        if self._is_closed:
            self.close()

    @contextlib.contextmanager
    def acquired(self) -> Iterator[ExecutionContext]:
        """An execution context for the block.

        Raises:
            BackendError: If the device has no memory left for one.
        """
        context = self.acquire()
        try:
            yield context
        except BaseException:
            context.close()
            raise
        self.release(context)

    def close(self) -> None:
        """Free the contexts that are back, and from now on each that comes back."""
        self._is_closed = True
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()
