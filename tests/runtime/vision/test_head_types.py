"""Heads as backends hand them over, of any type and strides: the answer is that of the same numbers in float32."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native

pytestmark = pytest.mark.usefixtures("level")

STRIDES = [8, 16, 32]
SIZE = (96, 160)
GEOMETRY = (0.7, 0.9, 3, 1)
TYPES = ["float16", "uint8", "int8"]


def in_type(values: NDArray[np.float32], dtype: str) -> tuple[Any, NDArray[np.float32]]:
    """A head in another type as kernels take it, and the float32 numbers it means."""
    if dtype == "float16":
        return values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    low = -128 if dtype == "int8" else 0
    scale, zero_point = 0.0731, low + 150
    codes = np.clip(np.round(values / scale) + zero_point, low, low + 255).astype(dtype)
    return (codes, scale, zero_point), (codes.astype(np.float32) - zero_point) * np.float32(scale)


def change(head: Any, how: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    return (how(head[0]), *head[1:]) if isinstance(head, tuple) else how(head)


def lying_otherwise(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The same numbers in memory laid out in other ways."""
    turned = np.ascontiguousarray(np.moveaxis(array, 0, -1))
    rows_apart = np.zeros((*array.shape[:-1], array.shape[-1] + 5), array.dtype)
    rows_apart[..., : array.shape[-1]] = array
    columns_apart = np.repeat(array, 2, axis=-1)
    backwards = np.ascontiguousarray(array[::-1, ..., ::-1])
    askew = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    askew[...] = array
    packed = np.zeros(array.shape, np.dtype([("head", array.dtype), ("byte", np.uint8)]))["head"]
    packed[...] = array
    return {
        "channels last": np.moveaxis(turned, -1, 0),
        "channels last, cells apart": np.moveaxis(np.concatenate([turned, turned], axis=-1), -1, 0)[: len(array)],
        "rows apart": rows_apart[..., : array.shape[-1]],
        "columns apart": columns_apart[..., ::2],
        "backwards": backwards[::-1, ..., ::-1],
        "askew": askew,
        "in a record": packed,
    }


def assert_same(first: Any, second: Any) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def box_heads(seed: int, odd_share: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    cells = sum((SIZE[0] // s) * (SIZE[1] // s) for s in STRIDES)
    logits = generator.normal(-2, 3, (5, cells)).astype(np.float32)
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, -1e-7], np.float32)
    chosen = generator.random(logits.shape) < odd_share
    logits[chosen] = generator.choice(odd, chosen.sum())
    return logits, generator.normal(0, 3, (64, cells)).astype(np.float32)


def crops_of(found: list[tuple[int, int, NDArray[np.uint8]]]) -> list[Any]:
    return [part for crop in found for part in crop]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("score_threshold", [-1.0, 0.001, 0.25, 0.5, 0.9, 0.99999, 1.0])
def test_boxes(dtype: str, score_threshold: float) -> None:
    for seed in range(3):
        logits, bins = box_heads(seed, 0.02 if dtype == "float16" else 0.0)
        logits, wide_logits = in_type(logits, dtype)
        bins, wide_bins = in_type(bins, dtype)
        options: dict[str, Any] = {"score_threshold": score_threshold, "max_detections": 200}
        with np.errstate(invalid="ignore"):
            expected = _native.decode_boxes(wide_logits, wide_bins, STRIDES, SIZE, **options)
        assert_same(_native.decode_boxes(logits, bins, STRIDES, SIZE, **options), expected)
        assert_same(_native.decode_boxes(logits, wide_bins, STRIDES, SIZE, **options), expected)
        assert_same(_native.decode_boxes(wide_logits, bins, STRIDES, SIZE, **options), expected)


@pytest.mark.parametrize("dtype", ["float32", *TYPES])
def test_boxes_from_heads_that_lie_otherwise(dtype: str) -> None:
    logits, bins = box_heads(7)
    if dtype != "float32":
        logits, bins = in_type(logits, dtype)[0], in_type(bins, dtype)[0]
    expected = _native.decode_boxes(logits, bins, STRIDES, SIZE, 0.05)
    assert len(expected[1]) > 20
    codes = logits[0] if isinstance(logits, tuple) else logits
    for name in lying_otherwise(codes):
        first, second = (change(head, lambda array, name=name: lying_otherwise(array)[name]) for head in (logits, bins))
        assert_same(_native.decode_boxes(first, second, STRIDES, SIZE, 0.05), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_threshold_between_neighbouring_elements(dtype: str) -> None:
    """Logits of every element there is: those above the threshold are found, however it lies among them."""
    if dtype == "float16":
        codes = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
        head, wide = codes, codes.astype(np.float32)
    else:
        codes = np.arange(256, dtype=np.uint8).view(dtype)[None]
        head, wide = (codes, 0.05, -3 if dtype == "int8" else 125), None
        wide = (codes.astype(np.float32) - np.float32(head[2])) * np.float32(0.05)
    bins = np.full((8, wide.shape[1]), -200, np.float32)
    bins[::2] = 0  # boxes without extent: none goes
    for score_threshold in (0.0, 1e-6, 0.02, 0.4999, 0.5, 0.5001, 0.73, 0.9999, 1 - 1e-7):
        arguments = (bins, [8], (128, 128), score_threshold, 0.65, 65536, 65536)
        assert_same(_native.decode_boxes(head, *arguments), _native.decode_boxes(wide, *arguments))


def test_a_threshold_no_byte_reaches() -> None:
    logits, bins = np.full((2, 21), 255, np.uint8), np.zeros((64, 21), np.float32)
    found = _native.decode_boxes((logits, 0.01, 128), bins, STRIDES, (32, 32), 0.9)
    assert len(found[1]) == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_that_saturate_tie_as_their_numbers_do(dtype: str) -> None:
    logits, bins = box_heads(3)
    logits, wide = in_type(logits * 20, dtype)
    assert (wide == wide.max()).mean() > 0.1
    assert_same(_native.decode_boxes(logits, bins, STRIDES, SIZE), _native.decode_boxes(wide, bins, STRIDES, SIZE))


@pytest.mark.parametrize("dtype", ["float32", *TYPES])
def test_masks(dtype: str) -> None:
    generator = np.random.default_rng(1)
    prototypes: Any = generator.normal(0, 2, (9, 24, 40)).astype(np.float32)
    coefficients: Any = generator.normal(0, 2, (12, 9)).astype(np.float32)
    corners = generator.uniform(-10, 150, (12, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    wide_prototypes, wide_coefficients = prototypes, coefficients
    prototypes[generator.random(prototypes.shape) < 0.002] = np.nan if dtype in ("float32", "float16") else 9.0
    prototypes[generator.random(prototypes.shape) < 0.002] = np.inf if dtype in ("float32", "float16") else -9.0
    if dtype != "float32":
        prototypes, wide_prototypes = in_type(prototypes, dtype)
        coefficients, wide_coefficients = in_type(coefficients, dtype)
    expected = crops_of(_native.mask_crops(wide_prototypes, wide_coefficients, boxes, (120, 150), GEOMETRY))
    assert sum(crop.any() for crop in expected[2::3]) > 5
    assert_same(crops_of(_native.mask_crops(prototypes, coefficients, boxes, (120, 150), GEOMETRY)), expected)
    codes = prototypes[0] if isinstance(prototypes, tuple) else prototypes
    for name in lying_otherwise(codes):
        first, second = (
            change(head, lambda array, name=name: lying_otherwise(array)[name]) for head in (prototypes, coefficients)
        )
        assert_same(crops_of(_native.mask_crops(first, second, boxes, (120, 150), GEOMETRY)), expected)


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("dtype", ["float32", *TYPES])
def test_semantic_map(dtype: str, classes: int) -> None:
    logits: Any = np.random.default_rng(2).normal(0, 2, (classes, 12, 20)).astype(np.float32)
    if dtype in ("float32", "float16"):
        odd = np.array([np.nan, np.inf, -np.inf, -0.0, 6e4], np.float32)
        chosen = np.random.default_rng(3).random(logits.shape) < 0.01
        logits[chosen] = np.random.default_rng(4).choice(odd, chosen.sum())
    wide = logits
    if dtype != "float32":
        logits, wide = in_type(logits, dtype)
    expected = _native.semantic_argmax(wide, (121, 149), GEOMETRY)
    np.testing.assert_array_equal(_native.semantic_argmax(logits, (121, 149), GEOMETRY), expected)
    codes = logits[0] if isinstance(logits, tuple) else logits
    for name in lying_otherwise(codes):
        other = change(logits, lambda array, name=name: lying_otherwise(array)[name])
        np.testing.assert_array_equal(_native.semantic_argmax(other, (121, 149), GEOMETRY), expected)


def test_the_semantic_map_goes_where_it_is_wanted() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32)
    out = np.full((33, 47), 255, np.uint8)
    assert _native.semantic_argmax(logits, (33, 47), GEOMETRY, out=out) is out
    np.testing.assert_array_equal(out, _native.semantic_argmax(logits, (33, 47), GEOMETRY))
    with pytest.raises(ValueError, match=re.escape("out must have shape (height, width) of the image, got (33, 46)")):
        _native.semantic_argmax(logits, (33, 47), GEOMETRY, out=np.empty((33, 46), np.uint8))
    block = np.zeros((16, 16), np.uint8)
    with pytest.raises(ValueError, match="out must not share memory with logits"):
        _native.semantic_argmax((block[None, :4], 1.0, 0), (16, 16), GEOMETRY, out=block)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), ValueError, "logits of dtype uint8 must come as (array, scale, zero_point)"),
        (np.zeros((2, 4, 4), np.int8), ValueError, "logits of dtype int8 must come as (array, scale, zero_point)"),
        (
            (np.zeros((2, 4, 4), np.float32), 1.0, 0),
            ValueError,
            "logits with a scale must have dtype uint8 or int8, got float32",
        ),
        (
            (np.zeros((2, 4, 4), np.int8), 1.0),
            ValueError,
            "logits in bytes must be (array, scale, zero_point), got a tuple of 2",
        ),
        ((np.zeros((2, 4, 4), np.int8), 0.0, 0), ValueError, "with a positive scale, got scale 0.0"),
        ((np.zeros((2, 4, 4), np.int8), np.nan, 0), ValueError, "with a positive scale, got scale nan"),
        ((np.zeros((2, 4, 4), np.int8), 1e-60, 0), ValueError, "with a positive scale, got scale 1e-60"),
        ((np.zeros((2, 4, 4), np.int8), 1.0, 128), ValueError, "with a zero point that a byte can be, got 128"),
        ((np.zeros((2, 4, 4), np.uint8), 1.0, -1), ValueError, "with a zero point that a byte can be, got -1"),
        (np.zeros((2, 4, 4), np.int32), ValueError, "logits must have dtype float32, got int32"),
        (np.zeros((2, 4, 4), ">f2"), ValueError, "logits must have dtype float32, got >f2"),
        ([[[0.0]]], TypeError, "logits must be an array or (array, scale, zero_point), got list"),
        ((), TypeError, "logits must be an array or (array, scale, zero_point), got tuple"),
        ((np.zeros((4, 4), np.int8), 1.0, 0), ValueError, "logits must have shape (S, h, w)"),
    ],
)
def test_refuses_heads_that_mean_nothing(head: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        _native.semantic_argmax(head, (8, 8), (1.0, 1.0, 0, 0))
