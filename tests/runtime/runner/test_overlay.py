"""The strip above the drawings of a stream: what it says, and that it keeps its size."""

from __future__ import annotations

import time

import numpy as np
import pytest
from yolor_edge.runtime.drawing.lettering import PAPER
from yolor_edge.runtime.runner.overlay import Overlay, time_of_day

TIMES = {"preprocess": 0.11, "network": 17.8, "caption": 2.0, "caption_tokens": 9.0, "total": 20.4}


def test_what_it_says() -> None:
    now = [0.0]
    overlay = Overlay(lambda: now[0])
    overlay.count(0)
    assert overlay.lines(0, TIMES) == ("frame 0   - fps   0 dropped", "preprocess 0.1  network 17.8  caption 2.0  ms")
    for _ in range(100):
        now[0] += 0.05
        overlay.count(2)
    assert overlay.fps == pytest.approx(20)
    assert overlay.lines(300, {}) == ("frame 300   20.0 fps   200 dropped", "")
    assert overlay.lines(300, {}, "0:12.300") == ("frame 300   20.0 fps   200 dropped   0:12.300", "")
    assert overlay.dropped == 200


def test_answers_at_one_moment_have_no_rate() -> None:
    overlay = Overlay(lambda: 1.0)
    overlay.count(0)
    overlay.count(0)
    assert overlay.fps is None


@pytest.mark.parametrize("width", [2, 64, 640, 1286, 3840])
def test_it_is_above_the_drawing_and_keeps_its_size(width: int) -> None:
    drawing = np.full((100, width, 3), 200, np.uint8)
    overlay = Overlay()
    overlay.count(0)
    drawn = overlay.drawn(drawing, 0, TIMES)
    assert np.array_equal(drawn[-100:], drawing)
    assert drawn.shape[0] % 2 == 0
    assert drawn.dtype == np.uint8
    strip = drawn[:-100]
    assert strip[:2].reshape(-1, 3).tolist() == [list(PAPER)] * (2 * width)
    if width >= 640:
        assert (strip != PAPER).any()
        assert np.all(strip[:, -4:] == PAPER)  # nothing is cut off
    overlay.count(123456)
    assert overlay.drawn(drawing, 10**9, {**TIMES, "a stage of a very long name" * 9: 1.0}).shape == drawn.shape


def test_when_a_frame_was_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert time_of_day(1_700_000_000_007_900_000, None) == "00:13:20.007"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert time_of_day(None, 61.5) == "1:01.500"
    assert time_of_day(None, None) == ""
