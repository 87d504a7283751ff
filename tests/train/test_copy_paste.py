"""Pasted objects lie in front: what they hide loses pixels, mask, box and semantic label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import Truth
from yolor_edge.runtime.images.preprocess import PreprocessRule
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.views.compose import strong_view
from yolor_edge.train.views.view import View

from .drawn_pictures import GROUND, IGNORED, OBJECT, ellipse, picture_of, rectangle

SIZE = (192, 256)
RULE = PreprocessRule(input_size=SIZE)
STILL = TrainConfig(mosaic=0, mixup=0, flip=0, scale_range=0, translate=0, color=0, copy_paste=1)
RED, BLUE = (0, 0, 255), (255, 0, 0)  # BGR


def pasted(base: tuple[Truth, np.ndarray], other: tuple[Truth, np.ndarray], seed: int = 0, **changes: object) -> View:
    images = {base[0].image_id: base[1], other[0].image_id: other[1]}
    config = replace(STILL, **changes)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    return strong_view(base[0], lambda _: other[0], lambda truth, _: images[truth.image_id], RULE, config, rng)


def test_a_pasted_object_hides_what_lies_behind() -> None:
    base = picture_of([rectangle(SIZE, 40, 40, 200, 152)], 0, 0, RED)
    other = picture_of([rectangle(SIZE, 120, 20, 240, 180)], 1, 1, BLUE)
    view = pasted(base, other)
    assert view.classes.tolist() == [0, 1]
    np.testing.assert_allclose(view.boxes, [[40, 40, 120, 152], [120, 20, 240, 180]])
    red, blue = (view.image[:, :, channel].reshape(48, 4, 64, 4).mean((1, 3)) for channel in (0, 2))
    np.testing.assert_array_equal(view.masks[0], red)
    np.testing.assert_array_equal(view.masks[1], blue)
    assert (view.semantic[(red == 255) | (blue == 255)] == OBJECT).all()
    assert (view.semantic[(red == 0) & (blue == 0)] == GROUND).all()
    assert view.classes_known.all()


def test_what_is_wholly_hidden_is_gone_and_what_is_nearly_hidden_is_unknown() -> None:
    masks = [rectangle(SIZE, 100, 60, 140, 100), rectangle(SIZE, 38, 60, 80, 100)]
    view = pasted(picture_of(masks, 0, 0, RED), picture_of([rectangle(SIZE, 40, 40, 200, 152)], 1, 1, BLUE))
    assert view.classes.tolist() == [1]
    unknown = np.zeros((48, 64), bool)
    unknown[15:25, 9] = True
    np.testing.assert_array_equal(~view.classes_known, unknown)


def test_the_background_of_a_pasted_object_stays_behind() -> None:
    base = picture_of([rectangle(SIZE, 8, 8, 40, 40)], 0, 0, RED)
    other = picture_of([ellipse(SIZE, 150, 100, 60, 50)], 1, 1, BLUE)
    truth = replace(other[0], semantic=None)  # Its picture has no semantic map, so what it covers is not known.
    view = pasted(base, (truth, other[1]))
    covered = view.masks[1]
    assert (view.semantic[covered > 0] == IGNORED).all()
    assert (view.semantic[covered == 0] != IGNORED).all()
    np.testing.assert_allclose(covered, view.image[:, :, 2].reshape(48, 4, 64, 4).mean((1, 3)), atol=1)


def test_what_lies_on_a_pasted_object_comes_along() -> None:
    large, small = ellipse(SIZE, 120, 100, 70, 60), rectangle(SIZE, 100, 80, 140, 110)
    other = picture_of([large, small], 1, 1, BLUE)
    base = picture_of([rectangle(SIZE, 0, 0, 12, 12)], 0, 0, RED)
    counts = {len(pasted(base, other, seed).classes) for seed in range(12)}
    # The small one alone, or the large one with it; never the large one without.
    assert counts <= {2, 3}
    assert 3 in counts
    for seed in range(12):
        view = pasted(base, other, seed)
        widths = {round(float(box[2] - box[0])) for box in view.boxes[1:]}
        assert widths in ({40}, {40, 140})


def test_objects_without_a_mask_are_not_pasted() -> None:
    base = picture_of([rectangle(SIZE, 40, 40, 200, 152)], 0, 0, RED)
    truth, image = picture_of([rectangle(SIZE, 120, 20, 240, 180)], 1, 1, BLUE)
    view = pasted(base, (replace(truth, segmentations=None), image))
    assert view.classes.tolist() == [0]
    assert not (view.image[:, :, 2] > 0).any()


@pytest.mark.parametrize("hidden", [0.5, 1.0])
def test_a_box_without_a_mask_goes_when_it_is_hidden(hidden: float) -> None:
    truth, image = picture_of([rectangle(SIZE, 40, 40, 140, 140)], 0, 0, RED)
    other = picture_of([rectangle(SIZE, 40, 20, 40 + round(100 * hidden), 180)], 1, 1, BLUE)
    view = pasted((replace(truth, segmentations=None), image), other)
    assert view.classes.tolist() == ([0, 1] if hidden < 1 else [1])
    if hidden < 1:
        np.testing.assert_allclose(view.boxes[0], [40, 40, 140, 140])


def test_plain_epochs_paste_nothing() -> None:
    base = picture_of([rectangle(SIZE, 40, 40, 200, 152)], 0, 0, RED)
    other = picture_of([rectangle(SIZE, 120, 20, 240, 180)], 1, 1, BLUE)
    images = {0: base[1], 1: other[1]}
    rng = np.random.default_rng(0)
    view = strong_view(
        base[0], lambda _: other[0], lambda truth, _: images[truth.image_id], RULE, STILL, rng, plain=True
    )
    assert view.classes.tolist() == [0]
