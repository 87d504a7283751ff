from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

import cv2
import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.images.preprocess import Letterbox, PreprocessRule, image_size_of, preprocess

from ...reference import letterbox as reference
from ..manners import assert_lets_threads_run

pytestmark = pytest.mark.usefixtures("level")


def random_image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


SIZES = [
    # image, input
    ((1, 1), (1, 1)),
    ((1, 1), (32, 64)),
    ((2, 2), (32, 32)),  # larger
    ((7, 5), (3, 2)),  # smaller, odd
    ((33, 47), (32, 32)),
    ((64, 48), (64, 64)),  # resized height equals the image's, width too: a copy with padding
    ((20, 300), (32, 32)),  # far from square
    ((300, 1), (32, 32)),  # so thin that its width rounds to nothing and stays one pixel
    ((31, 31), (64, 96)),
    ((90, 160), (64, 96)),
    ((33, 130), (96, 96)),
    ((128, 96), (64, 64)),  # halved
    ((2, 2), (1, 1)),
    ((60, 128), (64, 64)),
    ((34, 34), (17, 17)),
]


@pytest.mark.parametrize(("image_size", "input_size"), SIZES)
@pytest.mark.parametrize("swap_rb", [True, False])
def test_equals_the_reference_to_the_bit(image_size, input_size, swap_rb):
    for seed, channels in [(0, (3,)), (1, (3,)), (2, ()), (3, (1,))]:
        image = random_image(seed, *image_size, *channels)
        before = image.copy()
        height, width = input_size
        tensor = _native.letterbox(image, height, width, pad_value=9, swap_rb=swap_rb)
        pixels = _native.letterbox_u8(image, height, width, pad_value=9, swap_rb=swap_rb)
        assert tensor.dtype == np.float32
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(tensor, reference.letterbox(image, height, width, 9, swap_rb))
        np.testing.assert_array_equal(pixels, reference.letterbox_u8(image, height, width, 9, swap_rb))
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_reference_at_random_sizes(seed):
    height, width, input_height, input_width = np.random.default_rng(seed).integers(1, 80, 4).tolist()
    image = random_image(seed, height, width, 3)
    np.testing.assert_array_equal(
        _native.letterbox_u8(image, input_height, input_width),
        reference.letterbox_u8(image, input_height, input_width),
    )


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image[::2, 1::3],
        lambda image: image[3:17, 5:20],
        lambda image: image.transpose(1, 0, 2),
        lambda image: np.asfortranarray(image),
        lambda image: np.broadcast_to(image[:1, :1], (12, 10, 3)),
        lambda image: image[..., 1],
    ],
    ids=[
        "rows-",
        "columns-",
        "channels-",
        "steps",
        "window",
        "transposed",
        "fortran",
        "broadcast",
        "one-channel",
    ],
)
def test_takes_strided_and_read_only_images(view):
    image = view(random_image(5, 24, 30, 3))
    image.flags.writeable = False
    packed = np.ascontiguousarray(image)
    np.testing.assert_array_equal(_native.letterbox_u8(image, 32, 20), _native.letterbox_u8(packed, 32, 20))
    np.testing.assert_array_equal(_native.letterbox(image, 32, 20), _native.letterbox(packed, 32, 20))
    same_size = image.shape[:2]
    np.testing.assert_array_equal(_native.letterbox_u8(image, *same_size), _native.letterbox_u8(packed, *same_size))


@pytest.mark.parametrize("input_size", [(24, 36), (32, 64), (64, 32), (9, 17), (48, 64)])
@pytest.mark.parametrize("seed", range(2))
def test_camera_layouts_are_converted_as_opencv_does(input_size, seed):
    height, width = 24, 36
    nv12 = random_image(seed, height * 3 // 2, width)
    yuyv = random_image(seed, height, width, 2)
    layouts: list[tuple[Any, Any, int]] = [
        (nv12, "nv12", cv2.COLOR_YUV2BGR_NV12),
        (yuyv, "yuyv", cv2.COLOR_YUV2BGR_YUYV),
    ]
    for image, layout, code in layouts:
        expected = _native.letterbox(np.asarray(cv2.cvtColor(image, code), np.uint8), *input_size)
        np.testing.assert_array_equal(_native.letterbox(image, *input_size, layout=layout), expected)
        wide = np.zeros((len(image), image[0].size + 12), np.uint8)
        wide[:, : image[0].size] = image.reshape(len(image), -1)
        padded = wide[:, : image[0].size]  # rows with a stride, as cameras give them
        if layout == "nv12":
            np.testing.assert_array_equal(_native.letterbox(padded, *input_size, layout=layout), expected)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((16, 8), "nv12", "image must have shape (height * 3 / 2, width), height and width even, got (16, 8)"),
        ((12, 7), "nv12", "height and width even, got (12, 7)"),
        ((12, 8, 3), "nv12", "height and width even, got (12, 8, 3)"),
        ((12, 8), "yuyv", "image must have shape (height, width, 2), width even, got (12, 8)"),
        ((12, 7, 2), "yuyv", "width even, got (12, 7, 2)"),
        ((0, 8), "nv12", "image must have at least one pixel, got shape (0, 8)"),
        ((12, 8), "i420", "layout must be bgr, nv12 or yuyv, got i420"),
    ],
)
def test_refuses_other_camera_images(shape, layout, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.letterbox(np.zeros(shape, np.uint8), 8, 8, layout=layout)


def test_refuses_camera_rows_that_are_not_packed():
    with pytest.raises(ValueError, match="rows of a nv12 image must be packed"):
        _native.letterbox(np.zeros((12, 16), np.uint8)[:, ::2], 8, 8, layout="nv12")


def test_same_size_is_a_copy():
    image = random_image(0, 8, 12, 3)
    np.testing.assert_array_equal(_native.letterbox_u8(image, 8, 12, swap_rb=False), image)
    np.testing.assert_array_equal(_native.letterbox_u8(image, 8, 12), image[..., ::-1])


def test_padding_lies_around_the_image_and_the_odd_row_below():
    image = np.zeros((3, 8, 3), dtype=np.uint8)
    pixels = _native.letterbox_u8(image, 8, 8)
    np.testing.assert_array_equal(pixels[:, 0, 0], [114, 114, 0, 0, 0, 114, 114, 114])
    assert _native.letterbox(image, 8, 8)[0, 0, 0] == np.float32(114) * np.float32(1 / 255)


def test_writes_into_the_given_array():
    image = random_image(0, 20, 30, 3)
    out = np.full((3, 32, 32), np.nan, dtype=np.float32)
    assert _native.letterbox(image, 32, 32, out=out) is out
    np.testing.assert_array_equal(out, reference.letterbox(image, 32, 32))
    out_u8 = np.zeros((32, 32, 3), dtype=np.uint8)
    assert _native.letterbox_u8(image, 32, 32, out=out_u8) is out_u8
    np.testing.assert_array_equal(out_u8, reference.letterbox_u8(image, 32, 32))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "image must have dtype uint8, got float32"),
        (
            np.zeros((4, 4, 4), np.uint8),
            "image must have shape (height, width, 3) or (height, width), got (4, 4, 4)",
        ),
        (np.zeros(4, np.uint8), "image must have shape (height, width, 3) or (height, width), got (4,)"),
        (np.zeros((0, 4, 3), np.uint8), "image must have at least one pixel, got shape (0, 4, 3)"),
    ],
)
def test_refuses_other_images(image, message):
    for kernel in (_native.letterbox, _native.letterbox_u8):
        with pytest.raises(ValueError, match=re.escape(message)):
            kernel(image, 8, 8)


def test_refuses_other_outputs():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(
        ValueError, match=re.escape("out must have shape (3, height, width) of the input, got (3, 8, 9)")
    ):
        _native.letterbox(image, 8, 8, out=np.zeros((3, 8, 9), np.float32))
    doubles: Any = np.zeros((3, 8, 8))
    with pytest.raises(ValueError, match="out must have dtype float32, got float64"):
        _native.letterbox(image, 8, 8, out=doubles)
    with pytest.raises(ValueError, match="out must be C-contiguous, aligned and writable"):
        _native.letterbox(image, 8, 8, out=np.zeros((3, 8, 16), np.float32)[..., ::2])
    read_only = np.zeros((3, 8, 8), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out must be C-contiguous, aligned and writable"):
        _native.letterbox(image, 8, 8, out=read_only)
    with pytest.raises(ValueError, match="out must not share memory with image"):
        _native.letterbox_u8(image, 4, 4, out=image)


def test_refuses_a_rounding_that_is_none():
    for call in (
        lambda: _native.letterbox_geometry((4, 4), (8, 8), "up"),
        lambda: _native.letterbox(np.zeros((4, 4, 3), np.uint8), 8, 8, rounding=cast(Any, "up")),
    ):
        with pytest.raises(ValueError, match="rounding must be one of half_up, half_even, got up"):
            call()


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (1 << 21, 8)])
def test_refuses_impossible_input_sizes(size):
    with pytest.raises(
        ValueError, match=re.escape(f"input size must be (height, width), each 1 to 1048576, got {size}")
    ):
        _native.letterbox(np.zeros((4, 4, 3), np.uint8), *size)


def test_geometry_equals_the_reference():
    generator = np.random.default_rng(0)
    for _ in range(300):
        image_size, input_size = generator.integers(1, 3000, (2, 2)).tolist()
        if generator.random() < 0.5:  # lengths that end on halves
            input_size = [max(1, side // 2) for side in image_size]
        for rounding in ("half_up", "half_even"):
            expected = reference.letterbox_geometry(image_size, input_size, rounding)
            assert _native.letterbox_geometry(image_size, input_size, rounding) == expected


def official_letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """YOLOv7's rule for a fixed input by OpenCV, and (resized_height, resized_width, pad_top, pad_left).

    Both lengths times the smaller ratio, Python's `round`; half of what is left on each side, from which 0.1 is taken
    above and left, and to which 0.1 is added below and right, so that an odd row or column lies below or right.
    """
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = round(image.shape[0] * ratio), round(image.shape[1] * ratio)
    half_y, half_x = (size[0] - height) / 2, (size[1] - width) / 2
    top, bottom, left, right = round(half_y - 0.1), round(half_y + 0.1), round(half_x - 0.1), round(half_x + 0.1)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return padded, (height, width, top, left)


@pytest.mark.parametrize(
    ("image_size", "differs"),
    [
        ((133, 256), True),  # 66.5 rows: 66, and 67 by the rule of this repository
        ((256, 133), True),
        ((131, 256), False),  # 65.5 rows: 66 by both
        ((99, 150), False),
        ((480, 640), False),
        ((31, 53), False),
        ((128, 128), False),
    ],
)
def test_half_even_is_the_official_letterbox(image_size, differs):
    size = (128, 128)
    image = random_image(0, *image_size, 3)
    expected, geometry = official_letterbox(image, size)
    assert _native.letterbox_geometry(image_size, size, "half_even") == geometry
    assert (_native.letterbox_geometry(image_size, size) != geometry) == differs
    found = _native.letterbox_u8(image, *size, swap_rb=False, rounding="half_even")
    assert np.abs(found.astype(int) - expected).max() <= 1
    tensor, letterbox = preprocess(image, PreprocessRule(size, rounding="half_even"))
    np.testing.assert_array_equal(tensor, found[:, :, ::-1].transpose(2, 0, 1) * np.float32(1 / 255))
    assert (letterbox.pad_top, letterbox.pad_left) == geometry[2:]
    assert letterbox.scale_y == geometry[0] / image_size[0]
    assert letterbox.scale_x == geometry[1] / image_size[1]
    np.testing.assert_array_equal(found, reference.letterbox_u8(image, *size, swap_rb=False, rounding="half_even"))


def test_the_official_geometry_of_many_sizes():
    generator = np.random.default_rng(1)
    for _ in range(2000):
        height, width = generator.integers(20, 1500, 2).tolist()
        size = (int(32 * generator.integers(10, 41)), int(32 * generator.integers(10, 41)))
        ratio = min(size[0] / height, size[1] / width)
        resized = round(height * ratio), round(width * ratio)
        top, left = (round((side - length) / 2 - 0.1) for side, length in zip(size, resized, strict=True))
        assert _native.letterbox_geometry((height, width), size, "half_even") == (*resized, top, left)


def test_letterbox_maps_corners_exactly():
    box = Letterbox.of((720, 1280), (640, 640))
    assert box == Letterbox((720, 1280), (640, 640), 0.5, 0.5, 140, 0)
    assert box.geometry == (0.5, 0.5, 140, 0)
    whole = np.array([[0, 0, 1280, 720]], dtype=np.float32)
    np.testing.assert_array_equal(box.boxes_to_input(whole), [[0, 140, 640, 500]])
    np.testing.assert_array_equal(box.boxes_to_image(box.boxes_to_input(whole)), whole)


def test_letterbox_round_trip_and_clipping():
    generator = np.random.default_rng(0)
    for image_size in [(1, 1), (37, 211), (500, 333), (20000, 10)]:
        letterbox = Letterbox.of(image_size, (64, 96))
        limits = np.array([image_size[1], image_size[0]] * 2)
        boxes = (generator.random((20, 4)) * limits).astype(np.float32)
        back = letterbox.boxes_to_image(letterbox.boxes_to_input(boxes))
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, boxes, rtol=1e-4, atol=1e-3 * limits.max())
        outside = np.array([[-1e6, -1e6, 1e6, 1e6]], dtype=np.float32)
        np.testing.assert_array_equal(letterbox.boxes_to_image(outside), [[0, 0, image_size[1], image_size[0]]])
    assert letterbox.boxes_to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)
    with pytest.raises(ValueError, match=re.escape("boxes must have shape (N, 4), got (4,)")):
        letterbox.boxes_to_image(np.zeros(4))


def test_preprocess_follows_the_rule():
    image = random_image(1, 30, 50, 3)
    tensor, letterbox = preprocess(image, PreprocessRule((32, 64)))
    assert letterbox == Letterbox.of((30, 50), (32, 64))
    np.testing.assert_array_equal(tensor, reference.letterbox(image, 32, 64))
    rule = PreprocessRule((32, 64), pad_value=0, channel_order="BGR", scale=1.0)
    out = np.empty((3, 32, 64), np.float32)
    tensor, _ = preprocess(image, rule, out=out)
    assert tensor is out
    np.testing.assert_array_equal(out, reference.letterbox(image, 32, 64, 0, swap_rb=False, scale=1.0))


@pytest.mark.parametrize(("layout", "shape"), [("nv12", (36, 40)), ("yuyv", (24, 40, 2))])
def test_preprocess_takes_a_camera_s_bytes(layout, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rule = PreprocessRule((32, 64), channel_order="BGR")
    tensor, letterbox = preprocess(image, rule, layout=layout, threads=2)
    assert letterbox == Letterbox.of((24, 40), (32, 64))
    colour = cv2.cvtColor(image, cv2.COLOR_YUV2BGR_NV12 if layout == "nv12" else cv2.COLOR_YUV2BGR_YUYV)
    np.testing.assert_array_equal(tensor, preprocess(colour, rule)[0])
    assert image_size_of(image, layout) == (24, 40)
    with pytest.raises(ValueError, match=r"layout must be one of bgr, rgb, .*, got i420"):
        preprocess(image, rule, layout=cast(Any, "i420"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_size": (0, 32)},
            "input_size must be (height, width), both positive whole numbers, got (0, 32)",
        ),
        ({"pad_value": 256}, "pad_value must lie in 0..255, got 256"),
        ({"channel_order": "rgb"}, 'channel_order must be "RGB" or "BGR", got "rgb"'),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"rounding": "up"}, 'rounding must be "half_up" or "half_even", got "up"'),
    ],
)
def test_rule_refuses_nonsense(change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        dataclasses.replace(PreprocessRule((32, 32)), **change)


def test_lets_threads_run():
    image = random_image(0, 400, 400, 3)
    assert_lets_threads_run(lambda: _native.letterbox(image, 3000, 3000))
    assert_lets_threads_run(lambda: _native.letterbox_u8(image, 4000, 4000))


def in_layout(image: np.ndarray, layout: str) -> np.ndarray:
    """A BGR image in another layout, the fourth bytes at random."""
    fourth = np.random.default_rng(1).integers(0, 256, (*image.shape[:2], 1), np.uint8)
    order = image[:, :, ::-1] if layout.startswith("rgb") else image
    return np.concatenate([order, fourth], axis=2) if len(layout) == 4 else np.ascontiguousarray(order)


@pytest.mark.parametrize("layout", ["bgr", "rgb", "bgra", "rgba"])
@pytest.mark.parametrize("size", [(64, 96), (48, 40), (96, 128), (7, 1), (3, 5), (9, 6), (33, 37), (24, 131)])
@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
def test_orders_of_channels_are_those_of_converting_first(size, layout, channel_order):
    """Enlarged, reduced, halved and as it is; rows that begin anywhere, and rows from bottom to top."""
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    rule = PreprocessRule((48, 64), channel_order=channel_order)
    expected, letterbox = preprocess(image, rule)
    given = in_layout(image, layout)
    found, same_letterbox = preprocess(given, rule, layout=layout)
    np.testing.assert_array_equal(found, expected)
    assert same_letterbox == letterbox
    padded = np.zeros((size[0], size[1] + 3, given.shape[2]), np.uint8)
    padded[:, 1:-2] = given
    np.testing.assert_array_equal(preprocess(padded[:, 1:-2], rule, layout=layout, threads=3)[0], expected)
    flipped = np.ascontiguousarray(given[::-1])
    np.testing.assert_array_equal(preprocess(flipped[::-1], rule, layout=layout)[0], expected)


def test_grey_is_grey():
    image = np.random.default_rng(4).integers(0, 256, (30, 41), np.uint8)
    rule = PreprocessRule((48, 64))
    np.testing.assert_array_equal(preprocess(image, rule, layout="grey")[0], preprocess(image, rule)[0])
