"""Clones, threads, forks and interrupts: what is shared, what is refused, and what is freed when."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from yolor_edge.runtime import load
from yolor_edge.runtime.backends.guards import OneAtATime, Shared
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import BackendError, UsageError

from ..fake_model import LONG, FakeModel, picture
from ..tiny_bundle import COLOURS, coloured_patch


def test_one_at_a_time() -> None:
    guard = OneAtATime()
    with guard.entered("the context"):
        with (
            pytest.raises(UsageError, match=r"^the context: at work in another thread; .* model.clone\(\)$"),
            guard.entered("the context"),
        ):
            pytest.fail("got in")
        with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="the context: at work"):
            pool.submit(lambda: guard.entered("the context").__enter__()).result(LONG)
    with pytest.raises(KeyError), guard.entered("the context"):
        raise KeyError
    with guard.entered("the context"):
        pass


def test_what_is_shared_is_freed_once_by_the_last() -> None:
    freed: list[int] = []
    shared = Shared("it", lambda: freed.append(1))
    shared.acquire()
    with shared.held():
        shared.release()
        assert freed == []
    assert freed == [1]
    with pytest.raises(BackendError, match="it: the model is closed"):
        shared.acquire()


# Clones.


def test_a_clone_shares_the_network_and_lives_as_long_as_it_is_open(tiny_bundle: Bundle) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    model = load(tiny_bundle, threads=1)
    expected = model.predict(image).to_json()["objects"]
    clone = model.clone()
    of_clone = clone.clone()
    assert clone._parts is of_clone._parts is model._parts
    model.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        model.predict(image)
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        model.clone()
    assert clone.predict(image).to_json()["objects"] == expected
    clone.close()
    clone.close()  # twice is harmless, and counts once
    assert of_clone.predict(image).to_json()["objects"] == expected
    of_clone.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        of_clone.predict(image)


def test_clones_have_slots_of_their_own() -> None:
    fake = FakeModel()
    clone = fake.model.clone()
    for model in (fake.model, clone):
        model.predict(picture(1))
        model.predict(picture(2))
    assert len(fake.contexts) == 2
    clone.close()
    assert [context.is_closed for context in fake.contexts] == [False, True]
    assert not fake.is_freed
    fake.model.close()
    assert fake.is_freed


def test_several_cameras_share_one_network(tiny_bundle: Bundle) -> None:
    def watch(number: int) -> list[str]:
        images = [coloured_patch((64 + number, 96), (16, 32, 48, 64), COLOURS[(i + number) % 3]) for i in range(20)]
        with model.clone() as clone, clone.stream(images) as stream:
            return [answer.caption.text for answer in stream if answer.caption is not None]

    with load(tiny_bundle, threads=1) as model, ThreadPoolExecutor(4) as pool:
        for number, texts in enumerate(pool.map(watch, range(4))):
            assert texts == [f"a {COLOURS[(i + number) % 3]} thing here" for i in range(20)]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_is_not_copied_otherwise(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(
        UsageError, match=r"tiny: .* neither pickled nor copied; load it in each worker process, .*clone"
    ):
        duplicate(FakeModel().model)


# Threads and interrupts.


def test_calls_at_once_have_a_slot_each_and_calls_in_turn_share_one() -> None:
    together = threading.Barrier(2)
    fake = FakeModel(lambda stage, number: number and stage == "infer" and together.wait(LONG))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(fake.model.predict, [picture(1), picture(2)]))
    assert [result.caption and result.caption.text for result in results] == ["image 1", "image 2"]
    assert len(fake.contexts) == 2
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:  # a new thread takes an execution context that is there
            pool.submit(fake.model.predict, picture(0)).result(LONG)
    assert len(fake.contexts) == 2


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish", "caption"])
def test_an_interrupted_call_leaves_the_model_usable(stage: str) -> None:
    def interrupt(at: str, number: int) -> None:
        if at == stage and number == 1:
            raise KeyboardInterrupt

    fake = FakeModel(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fake.model.predict(picture(1))
    assert [context.is_closed for context in fake.contexts] == [True]  # who knows what is in it
    result = fake.model.predict(picture(2))
    assert result.caption is not None and result.caption.text == "image 2"
    fake.model.close()
    assert fake.is_freed


def test_ctrl_c_in_the_middle_of_predictions(tiny_bundle: Bundle) -> None:
    image = coloured_patch((64, 96), (16, 32, 48, 64))
    main = threading.main_thread().ident or 0
    with load(tiny_bundle, threads=1) as model:
        expected = model.predict(image).to_json()["objects"]

        def predict_until_interrupted() -> None:
            threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT)).start()
            for _ in range(10**6):
                model.predict(image)

        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                predict_until_interrupted()
            assert model.predict(image).to_json()["objects"] == expected


def test_closing_while_another_thread_predicts_waits_for_nobody_and_frees_afterwards() -> None:
    is_at_work, goes_on = threading.Event(), threading.Event()

    def hold(stage: str, number: int) -> None:
        if stage == "infer":
            is_at_work.set()
            assert goes_on.wait(LONG)

    fake = FakeModel(hold)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(fake.model.predict, picture(7))
        assert is_at_work.wait(LONG)
        fake.model.close()
        assert not fake.is_freed
        goes_on.set()
        result = call.result(LONG)
    assert result.scores is not None and result.scores[0] == np.float32(7)
    assert fake.is_freed
    assert fake.contexts[0].is_closed


# Forks.

_FORK = """
import multiprocessing, sys, warnings
import numpy as np
from yolor_edge.runtime import load

warnings.simplefilter("ignore")  # Python 3.12 warns of what is tested here
image = np.zeros((64, 96, 3), np.uint8)
model = load(sys.argv[1], sys.argv[2], threads=2)
model.predict(image)
stream = model.stream([image] * 100)
next(stream)

def work(say):
    global model
    for call in (lambda: model.predict(image), model.clone, lambda: model.stream([image]), lambda: next(stream)):
        try:
            call()
            say.send("worked")
        except Exception as error:
            say.send(f"{type(error).__name__}: {error}")
    stream.close()
    model.close()
    del model
    say.send("closed")

context = multiprocessing.get_context("fork")
listen, say = context.Pipe(duplex=False)
child = context.Process(target=work, args=(say,))
child.start()
for _ in range(5):
    print(listen.recv() if listen.poll(20) else "nothing")
child.join(20)
print(child.exitcode)
if child.exitcode is None:
    child.kill()
stream.close()
print(model.predict(image).image_size)
model.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_fork_is_told_to_load_the_model_itself_and_ends(tiny_bundle: Bundle, backend: str) -> None:
    pytest.importorskip(backend)
    command = [sys.executable, "-c", _FORK, os.fspath(tiny_bundle.path), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 7
    for line in lines[:4]:
        assert line.startswith("UsageError: tiny: was loaded in process ")
        assert line.endswith("; load the model in the worker itself, or start workers by spawn")
    assert lines[4:] == ["closed", "0", "(64, 96)"]
