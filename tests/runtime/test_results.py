"""Masks in their three forms, run-length codes against COCO's own, and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native
from yolor_edge.runtime.results import Caption, InstanceMasks, MaskCanvas, Result, rle_from_crop

coco_masks = pytest.importorskip("pycocotools.mask")
# pycocotools hands numpy 2 an array without the copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def crop_in(size: tuple[int, int], y0: int, x0: int, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    full = np.zeros(size, np.uint8)
    full[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    return full


@pytest.mark.parametrize("seed", range(40))
def test_rle_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 60, 2))
    y0, x0 = int(rng.integers(0, height)), int(rng.integers(0, width))
    ch, cw = int(rng.integers(0, height - y0 + 1)), int(rng.integers(0, width - x0 + 1))
    crop = (rng.random((ch, cw)) < rng.choice([0.02, 0.5, 0.98])).astype(np.uint8)
    ours = rle_from_crop(crop, y0, x0, (height, width))
    theirs = coco_masks.encode(np.asfortranarray(crop_in((height, width), y0, x0, crop)))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}


@pytest.mark.parametrize("full", [0, 1])
def test_rle_of_nothing_and_everything(full: int) -> None:
    mask = np.full((5, 7), full, np.uint8)
    expected = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    assert rle_from_crop(mask, 0, 0, (5, 7))["counts"] == expected


def test_rle_of_long_runs() -> None:
    size = (3000, 4000)
    mask = np.zeros(size, np.uint8)
    mask[:, 1000:3000] = 1
    mask[5, 3500] = 1
    expected = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    assert rle_from_crop(mask, 0, 0, size)["counts"] == expected


def test_masks_in_every_form() -> None:
    crops = [
        (1, 2, np.array([[1, 0], [1, 1]], np.uint8)),
        (0, 0, np.zeros((0, 3), np.uint8)),
        (3, 4, np.ones((1, 1), np.uint8)),
    ]
    masks = InstanceMasks(crops, (4, 5))
    full = masks.full()
    assert full.shape == (3, 4, 5)
    assert full.dtype == bool
    assert np.argwhere(full[0]).tolist() == [[1, 2], [2, 2], [2, 3]]
    assert not full[1].any()
    assert np.argwhere(full[2]).tolist() == [[3, 4]]
    assert masks.areas().tolist() == [3, 0, 1]
    for code, mask in zip(masks.rle(), full, strict=True):
        assert np.array_equal(coco_masks.decode(code), mask)
    assert len(masks) == 3


def test_a_canvas_holds_the_last_masks_alone() -> None:
    rng = np.random.default_rng(0)
    canvas = MaskCanvas()
    for n, size in [(2, (9, 7)), (3, (9, 7)), (1, (9, 7)), (0, (9, 7)), (3, (9, 7)), (2, (7, 9)), (2, (9, 7))]:
        crops = [
            (int(rng.integers(0, 5)), int(rng.integers(0, 4)), rng.integers(0, 2, (3, 3), dtype=np.uint8))
            for _ in range(n)
        ]
        masks = InstanceMasks(crops, size)
        np.testing.assert_array_equal(masks.full(canvas), masks.full())


def test_bits_and_polygons() -> None:
    crop = np.zeros((4, 10), np.uint8)
    crop[1:3, 2:9] = 1
    masks = InstanceMasks(
        [(5, 6, crop), (0, 0, np.zeros((0, 0), np.uint8)), (0, 0, np.zeros((2, 2), np.uint8))], (20, 20)
    )
    ((y0, x0, bits), empty, _) = masks.bits()
    assert (y0, x0, bits.tolist()) == (5, 6, [[0, 0], [0x3F, 0x80], [0x3F, 0x80], [0, 0]])
    assert empty[2].size == 0
    outlines, no_outlines, none_either = masks.polygons()
    (outline,) = outlines
    assert sorted(map(tuple, outline.tolist())) == [(8.5, 6.5), (8.5, 7.5), (14.5, 6.5), (14.5, 7.5)]
    assert no_outlines == none_either == []


def random_masks(seed: int) -> InstanceMasks:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 30)), int(rng.integers(1, 40)))
    crops = []
    for _ in range(5):
        y0, x0 = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
        shape = int(rng.integers(0, size[0] - y0 + 1)), int(rng.integers(0, size[1] - x0 + 1))
        crops.append((y0, x0, rng.integers(0, 2, shape, dtype=np.uint8)))
    return InstanceMasks(crops, size)


@pytest.mark.parametrize("seed", range(30))
def test_frames_of_bits(seed: int) -> None:
    masks = random_masks(seed)
    np.testing.assert_array_equal(masks.full_bits(), np.packbits(masks.full(), axis=2))


def test_frames_that_crops_do_not_fit() -> None:
    masks = InstanceMasks([(0, 0, np.ones((2, 2), np.uint8))], (4, 9))
    with pytest.raises(ValueError, match=re.escape("frames must have shape (N, height, 2), got (1, 4, 3)")):
        _native.paste_bits(np.zeros((1, 4, 3), np.uint8), masks.crops(), 9)
    with pytest.raises(ValueError, match="every crop must lie inside the image"):
        _native.paste_bits(np.zeros((1, 1, 2), np.uint8), masks.crops(), 9)


def filled(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A mask without its holes, which pixels that touch at a corner close off too."""
    import cv2

    outside = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), (2,), flags=4)
    return (outside != 2)[1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(30))
def test_coco_makes_the_same_masks_of_polygons(seed: int) -> None:
    masks = random_masks(seed)
    height, width = masks.image_size
    for outlines, mask in zip(masks.coco_polygons(), masks.full(), strict=True):
        again = np.zeros((height, width), bool)
        for outline in outlines:
            assert len(outline) >= 8
            again |= coco_masks.decode(coco_masks.frPyObjects([outline], height, width))[..., 0].astype(bool)
        np.testing.assert_array_equal(again, filled(mask.astype(np.uint8)))


def test_the_polygon_of_a_pixel_is_its_border() -> None:
    masks = InstanceMasks([(3, 5, np.ones((1, 1), np.uint8)), (0, 0, np.zeros((0, 0), np.uint8))], (9, 9))
    ((outline,), nothing) = masks.coco_polygons()
    assert json.loads(json.dumps(outline)) == outline
    assert sorted(zip(outline[::2], outline[1::2], strict=True)) == [(5, 3), (5, 4), (6, 3), (6, 4)]
    assert nothing == []


@pytest.mark.parametrize(("y0", "x0"), [(-1, 0), (0, -1), (3, 0), (0, 4), (2**63 - 1, 0), (0, 2**63 - 1)])
def test_crops_outside_the_image_are_refused(y0: int, x0: int) -> None:
    masks = InstanceMasks([(y0, x0, np.ones((2, 2), np.uint8))], (4, 5))
    for form in (masks.full, masks.rle):
        with pytest.raises(ValueError, match="every crop must lie inside the image, got one of shape"):
            form()


def test_frames_of_another_kind_are_refused() -> None:
    crops = [(0, 0, np.ones((2, 2), np.uint8))]
    frames: Any = np.zeros((1, 4, 5), np.uint8)
    with pytest.raises(ValueError, match="frames must have dtype bool, got uint8"):
        _native.paste_crops(frames, crops)
    with pytest.raises(ValueError, match=re.escape("frames must have shape (1, height, width), got (2, 4, 5)")):
        _native.paste_crops(np.zeros((2, 4, 5), bool), crops)
    with pytest.raises(ValueError, match="frames must be C-contiguous and writable"):
        _native.paste_crops(np.zeros((1, 4, 10), bool)[..., ::2], crops)


def test_no_masks() -> None:
    masks = InstanceMasks([], (4, 5))
    assert masks.full().shape == (0, 4, 5)
    assert masks.rle() == []
    assert masks.areas().shape == (0,)


def test_json_holds_everything_that_was_asked_for() -> None:
    result = Result(
        image_size=(4, 5),
        boxes=np.array([[0.123, 1, 2, 3]], np.float32),
        scores=np.array([0.5], np.float32),
        class_ids=np.array([1], np.int32),
        masks=InstanceMasks([(0, 0, np.ones((2, 2), np.uint8))], (4, 5)),
        semantic_map=np.repeat(np.array([[1, 1, 1, 0, 1]], np.uint8), 4, axis=0),
        caption=Caption("a dog", (4, 5), -1.5, -0.5),
        class_names=("cat", "dog"),
        semantic_names=("sky", "grass"),
        category_ids=(3, 7),
        timings_ms={"total": 1.23456},
    )
    answer = json.loads(json.dumps(result.to_json()))
    assert answer["image_size"] == [4, 5]
    (found,) = answer["objects"]
    assert found["class_name"] == "dog"
    assert found["category_id"] == 7
    assert found["box"] == [0.12, 1.0, 2.0, 3.0]
    assert coco_masks.area(found["mask"]) == 4
    assert [(x["class_name"], x["pixels"]) for x in answer["semantic"]] == [("grass", 16), ("sky", 4)]
    assert coco_masks.area(answer["semantic"][0]["mask"]) == 16
    assert answer["caption"] == {"text": "a dog", "token_ids": [4, 5], "log_prob": -1.5, "score": -0.5}
    assert answer["timings_ms"] == {"total": 1.235}
    assert result.detected_names == ("dog",)


def test_json_leaves_out_what_was_not() -> None:
    assert Result(image_size=(4, 5)).to_json() == {"image_size": [4, 5], "timings_ms": {}}
