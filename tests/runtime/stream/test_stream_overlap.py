"""What runs beside what in a stream, and what is left out when it falls behind; proven with events, not with clocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import Stream
from yolor_edge.runtime.errors import BackendError
from yolor_edge.runtime.sources.sources import Frame

from ..fake_model import LONG, FakeModel, picture, stream_threads, wait_until


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert stream_threads() == []


class Gate:
    """Holds one stage of one image until it is opened."""

    def __init__(self, stage: str, number: int):
        self.key = (stage, number)
        self.is_reached, self.is_open = threading.Event(), threading.Event()

    def __call__(self, stage: str, number: int) -> None:
        if (stage, number) == self.key:
            self.is_reached.set()
            assert self.is_open.wait(LONG), "nobody opened the gate"


def test_the_network_sees_the_next_picture_while_a_caption_is_written() -> None:
    gate = Gate("caption", 0)
    fake = FakeModel(gate)
    with fake.model.stream(map(picture, range(3)), in_flight=2) as stream:
        wait_until(lambda: ("finish", 1) in fake.stages, "the second image was through the network")
        assert ("caption", 0) not in fake.stages
        gate.is_open.set()
        assert [answer.caption_frame for answer in stream] == [0, 1, 2]


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish", "caption"])
def test_as_many_pictures_are_at_work_as_may_be_in_flight(stage: str) -> None:
    together = threading.Barrier(3)
    fake = FakeModel(lambda at, number: at == stage and together.wait(LONG))
    assert len(list(fake.model.stream(map(picture, range(9)), in_flight=3))) == 9
    assert len(fake.contexts) == 3


def test_one_in_flight_is_one_at_a_time() -> None:
    at_work = threading.Lock()

    def alone(stage: str, number: int) -> None:
        if stage != "slot":
            assert at_work.acquire(blocking=False)
            at_work.release()

    fake = FakeModel(alone)
    list(fake.model.stream(map(picture, range(20)), in_flight=1))
    stages = ("prepare", "infer", "finish", "caption")
    assert fake.stages == [(stage, number) for number in range(20) for stage in stages]
    assert len(fake.contexts) == 1


# The first image is held, so that one worker stands still and another, if any, goes on with those that follow. Nobody
# takes an answer: up to two images for each in flight are taken, one for each waits, and one is in the reader's hand.
@pytest.mark.parametrize(("in_flight", "most"), [(1, 1 + 1 + 1), (2, 4 + 2 + 1)])
def test_reading_goes_on_beside_the_network_but_not_without_bound(in_flight: int, most: int) -> None:
    gate = Gate("infer", 0)
    fake = FakeModel(gate)
    given: list[int] = []

    def source() -> Iterator[NDArray[np.uint8]]:
        for number in range(50):
            given.append(number)
            yield picture(number)

    with fake.model.stream(source(), in_flight=in_flight) as stream:
        wait_until(lambda: len(given) == most, "the source was read as far as it may be")
        assert gate.is_reached.wait(LONG)
        assert len(given) == most
        gate.is_open.set()
        assert [answer.frame.index for answer in stream] == list(range(50))


def behind(fake: FakeModel, gate: Gate, frames: list[Frame], rest: Callable[[], bool]) -> Iterator[Frame]:
    """The first frame, and the others as soon as it is with the network, which goes on when they have all come."""
    yield frames[0]
    assert gate.is_reached.wait(LONG)
    yield from frames[1:]
    wait_until(rest, "the rest was left out")
    gate.is_open.set()


def numbered(count: int) -> list[Frame]:
    return [Frame("camera", picture(number), None, number) for number in range(count)]


def test_the_oldest_that_waits_is_left_out_and_counted() -> None:
    gate = Gate("infer", 0)
    fake = FakeModel(gate)
    source = behind(fake, gate, numbered(10), lambda: stream.statistics.dropped == 8)
    stream = fake.model.stream(source, in_flight=1, drop="oldest")
    answers = list(stream)
    assert [(answer.frame.index, answer.dropped) for answer in answers] == [(0, 0), (9, 8)]
    assert (stream.statistics.read, stream.statistics.answered, stream.statistics.dropped) == (10, 2, 8)


def test_an_error_is_never_left_out() -> None:
    gate = Gate("infer", 0)
    fake = FakeModel(gate)
    frames = numbered(5)
    frames[3] = Frame("camera", None, "camera: a broken frame", 3)
    source = behind(fake, gate, frames[:4], lambda: stream.statistics.dropped == 2)
    stream = fake.model.stream(source, in_flight=1, drop="oldest")
    answers = list(stream)
    assert [(answer.frame.index, answer.error, answer.dropped) for answer in answers] == [
        (0, None, 0),
        (3, "camera: a broken frame", 2),
    ]


@dataclass
class Camera:
    """A live source."""

    frames: Iterator[Frame]
    kind: str = "camera"

    def __iter__(self) -> Iterator[Frame]:
        return self.frames


@pytest.mark.parametrize(("kind", "drop", "is_dropping"), [
    ("camera", "auto", True), ("camera", "none", False), ("video", "auto", False), ("video", "oldest", True),
])  # fmt: skip
def test_what_is_live_is_left_out_unless_told_otherwise(kind: str, drop: str, is_dropping: bool) -> None:
    gate = Gate("infer", 0)
    fake = FakeModel(gate)
    source = behind(fake, gate, numbered(3), lambda: stream.statistics.dropped == is_dropping)
    if not is_dropping:
        gate.is_open.set()
    stream = fake.model.stream(Camera(source, kind), in_flight=1, drop=drop)
    assert [answer.frame.index for answer in stream] == ([0, 2] if is_dropping else [0, 1, 2])


def test_a_camera_that_vanishes_ends_the_stream_with_an_error_to_read() -> None:
    frames = [*numbered(2), Frame("camera 0", None, "camera 0: stopped giving frames", 2)]
    answers = list(FakeModel().model.stream(Camera(iter(frames)), drop="none"))
    assert [answer.error for answer in answers] == [None, None, "camera 0: stopped giving frames"]


# Captions that nobody waits for.


def consume(stream: Stream) -> None:
    for _ in stream:
        pass


def test_answers_do_not_wait_for_captions_beside() -> None:
    gate = Gate("caption", 0)
    fake = FakeModel(gate)

    def source() -> Iterator[NDArray[np.uint8]]:
        yield picture(0)
        assert gate.is_reached.wait(LONG)
        yield from map(picture, range(1, 100))

    with fake.model.stream(source(), caption_every=2, wait_for_captions=False) as stream:
        first = [next(stream) for _ in range(9)]
        assert all(answer.result is not None and answer.result.caption is None for answer in first)
        assert {answer.caption_frame for answer in first} == {None}
        gate.is_open.set()
        wait_until(lambda: stream.statistics.captioned >= 2, "the next caption was written")
        later = next(stream)
        # Those whose turn came meanwhile gave way to the newest of them; which that is depends on how far the workers
        # had got, but it is one with a caption of its own, and not one that comes after the answer.
        written = [number for stage, number in fake.stages if stage == "caption"]
        assert written[0] == 0
        assert written[1] >= 8
        assert len({*written} & {2, 4}) == 0
        assert later.caption_frame is not None and later.caption_frame <= later.frame.index
        assert later.caption is not None and later.caption.text == f"image {later.caption_frame}"


def test_live_sources_wait_for_captions_only_where_every_picture_has_one() -> None:
    gate = Gate("caption", 0)
    gate.is_open.set()
    fake = FakeModel(gate)
    answers = list(fake.model.stream(Camera(iter(numbered(1)))))
    assert [answer.caption_frame for answer in answers] == [0]

    gate.is_open.clear()
    with fake.model.stream(Camera(iter(numbered(1))), caption_every=5) as stream:
        assert next(stream).caption is None  # though the writer is held
        gate.is_open.set()


def test_a_caption_beside_that_fails_ends_the_stream() -> None:
    def fail(stage: str, number: int) -> None:
        if stage == "caption":
            raise BackendError("no words")

    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield picture(0)

    with (
        FakeModel(fail).model.stream(endless(), caption_every=3, wait_for_captions=False) as stream,
        pytest.raises(BackendError, match=r"^no words$"),
    ):
        consume(stream)
