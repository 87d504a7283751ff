"""AP and AR: those of pycocotools on the same detections, and of images drawn several times."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from yolor_edge.evaluation.dataset.segmentations import coco_mask
from yolor_edge.evaluation.detection_scores import DetectionScores, Found, Objects

CLASSES = ("circle", "star", "cross", "ring")
SIZE = (240, 320)
Image = tuple[Objects, Found]


def random_images(seed: int, count: int = 12, masks: bool = False) -> list[Image]:
    """Objects of all sizes, crowds, boxes that stick out of the image, near misses, equal scores, wrong classes."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        n = int(rng.integers(0, 9))
        boxes = np.column_stack([rng.uniform(-20, 250, n), rng.uniform(-20, 180, n), rng.uniform(4, 150, (n, 2))])
        class_ids = rng.integers(0, 3, n)
        again = np.repeat(np.arange(n), rng.integers(0, 4, n))
        found = boxes[again] + rng.normal(0, 0.08, (len(again), 4)) * boxes[again][:, [2, 3, 2, 3]]
        alarms = np.column_stack([rng.uniform(0, 250, 30), rng.uniform(0, 180, 30), rng.uniform(4, 150, (30, 2))])
        found = np.concatenate([found, alarms])
        found[:, 2:] = np.abs(found[:, 2:]) + 1
        found_ids = np.concatenate([class_ids[again], rng.integers(0, 4, 30)])
        scores = np.round(rng.uniform(0, 1, len(found)), 1).astype(np.float32)  # many are equal
        crowd = rng.random(n) < 0.15
        if masks:
            wanted, answers = rles_of(boxes), rles_of(found)
            areas, sizes = (coco_mask.area(one).astype(np.float64) for one in (wanted, answers))
        else:
            wanted, answers = boxes, found
            areas, sizes = (one[:, 2] * one[:, 3] for one in (boxes, found))
        images.append((Objects(wanted, class_ids, crowd, areas), Found(answers, found_ids, scores, sizes)))
    return images


def rles_of(boxes: np.ndarray) -> list[dict[str, Any]]:
    """An ellipse in each box."""
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    masks = [
        (((x + 0.5 - bx) / bw * 2 - 1) ** 2 + ((y + 0.5 - by) / bh * 2 - 1) ** 2 < 1).astype(np.uint8)
        for bx, by, bw, bh in boxes.tolist()
    ]
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]


def ours(images: list[Image]) -> DetectionScores:
    scores = DetectionScores(CLASSES)
    for truth, found in images:
        scores.add(truth, found)
    return scores


def theirs(images: list[Image], kind: Literal["bbox", "segm"]) -> COCOeval:
    key = {"bbox": "bbox", "segm": "segmentation"}[kind]
    shape: Any
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (objects, found) in enumerate(images, 1):
        for i, shape in enumerate(objects.shapes):
            annotation = {"iscrowd": int(objects.crowd[i]), "area": float(objects.areas[i]), "id": len(truth) + 1}
            shape = shape.tolist() if kind == "bbox" else shape
            truth.append({**annotation, key: shape, "image_id": image_id, "category_id": int(objects.class_ids[i])})
        for i, shape in enumerate(found.shapes):
            shape = shape.tolist() if kind == "bbox" else shape
            answer = {"score": float(found.scores[i]), "category_id": int(found.class_ids[i])}
            results.append({**answer, key: shape, "image_id": image_id})
    coco: Any = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.dataset = {
            "images": [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(images))],
            "annotations": truth,
            "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NAMES += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_every_figure_is_that_of_pycocotools(seed: int, kind: Literal["bbox", "segm"]) -> None:
    images = random_images(seed, masks=kind == "segm")
    figures = ours(images).figures("box")
    expected = theirs(images, kind)
    for name, value in zip(NAMES, expected.stats, strict=True):
        assert figures[f"box_{name}"] == pytest.approx(value, abs=1e-12), name
    precision, recall = expected.eval["precision"][:, :, :, 0, -1], expected.eval["recall"][:, :, 0, -1]
    for k, name in enumerate(CLASSES):
        if recall[:, k].min() >= 0:
            assert figures["box_ap_by_class"][name] == pytest.approx(precision[:, :, k].mean(), abs=1e-12)
            assert figures["box_ar_by_class"][name] == pytest.approx(recall[:, k].mean(), abs=1e-12)
        else:
            assert name not in figures["box_ap_by_class"]


def test_more_than_a_hundred_of_a_class_in_an_image() -> None:
    truth, found = random_images(1, 1)[0]
    rows = np.tile(np.arange(len(found.scores)), 8)
    many = Found(np.asarray(found.shapes)[rows], np.zeros(len(rows), int), found.scores[rows], found.areas[rows])
    assert len(rows) > 200
    expected = theirs([(truth, many)], "bbox").stats
    figures = ours([(truth, many)]).figures("box")
    assert [figures[f"box_{name}"] or 0 for name in NAMES] == pytest.approx(np.maximum(expected, 0).tolist(), abs=1e-12)


def test_a_figure_without_an_object_is_none() -> None:
    truth = Objects(np.array([[0.0, 0, 10, 10]]), np.array([1]), np.array([False]), np.array([100.0]))
    nothing = Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, np.float32), np.zeros(0))
    figures = ours([(truth, nothing)]).figures("mask")
    assert (figures["mask_ap"], figures["mask_ar100"], figures["mask_ap_small"]) == (0, 0, 0)
    assert (figures["mask_ap_large"], figures["mask_ar_medium"]) == (None, None)
    assert figures["mask_ap_by_class"] == {"star": 0}
    empty = Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
    assert ours([(empty, nothing)]).figures("mask") == ours([]).figures("mask") == {}


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_images_drawn_several_times(seed: int) -> None:
    images = random_images(seed, 15)
    scores = ours(images)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.ones(15, int), *(np.bincount(rng.integers(0, 15, 15), minlength=15) for _ in range(4))])
    expected = [ours([images[i] for i in np.repeat(np.arange(15), one)]).figures("box")["box_ap"] for one in weights]
    # Equal scores of two copies of an image come in another order than their weight counts them in, so that only
    # distinct scores agree to rounding; here many are equal.
    found = scores.resampled_ap(weights)
    assert found[0] == pytest.approx(scores.figures("box")["box_ap"], abs=1e-9)
    assert found.tolist() == pytest.approx(expected, abs=0.02)
    none = [i for i, (truth, _) in enumerate(images) if not (~truth.crowd).any()]
    alone = np.zeros((1, 15), int)
    alone[0, none] = 1
    assert np.isnan(scores.resampled_ap(alone)).all()


def test_ap_of_images_drawn_several_times_with_distinct_scores() -> None:
    rng = np.random.default_rng(7)
    images = []
    for truth, found in random_images(5, 15):
        scores = rng.random(len(found.scores)).astype(np.float32)
        images.append((truth, Found(found.shapes, found.class_ids, scores, found.areas)))
    weights = np.stack([np.bincount(rng.integers(0, 15, 15), minlength=15) for _ in range(5)])
    expected = [ours([images[i] for i in np.repeat(np.arange(15), one)]).figures("box")["box_ap"] for one in weights]
    # A copy of a right detection comes with a recall of its own in between, which weights skip.
    assert ours(images).resampled_ap(weights).tolist() == pytest.approx(expected, abs=2e-3)
