"""Arrays in memory that is reused: whose it is, what it holds, how much of it is kept."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native
from yolor_edge.runtime.results import InstanceMasks

MIB = 2**20
BYTES = np.dtype(np.uint8)
SHAPE = (5, 1000, 1024)  # 4.9 MiB, which takes three huge pages


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    gc.collect()
    _native.drop_kept_memory()
    yield
    gc.collect()
    _native.drop_kept_memory()


def address_of(array: NDArray[Any]) -> int:
    return array.__array_interface__["data"][0]


def array_of_mib(mib: int) -> NDArray[np.uint8]:
    return _native.cleared_array((mib, MIB), BYTES)


@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 5), (0, 720, 1280), (), (4 * MIB,), (4 * MIB - 1,)])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_what_numpy_gives(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    for _ in range(2):
        array = _native.cleared_array(shape, np.dtype(dtype))
        expected = np.zeros(shape, dtype)
        assert (array.shape, array.dtype, array.strides) == (expected.shape, expected.dtype, expected.strides)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
        np.testing.assert_array_equal(array, expected)
        array.fill(1)


def test_memory_goes_round_and_is_cleared() -> None:
    first = _native.cleared_array(SHAPE, BYTES)
    address = address_of(first)
    first.fill(255)
    del first
    again = _native.cleared_array(SHAPE, BYTES)
    assert address_of(again) == address
    assert not again.any()
    again.fill(255)
    del again
    smaller = _native.cleared_array((4, 1000, 1200), BYTES)
    assert address_of(smaller) == address
    assert not smaller.any()


@pytest.mark.parametrize("keep", ["slice", "reshaped", "memoryview", "view of a view"])
def test_a_view_keeps_the_memory(keep: str) -> None:
    first = _native.cleared_array(SHAPE, BYTES)
    first.fill(7)
    views: dict[str, Any] = {
        "slice": first[3:, ::2],
        "reshaped": first.reshape(-1),
        "memoryview": memoryview(first),  # type: ignore[arg-type]
        "view of a view": first[1:][1:].view(np.bool_),
    }
    kept, address = views.pop(keep), address_of(first)
    del first, views
    second = _native.cleared_array(SHAPE, BYTES)
    assert address_of(second) != address
    second.fill(9)
    assert (np.asarray(kept).view(np.uint8) == 7).all()
    del kept
    assert address_of(_native.cleared_array(SHAPE, BYTES)) == address


def test_two_in_use_never_share() -> None:
    held = [_native.cleared_array(SHAPE, BYTES) for _ in range(4)]
    for number, array in enumerate(held, 1):
        array.fill(number)
    assert [int(array.min()) for array in held] == [int(array.max()) for array in held] == [1, 2, 3, 4]


def test_the_two_given_back_last_are_kept() -> None:
    held = [array_of_mib(mib) for mib in (8, 10, 12, 14)]
    assert _native.drop_kept_memory() == 0
    del held[0], held[0]
    assert _native.drop_kept_memory() == 18 * MIB
    held = [array_of_mib(mib) for mib in (8, 10, 12, 14)]
    while held:
        del held[0]
    assert _native.drop_kept_memory() == 26 * MIB
    assert _native.drop_kept_memory() == 0


def test_no_large_block_for_a_small_array_and_none_beyond_the_limit() -> None:
    large = array_of_mib(40)
    address = address_of(large)
    del large
    small = array_of_mib(9)
    assert address_of(small) != address
    quarter = array_of_mib(10)
    assert address_of(quarter) == address
    del small, quarter
    assert _native.drop_kept_memory() == 50 * MIB
    array = array_of_mib(128)
    del array
    assert _native.drop_kept_memory() == 128 * MIB
    array = array_of_mib(129)
    del array
    assert _native.drop_kept_memory() == 0


def test_small_arrays_are_not_kept() -> None:
    array = _native.cleared_array((4 * MIB - 1,), BYTES)
    assert array.base is None
    del array
    assert _native.drop_kept_memory() == 0


def test_sizes_that_no_machine_has() -> None:
    for shape in ((2**62, 2**62), (2**31, 2**31, 2**31), (2**46,)):
        with pytest.raises((ValueError, MemoryError), match=r"too big|Maximum allowed|Unable to allocate"):
            _native.cleared_array(shape, BYTES)
    with pytest.raises(ValueError, match="negative dimensions"):
        _native.cleared_array((-5, MIB), BYTES)
    assert _native.cleared_array((5,), np.dtype(object)).tolist() == [0] * 5  # type: ignore[type-var]


def test_copies_and_pickles_own_their_memory() -> None:
    array = _native.cleared_array(SHAPE, BYTES)
    array[2, 3, 4] = 9
    others = [copy.copy(array), copy.deepcopy(array), pickle.loads(pickle.dumps(array)), array.copy()]
    del array
    _native.cleared_array(SHAPE, BYTES).fill(1)
    for other in others:
        assert other.sum() == other[2, 3, 4] == 9


def test_torch_keeps_what_it_was_given() -> None:
    torch = pytest.importorskip("torch")
    array = _native.cleared_array(SHAPE, BYTES)
    tensor = torch.from_numpy(array)
    array[0, 0, 0] = 3
    del array
    _native.cleared_array(SHAPE, BYTES).fill(1)
    assert int(tensor.sum()) == int(tensor[0, 0, 0]) == 3


def test_frames_after_frames_that_were_scribbled_on() -> None:
    rng = np.random.default_rng(0)
    size = (720, 1280)
    addresses = set()
    for n in (8, 6, 7, 8):
        crops = [
            (int(rng.integers(0, 400)), int(rng.integers(0, 900)), rng.integers(0, 2, (300, 350), dtype=np.uint8))
            for _ in range(n)
        ]
        masks = InstanceMasks(crops, size)
        expected = np.zeros((n, *size), bool)
        for frame, (y0, x0, crop) in zip(expected, crops, strict=True):
            frame[y0 : y0 + 300, x0 : x0 + 350] = crop
        full = masks.full()
        addresses.add(address_of(full))
        np.testing.assert_array_equal(full, expected)
        full.fill(True)
        del full
    assert len(addresses) == 1
    many = InstanceMasks([(0, 5, np.ones((700, 1200), np.uint8))] * 40, size)
    for _ in range(2):
        bits = many.full_bits()
        np.testing.assert_array_equal(bits[::39], np.packbits(many.full()[::39], axis=2))
        bits.fill(255)
        del bits


def test_threads_hammering_it() -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        held: list[tuple[int, NDArray[np.uint8]]] = []
        for step in range(120):
            array = array_of_mib(dice.choice([4, 5, 7, 9]))
            if array[:, :: MIB // 8].any() or array[-1, -1]:
                wrong.append(f"thread {seed}, step {step}: not cleared")
            mark = 1 + (seed * 31 + step) % 254
            array[:, :: MIB // 8] = mark
            array[-1, -1] = mark
            held.append((mark, array))
            if len(held) > 2:
                mark, array = held.pop(dice.randrange(len(held)))
                if not (array[:, :: MIB // 8] == mark).all() or array[-1, -1] != mark:
                    wrong.append(f"thread {seed}, step {step}: somebody wrote here")
            del array

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert _native.drop_kept_memory() <= 2 * 10 * MIB


def run_python(code: str) -> str:
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_memory_of_its_own() -> None:
    code = """
import os
import numpy as np
from yolor_edge.runtime import _native
kept = _native.cleared_array((8, 1 << 20), np.dtype(np.uint8))
kept.fill(1)
gone = _native.cleared_array((8, 1 << 20), np.dtype(np.uint8))
gone.fill(1)
del gone
child = os.fork()
mine = _native.cleared_array((8, 1 << 20), np.dtype(np.uint8))
good = not mine.any() and bool((kept == 1).all())
value = 2 if child == 0 else 3
mine.fill(value)
kept.fill(value)
if child == 0:
    good = good and bool((mine == 2).all() and (kept == 2).all())
    del mine, kept
    good = good and _native.drop_kept_memory() == 16 << 20
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
print(good, status, bool((mine == 3).all() and (kept == 3).all()))
"""
    assert run_python(code).split() == ["True", "0", "True"]


def test_arrays_that_outlive_the_interpreter() -> None:
    code = """
import sys
import numpy as np
from yolor_edge.runtime import _native
arrays = [_native.cleared_array((8, 1 << 20), np.dtype(np.uint8)) for _ in range(4)]
sys.modules["held"] = arrays  # until the very end
cycle = [arrays[0]]
cycle.append(cycle)
del arrays[1]
print("done")
"""
    assert run_python(code) == "done\n"
