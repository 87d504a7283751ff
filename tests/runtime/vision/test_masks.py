from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.images.preprocess import Letterbox

from ...reference import masks as reference
from ..manners import assert_lets_threads_run, strided_copy

pytestmark = pytest.mark.usefixtures("level")

IDENTITY = (1.0, 1.0, 0, 0)


def full_masks(crops: list, image_size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(crops), *image_size), dtype=np.uint8)
    for mask, (y0, x0, crop) in zip(masks, crops, strict=True):
        assert crop.dtype == np.uint8
        mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    return masks


CASES = [
    # image, input, prototype channels
    ((1, 1), (32, 32), 1),
    ((2, 2), (32, 32), 2),
    ((37, 23), (32, 64), 5),
    ((64, 64), (64, 64), 32),
    ((150, 91), (64, 64), 8),  # larger than the input
    ((6, 9), (64, 96), 8),  # smaller than the prototypes
    ((3, 120), (32, 32), 4),
]


@pytest.mark.parametrize(("image_size", "input_size", "channels"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(image_size, input_size, channels, seed):
    generator = np.random.default_rng(seed)
    n = 9
    prototypes = generator.normal(size=(channels, input_size[0] // 4, input_size[1] // 4)).astype(np.float32)
    coefficients = generator.normal(size=(n, channels)).astype(np.float32)
    limits = np.array(image_size[::-1] * 2)
    boxes = (np.sort(generator.random((n, 2, 2)), axis=1).reshape(n, 4) * limits * 1.5 - limits / 4).astype(np.float32)
    boxes[0] = [0, 0, *image_size[::-1]]
    geometry = Letterbox.of(image_size, input_size).geometry
    before = prototypes.copy(), coefficients.copy(), boxes.copy()

    crops = _native.mask_crops(prototypes, coefficients, boxes, image_size, geometry)

    masks = full_masks(crops, image_size)
    inside = reference.pixels_in_boxes(boxes, image_size)
    logits = reference.mask_logits(prototypes, coefficients, image_size, geometry)
    decided = np.abs(logits) > 1e-4 * np.abs(logits).max()
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(masks[decided], (inside & (logits > 0))[decided])
    assert not masks[~inside].any()
    for (y0, x0, crop), pixels in zip(crops, inside, strict=True):
        assert crop.size == pixels.sum()
        assert crop.size == 0 or pixels[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]].all()
    strided = [strided_copy(a) for a in (prototypes, coefficients, boxes)]
    again = _native.mask_crops(strided[0], strided[1], strided[2], image_size, geometry)
    for a, b in zip(crops, again, strict=True):
        np.testing.assert_array_equal(a[2], b[2])
    for array, old in zip((prototypes, coefficients, boxes), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_half_precision_heads():
    generator = np.random.default_rng(4)
    prototypes = generator.normal(size=(6, 20, 24)).astype(np.float16)
    coefficients = generator.normal(size=(3, 6)).astype(np.float16)
    boxes = np.array([[0, 0, 96, 80], [10.2, 3, 71, 44], [90, 70, 200, 200]], np.float32)
    narrow = _native.mask_crops(prototypes, coefficients, boxes, (80, 96), IDENTITY)
    wide = _native.mask_crops(prototypes.astype(np.float32), coefficients.astype(np.float32), boxes, (80, 96), IDENTITY)
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(a[2], b[2])
    with pytest.raises(ValueError, match="boxes must have dtype float32, got float16"):
        _native.mask_crops(prototypes, coefficients, boxes.astype(np.float16), (80, 96), IDENTITY)  # type: ignore


def test_crops_outlive_each_other():
    ones = np.ones((1, 8, 8), np.float32)
    boxes = np.array([[0, 0, 32, 32], [4, 4, 9, 9]], np.float32)
    crops = _native.mask_crops(ones, np.ones((2, 1), np.float32), boxes, (32, 32), IDENTITY)
    last = crops[1][2]
    del crops
    gc.collect()
    assert last.all()
    last[:] = 0  # each is writable, and its own


def crop_of(box: list[float], image_size: tuple[int, int] = (8, 8)) -> tuple[int, int, tuple[int, ...]]:
    ((y0, x0, crop),) = _native.mask_crops(
        np.ones((1, 2, 2), np.float32),
        np.ones((1, 1), np.float32),
        np.array([box], np.float32),
        image_size,
        IDENTITY,
    )
    assert crop.all()
    return y0, x0, crop.shape


def test_a_pixel_counts_where_its_centre_lies_in_the_box():
    assert crop_of([0, 0, 8, 8]) == (0, 0, (8, 8))
    assert crop_of([2.5, 1.5, 4.5, 3.5]) == (
        1,
        2,
        (2, 2),
    )  # a centre on the left or top edge is in, right or bottom out
    assert crop_of([2.51, 1.51, 4.51, 3.51]) == (2, 3, (2, 2))
    assert crop_of([-5, -5, 0.6, 0.6]) == (0, 0, (1, 1))
    assert crop_of([7.5, 7.5, 90, 90]) == (7, 7, (1, 1))


@pytest.mark.parametrize(
    "box",
    [
        [2.6, 2.6, 3.4, 3.4],  # between centres
        [3, 3, 3, 3],
        [5, 5, 2, 2],
        [-9, 0, -1, 8],  # wholly outside
        [8, 0, 20, 8],
        [7.6, 0, 20, 8],
        [3e38, 3e38, 3.1e38, 3.1e38],
        [0, np.nan, 8, 8],
        [0, 0, np.inf, 8],
        [-np.inf, 0, 8, 8],
    ],
)
def test_boxes_without_pixels_give_empty_crops(box):
    assert crop_of(box) == (0, 0, (0, 0))


def test_no_boxes():
    assert (
        _native.mask_crops(
            np.ones((2, 3, 3), np.float32),
            np.ones((0, 2), np.float32),
            np.ones((0, 4), np.float32),
            (8, 8),
            IDENTITY,
        )
        == []
    )


def test_zero_is_outside_the_mask():
    ((_, _, crop),) = _native.mask_crops(
        np.zeros((1, 2, 2), np.float32),
        np.ones((1, 1), np.float32),
        np.array([[0, 0, 8, 8]], np.float32),
        (8, 8),
        IDENTITY,
    )
    assert not crop.any()


def test_values_that_are_not_finite():
    prototypes = np.ones((1, 4, 4), np.float32)
    prototypes[0, 1, 1] = np.nan
    box = np.array([[0, 0, 16, 16]], np.float32)
    ((_, _, crop),) = _native.mask_crops(prototypes, np.ones((1, 1), np.float32), box, (16, 16), IDENTITY)
    assert not crop[2:10, 2:10].any()
    assert crop[10:].all()
    for value in (np.inf, -np.inf):
        prototypes[0, 1, 1] = value
        ((_, _, crop),) = _native.mask_crops(prototypes, np.ones((1, 1), np.float32), box, (16, 16), IDENTITY)
        np.testing.assert_array_equal(np.unique(crop), [1] if value > 0 else [0, 1])  # it has a sign, no more
    for value, expected in ((np.nan, 0), (np.inf, 1), (-np.inf, 0)):
        coefficients = np.full((1, 1), value, np.float32)
        ((_, _, crop),) = _native.mask_crops(np.ones_like(prototypes), coefficients, box, (16, 16), IDENTITY)
        assert (crop == expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prototypes": np.zeros((4, 4), np.float32)}, "prototypes must have shape (K, h, w), got (4, 4)"),
        (
            {"prototypes": np.zeros((2, 0, 4), np.float32)},
            "prototypes must have shape (K, h, w), each at least 1, got (2, 0, 4)",
        ),
        ({"prototypes": np.zeros((2, 4, 4))}, "prototypes must have dtype float32, got float64"),
        ({"coefficients": np.zeros((3, 5), np.float32)}, "coefficients must have shape (N, 2), got (3, 5)"),
        ({"boxes": np.zeros((4, 4), np.float32)}, "boxes must have shape (3, 4), got (4, 4)"),
        ({"boxes": np.zeros((3, 5), np.float32)}, "boxes must have shape (3, 4), got (3, 5)"),
        ({"image_size": (0, 8)}, "image_size must be (height, width), each 1 to 1048576, got (0, 8)"),
        (
            {"geometry": (0.0, 1.0, 0, 0)},
            "geometry must be (scale_y, scale_x, pad_top, pad_left) with positive scales",
        ),
        ({"geometry": (1.0, float("nan"), 0, 0)}, "geometry must be"),
        ({"geometry": (1.0, 1.0, -1, 0)}, "geometry must be"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
    ],
)
def test_refuses_bad_arguments(change, message):
    arguments = {
        "prototypes": np.zeros((2, 4, 4), np.float32),
        "coefficients": np.zeros((3, 2), np.float32),
        "boxes": np.zeros((3, 4), np.float32),
        "image_size": (8, 8),
        "geometry": IDENTITY,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.mask_crops(**{**arguments, **change})


def test_lets_threads_run():
    generator = np.random.default_rng(0)
    prototypes = generator.normal(size=(32, 160, 160)).astype(np.float32)
    coefficients = generator.normal(size=(30, 32)).astype(np.float32)
    boxes = np.tile(np.array([[0, 0, 640, 640]], np.float32), (30, 1))
    assert_lets_threads_run(lambda: _native.mask_crops(prototypes, coefficients, boxes, (640, 640), IDENTITY))
