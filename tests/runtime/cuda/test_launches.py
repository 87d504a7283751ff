"""Shapes that the kernels would lose count of, in 32 bits, are refused in one line before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from yolor_edge.runtime.cuda.kernels import box_launches, launches
from yolor_edge.runtime.cuda.kernels.box_launches import Ranking
from yolor_edge.runtime.cuda.kernels.detections import Detections
from yolor_edge.runtime.cuda.kernels.launches import AxisTables, Head, Launch
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.images.preprocess import Letterbox, PreprocessRule

SIZE = (640, 640)
SMALL = Letterbox.of((480, 640), SIZE)
HUGE = Letterbox.of((40000, 40000), SIZE)
AXIS = AxisTables(0, 0, 0)


def letterbox(placed: Letterbox, rule: PreprocessRule) -> Launch:
    return launches.letterbox(0, 3, "bgr", 0, 0, False, 0, 0, rule, placed)


def select(placed: Letterbox, max_detections: int) -> Launch:
    found = Detections(0, max_detections)
    return box_launches.select_boxes(0, 0, 0, 0, 0, found, 8400, placed, max_detections, 30000, 0.5, False)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (lambda: letterbox(HUGE, PreprocessRule(SIZE)), "bytes of an image of 40000x40000 pixels: 4800000000 are too"),
        (lambda: letterbox(SMALL, PreprocessRule((64000, 64000))), "pixels of the network's input: 4096000000 are"),
        (lambda: launches.fill_taps(0, 1 << 33, 640), "pixels in a row or column of the image: 8589934592 are"),
        (lambda: launches.fill_axis(AXIS, 1 << 33, 1.0, 0, 4, 160), "pixels in a row or column: 8589934592 are"),
        (lambda: launches.fill_nearest(0, 1 << 33, 1.0, 0, 640), "pixels in a row or column: 8589934592 are"),
        (
            lambda: box_launches.collect_candidates(Head(0, (300, 8400)), 0, 1 << 23, 0.25, 0, 0, 0, 0),
            "pairs of a class and a cell: 2516582400 are",
        ),
        (
            lambda: box_launches.collect_candidates(Head(0, (300000, 8400)), 0, 8400, 0.25, 0, 0, 0, 0),
            "pairs of a class and a cell: 2520000000 are",
        ),
        (
            lambda: box_launches.decode_cells(Head(0, (64, 1 << 26)), 0, 0, 0, (8,), SIZE),
            "numbers of the boxes' sides: 4294967296 are",
        ),
        (lambda: box_launches.rank_candidates(0, 0, Ranking(0, 0, 9, 9, 9), 1 << 30), "candidates: 2147483648 are"),
        (lambda: select(HUGE, 300), "bytes of an image of 40000x40000 pixels"),
        (
            lambda: select(Letterbox.of((16384, 16384), SIZE), 30000),
            "portions of 30000 masks in an image of 16384x16384 pixels: 3932160000 are",
        ),
        (lambda: select(Letterbox.of((1, 1), SIZE), 1 << 29), "coordinates of boxes: 2684354560 are"),
        (
            lambda: launches.fill_masks(
                Detections(0, 1), Head(0, (32, 1 << 16, 1 << 16)), Head(0, (32, 8400)), AXIS, AXIS, 0, 0, 1
            ),
            "points of the prototypes: 4294967296 are",
        ),
        (
            lambda: launches.fill_semantic(Head(0, (9, 1 << 16, 1 << 16)), 0, AXIS, AXIS, 0, 640),
            "points of the semantic map's grid: 4294967296 are",
        ),
        (lambda: launches.resample_map(0, 0, 0, 0, 640, (40000, 40000)), "bytes of an image of 40000x40000 pixels"),
    ],
)
def test_what_would_overflow_is_refused(launch: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        launch()
    assert str(raised.value).endswith("; take post-processing on the CPU")
    assert "\n" not in str(raised.value)


def test_more_blocks_than_a_gpu_takes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"resample_map: \(1, 75000, 1\) blocks are too many for a GPU; take post-pro"):
        launches.resample_map(0, 0, 0, 0, 640, (600_000, 8))


def test_the_largest_that_are_taken() -> None:
    placed = Letterbox.of((26000, 27000), SIZE)
    assert letterbox(placed, PreprocessRule(SIZE)).parameters.image_height == 26000
    assert select(placed, 300).parameters.max_detections == 300
    assert box_launches.collect_candidates(Head(0, (1 << 11, 1 << 19)), 0, 1 << 19, 0.25, 0, 0, 0, 0).grid[0] == 1 << 19
