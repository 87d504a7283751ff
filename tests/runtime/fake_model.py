"""A model whose network is a hook: what happens in each stage of each image is up to the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from yolor_edge.runtime.captions.captioning import CaptionOptions, CaptionTimes
from yolor_edge.runtime.execution.parts import ModelParts
from yolor_edge.runtime.images.preprocess import PixelLayout
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.results import Caption
from yolor_edge.runtime.vision.contexts import Request
from yolor_edge.runtime.vision.head_check import HeadCheck

from .tiny_bundle import tiny_spec

LONG = 30.0  # seconds that nothing here takes, unless it hangs

Hook = Callable[[str, int], object]


def picture(number: int) -> NDArray[np.uint8]:
    """An image that is known by its number."""
    return np.full((4, 4, 3), number, np.uint8)


class FakeModel:
    """A model, and what it was asked for.

    Args:
        hook: Called with each stage ("prepare", "infer", "finish", "caption") and the number of the image.
        tasks: Of the model.
    """

    processing: ClassVar[str] = "cpu"

    def __init__(self, hook: Hook = lambda stage, number: None, tasks: tuple[str, ...] = ("boxes", "caption")):
        self.hook = hook
        self.stages: list[tuple[str, int]] = []  # those that are done, as they ended
        self.contexts: list[FakeContext] = []
        self.is_freed = False
        self.check = HeadCheck(tiny_spec(tasks))
        parts = ModelParts(tiny_spec(tasks), self, self, self._free)
        self.model = Model.of(parts)

    def pass_stage(self, stage: str, number: int) -> None:
        self.hook(stage, number)
        self.stages.append((stage, number))

    def context(self) -> FakeContext:
        self.hook("slot", len(self.contexts))
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def close(self) -> None:
        raise AssertionError("the parts are freed by what they were given for it")

    def write(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, CaptionTimes]:
        number = int(memory[0, 0, 0])
        self.pass_stage("caption", number)
        assert memory[0, 0, 0] == number, "the memory was written over while it was read"
        return Caption(f"image {number}", (number,), 0.0, 0.0), CaptionTimes(1.0, 1.0, 1)

    def _free(self) -> None:
        assert not self.is_freed
        assert all(not context.is_at_work for context in self.contexts)
        self.is_freed = True


class FakeContext:
    """Sees whether it is used by two threads at once, or after it was closed."""

    def __init__(self, owner: FakeModel):
        self._owner = owner
        self.is_at_work = self.is_closed = False
        self.caption_memory = np.zeros((1, 1, 1), np.float32)

    def prepare(self, image: NDArray[np.uint8], layout: PixelLayout = "bgr") -> None:
        assert not self.is_closed
        self.caption_memory[:] = image.flat[0]
        self._pass("prepare")

    def infer(self, tasks: tuple[str, ...]) -> None:
        assert tasks
        self._pass("infer")

    def finish(self, request: Request, lap: Callable[[str], None]) -> dict[str, Any]:
        self._pass("finish")
        if "boxes" not in request.tasks:
            return {}
        lap("boxes")
        scores = np.full(1, self.caption_memory[0, 0, 0], np.float32)
        return {"boxes": np.zeros((1, 4), np.float32), "scores": scores, "class_ids": np.zeros(1, np.int32)}

    def close(self) -> None:
        assert not self.is_at_work
        self.is_closed = True

    def _pass(self, stage: str) -> None:
        assert not self.is_at_work, "two threads at once"
        self.is_at_work = True
        try:
            self._owner.pass_stage(stage, int(self.caption_memory[0, 0, 0]))
        finally:
            self.is_at_work = False


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds; fail where it does not within `LONG` seconds."""
    until = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.001)


def stream_threads() -> list[str]:
    """Names of the threads of streams that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("yolor-edge-")]
