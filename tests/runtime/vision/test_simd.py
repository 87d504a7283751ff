"""Kernels give the same bits whatever instructions they are made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.images.preprocess import Letterbox

LEVELS = _native.simd_levels()
STRIDES = [8, 16, 32]
SIZE = (160, 192)


def at_every_level(work: Callable[[], Any]) -> list[Any]:
    before = _native.simd_level()
    answers = []
    for level in LEVELS:
        _native.set_simd_level(level)
        answers.append(work())
    _native.set_simd_level(before)
    return answers


def poisoned(generator: np.random.Generator, values: np.ndarray, share: float) -> np.ndarray:
    """Some of the values made NaN, infinite, subnormal, zero of either sign, or enormous."""
    odd = np.array([np.nan, np.inf, -np.inf, 1e-40, 0.0, -0.0, 3e38, -3e38], np.float32)
    chosen = generator.random(values.shape) < share
    values[chosen] = generator.choice(odd, chosen.sum())
    return values


def test_the_best_level_is_the_default_and_the_first_is_always_there():
    assert LEVELS[0] == "portable"
    assert _native.simd_level() == os.environ.get("YOLOR_EDGE_SIMD", LEVELS[-1])


@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_chooses_a_level(level):
    code = "from yolor_edge.runtime import _native; print(_native.simd_level())"
    environment = {**os.environ, "YOLOR_EDGE_SIMD": level}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == level


def test_a_level_that_is_not_there_is_refused_at_import():
    code = """
try:
    import yolor_edge.runtime.model
except ImportError as error:
    print(error)
"""
    environment = {**os.environ, "YOLOR_EDGE_SIMD": "bogus"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "YOLOR_EDGE_SIMD=bogus: this processor has no instructions of that name; "
        f"set it to one of {', '.join(LEVELS)}, or unset it for the best of them\n"
    )


def test_refuses_a_level_the_processor_does_not_have():
    message = f"simd level must be one of {', '.join(LEVELS)}, got amx"
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.set_simd_level("amx")


@pytest.mark.parametrize("share", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_masks(seed, share):
    generator = np.random.default_rng(seed)
    cells = sum((SIZE[0] // s) * (SIZE[1] // s) for s in STRIDES)
    logits = poisoned(generator, generator.normal(-3, 3, (7, cells)).astype(np.float32), share)
    bins = poisoned(generator, generator.normal(0, 3, (64, cells)).astype(np.float32), share / 10)
    prototypes = poisoned(generator, generator.normal(size=(9, 40, 48)).astype(np.float32), share / 10)
    coefficients = generator.normal(size=(cells, 9)).astype(np.float32)
    picture = tuple(generator.integers(20, 400, 2).tolist())
    letterbox = Letterbox.of(picture, SIZE)

    def work() -> list[Any]:
        found = _native.decode_boxes(logits, bins, STRIDES, SIZE, 0.01, 0.5, 200)
        boxes = letterbox.boxes_to_image(found[0])
        crops = _native.mask_crops(prototypes, coefficients[found[3]], boxes, picture, letterbox.geometry)
        return [*found, *(crop for _, _, crop in crops)]

    first, *others = at_every_level(work)
    assert len(first[1]) > 5
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("share", [0.0, 0.01])
@pytest.mark.parametrize(
    ("classes", "grid"), [(1, (5, 7)), (16, (20, 24)), (17, (3, 130)), (173, (9, 11)), (256, (1, 5))]
)
def test_semantic_map(classes, grid, share):
    generator = np.random.default_rng(classes)
    logits = poisoned(generator, generator.normal(size=(classes, *grid)).astype(np.float32), share)
    size = (grid[0] * 7 + 1, grid[1] * 9 - 1)
    first, *others = at_every_level(lambda: _native.semantic_argmax(logits, size, (0.9, 0.8, 2, 1)))
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("seed", range(6))
def test_letterbox(seed, channels):
    generator = np.random.default_rng(seed)
    height, width, input_height, input_width = generator.integers(1, 300, 4).tolist()
    image = generator.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    scale = float(generator.random())
    first, *others = at_every_level(lambda: _native.letterbox(image, input_height, input_width, scale=scale))
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_every_half_precision_number():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    is_number = ~np.isnan(halves)
    for wide in at_every_level(lambda: _native.widen_half(halves)):
        np.testing.assert_array_equal(np.isnan(wide), ~is_number)
        np.testing.assert_array_equal(
            wide[is_number].view(np.uint32), halves[is_number].astype(np.float32).view(np.uint32)
        )
    np.testing.assert_array_equal(_native.widen_half(halves[5:500:3]), halves[5:500:3].astype(np.float32))
    floats: Any = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="halves must have dtype float16, got float32"):
        _native.widen_half(floats)
