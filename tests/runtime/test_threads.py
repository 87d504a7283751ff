"""Kernels on several threads: the same bits for every number, forked children, calls side by side."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native

STRIDES = [8, 16, 32]
GEOMETRY = (0.5, 0.5, 0, 0)


def kernels() -> dict[str, Callable[[int], list[Any]]]:
    """Every kernel as a function of the thread count."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (217, 331, 3), np.uint8)
    halved = generator.integers(0, 256, (240, 320, 3), np.uint8)
    nv12 = generator.integers(0, 256, (180, 144), np.uint8)
    logits = generator.normal(-2, 2, (20, 1344)).astype(np.float32)
    bins = generator.normal(0, 3, (64, 1344)).astype(np.float32)
    prototypes = generator.normal(size=(8, 64, 64)).astype(np.float32)
    coefficients = generator.normal(size=(30, 8)).astype(np.float32)
    corners = generator.uniform(-20, 540, (30, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    semantic = generator.normal(size=(30, 32, 32)).astype(np.float32)

    def masks(threads: int) -> list[Any]:
        crops = _native.mask_crops(prototypes, coefficients, boxes, (512, 500), GEOMETRY, threads=threads)
        return [crop for _, _, crop in crops]

    return {
        "letterbox": lambda n: [_native.letterbox(image, 256, 320, threads=n)],
        "letterbox halved": lambda n: [_native.letterbox(halved, 160, 160, threads=n)],
        "letterbox as it is": lambda n: [_native.letterbox(image, 217, 331, threads=n)],
        "letterbox of one row": lambda n: [_native.letterbox(image[:1], 64, 64, threads=n)],
        "letterbox nv12": lambda n: [_native.letterbox(nv12, 96, 96, layout="nv12", threads=n)],
        "boxes": lambda n: list(_native.decode_boxes(logits, bins, STRIDES, (256, 256), 0.01, threads=n)),
        "boxes, few of many": lambda n: list(
            _native.decode_boxes(logits, bins, STRIDES, (256, 256), -1.0, 0.3, 500, 100, threads=n)
        ),
        "masks": masks,
        "semantic": lambda n: [_native.semantic_argmax(semantic, (512, 500), GEOMETRY, threads=n)],
        "semantic of one row": lambda n: [_native.semantic_argmax(semantic, (1, 500), GEOMETRY, threads=n)],
    }


@pytest.mark.parametrize("name", list(kernels()))
@pytest.mark.usefixtures("level")
def test_the_same_bits_at_every_number_of_threads(name: str) -> None:
    work = kernels()[name]
    expected = work(1)
    for threads in (2, 3, 7, 64):
        for a, b in zip(expected, work(threads), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_refuses_other_numbers_of_threads(threads: int) -> None:
    for work in kernels().values():
        with pytest.raises(ValueError, match=rf"threads must lie in 1..64, got {threads}"):
            work(threads)


def test_calls_side_by_side_share_the_workers() -> None:
    works = kernels()
    expected = {name: work(1) for name, work in works.items()}
    wrong: list[str] = []

    def call(offset: int) -> None:
        names = list(works)
        for i in range(20):
            name = names[(i + offset) % len(names)]
            if not all(np.array_equal(a, b) for a, b in zip(expected[name], works[name](3), strict=True)):
                wrong.append(name)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork")
def test_a_forked_child_has_workers_of_its_own() -> None:
    code = """
import os, numpy as np
from yolor_edge.runtime import _native
logits = np.random.default_rng(0).normal(size=(30, 32, 32)).astype(np.float32)
work = lambda threads: _native.semantic_argmax(logits, (512, 500), (0.5, 0.5, 0, 0), threads=threads)
expected = work(4)
for generation in range(3):
    child = os.fork()
    if child != 0:
        _, status = os.waitpid(child, 0)
        assert (work(4) == expected).all()
        os._exit(os.waitstatus_to_exitcode(status))
    assert (work(4) == expected).all()
os._exit(17)
"""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (answer.returncode, answer.stderr) == (17, "")


def test_python_ends_while_workers_wait() -> None:
    code = """
import numpy as np
from yolor_edge.runtime import _native
_native.letterbox(np.zeros((300, 300, 3), np.uint8), 640, 640, threads=8)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr) == (0, "")
