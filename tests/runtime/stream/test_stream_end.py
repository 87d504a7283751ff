"""However a stream ends, its threads end with it, and the model goes on or is freed as it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import BackendError
from yolor_edge.runtime.stream import pipeline as stream_pipeline

from ..fake_model import LONG, FakeModel, picture, stream_threads, wait_until


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert stream_threads() == []


class Endless:
    """Images for ever, and whether the generator that made them has ended."""

    def __init__(self) -> None:
        self.has_ended = False

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        try:
            while True:
                yield picture(0)
        finally:
            self.has_ended = True


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("waits", [True, False])
def test_leaving_the_loop_ends_everything(in_flight: int, waits: bool) -> None:
    source, fake = Endless(), FakeModel()
    with fake.model.stream(source, in_flight=in_flight, wait_for_captions=waits) as stream:
        for answer in stream:
            if answer.frame.index == 5:
                break
    assert source.has_ended
    assert stream_threads() == []
    assert list(stream) == []
    stream.close()  # twice is harmless
    fake.model.close()
    assert fake.is_freed
    assert all(context.is_closed for context in fake.contexts)


def test_a_stream_that_nobody_takes_from_ends() -> None:
    fake = FakeModel()
    with fake.model.stream(Endless(), in_flight=2):
        pass
    stream = fake.model.stream(Endless())  # never started
    stream.close()
    assert list(stream) == []


class _Unexpected(Exception):
    pass


@pytest.mark.parametrize("kind", [_Unexpected, KeyboardInterrupt])
def test_an_exception_of_the_consumer(kind: type[BaseException]) -> None:
    source, fake = Endless(), FakeModel()

    def consume() -> None:
        with fake.model.stream(source) as stream:
            for _ in stream:
                raise kind

    with pytest.raises(kind):
        consume()
    assert source.has_ended
    assert stream_threads() == []


def test_an_interrupt_while_waiting_for_an_answer() -> None:
    """Ctrl-C reaches the consumer, without a `with` block, and stops all."""
    fake = FakeModel()
    is_over = threading.Event()

    def source() -> Iterator[NDArray[np.uint8]]:
        yield picture(0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert is_over.wait(LONG)

    seen = []
    stream = fake.model.stream(source())
    threading.Timer(0, lambda: wait_until(lambda: stream._pipeline._is_stopped, "it stopped") or is_over.set()).start()
    with pytest.raises(KeyboardInterrupt):
        seen.extend(answer.frame.index for answer in stream)
    assert is_over.wait(LONG)
    assert list(stream) == []
    assert fake.model.predict(picture(3)).caption is not None


def test_a_stream_that_nobody_holds_any_more_ends() -> None:
    fake, source = FakeModel(), Endless()
    stream = fake.model.stream(source)
    next(stream)
    assert stream_threads() != []
    del stream
    wait_until(lambda: not stream_threads(), "the threads ended")
    assert source.has_ended


@pytest.mark.parametrize("ran", range(4))
def test_a_thread_that_cannot_start_leaves_nothing_behind(ran: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, one writer of captions and the reader: whichever of them the system refuses."""
    fake, source = FakeModel(), Endless()
    stream = fake.model.stream(source, in_flight=2, wait_for_captions=False)
    real, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if len(started) == ran:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(BackendError, match=r"no further thread \(can't start new thread\); end other programs"):
            next(stream)
    assert len(started) == ran
    assert stream_threads() == []
    assert list(stream) == []
    with fake.model.stream([picture(1)] * 3, in_flight=2) as second:
        assert len(list(second)) == 3
    assert len(fake.contexts) == 2  # which were given back
    fake.model.close()
    assert fake.is_freed


def test_an_iterator_of_the_caller_can_be_used_further() -> None:
    pictures = iter([picture(number) for number in range(100)])
    fake = FakeModel()
    with fake.model.stream(pictures, in_flight=1) as stream:
        next(stream)
    rest = list(pictures)
    assert 90 < len(rest) < 100


def test_a_source_that_is_stuck_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_pipeline, "READER_STOP_SECONDS", 0.01)
    comes_to_itself = threading.Event()

    def source() -> Iterator[NDArray[np.uint8]]:
        yield picture(0)
        assert comes_to_itself.wait(LONG)
        yield picture(1)

    fake = FakeModel()
    with fake.model.stream(source()) as stream:
        next(stream)
    assert stream_threads() == ["yolor-edge-read"]
    fake.model.close()
    assert fake.is_freed  # nothing of the model is held
    comes_to_itself.set()
    wait_until(lambda: not stream_threads(), "the reader ended")


def test_a_source_that_can_be_stopped_is() -> None:
    class Camera:
        kind = "camera"

        def __init__(self) -> None:
            self.stopped = threading.Event()

        def __iter__(self) -> Iterator[NDArray[np.uint8]]:
            yield picture(0)
            assert self.stopped.wait(LONG)

        def stop(self) -> None:
            self.stopped.set()

    camera, fake = Camera(), FakeModel()
    with fake.model.stream(camera) as stream:
        next(stream)
        assert not camera.stopped.is_set()
    assert camera.stopped.is_set()


def test_closing_the_model_ends_its_streams() -> None:
    source, fake = Endless(), FakeModel()
    stream = fake.model.stream(source)
    next(stream)
    waiting = fake.model.stream(Endless())
    fake.model.close()
    assert stream_threads() == []
    assert source.has_ended
    assert fake.is_freed
    for each in (stream, waiting):
        with pytest.raises(BackendError, match=r"^tiny: the model was closed while its stream ran$"):
            next(each)
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        fake.model.stream(Endless())


def test_closing_the_model_while_another_thread_waits_for_an_answer() -> None:
    is_over, is_waiting = threading.Event(), threading.Event()

    def source() -> Iterator[NDArray[np.uint8]]:
        is_waiting.set()
        assert is_over.wait(LONG)
        yield picture(0)

    fake, errors = FakeModel(), []
    stream = fake.model.stream(source())

    def consume() -> None:
        try:
            next(stream)
        except BackendError as error:
            errors.append(str(error))
            is_over.set()

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert is_waiting.wait(LONG)
    fake.model.close()
    consumer.join(LONG)
    assert errors == ["tiny: the model was closed while its stream ran"]


def test_a_picture_at_work_when_the_model_is_closed_is_finished_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_pipeline, "WORKERS_STOP_SECONDS", 0.01)
    is_at_work, goes_on = threading.Event(), threading.Event()

    def hold(stage: str, number: int) -> None:
        if stage == "infer":
            is_at_work.set()
            assert goes_on.wait(LONG)

    fake = FakeModel(hold)
    stream = fake.model.stream(map(picture, range(3)), in_flight=1)
    iter(stream)
    assert is_at_work.wait(LONG)
    fake.model.close()  # does not wait for longer than it says
    assert not fake.is_freed
    goes_on.set()
    wait_until(lambda: fake.is_freed, "the last thread freed the parts")
    wait_until(lambda: not stream_threads(), "the worker ended")


def test_a_device_without_memory_for_so_many_in_flight() -> None:
    def refuse(stage: str, number: int) -> None:
        if stage == "slot" and number == 2:
            raise BackendError("the GPU is out of memory; use fewer in flight")

    fake = FakeModel(refuse)
    stream = fake.model.stream(Endless(), in_flight=3)
    with pytest.raises(BackendError, match="out of memory"):
        next(stream)
    assert list(stream) == []
    assert len(fake.contexts) == 2
    assert len(list(fake.model.stream([picture(0)], in_flight=2))) == 1
    assert len(fake.contexts) == 2  # the same two
    fake.model.close()
    assert fake.is_freed


def test_an_interpreter_that_ends_with_a_stream_open(tiny_bundle: Bundle) -> None:
    code = (
        "import itertools, sys, numpy as np\n"
        "from yolor_edge.runtime import load\n"
        "model = load(sys.argv[1], threads=1)\n"
        "stream = model.stream(itertools.repeat(np.zeros((64, 96, 3), np.uint8)))\n"
        "print(next(stream).frame.index)\n"
    )
    command = [sys.executable, "-X", "dev", "-c", code, os.fspath(tiny_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
