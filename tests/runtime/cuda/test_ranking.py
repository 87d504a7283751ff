"""Singling out the best candidates, run on the CPU: against sorting, and boxes that come of it against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.cuda.kernels import box_launches, kernel_parameters
from yolor_edge.runtime.cuda.kernels.box_launches import Ranking
from yolor_edge.runtime.images.preprocess import Letterbox

from .emulated import Emulator, address
from .kernel_calls import found_boxes
from .test_kernels import STRIDES, assert_same_boxes, random_heads

STATE = np.dtype(
    [
        ("prefix", np.uint64),
        ("bound", np.uint64),
        ("below", np.uint32),
        ("tickets", np.uint32),
        ("count", np.uint32),
        ("is_found", np.int32),
    ]
)


def ranked(
    emulator: Emulator, candidates: NDArray[np.uint64], classes: int, cells: int, rank: int
) -> tuple[NDArray[np.uint64], Any]:
    """The candidates that were singled out, rising, and the state that is left."""
    assert STATE.itemsize == kernel_parameters.RANK_STATE_BYTES
    state_bytes, compacted_bytes = Ranking.sizes(classes, cells, cells, rank)
    memory, compacted = np.zeros(state_bytes, np.uint8), np.zeros(compacted_bytes // 8, np.uint64)
    room = np.concatenate([candidates, np.zeros(classes * cells - len(candidates), np.uint64)])
    count = np.array([len(candidates)], np.uint32)
    ranking = Ranking.at(address(memory), address(compacted), classes, cells, cells, rank)
    assert ranking is not None
    assert len(compacted) == ranking.capacity
    emulator.run(*box_launches.rank_candidates(address(room), address(count), ranking, rank))
    state = memory[: STATE.itemsize].view(STATE)[0]
    return np.sort(compacted[: state["count"]]), state


def numbers(scores: NDArray[Any], indices: NDArray[Any]) -> NDArray[np.uint64]:
    return (scores.astype(np.uint64) << np.uint64(32)) | indices.astype(np.uint64)


@pytest.mark.parametrize("rank", [1, 33, 500])
@pytest.mark.parametrize("bits", [32, 20, 6, 0])
def test_those_singled_out_are_the_best(emulator: Emulator, rank: int, bits: int) -> None:
    """Of candidates that differ in many bits or few: with none, the numbers of the pairs alone tell them apart."""
    emulator.set_order(bits)
    generator = np.random.default_rng(rank + bits)
    classes, cells = 7, 900
    scores = generator.integers(0, 1 << 32, 5000, np.uint64) >> np.uint64(32 - bits)
    candidates = numbers(scores, generator.permutation(classes * cells)[:5000])
    found, state = ranked(emulator, candidates, classes, cells, rank)
    assert rank <= len(found) <= 2 * rank
    np.testing.assert_array_equal(found, np.sort(candidates)[: len(found)])
    assert state["is_found"] == 1
    assert state["tickets"] == 0


def test_the_last_digit_finds_the_very_rank(emulator: Emulator) -> None:
    """All numbers in a row, of which no digit but the last can leave out enough."""
    candidates = numbers(np.full(4096, 0xC0000000), np.arange(4096))
    found, _ = ranked(emulator, candidates, 2, 2048, 5)
    assert 5 <= len(found) <= 10
    np.testing.assert_array_equal(found, candidates[: len(found)])


def test_few_candidates_are_left_where_they_are(emulator: Emulator) -> None:
    found, state = ranked(emulator, numbers(np.arange(20), np.arange(20)), 3, 100, 10)
    assert len(found) == 0
    assert not any(state[name] for name in STATE.names or ())


def test_where_there_cannot_be_many_nothing_is_launched() -> None:
    assert Ranking.at(0, 0, 2, 30000, 30000, 30000) is None
    assert Ranking.sizes(2, 30000, 30000, 30000) == (0, 0)
    wide = Ranking.at(0, 0, 80, 8400, 8400, 30000)
    assert wide is not None
    assert (wide.capacity, wide.index_bits, wide.passes) == (60000, 20, 5)


@pytest.mark.parametrize("fill", [None, 0.0, np.inf, -np.inf, np.nan])
def test_boxes_of_a_threshold_of_nothing_are_those_of_the_cpu(emulator: Emulator, fill: float | None) -> None:
    size = (128, 128)
    placed = Letterbox.of((100, 128), size)
    logits, bins = random_heads(12, size, classes=9, bins=4, mean=-6.0, odd=0.01)
    if fill is not None:
        logits[:, 20:] = fill
    for max_candidates, half in ((40, False), (700, True)):
        options: dict[str, Any] = {"score_threshold": 0.0, "max_candidates": max_candidates, "iou_threshold": 0.3}
        with np.errstate(over="ignore"):
            taken = (logits.astype(np.float16), bins.astype(np.float16)) if half else (logits, bins)
        found = found_boxes(emulator, *taken, STRIDES, placed, **options)
        assert_same_boxes(found, *taken, placed, **options)
        assert found.summary["candidates"] == (~np.isnan(logits)).sum()


def test_a_graph_that_chose_cells_has_them_ranked_by_cell(emulator: Emulator) -> None:
    """Columns in any order and scores that tie: the numbers that decide are those of the cells, beyond the columns'."""
    size = (256, 256)
    placed = Letterbox.of(size, size)
    logits, bins = random_heads(13, size, classes=3, bins=4, mean=0.0)
    cells = np.random.default_rng(13).permutation(logits.shape[1])[:120].astype(np.int32)
    order = np.argsort(cells)
    logits, bins = np.ascontiguousarray(np.round(logits[:, cells])), np.ascontiguousarray(bins[:, cells])
    options: dict[str, Any] = {"score_threshold": 0.0, "max_candidates": 50}
    found = found_boxes(emulator, logits, bins, STRIDES, placed, cells=cells, **options)
    one = found_boxes(
        emulator,
        np.ascontiguousarray(logits[:, order]),
        np.ascontiguousarray(bins[:, order]),
        STRIDES,
        placed,
        cells=np.ascontiguousarray(cells[order]),
        **options,
    )
    assert found.count == one.count > 5
    np.testing.assert_array_equal(found["image_boxes"], one["image_boxes"])
    np.testing.assert_array_equal(found.columns, order[one.columns])
