"""A stream holds no more after many images than after a few; the soak in benchmarks/ does it for long."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import load
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.tokenizer import Tokenizer
from yolor_edge.runtime.captions.captioning import CaptionOptions, caption_of
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.stream.stream_results import WINDOW

from ..tiny_bundle import COLOURS, coloured_patch


@pytest.mark.parametrize("waits", [True, False])
def test_memory_stays(tiny_bundle: Bundle, waits: bool) -> None:
    images = [coloured_patch((100 + 10 * i, 150), (16, 32, 48, 64), COLOURS[i % 3]) for i in range(9)]

    def source() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield from images

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with (
        load(tiny_bundle, threads=1) as model,
        model.stream(source(), caption_every=2, wait_for_captions=waits) as stream,
    ):
        tracemalloc.start()
        try:
            for _ in range(WINDOW + 20):  # until the windows of the statistics are full
                next(stream)
            before = held()
            for _ in range(300):
                next(stream)
            after = held()
        finally:
            tracemalloc.stop()
    # A leak of an image, a result or a memory a frame would be 300 times 45 kB, 2 kB or 1 kB. What is in flight when
    # the memory is looked at differs by a few images.
    assert after - before < 200_000
    pipeline = stream._pipeline
    assert not pipeline._waiting and not pipeline._done and not pipeline._written


def test_answers_that_are_gone_leave_no_tuples_in_the_free_lists() -> None:
    tokenizer = Tokenizer(("<pad>", "<unk>", "<bos>", "<eos>", "word"))
    names = tuple(f"class {i}" for i in range(20))

    def answer(length: int) -> None:
        caption_of([([4] * length, -1.0, -0.5)], tokenizer, CaptionOptions(), is_cut=False)
        assert (
            len(Result((4, 4), class_ids=np.arange(length, dtype=np.int32), class_names=names).detected_names or ()) > 0
        )

    gc.collect()  # empties them
    gc.disable()
    try:
        for number in range(190):
            answer(1 + number % 19)
        before = sys.getallocatedblocks()
        for number in range(1900):
            answer(1 + number % 19)
        after = sys.getallocatedblocks()
    finally:
        gc.enable()
    assert after - before < 100
