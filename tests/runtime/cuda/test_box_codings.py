"""Boxes and scores in every coding: the CUDA kernels run on the CPU give the answers of its own kernels, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.images.preprocess import Letterbox

from ..vision.test_box_codings import CODINGS, SIZE, heads_in
from ..vision.test_simd import poisoned
from .emulated import Emulator
from .kernel_calls import Found, found_boxes, mask_tiles


def on_device(
    emulator: Emulator, scores: Any, boxes: Any, placed: Letterbox, rules: dict[str, Any], **more: Any
) -> Found:
    coding = {name: value for name, value in rules.items() if name not in ("strides", "input_size")}
    return found_boxes(emulator, scores, boxes, rules["strides"], placed, **coding, **more)


def assert_same(found: Found, expected: Any, placed: Letterbox) -> None:
    boxes, scores, class_ids, columns = expected
    assert found.summary["kept"] == len(boxes)
    boxes = placed.boxes_to_image(boxes)
    is_visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert found.count == is_visible.sum()
    np.testing.assert_array_equal(found["image_boxes"], boxes[is_visible])
    np.testing.assert_array_equal(found["scores"], scores[is_visible])
    np.testing.assert_array_equal(found["class_ids"], class_ids[is_visible])
    np.testing.assert_array_equal(found.columns, columns[is_visible])


@pytest.mark.parametrize(("box_coding", "score_coding"), CODINGS)
@pytest.mark.parametrize("half", [False, True])
def test_boxes_are_those_of_the_cpu(emulator: Emulator, box_coding: str, score_coding: str, half: bool) -> None:
    placed = Letterbox.of((100, 250), SIZE)
    for seed, odd in ((0, 0.0), (1, 0.02)):
        emulator.set_order(seed)
        scores, boxes, rules = heads_in(seed, box_coding, score_coding)
        generator = np.random.default_rng(seed)
        scores, boxes = poisoned(generator, scores, odd), poisoned(generator, boxes, odd)
        if half:
            with np.errstate(over="ignore"):
                scores, boxes = scores.astype(np.float16), boxes.astype(np.float16)
        for options in (
            {},
            {"score_threshold": 0.001, "iou_threshold": 0.5},
            {"score_threshold": 0.3, "class_agnostic": True},
            {"score_threshold": 0.0, "max_detections": 7},
            {"score_threshold": 0.01, "max_candidates": 33},
            {"score_threshold": 1.0},
        ):
            found = on_device(emulator, scores, boxes, placed, rules, **options)
            assert_same(found, _native.decode_boxes(scores, boxes, **rules, **options), placed)


@pytest.mark.parametrize(("box_coding", "score_coding"), CODINGS)
def test_a_graph_that_chose_cells_and_masks_behind_it(emulator: Emulator, box_coding: str, score_coding: str) -> None:
    placed = Letterbox.of((100, 250), SIZE)
    scores, boxes, rules = heads_in(3, box_coding, score_coding)
    generator = np.random.default_rng(3)
    cells = generator.permutation(scores.shape[1])[:80].astype(np.int32)
    order = np.argsort(cells)
    scores, boxes = np.ascontiguousarray(scores[:, cells]), np.ascontiguousarray(boxes[:, cells])
    expected = _native.decode_boxes(scores[:, order], boxes[:, order], **rules, cells=cells[order])
    found = on_device(emulator, scores, boxes, placed, rules, cells=cells)
    assert found.count > 3
    assert_same(found, (*expected[:3], order[expected[3]]), placed)
    prototypes = generator.normal(0, 1, (5, SIZE[0] // 4, SIZE[1] // 4)).astype(np.float32)
    coefficients = generator.normal(0, 1, (5, len(cells))).astype(np.float32)
    crops = mask_tiles(emulator, found, prototypes, coefficients, placed)
    chosen = np.ascontiguousarray(coefficients[:, found.columns].T)
    masks = _native.mask_crops(prototypes, chosen, found["image_boxes"], placed.image_size, placed.geometry, 4)
    for (y, x, crop), (y0, x0, other) in zip(crops, masks, strict=True):
        assert (y, x) == (y0, x0)
        np.testing.assert_array_equal(crop, other)
