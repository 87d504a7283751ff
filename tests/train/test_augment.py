"""The two views: the weak one is what the runtime sees, and in the strong one the labels move with the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.runtime.images.preprocess import Letterbox, PreprocessRule, preprocess
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.views.compose import strong_view, weak_view
from yolor_edge.train.views.view import View

from .drawn_pictures import (
    GROUND,
    IGNORED,
    OBJECT,
    RULE,
    Pictures,
    assert_labels_lie_on_pixels,
    ellipse,
    extent,
    picture_of,
    rectangle,
)

STILL = TrainConfig(mosaic=0, mixup=0, flip=0, scale_range=0, translate=0, color=0)
MOVING = TrainConfig(mosaic=0, mixup=0, color=0)


def seen(
    truth: Truth, image: np.ndarray, config: TrainConfig, seed: int = 0, rule: PreprocessRule = RULE, **more: Any
) -> View:
    rng = np.random.default_rng(seed)
    return strong_view(truth, lambda _: truth, lambda *_: image, rule, config, rng, **more)


@pytest.mark.parametrize("size", [(96, 128), (50, 40), (201, 333), (7, 300)])
def test_the_weak_view_is_what_the_runtime_sees(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    truth, _ = picture_of([rectangle(size, 1, 1, 5, 5)])
    view = weak_view(truth, lambda *_: image, RULE, rng)
    expected, _ = preprocess(image, RULE)
    found = view.image.transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(96, 128), (48, 96), (300, 200)])
def test_labels_of_the_weak_view_lie_where_the_letterbox_puts_them(size: tuple[int, int]) -> None:
    mask = ellipse(size, size[1] * 0.4, size[0] * 0.6, size[1] * 0.2, size[0] * 0.25)
    truth, image = picture_of([mask])
    view = weak_view(truth, lambda *_: image, RULE, np.random.default_rng(0))
    letterbox = Letterbox.of(size, RULE.input_size)
    assert truth.boxes is not None
    np.testing.assert_allclose(view.boxes, letterbox.boxes_to_input(truth.boxes), atol=1e-4)
    assert_labels_lie_on_pixels(view)
    x1, y1, x2, y2 = (round(v) for v in letterbox.boxes_to_input(np.array([[0, 0, size[1], size[0]]]))[0])
    padding = np.ones(RULE.input_size, bool)
    padding[y1:y2, x1:x2] = False
    whole = padding.reshape(24, 4, 32, 4).all((1, 3))
    assert (view.semantic[whole] == IGNORED).all()
    assert (view.semantic[~padding.reshape(24, 4, 32, 4).any((1, 3))] != IGNORED).all()


def test_the_caption_s_view_leaves_the_dense_truth_out() -> None:
    truth, image = picture_of([rectangle((96, 128), 10, 10, 60, 60)])
    rng = np.random.default_rng(0)
    full, bare = (weak_view(truth, lambda *_: image, RULE, rng, dense=dense) for dense in (True, False))
    np.testing.assert_array_equal(full.image, bare.image)
    assert (len(full.boxes), len(bare.boxes)) == (1, 0)
    assert (bare.semantic == IGNORED).all()


def test_the_semantic_map_keeps_its_balance() -> None:
    """Taking the pixel left or right of a cell's centre at random shifts nothing on average."""
    truth, image = picture_of([rectangle((96, 128), 0, 0, 62, 96)])
    rng = np.random.default_rng(0)
    shares = [(weak_view(truth, lambda *_: image, RULE, rng).semantic == OBJECT).mean() * 128 for _ in range(200)]
    assert set(shares) == {60.0, 64.0}
    assert np.mean(shares) == pytest.approx(62, abs=0.5)


@pytest.mark.parametrize("seed", range(12))
def test_strong_labels_move_with_the_pixels(seed: int) -> None:
    rng = np.random.default_rng((9, seed))
    size = (int(rng.integers(60, 200)), int(rng.integers(60, 200)))
    x, y = rng.uniform(0.3, 0.7, 2) * size[::-1]
    masks = [ellipse(size, x, y, size[1] * 0.25, size[0] * 0.2)]
    truth, image = picture_of(masks)
    view = seen(truth, image, MOVING, seed)
    assert len(view.boxes) == len(view.masks) == 1
    assert_labels_lie_on_pixels(view)
    box, around = view.boxes[0], extent(view.masks[0])
    clipped = (box[:2] <= 0).any() or (box[2:] >= RULE.input_size[::-1]).any()
    # The mask's cells reach up to a cell beyond the box, and less far only where the view cut the object.
    assert (around[:2] >= box[:2] - 5).all()
    assert (around[2:] <= box[2:] + 5).all()
    if not clipped:
        np.testing.assert_allclose(around, box, atol=5)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_and_masks_of_scenes_agree_in_strong_views(scenes: Path, seed: int) -> None:
    dataset = CocoDataset.open(scenes)
    config = replace(MOVING, mosaic=0.5, mixup=0.3, color=1.0)
    rng = np.random.default_rng(seed)

    def another(draw: np.random.Generator) -> Truth:
        return dataset[int(draw.integers(len(dataset)))]

    view = strong_view(dataset[seed], another, lambda truth, _: dataset.read(truth), RULE, config, rng)
    # Nothing is known only where an object was cut down to a sliver.
    assert view.classes_known.mean() > 0.8
    assert view.mask_known.all()
    assert len(view.mask_known) == len(view.boxes) == len(view.classes) == len(view.masks)
    assert view.image.shape == (96, 128, 3)
    assert view.image.dtype == np.uint8
    for box, mask in zip(view.boxes, view.masks, strict=True):
        assert (box[:2] >= 0).all()
        assert (box[2:] <= RULE.input_size[::-1]).all()
        assert (box[2:] - box[:2] >= 2).all()
        if mask.any():
            around = extent(mask)
            assert (around[:2] >= box[:2] - 5).all()
            assert (around[2:] <= box[2:] + 5).all()


def test_without_any_augmentation_the_strong_view_shows_the_weak_one() -> None:
    truth, image = picture_of([ellipse((192, 256), 100, 90, 60, 50)])
    strong = seen(truth, image, STILL)
    weak = weak_view(truth, lambda *_: image, RULE, np.random.default_rng(0))
    np.testing.assert_allclose(strong.boxes, weak.boxes, atol=1e-4)
    assert np.abs(strong.image.astype(int) - weak.image).max() <= 8  # OpenCV's warp rounds coordinates to 1/32 pixel
    assert np.abs(strong.masks.astype(int) - weak.masks).max() <= 8


def test_a_flip_mirrors_pixels_and_labels() -> None:
    truth, image = picture_of([rectangle((96, 128), 8, 16, 48, 80)])
    view = seen(truth, image, replace(STILL, flip=1))
    np.testing.assert_allclose(view.boxes, [[128 - 48, 16, 128 - 8, 80]])
    plain = seen(truth, image, STILL)
    np.testing.assert_array_equal(view.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(view.masks, plain.masks[:, :, ::-1])
    assert_labels_lie_on_pixels(view)


def test_colours_are_rgb_and_change_in_strength_only() -> None:
    truth, image = picture_of([rectangle((96, 128), 0, 0, 128, 96)], color=(30, 60, 200))
    np.testing.assert_array_equal(seen(truth, image, STILL).image[48, 64], (200, 60, 30))
    colors = {tuple(seen(truth, image, replace(STILL, color=1), seed).image[48, 64]) for seed in range(8)}
    assert len(colors) > 4
    assert all(red > green > blue for red, green, blue in colors)


def test_a_picture_comes_out_the_same_from_the_same_numbers() -> None:
    truth, image = picture_of([ellipse((90, 70), 30, 40, 20, 25)])
    config = TrainConfig()
    first, again, other = (seen(truth, image, config, seed) for seed in (3, 3, 4))
    for name in ("image", "boxes", "classes", "masks", "semantic"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.image, other.image)


def four_colors() -> tuple[list[Truth], Pictures]:
    """Four images, each wholly one object of its own class, class i of grey value 60 * (i + 1)."""
    made = [
        picture_of([np.ones((60, 80), bool)], image_id=i, class_id=i, color=(60 * i + 60, 60 * i + 60, 60 * i + 60))
        for i in range(4)
    ]
    return [truth for truth, _ in made], Pictures({truth.image_id: image for truth, image in made}, [])


def others_in_turn(truths: list[Truth]) -> Callable[[np.random.Generator], Truth]:
    rest = iter(truths)
    return lambda _: next(rest)


@pytest.mark.parametrize("seed", range(8))
def test_a_mosaic_gives_every_picture_its_window(seed: int) -> None:
    truths, pictures = four_colors()
    config = replace(MOVING, mosaic=1)
    rng = np.random.default_rng(seed)
    view = strong_view(truths[0], others_in_turn(truths[1:]), pictures.read, RULE, config, rng)
    assert sorted(pictures.looked_at) == [0, 1, 2, 3]
    # An image of which a small window shows less than a tenth is no object any more.
    assert 2 <= len(view.classes) == len(set(view.classes))
    covered = np.zeros(RULE.input_size, int)
    for box, class_id, mask in zip(view.boxes, view.classes, view.masks, strict=True):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        inside = view.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert (inside == 60 * (class_id + 1)).all()
        covered[y1:y2, x1:x2] += 1
        np.testing.assert_allclose(extent(mask), box, atol=5)
    assert covered.max() == 1  # windows do not overlap


def test_the_pictures_of_a_mosaic_meet_in_one_point() -> None:
    truths, pictures = four_colors()
    config = replace(STILL, mosaic=1)
    view = strong_view(truths[0], others_in_turn(truths[1:]), pictures.read, RULE, config, np.random.default_rng(1))
    assert len(view.boxes) == 4
    corners = [{(x, y) for x in box[[0, 2]] for y in box[[1, 3]]} for box in np.round(view.boxes)]
    assert len(set.intersection(*corners)) == 1


def test_a_mixture_holds_the_objects_of_both_and_the_pixels_they_agree_on() -> None:
    size = (96, 128)
    half, other = rectangle(size, 0, 0, 64, 96), rectangle(size, 0, 0, 128, 48)
    truths, images = zip(*(picture_of([mask], i, i) for i, mask in enumerate((half, other))), strict=True)
    pictures = Pictures(dict(enumerate(images)), [])
    shares = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        view = strong_view(truths[0], lambda _: truths[1], pictures.read, RULE, replace(STILL, mixup=1), rng)
        assert sorted(view.classes) == [0, 1]
        assert len(view.masks) == 2
        grey = int(view.image[72, 32, 0])  # white of the first picture on black of the second
        left, right, one, both = (view.semantic[y, x] for y, x in ((18, 8), (6, 24), (18, 24), (6, 8)))
        assert (one, both) == (GROUND, OBJECT)
        if abs(grey - 127.5) < 0.1 * 255 - 1:
            assert (left, right) == (IGNORED, IGNORED)
        elif abs(grey - 127.5) > 0.1 * 255 + 1:  # One of them has most of the light.
            assert (left, right) == ((OBJECT, GROUND) if grey > 127.5 else (GROUND, OBJECT))
        shares.add(int(left))
    assert len(shares) == 3


def test_the_last_epochs_show_one_picture_at_a_time() -> None:
    truths, pictures = four_colors()
    config = replace(MOVING, mosaic=1, mixup=1)
    rng = np.random.default_rng(0)
    view = strong_view(truths[0], others_in_turn([]), pictures.read, RULE, config, rng, plain=True)
    assert pictures.looked_at == [0]
    assert view.classes.tolist() == [0]


def test_crowds_and_slivers_are_no_targets() -> None:
    size = (96, 128)
    masks = [rectangle(size, 10, 10, 50, 50), rectangle(size, 60, 10, 100, 50), rectangle(size, 10, 60, 50, 61)]
    truth, image = picture_of(masks)
    truth = replace(truth, crowd=np.array([False, True, False]))
    for view in (seen(truth, image, STILL), weak_view(truth, lambda *_: image, RULE, np.random.default_rng(0))):
        np.testing.assert_allclose(view.boxes, [[10, 10, 50, 50]], atol=1e-4)
        assert len(view.masks) == 1


def test_truth_that_is_missing_stays_unknown() -> None:
    truth, image = picture_of([rectangle((96, 128), 10, 10, 50, 50)])
    bare = replace(truth, boxes=None, class_ids=None, crowd=None, areas=None, segmentations=None, semantic=None)
    view = seen(bare, image, STILL)
    assert not view.classes_known.any()
    assert len(view.boxes) == len(view.mask_known) == 0
    assert (view.semantic == IGNORED).all()

    without_masks = replace(truth, segmentations=None)
    view = seen(without_masks, image, STILL)
    assert view.classes_known.all()
    assert view.mask_known.tolist() == [False]
    assert len(view.boxes) == 1
    assert view.masks.shape == (1, 24, 32)


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_one_unknown_picture_makes_its_window_of_a_mosaic_unknown(missing: int) -> None:
    """It would otherwise teach that nothing is there; what is known of the others remains."""
    truths, pictures = four_colors()
    truths[missing] = replace(truths[missing], boxes=None, class_ids=None, crowd=None, areas=None, segmentations=None)
    config = replace(MOVING, mosaic=1)
    view = strong_view(truths[0], others_in_turn(truths[1:]), pictures.read, RULE, config, np.random.default_rng(1))
    assert 0 < view.classes_known.mean() < 1
    rows, columns = np.nonzero(~view.classes_known)
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert view.mask_known.all()
    assert len(view.boxes) == len(view.masks) == 3


def test_a_picture_without_objects_is_known_to_be_empty() -> None:
    truth, image = picture_of([rectangle((96, 128), 10, 10, 50, 50)])
    empty = replace(
        truth,
        boxes=np.zeros((0, 4), np.float32),
        class_ids=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        areas=np.zeros(0, np.float32),
        segmentations=(),
    )
    for view in (seen(empty, image, MOVING), weak_view(empty, lambda *_: image, RULE, np.random.default_rng(0))):
        assert view.classes_known.all()
        assert view.boxes.shape == (0, 4)
        assert view.masks.shape == (0, 24, 32)


def test_pixels_and_truth_are_left_as_they_were() -> None:
    truth, image = picture_of([ellipse((90, 70), 30, 40, 20, 25)])
    assert truth.boxes is not None
    before, boxes = image.copy(), truth.boxes.copy()
    image.flags.writeable = truth.boxes.flags.writeable = False
    seen(truth, image, TrainConfig(mosaic=1, mixup=1))
    weak_view(truth, lambda *_: image, RULE, np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(truth.boxes, boxes)
