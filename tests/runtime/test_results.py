"""Masks in their forms, run-length codes against COCO's own; results as collections, in JSON, for COCO, drawn."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native, results
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.drawing import TWO_PANELS, draw
from yolor_edge.runtime.errors import ImageError, UnavailableError, UsageError
from yolor_edge.runtime.images.image_files import read_image, write_image
from yolor_edge.runtime.model import load
from yolor_edge.runtime.results import Caption, Detection, InstanceMasks, MaskCanvas, Result, rle_from_crop

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


# A result as a collection of objects.


def four_objects(**others: Any) -> Result:
    """A dog, a cat, a dog and a bird, by falling score, with masks of 1 to 4 pixels."""
    values: dict[str, Any] = {
        "boxes": np.array([[0, 0, 4, 2], [1, 1, 3, 3], [2, 0, 6, 5], [5.5, 2, 8, 4]], np.float32),
        "scores": np.array([0.9, 0.75, 0.5, 0.25], np.float32),
        "class_ids": np.array([1, 0, 1, 2], np.int32),
        "masks": InstanceMasks([(i, i, np.ones((1, i + 1), np.uint8)) for i in range(4)], (6, 8)),
        "semantic_map": np.zeros((6, 8), np.uint8),
        "caption": Caption("two dogs", (5, 6), -2.0, -1.0),
        "class_names": ("cat", "dog", "bird"),
        "semantic_names": ("grass",),
        "category_ids": (17, 18, 16),
        "timings_ms": {"total": 1.5},
    }
    return Result((6, 8), **{**values, **others})


def test_a_result_is_a_collection_of_detections() -> None:
    result = four_objects()
    assert len(result) == 4
    dog, cat, *_ = result
    assert dog == Detection(0, (0.0, 0.0, 4.0, 2.0), dog.score, 1, "dog", 18)
    assert dog.score == pytest.approx(0.9)
    assert cat.mask is not None
    assert result.masks is not None
    assert (cat.mask.y0, cat.mask.x0, cat.mask.crop.tolist()) == (1, 1, [[1, 1]])
    assert np.shares_memory(cat.mask.crop, result.masks.crops()[1].crop)
    assert repr(cat) == "Detection(1, 'cat', 0.750, box=(1.0, 1.0, 3.0, 3.0))"
    assert [one.name for one in result] == list(result.detected_names or ())
    assert len({*result, *result}) == 4


def test_without_boxes_there_are_no_objects() -> None:
    result = Result((6, 8), semantic_map=np.zeros((6, 8), np.uint8))
    assert (len(result), list(result), result[:3]) == (0, [], result)
    with pytest.raises(IndexError, match="there is no object 0 among 0"):
        result[0]
    for ask in (lambda: result.filter(score=0.5), lambda: result.to_coco(1), result.to_supervision):
        with pytest.raises(UsageError, match="needs boxes, which this result was made without; predict with the task"):
            ask()


def test_an_object_of_a_result_without_names_is_called_by_its_number() -> None:
    result = four_objects(class_names=(), category_ids=())
    assert [one.name for one in result] == ["1", "0", "1", "2"]
    assert {one.category_id for one in result} == {None}
    assert result.filter(classes=1) == result[[0, 2]]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2]),
        (-1, [3]),
        (np.int64(1), [1]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [3, 1]),
        (slice(4, 9), []),
        ([3, 0, 0], [3, 0, 0]),
        ((0, -1), [0, 3]),
        ([], []),
        (np.array([2, 1], np.uint8), [2, 1]),
        ([True, False, False, True], [0, 3]),
        (np.array([False] * 4), []),
    ],
)
def test_objects_are_picked_by_index(index: Any, expected: list[int]) -> None:
    result = four_objects()
    assert result.boxes is not None and result.scores is not None and result.class_ids is not None
    picked = result[index]
    assert isinstance(picked, Result)
    assert len(picked) == len(expected)
    assert picked.masks is not None and result.masks is not None
    for name in ("boxes", "scores", "class_ids"):
        found, whole = getattr(picked, name), getattr(result, name)
        assert found.dtype == whole.dtype
        np.testing.assert_array_equal(found, whole[expected])
    assert picked.boxes is not None and picked.boxes.shape == (len(expected), 4)
    assert picked.masks.areas().tolist() == [i + 1 for i in expected]
    assert picked.detected_names == tuple(("dog", "cat", "dog", "bird")[i] for i in expected)
    for name in ("caption", "class_names", "image_size", "timings_ms"):
        assert getattr(picked, name) == getattr(result, name)
    assert picked.semantic_map is result.semantic_map


def test_picking_by_what_the_result_says() -> None:
    result = four_objects()
    assert result.scores is not None
    assert result[result.scores > 0.6].detected_names == ("dog", "cat")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (4, IndexError, "there is no object 4 among 4"),
        (-5, IndexError, "there is no object -5 among 4"),
        ([0, 9], IndexError, "there is no object 9 among 4"),
        ([True, False], IndexError, "a boolean mask of length 2 cannot pick from 4 objects"),
        ("dog", TypeError, "objects are picked by a number, a slice, a boolean mask or integers, got 'dog' (str)"),
        (1.0, TypeError, "or integers, got 1.0 (float)"),
        (True, TypeError, "or integers, got True (bool)"),
        (None, TypeError, "or integers, got None (NoneType)"),
        (np.zeros((2, 2), int), TypeError, "or integers, got ndarray"),
    ],
)
def test_indices_that_pick_nothing_there_is(index: Any, error: type[Exception], message: str) -> None:
    for collection in (four_objects(), four_objects().masks):
        with pytest.raises(error, match=re.escape(message)):
            collection[index]  # type: ignore[index]


def test_masks_are_picked_alike() -> None:
    masks = four_objects().masks
    assert masks is not None
    assert masks[-1].crop.tolist() == [[1, 1, 1, 1]]
    assert [one.x0 for one in masks] == [0, 1, 2, 3]
    picked = masks[[2, 0]]
    assert isinstance(picked, InstanceMasks)
    np.testing.assert_array_equal(picked.full(), masks.full()[[2, 0]])
    assert np.shares_memory(picked[0].crop, masks[2].crop)


@pytest.mark.parametrize(
    ("classes", "score", "expected"),
    [
        (None, None, [0, 1, 2, 3]),
        ("dog", None, [0, 2]),
        (0, None, [1]),
        (np.int32(2), None, [3]),
        (["cat", 2], None, [1, 3]),
        ({"dog", "bird"}, 0.25, [0, 2]),
        ([], None, []),
        (None, 0.5, [0, 1]),
        (None, 0, [0, 1, 2, 3]),
        ("bird", 0.9, []),
    ],
)
def test_filter(classes: Any, score: float | None, expected: list[int]) -> None:
    result = four_objects()
    assert result.filter(classes=classes, score=score) == result[expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "dgo"}, "there is no class 'dgo', perhaps 'dog'; see class_names"),
        ({"classes": ["cat", "Bird"]}, "there is no class 'Bird', perhaps 'bird'; see class_names"),
        ({"classes": "zebra"}, "there is no class 'zebra'; see class_names"),
        ({"classes": 3}, "there is no class 3; the indices are 0 to 2"),
        ({"classes": -1}, "there is no class -1; the indices are 0 to 2"),
        ({"classes": [1.5]}, "classes are given by name or index, got 1.5 (float)"),
        ({"classes": 1.5}, "classes are given by name or index, got 1.5 (float)"),
        ({"score": "high"}, "score must be a number or None, got 'high' (str)"),
    ],
)
def test_filters_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        four_objects().filter(**options)


def test_results_are_equal_by_content() -> None:
    result = four_objects()
    assert result == four_objects(timings_ms={"total": 99.0})
    assert hash(result) == hash(four_objects())
    assert len({result, four_objects(), four_objects(caption=None)}) == 2
    wider = InstanceMasks([(i, 0, np.pad(np.ones((1, i + 1), np.uint8), ((0, 0), (i, 0)))) for i in range(4)], (6, 8))
    assert result == four_objects(masks=wider)
    assert hash(wider) == hash(result.masks)
    others: list[dict[str, Any]] = [
        {"boxes": np.zeros((4, 4), np.float32)},
        {"boxes": None},
        {"scores": np.zeros(4, np.float32)},
        {"class_ids": np.zeros(4, np.int32)},
        {"masks": None},
        {"masks": InstanceMasks([(0, 0, np.ones((1, 1), np.uint8))] * 4, (6, 8))},
        {"semantic_map": np.ones((6, 8), np.uint8)},
        {"caption": Caption("two cats", (5, 7), -2.0, -1.0)},
        {"class_names": ("cat", "dog", "cow")},
    ]
    for other in others:
        assert result != four_objects(**other)
    assert result != result[:3]
    assert result != "two dogs"
    assert result.masks != "two dogs"
    assert Result((6, 8)) == Result((6, 8)) != Result((8, 6))


def test_results_can_be_pickled_and_copied(tiny_bundle: Bundle) -> None:
    with load(tiny_bundle, threads=1) as model:
        image = np.full((64, 96, 3), (0, 0, 255), np.uint8)
        result = model(image)
        assert model.names == {0: "red", 1: "green", 2: "blue"}
        assert result == model.predict(image)
    assert len(result) > 0
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert again == result
        assert hash(again) == hash(result)
        assert again.to_json() == result.to_json()
    first = next(iter(result))
    assert pickle.loads(pickle.dumps(first)) == first


# Results for others.


def test_coco_takes_the_results(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    entries = json.loads(json.dumps(four_objects().to_coco(7)))
    assert [entry["category_id"] for entry in entries] == [18, 17, 18, 16]
    assert entries[3]["bbox"] == [5.5, 2.0, 2.5, 2.0]
    assert entries[1]["score"] == 0.75
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": 6, "width": 8}],
        "annotations": [],
        "categories": [{"id": i} for i in (16, 17, 18)],
    }
    truth.createIndex()
    loaded = truth.loadRes(entries)
    assert sorted(loaded.getAnnIds(imgIds=[7], catIds=[18])) == [1, 3]
    masks = four_objects().masks
    assert masks is not None
    for entry, full in zip(loaded.loadAnns(loaded.getAnnIds()), masks.full(), strict=True):
        np.testing.assert_array_equal(loaded.annToMask(entry), full)
    bare = four_objects(masks=None, category_ids=()).to_coco(7)
    assert [entry["category_id"] for entry in bare] == [1, 0, 1, 2]
    assert all("segmentation" not in entry for entry in bare)


def test_supervision_takes_the_results() -> None:
    supervision = pytest.importorskip("supervision")
    result = four_objects()
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert len(found) == 4
    np.testing.assert_array_equal(found.xyxy, result.boxes)
    np.testing.assert_array_equal(found.confidence, result.scores)
    np.testing.assert_array_equal(found.class_id, result.class_ids)
    np.testing.assert_array_equal(found.data["class_name"], ["dog", "cat", "dog", "bird"])
    assert result.masks is not None
    np.testing.assert_array_equal(found.mask, result.masks.full())
    assert found.area.tolist() == [1, 2, 3, 4]  # of the masks
    confident: Any = found[np.array([True, True, False, False])]
    for picked in (confident, result[:2].to_supervision()):
        assert list(picked.data["class_name"]) == ["dog", "cat"]
    found.xyxy[:] = 0
    assert result == four_objects()  # what it holds is its own
    assert four_objects(masks=None).to_supervision().mask is None
    empty = result[[]].to_supervision()
    assert (len(empty), empty.xyxy.shape) == (0, (0, 4))
    drawn = supervision.MaskAnnotator().annotate(np.zeros((6, 8, 3), np.uint8), result.to_supervision())
    assert drawn.any()


def test_supervision_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UnavailableError) as caught:
        four_objects().to_supervision()
    message = str(caught.value)
    assert message.startswith("to_supervision needs the package supervision (")
    assert message.endswith("); install it: pip install supervision")
    assert "\n" not in message


def test_a_result_is_drawn_and_saved(tmp_path: Path) -> None:
    result = four_objects()
    image = np.full((6, 8, 3), 200, np.uint8)
    assert np.array_equal(result.plot(image), draw(image, result))
    assert np.array_equal(result.plot(image, panels=2), draw(image, result, TWO_PANELS))
    assert np.array_equal(result.plot(image, TWO_PANELS, labels=False), draw(image, result, TWO_PANELS, labels=False))
    write_image(tmp_path / "in.png", image)
    result.save(tmp_path / "out.png", tmp_path / "in.png", scores=False)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), result.plot(image, scores=False))
    assert np.all(image == 200)


def test_drawings_that_fail_leave_no_file(tmp_path: Path) -> None:
    image = np.full((6, 8, 3), 200, np.uint8)
    with pytest.raises(UsageError, match="the image is 8x5, the result is for one of 8x6"):
        four_objects().save(tmp_path / "out.png", image[:5])
    with pytest.raises(UsageError, match="there is no drawing option 'conf'"):
        four_objects().save(tmp_path / "out.png", image, conf=False)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        four_objects().save(tmp_path / "out.png", tmp_path / "nowhere.png")
    with pytest.raises(UsageError, match=r"out\.txt: "):
        four_objects().save(tmp_path / "out.txt", image)
    assert list(tmp_path.iterdir()) == []


def test_fields_by_object_are_the_ones_with_rows() -> None:
    """A field that is added with a row for each object must be picked along."""
    result = four_objects(track_ids=np.array([4, -1, 2, 7]))
    values = {one.name: getattr(result, one.name) for one in dataclasses.fields(Result)}
    assert {name for name, value in values.items() if hasattr(value, "__len__") and len(value) == 4} == set(
        results._BY_OBJECT
    )


def test_track_ids_are_picked_along_and_handed_on() -> None:
    result = four_objects(track_ids=np.array([4, -1, 2, 7]))
    assert [found.track_id for found in result] == [4, None, 2, 7]
    picked = result[[2, 1]]
    assert picked.track_ids is not None
    assert picked.track_ids.tolist() == [2, -1]
    assert result != four_objects()
    objects = json.loads(json.dumps(result.to_json()))["objects"]
    assert [one.get("track_id") for one in objects] == [4, None, 2, 7]
    assert [entry.get("track_id") for entry in result.to_coco(7)] == [4, None, 2, 7]
    assert all("track_id" not in one for one in four_objects().to_json()["objects"])
    pytest.importorskip("supervision")
    ids = result.to_supervision().tracker_id
    assert ids is not None
    assert ids.tolist() == [4, -1, 2, 7]
    assert four_objects().to_supervision().tracker_id is None
