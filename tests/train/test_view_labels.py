"""Labels of strong views cover what is drawn there, boxes end where their objects do, and nothing unknown is taught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.runtime.images.image_files import read_image
from yolor_edge.runtime.images.preprocess import PreprocessRule
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.views.canvas import Canvas
from yolor_edge.train.views.compose import strong_view
from yolor_edge.train.views.placement import Placement
from yolor_edge.train.views.view import View

from .drawn_pictures import (
    GROUND,
    IGNORED,
    OBJECT,
    Pictures,
    ellipse,
    extent,
    picture_of,
    rectangle,
)

RULE = PreprocessRule(input_size=(192, 256), pad_value=0)
STILL = TrainConfig(mosaic=0, mixup=0, flip=0, scale_range=0, translate=0, color=0)
KINDS: dict[str, dict[str, Any]] = {
    "scale, shift and flip": {"scale_range": 0.5, "translate": 0.2, "flip": 0.5},
    "upside down": {"flip_up_down": 1, "scale_range": 0.5},
    "rotation": {"rotate": 40, "scale_range": 0.3},
    "shear": {"shear": 25, "translate": 0.2},
    "perspective": {"perspective": 0.2, "translate": 0.1},
    "mosaic": {"mosaic": 1, "scale_range": 0.5, "flip": 0.5},
    "copy-paste": {"copy_paste": 1, "scale_range": 0.5, "translate": 0.2, "flip": 0.5},
    "all but mixup": {
        **{"mosaic": 0.5, "copy_paste": 0.5, "rotate": 20, "shear": 10, "perspective": 0.1, "flip": 0.5},
        **{"flip_up_down": 0.5, "scale_range": 0.5, "translate": 0.2},
    },
}


def star(size: tuple[int, int], x: float, y: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A polygon (2 * points,) with sharp corners, and its pixels."""
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    length = np.where(np.arange(10) % 2, 0.45 * radius, radius)
    points = np.stack((x + length * np.cos(angles), y + length * np.sin(angles)), 1)
    # Drawn four times as large and then averaged: which pixels are more than half inside.
    large = np.zeros((size[0] * 4, size[1] * 4), np.uint8)
    cv2.fillPoly(large, [np.round(points * 4 - 0.5).astype(np.int32)], 255)
    return points.ravel(), cv2.resize(large, size[::-1], interpolation=cv2.INTER_AREA) >= 128


def drawn(number: int, size: tuple[int, int] = (360, 480), polygons: bool = True) -> tuple[Truth, np.ndarray]:
    """A picture of an ellipse and a star, whose outline is a polygon if so asked."""
    rng = np.random.default_rng(number)
    x, y = rng.uniform(0.25, 0.75, 2) * size[::-1]
    points, pixels = star(size, x, y, rng.uniform(0.15, 0.4) * size[0])
    x, y = rng.uniform(0.1, 0.9, 2) * size[::-1]
    other = ellipse(size, x, y, size[0] * rng.uniform(0.1, 0.3), size[0] * rng.uniform(0.1, 0.3))
    truth, image = picture_of([pixels, other], number, number % 3)
    if polygons and truth.segmentations is not None:
        truth = replace(truth, segmentations=((points,), truth.segmentations[1]))
    return truth, image


def views_of(config: TrainConfig, count: int, polygons: bool = True) -> Iterator[View]:
    """Strong views of drawn pictures."""
    made = [drawn(i, polygons=polygons) for i in range(6)]
    pictures = Pictures({truth.image_id: image for truth, image in made}, [])
    for seed in range(count):
        rng = np.random.default_rng(seed)

        def another(draw: np.random.Generator) -> Truth:
            return made[int(draw.integers(len(made)))][0]

        yield strong_view(made[seed % 6][0], another, pictures.read, RULE, config, rng)


def excess(view: View) -> np.ndarray:
    """How many pixels each box of 32 and more reaches over the cells that its mask touches, at its worst side."""
    found = []
    for box, mask in zip(view.boxes, view.masks, strict=True):
        if (box[2:] - box[:2]).min() >= 32:
            around = extent(mask)
            found.append(max((around[:2] - box[:2]).max(), (box[2:] - around[2:]).max()))
    return np.array(found)


@pytest.mark.parametrize("polygons", [True, False], ids=["polygons", "run lengths"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_cover_what_is_drawn(kind: str, polygons: bool) -> None:
    """Objects are white on black, so how white a cell is says how much of it they cover."""
    objects, edges = 0, []
    for view in views_of(replace(STILL, **KINDS[kind]), 12, polygons):
        white = view.image.reshape(48, 4, 64, 4, 3).mean((1, 3, 4)) / 255
        covered = view.masks.max(0, initial=0) / 255
        # What is white belongs to an object, or to a rest that is too small for one.
        # Of two objects in one cell, one may lie behind the other or beside it.
        both = view.masks.sum(0) / 255
        difference = np.maximum(covered - white, (white - both).clip(0))[view.classes_known]
        assert difference.max() < 0.4
        edges.append(difference[(covered > 0)[view.classes_known] & (covered < 1)[view.classes_known]])
        assert (white[view.semantic == OBJECT] > 0.1).all()
        assert (white[view.semantic == GROUND] < 0.9).all()
        assert (view.semantic != IGNORED).mean() > 0.2
        objects += len(view.boxes)
    assert objects >= 12
    # Labels shifted by half a pixel would differ by an eighth in the cells that an outline goes through.
    assert np.concatenate(edges).mean() < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_end_where_what_is_left_of_their_objects_ends(kind: str) -> None:
    found = np.concatenate([excess(view) for view in views_of(replace(STILL, **KINDS[kind]), 30)])
    assert len(found) >= 10
    assert found.max() <= 2.5
    # Nor do masks reach beyond their boxes, by more than a cell that they touch.
    assert found.min() >= -5


def test_boxes_of_scenes_end_where_their_objects_do(scenes: Path) -> None:
    dataset = CocoDataset.open(scenes)
    rule = PreprocessRule(input_size=(320, 320))
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view = strong_view(
            dataset[seed % len(dataset)],
            lambda draw: dataset[int(draw.integers(len(dataset)))],
            lambda truth, _: dataset.read(truth),
            rule,
            TrainConfig(mosaic=0.75, mixup=0.1, copy_paste=0.3, color=0),
            rng,
        )
        found.append(excess(view))
    every = np.concatenate(found)
    assert len(every) > 50
    assert every.max() <= 4


def test_an_object_without_a_mask_keeps_its_clipped_box() -> None:
    truth, image = picture_of([rectangle((192, 256), 200, 50, 256, 150)])
    bare = replace(truth, segmentations=None)
    placement = Placement(np.array([[1.0, 0, 20], [0, 1, 0], [0, 0, 1]]), truth.size, (0, 0, 256, 192))
    canvas = Canvas(RULE, 1)
    canvas.put(bare, image, placement)
    view = canvas.view(canvas.image)
    np.testing.assert_allclose(view.boxes, [[220, 50, 256, 150]])
    assert view.mask_known.tolist() == [False]
    assert not view.masks.any()


def test_only_some_objects_of_a_picture_have_masks() -> None:
    size = (192, 256)
    truth, image = picture_of([rectangle(size, 10, 10, 60, 60), rectangle(size, 100, 100, 180, 180)])

    class Partly(Truth):
        @property
        def mask_known(self) -> np.ndarray:
            return np.array([False, True])

    partly = Partly(**{name: getattr(truth, name) for name in truth.__dataclass_fields__})
    view = strong_view(partly, lambda _: partly, lambda *_: image, RULE, STILL, np.random.default_rng(0))
    assert view.mask_known.tolist() == [False, True]
    assert not view.masks[0].any()
    assert view.masks[1].max() == 255


@pytest.mark.parametrize("has_masks", [True, False])
def test_nothing_is_known_where_a_crowd_lies(has_masks: bool) -> None:
    size = (192, 256)
    truth, image = picture_of([rectangle(size, 8, 8, 48, 48), ellipse(size, 160, 100, 40, 32)])
    truth = replace(truth, crowd=np.array([False, True]), segmentations=truth.segmentations if has_masks else None)
    view = strong_view(truth, lambda _: truth, lambda *_: image, RULE, STILL, np.random.default_rng(0))
    assert len(view.boxes) == 1
    share = cv2.resize(ellipse(size, 160, 100, 40, 32).astype(np.float32), (64, 48), interpolation=cv2.INTER_AREA)
    if has_masks:
        np.testing.assert_array_equal(view.classes_known, share < 0.002)
    else:
        expected = np.ones((48, 64), bool)
        expected[68 // 4 : 132 // 4, 120 // 4 : 200 // 4] = False
        np.testing.assert_array_equal(view.classes_known, expected)


def test_the_rest_of_an_object_that_is_cut_away_is_unknown() -> None:
    size = (192, 256)
    masks = [rectangle(size, 4, 40, 84, 120), rectangle(size, 120, 40, 200, 120), rectangle(size, 230, 8, 231, 60)]
    truth, image = picture_of(masks)
    canvas = Canvas(RULE, 1)
    canvas.put(truth, image, Placement(np.array([[1.0, 0, -79], [0, 1, 0], [0, 0, 1]]), size, (0, 0, 256, 192)))
    view = canvas.view(canvas.image)
    # Of the first, 5 of 80 columns are left; the third is a line of one pixel.
    np.testing.assert_allclose(view.boxes, [[41, 40, 121, 120]])
    unknown = ~view.classes_known
    assert unknown[10:30, 0:2].all()
    assert unknown[2:15, 37].all()
    assert unknown.sum() == 20 * 2 + 13


def test_labels_stay_in_place_when_a_smaller_image_is_read(tmp_path: Path) -> None:
    size = (801, 1207)
    truth, image = picture_of([ellipse(size, 500, 300, 280, 200), ellipse(size, 1000, 600, 180, 150)])
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), image)
    asked = []

    def read(_: Truth, scale: float) -> np.ndarray:
        asked.append(scale)
        n = 4 if scale <= 0.25 else 2 if scale <= 0.5 else 1
        pixels = read_image(path, reduction=n)
        assert pixels.shape[:2] == (-(-size[0] // n), -(-size[1] // n))
        return pixels

    for seed in range(8):
        config = replace(STILL, scale_range=0.5, flip=0.5, rotate=10 * (seed % 2))
        view = strong_view(truth, lambda _: truth, read, RULE, config, np.random.default_rng(seed))
        white = view.image.reshape(48, 4, 64, 4, 3).mean((1, 3, 4)) / 255
        assert np.abs(white - view.masks.max(0) / 255)[view.classes_known].max() < 0.25
    assert max(asked) < 0.5
    assert min(asked) < 0.25


def test_masks_are_those_of_a_full_warp(coco_tiny: Path) -> None:
    """Drawing an object only where it lies gives what warping all of the picture and averaging over cells gave."""
    dataset = CocoDataset.open(coco_tiny)
    rule = PreprocessRule(input_size=(640, 640))
    total, count, worst = 0.0, 0, 0.0
    for index in range(12):
        truth = dataset[index]
        scale = 640 / max(truth.size) * (0.6 + 0.08 * index)
        placement = Placement(np.array([[scale, 0, 13.3], [0, scale, -21.7], [0, 0, 1]]), truth.size, (0, 0, 640, 640))
        canvas = Canvas(rule, 1)
        canvas.put_labels(truth, placement)
        view = canvas.view(canvas.image)
        pixels = truth.masks()
        assert pixels is not None and truth.boxes is not None
        moved = placement.boxes(truth.boxes).clip(0, 640)
        for box, mask in zip(view.boxes, view.masks, strict=True):
            overlap = np.abs(moved - box).sum(1)
            i = int(overlap.argmin())
            if overlap[i] > 8 or (overlap < 16).sum() > 1:
                continue  # Cut, or not to be told from another one.
            full = placement.warp(pixels[i].view(np.uint8) * 255, (640, 640))
            expected = cv2.resize(full, (160, 160), interpolation=cv2.INTER_AREA).astype(float)
            total += np.abs(mask - expected).sum()
            count += int((expected > 0).sum())
            worst = max(worst, abs(mask.sum() / expected.sum() - 1) if expected.sum() > 255 * 20 else 0)
    assert count > 5000
    assert total / count < 0.02 * 255
    assert worst < 0.05


def test_a_cell_of_two_pictures_has_no_semantic_label() -> None:
    made = [picture_of([np.ones((60, 80), bool)], i, i) for i in range(4)]
    pictures = Pictures({truth.image_id: image for truth, image in made}, [])
    rest = iter([truth for truth, _ in made[1:]])
    config = replace(STILL, mosaic=1)
    view = strong_view(made[0][0], lambda _: next(rest), pictures.read, RULE, config, np.random.default_rng(5))
    corner = max(view.boxes, key=lambda box: box[2] < 256 and box[3] < 192)[2:]
    x, y = (int(v) for v in corner)
    assert x % 4
    assert y % 4
    assert (view.semantic[y // 4] == IGNORED).all()
    assert (view.semantic[:, x // 4] == IGNORED).all()
    assert (np.delete(np.delete(view.semantic, y // 4, 0), x // 4, 1) == OBJECT).any()


def test_pictures_of_any_shape_make_views() -> None:
    rule = PreprocessRule(input_size=(96, 128))
    sizes = [(1, 1), (2, 2), (3, 500), (500, 3), (7, 300), (97, 131)]
    made = [picture_of([rectangle(size, 0, 0, -(-size[1] // 2), size[0])], i, 0) for i, size in enumerate(sizes)]
    wild = replace(TrainConfig(), rotate=180.0, shear=45.0, perspective=0.2, scale_range=0.99, translate=1.0)
    for seed in range(90):
        view = strong_view(
            made[seed % len(made)][0],
            lambda draw: made[int(draw.integers(len(made)))][0],
            lambda truth, _: made[truth.image_id][1],
            rule,
            replace(wild if seed % 2 else TrainConfig(), mosaic=0.5, mixup=0.3, copy_paste=0.5, flip_up_down=0.5),
            np.random.default_rng(seed),
        )
        assert len(view.boxes) == len(view.masks) == len(view.classes)
        assert (view.boxes >= 0).all()
        assert (view.boxes[:, 2:] <= (128, 96)).all()
