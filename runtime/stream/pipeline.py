"""The threads behind a stream: one reads, some take an image each through the network, one may write captions.

What waits between them is bounded: a few images that were read, and as many answers as images may be in flight. Each
worker has an execution context and takes one image at a time through all its stages, so that while one image is with
the network, others are letterboxed, decoded from heads, or captioned; backends that cannot run two images at once keep
them apart themselves. Answers leave in the order in which the images were taken.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import described
from ..errors import BackendError, ImageError, UsageError
from ..execution.parts import ContextPool, ModelParts, Stopwatch
from ..images.image_files import check_image, read_image
from ..images.preprocess import PixelLayout
from ..results import Caption, Result
from ..sources.sources import Frame
from ..vision.contexts import ExecutionContext, Request
from .scene_change import SceneChange, grid_of
from .stream_results import StreamFigures, StreamResult, StreamStatistics

# How long a stop waits for an image at work, and for a source that does not give its next image. What has not ended
# by then is left to end by itself, and holds what it needs until then.
WORKERS_STOP_SECONDS, READER_STOP_SECONDS = 10.0, 2.0


@dataclass(frozen=True)
class PipelinePlan:
    """How images go through.

    Attributes:
        in_flight: Images worked on at once.
        drops: Leave out the oldest waiting image rather than let the source wait.
        caption_every: Images from one caption to the next; None for when the scene changes.
        waits_for_captions: Answers of captioned images wait for their captions.
        layout: How the bytes of the source's images mean pixels.
    """

    in_flight: int
    drops: bool
    caption_every: int | None
    waits_for_captions: bool
    layout: PixelLayout = "bgr"

    @property
    def waiting(self) -> int:
        """Images that may wait to be worked on: only the newest where the others are left out anyway."""
        return 1 if self.drops else self.in_flight

    @property
    def taken(self) -> int:
        """Images that may be taken and not yet answered to the consumer: spare ones would only grow old if live."""
        return self.in_flight if self.drops else 2 * self.in_flight


@dataclass
class _Waiting:
    """An image that was read."""

    frame: Frame
    error: str | None
    grid: NDArray[np.float32] | None
    read_at: float
    dropped: int = 0
    number: int = -1  # in the order of answers, from when it is taken
    is_captioned: bool = False


@dataclass
class _Done:
    """An image that was worked on."""

    picture: _Waiting
    result: Result | None


class Pipeline:
    """Takes images through the parts of a model.

    Args:
        parts: Held while a thread works for it.
        slots: Lends an execution context for each image in flight.
        source: Gives `Frame`s, images or paths of images; `source.stop()`, where there is such a method, is called
            when the pipeline is stopped before the source has ended.
        request: What to answer.
        plan: How images go through.
    """

    def __init__(
        self, parts: ModelParts, contexts: ContextPool, source: Iterable[Any], request: Request, plan: PipelinePlan
    ):
        self._parts = parts
        self._contexts = contexts
        self._source = source
        self._request = request
        self._without_caption = replace(request, tasks=tuple(task for task in request.tasks if task != "caption"))
        self._plan = plan
        self._figures = StreamFigures()
        self._not_finite = parts.not_finite
        self._scene = SceneChange()
        self._lock = threading.Lock()
        self._has_room = threading.Condition(self._lock)  # for the reader
        self._has_pictures = threading.Condition(self._lock)  # for workers
        self._has_memory = threading.Condition(self._lock)  # for the writer of captions
        self._has_answers = threading.Condition(self._lock)  # for the consumer
        self._waiting: deque[_Waiting] = deque()
        self._done: dict[int, _Done] = {}
        self._taken = self._handed_over = self._captionable = 0
        self._is_read = self._is_stopped = False
        self._read_error: BaseException | None = None
        self._failure: tuple[int, BaseException] | None = None
        self._stop_error: str | None = None
        self._memory: tuple[int, int, NDArray[np.float32]] | None = None  # number, index of the frame, memory
        self._memory_taken = -1
        self._written: deque[tuple[int, int, Caption]] = deque()  # number, index of the frame, caption
        self._caption: tuple[int, Caption] | None = None
        self._reader = self._thread("read", self._read)
        self._workers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to read.

        Raises:
            BackendError: If there is not memory for so many images in flight, the system gives no more threads, or
                the model is closed. Threads that had begun by then end with `stop`.
        """
        if self._is_stopped:
            return
        self._figures = StreamFigures()
        with contextlib.ExitStack() as undo:
            # Each thread lets go itself of what it holds, so what is undone here is that of threads that never ran.
            owned: list[contextlib.ExitStack] = []
            for i in range(self._plan.in_flight):
                owned.append(undo.enter_context(contextlib.ExitStack()))
                self._hold(owned[-1])
                context = self._contexts.acquire()
                owned[-1].callback(self._contexts.release, context)
                self._workers.append(self._thread(f"work-{i}", self._work, context))
            if "caption" in self._request.tasks and not self._plan.waits_for_captions:
                owned.append(undo.enter_context(contextlib.ExitStack()))
                self._hold(owned[-1])
                self._workers.append(self._thread("caption", self._write_captions))
            for thread, own in zip((*self._workers, self._reader), (*owned, contextlib.ExitStack()), strict=True):
                try:
                    thread.start()
                except RuntimeError as error:
                    raise BackendError(
                        f"{self._parts.spec.name}: the system gives a stream no further thread ({error}); end other "
                        "programs or streams, or ask for fewer images in flight"
                    ) from error
                own.pop_all()

    def next(self) -> StreamResult | None:
        """The next answer, as soon as it is there; None when there are no more.

        Raises:
            BackendError: If the network or the decoder failed, after the answers for the images before; or if the
                model was closed.
            Exception: Whatever the source raised, after the answers for the images before.
        """
        with self._lock:
            while True:
                if self._is_stopped:
                    if self._stop_error is not None:
                        raise BackendError(self._stop_error)
                    return None
                if self._failure is not None and self._failure[0] <= self._handed_over:
                    raise self._failure[1]
                if self._handed_over in self._done:
                    return self._hand_over(self._done.pop(self._handed_over))
                if self._is_read and not self._waiting and self._handed_over == self._taken:
                    if self._read_error is not None:
                        raise self._read_error
                    return None
                self._has_answers.wait()

    def stop(self, error: str | None = None) -> None:
        """End all threads, waiting a bounded time for them. Stopping twice is harmless.

        Args:
            error: What `next` raises from now on; None for it to say that there are no more.
        """
        if not self._parts.home.is_here:  # a fork has neither the threads nor a lock that can be trusted
            return
        if threading.current_thread() in (self._reader, *self._workers):
            # The garbage collector found a stream that nobody holds, in a thread of it that may hold the lock.
            self._is_stopped = True  # which a thread tells the others as it ends
            return
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                self._stop_error = error
                self._figures.end()
            self._waiting.clear()
            self._done.clear()
            self._written.clear()
            self._memory = None
            self._wake_all()
        if self._reader.is_alive():
            stop_source = getattr(self._source, "stop", None)
            if callable(stop_source):
                stop_source()
        _join([self._reader], READER_STOP_SECONDS)
        _join(self._workers, WORKERS_STOP_SECONDS)

    def note(self, stage: str, ms: float) -> None:
        """One image took so long for a stage that is not of the pipeline."""
        with self._lock:
            self._figures.add(stage, ms)

    def figures(self) -> StreamStatistics:
        """How it is doing."""
        with self._lock:
            return self._figures.summary(self._parts.not_finite - self._not_finite)

    def _thread(self, name: str, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        return threading.Thread(target=work, args=arguments, name=f"yolor-edge-{name}", daemon=True)

    def _hold(self, undo: contextlib.ExitStack) -> None:
        self._parts.shared.acquire()
        undo.callback(self._parts.shared.release)

    def _wake_all(self) -> None:
        for condition in (self._has_room, self._has_pictures, self._has_memory, self._has_answers):
            condition.notify_all()

    def _leave(self) -> None:
        """A thread that worked for the parts ends."""
        self._parts.shared.release()
        with self._lock:
            self._wake_all()

    # The reader.

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._source)
            try:
                self._read_all(iterator)
            finally:
                # A generator made here ends here; one of the caller's may be wanted further.
                if iterator is not self._source and hasattr(iterator, "close"):
                    iterator.close()  # type: ignore[attr-defined]
        except BaseException as raised:
            error = raised
        with self._lock:
            self._is_read = True
            self._read_error = error
            self._wake_all()

    def _read_all(self, iterator: Any) -> None:
        started = time.perf_counter()
        for index, item in enumerate(iterator):
            picture = self._picture(item, index)
            if not self._put(picture, (picture.read_at - started) * 1e3):
                return
            started = time.perf_counter()

    def _picture(self, given: object, index: int) -> _Waiting:
        item = self._frame(given, index)
        read_at = time.perf_counter()
        if item.index < 0:
            item = replace(item, index=index)
        error = item.error or "cannot be read" if item.image is None else None
        try:
            if error is None:
                check_image(item.image, self._plan.layout)
        except UsageError as complaint:
            error = f"{item.name}: {complaint}"
        grid = None
        if error is None and self._plan.caption_every is None and item.image is not None:
            grid = grid_of(item.image, self._plan.layout)
        return _Waiting(item, error, grid, read_at)

    def _frame(self, item: object, index: int) -> Frame:
        """Whatever the source gave as a frame; with an error where it is no image."""
        if isinstance(item, Frame):
            return item
        name = f"frame {index}"
        if isinstance(item, np.ndarray):
            return Frame(name, item, None, index)
        if not isinstance(item, str | os.PathLike):
            return Frame(
                name, None, f"{name}: expected an image as an array or a path, or a Frame, got {described(item)}"
            )
        name = os.fspath(item)
        if self._plan.layout != "bgr":
            return Frame(name, None, f"{name}: a file has no layout {self._plan.layout!r}; pass its pixels as an array")
        try:
            return Frame(name, read_image(name), None, index)
        except (ImageError, ValueError) as error:  # a name with a zero byte is of the second kind
            return Frame(name, None, str(error), index)

    def _put(self, picture: _Waiting, decode_ms: float) -> bool:
        """Let an image wait to be worked on; False when the pipeline is stopped."""
        with self._lock:
            self._figures.read += 1
            self._figures.add("decode", decode_ms)
            while not self._is_stopped and len(self._waiting) >= self._plan.waiting:
                if self._plan.drops and self._drop_oldest(picture):
                    break
                self._has_room.wait()
            if self._is_stopped:
                return False
            self._waiting.append(picture)
            self._has_pictures.notify()
            return True

    def _drop_oldest(self, newest: _Waiting) -> bool:
        """Leave out the oldest image that waits; an error is never left out."""
        for i, oldest in enumerate(self._waiting):
            if oldest.error is None:
                del self._waiting[i]
                after = self._waiting[i] if i < len(self._waiting) else newest
                after.dropped += oldest.dropped + 1
                self._figures.dropped += 1
                return True
        return False

    # The workers.

    def _work(self, context: ExecutionContext) -> None:
        try:
            while (picture := self._take()) is not None:
                try:
                    done = _Done(picture, self._answer(picture, context))
                except BaseException as error:
                    self._fail(picture.number, error)
                    context.close()
                    return
                with self._lock:
                    if not self._is_stopped:
                        self._done[picture.number] = done
                    self._has_answers.notify_all()
                del picture, done  # not to hold their memory while waiting for the next
            self._contexts.release(context)
        finally:
            self._leave()

    def _take(self) -> _Waiting | None:
        """The next image to work on, or None when there is no more work."""
        with self._lock:
            while True:
                if self._is_stopped or self._failure is not None or (self._is_read and not self._waiting):
                    return None
                if self._waiting and self._taken - self._handed_over < self._plan.taken:
                    break
                self._has_pictures.wait()
            picture = self._waiting.popleft()
            picture.number = self._taken
            self._taken += 1
            picture.is_captioned = picture.error is None and self._is_to_be_captioned(picture)
            self._figures.add("wait", (time.perf_counter() - picture.read_at) * 1e3)
            self._has_room.notify()
            if self._is_read and not self._waiting:
                self._has_pictures.notify_all()  # the other workers can go
            return picture

    def _is_to_be_captioned(self, picture: _Waiting) -> bool:
        if "caption" not in self._request.tasks:
            return False
        if picture.grid is not None:
            return self._scene.is_new(picture.grid)
        self._captionable += 1
        return (self._captionable - 1) % (self._plan.caption_every or 1) == 0

    def _answer(self, picture: _Waiting, context: ExecutionContext) -> Result | None:
        image = picture.frame.image
        if picture.error is not None or image is None:
            return None
        request = self._request if picture.is_captioned else self._without_caption
        if self._plan.waits_for_captions:
            return self._parts.answer(context, image, request, Stopwatch(), layout=self._plan.layout)
        return self._parts.answer(
            context, image, request, Stopwatch(), lambda memory: self._offer(picture, memory), self._plan.layout
        )

    def _fail(self, number: int, error: BaseException) -> None:
        """End the stream after the answers before this one."""
        with self._lock:
            if self._failure is None or number < self._failure[0]:
                self._failure = (number, error)
            self._wake_all()

    # Captions beside the images that follow.

    def _offer(self, picture: _Waiting, memory: NDArray[np.float32]) -> None:
        """Let a memory wait for its caption; it takes the place of an older one that waits."""
        own = np.array(memory)  # the context writes over it with the next image
        with self._lock:
            newest = self._memory_taken if self._memory is None else self._memory[0]
            if picture.number > newest:
                self._memory = (picture.number, picture.frame.index, own)
                self._has_memory.notify()

    def _write_captions(self) -> None:
        try:
            while (offered := self._take_memory()) is not None:
                number, index, memory = offered
                started = time.perf_counter()
                try:
                    caption, _ = self._parts.caption(memory, self._request.caption)
                except BaseException as error:
                    self._fail(number, error)
                    return
                with self._lock:
                    if self._is_stopped:
                        return
                    self._written.append((number, index, caption))
                    self._figures.captioned += 1
                    self._figures.add("caption", (time.perf_counter() - started) * 1e3)
        finally:
            self._leave()

    def _take_memory(self) -> tuple[int, int, NDArray[np.float32]] | None:
        with self._lock:
            while not self._is_stopped and self._failure is None and self._memory is None:
                self._has_memory.wait()
            if self._is_stopped or self._failure is not None or self._memory is None:
                return None
            taken, self._memory = self._memory, None
            self._memory_taken = taken[0]
            return taken

    # The consumer.

    def _hand_over(self, done: _Done) -> StreamResult:
        picture, result = done.picture, done.result
        number, self._handed_over = self._handed_over, self._handed_over + 1
        self._has_pictures.notify()
        if result is not None and result.caption is not None:
            self._caption = (picture.frame.index, result.caption)
            self._figures.captioned += 1
        while self._written and self._written[0][0] <= number:
            _, index, caption = self._written.popleft()
            self._caption = (index, caption)
        index, caption = self._caption or (None, None)
        latency_ms = (time.perf_counter() - picture.read_at) * 1e3
        answer = StreamResult(picture.frame, result, picture.error, picture.dropped, caption, index, latency_ms)
        self._figures.hand_over(answer)
        return answer


def _join(threads: list[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
