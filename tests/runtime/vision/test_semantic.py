from __future__ import annotations

import re

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.images.preprocess import Letterbox

from ...reference import semantic as reference
from ..manners import assert_lets_threads_run, strided_copy

pytestmark = pytest.mark.usefixtures("level")

IDENTITY = (1.0, 1.0, 0, 0)


def assert_equals_the_reference(logits: np.ndarray, image_size: tuple[int, int], geometry, least_decided: float = 0.98):
    before = logits.copy()
    actual = _native.semantic_argmax(logits, image_size, geometry)
    assert actual.dtype == np.uint8
    assert actual.shape == image_size
    values = reference.semantic_values(logits, image_size, geometry)
    expected = values.argmax(axis=0)
    if len(logits) > 1:
        best_two = np.sort(values, axis=0)[-2:]
        decided = best_two[1] - best_two[0] > 1e-4 * np.maximum(1, np.abs(best_two[1]))
        assert decided.mean() >= least_decided
        np.testing.assert_array_equal(actual[decided], expected[decided])
    else:
        assert not actual.any()
    np.testing.assert_array_equal(_native.semantic_argmax(strided_copy(logits), image_size, geometry), actual)
    np.testing.assert_array_equal(logits, before)


CASES = [
    # image, input, classes
    ((1, 1), (32, 32), 3),
    ((2, 2), (32, 32), 2),
    ((40, 33), (32, 64), 1),
    ((37, 23), (32, 64), 7),
    ((64, 64), (64, 64), 173),
    ((150, 91), (64, 96), 20),  # larger than the input
    ((5, 7), (96, 96), 20),  # smaller than the grid: cells are skipped
    ((8, 8), (8, 8), 5),  # a grid of one point
    ((30, 9), (32, 8), 5),  # a grid of one column
    ((16, 16), (16, 16), 256),
]


@pytest.mark.parametrize(("image_size", "input_size", "classes"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(image_size, input_size, classes, seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (classes, input_size[0] // 8, input_size[1] // 8)).astype(np.float32)
    assert_equals_the_reference(logits, image_size, Letterbox.of(image_size, input_size).geometry)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference_on_regions(seed):
    """Large areas of one class with noise below it, as a network gives them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (30, 12, 16)).astype(np.float32)
    areas = np.kron(generator.integers(0, 30, (3, 4)), np.ones((4, 4), int))
    np.put_along_axis(logits, areas[None], 8.0, axis=0)
    assert_equals_the_reference(logits, (96, 128), IDENTITY)


@pytest.mark.parametrize(
    ("image_size", "input_size"), [((96, 128), (96, 128)), ((150, 91), (64, 96)), ((90, 160), (96, 96))]
)
@pytest.mark.parametrize("smooth", [True, False])
def test_every_pixel_equals_the_float32_twin(image_size, input_size, smooth):
    generator = np.random.default_rng(7)
    logits = generator.normal(0, 1, (173, input_size[0] // 8, input_size[1] // 8)).astype(np.float32)
    if smooth:
        logits = np.cumsum(np.cumsum(logits, axis=1), axis=2)
    geometry = Letterbox.of(image_size, input_size).geometry
    found = _native.semantic_argmax(logits, image_size, geometry)
    np.testing.assert_array_equal(found, reference.semantic_argmax_single(logits, image_size, geometry))
    half = logits.astype(np.float16)
    np.testing.assert_array_equal(
        _native.semantic_argmax(half, image_size, geometry),
        _native.semantic_argmax(half.astype(np.float32), image_size, geometry),
    )


def test_a_class_second_at_every_corner_wins_in_the_middle():
    logits = np.full((3, 2, 2), 0.0, dtype=np.float32)
    logits[0] = [[10, 0], [10, 0]]
    logits[2] = [[0, 10], [0, 10]]
    logits[1] = 7
    found = _native.semantic_argmax(logits, (16, 16), IDENTITY)
    np.testing.assert_array_equal(found[8], [0] * 6 + [1] * 4 + [2] * 6)


@pytest.mark.parametrize("value", [0.0, -3.5, 0.1, 1e30, np.nan, np.inf, -np.inf])
def test_equal_logits_go_to_the_lowest_class(value):
    logits = np.full((5, 3, 4), value, dtype=np.float32)
    assert not _native.semantic_argmax(logits, (24, 32), IDENTITY).any()
    logits[0] = -2e30
    if value != -np.inf and not np.isnan(value):
        assert (_native.semantic_argmax(logits, (24, 32), IDENTITY) == 1).all()


def test_ties_inside_a_mixed_cell_go_to_the_lowest_class():
    """Classes 1 and 2 are equal everywhere and win on the right, class 0 wins on the left."""
    logits = np.zeros((4, 2, 2), dtype=np.float32)
    logits[0, :, 0] = 5
    logits[1:3, :, 1] = 5
    found = _native.semantic_argmax(logits, (16, 16), IDENTITY)
    assert set(np.unique(found)) == {0, 1}
    logits[3] = logits[1] - 1
    logits[3, :, 1] = 5  # equal to them on the right only
    assert set(np.unique(_native.semantic_argmax(logits, (16, 16), IDENTITY))) == {0, 1}


def test_a_lower_class_that_ties_at_one_corner_only_is_not_ruled_out():
    """Outside the grid's points values are clamped: a whole quarter of the image is on the corner."""
    logits = np.zeros((3, 2, 2), dtype=np.float32)
    logits[2] = [[4, 4], [4, 9]]
    logits[1] = [[4, 3], [3, 3]]  # leads at the upper left by being lower
    found = _native.semantic_argmax(logits, (16, 16), IDENTITY)
    assert (found[:4, :4] == 1).all()
    assert (found[5:, 5:] == 2).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_values_that_are_not_finite(poison, seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (6, 5, 5)).astype(np.float32)
    logits[generator.random(logits.shape) < 0.1] = poison
    assert_equals_the_reference(logits, (40, 40), IDENTITY, least_decided=0.7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"logits": np.zeros((4, 4), np.float32)},
            "logits must have shape (S, h, w) with 1 to 256 classes S, got (4, 4)",
        ),
        (
            {"logits": np.zeros((0, 4, 4), np.float32)},
            "logits must have shape (S, h, w) with 1 to 256 classes S, got (0, 4, 4)",
        ),
        ({"logits": np.zeros((257, 1, 1), np.float32)}, "with 1 to 256 classes S, got (257, 1, 1)"),
        ({"logits": np.zeros((2, 4, 4))}, "logits must have dtype float32, got float64"),
        ({"image_size": (8, 0)}, "image_size must be (height, width), each 1 to 1048576, got (8, 0)"),
        (
            {"geometry": (1.0, -1.0, 0, 0)},
            "geometry must be (scale_y, scale_x, pad_top, pad_left) with positive scales",
        ),
        ({"stride": -8}, "stride must be at least 1, got -8"),
    ],
)
def test_refuses_bad_arguments(change, message):
    arguments = {"logits": np.zeros((2, 4, 4), np.float32), "image_size": (8, 8), "geometry": IDENTITY}
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.semantic_argmax(**{**arguments, **change})


def test_lets_threads_run():
    logits = np.random.default_rng(0).normal(size=(100, 60, 60)).astype(np.float32)
    assert_lets_threads_run(lambda: _native.semantic_argmax(logits, (960, 960), (0.5, 0.5, 0, 0)))
