"""Precision by recall and confusion, beside COCO's own AP at an overlap of 0.5 and by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from yolor_edge.evaluation.dataset.truth import Truth
from yolor_edge.runtime.results import Result
from yolor_edge.train.run_page.detections import Matches

NAMES = ("cat", "dog", "owl")


def truth_of(boxes: Any, classes: Any, crowd: Any = None) -> Truth:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    return Truth(1, Path("a.jpg"), (100, 100), boxes=boxes, class_ids=np.array(classes, np.int64), crowd=crowd)


def result_of(boxes: Any, classes: Any, scores: Any) -> Result:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores, classes = np.array(scores, np.float32), np.array(classes, np.int32)
    order = np.argsort(-scores, kind="stable")
    return Result((100, 100), boxes[order], scores[order], classes[order], class_names=NAMES)


def test_confusion_by_hand() -> None:
    matches = Matches(NAMES)
    cat, dog, far = [0, 0, 10, 10], [40, 40, 60, 60], [80, 80, 90, 90]
    matches.add(
        truth_of([cat, dog, far, [0, 50, 30, 100]], [0, 1, 1, 2], [False, False, False, True]),
        result_of(
            # The cat twice, once rightly; the dog as an owl; the far dog missed; one in the crowd; one out of nothing;
            # one that is too unsure.
            [cat, cat, dog, [0, 55, 10, 65], [60, 0, 70, 10], far],
            [0, 1, 2, 2, 2, 1],
            [0.5, 0.9, 0.8, 0.9, 0.7, 0.1],
        ),
    )
    found = matches.to_json()
    assert found is not None
    assert found["names"] == ["dog", "cat", "others", "nothing"]
    assert found["confusion"] == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]


def test_the_mean_of_the_curve_is_the_average_precision_of_coco() -> None:
    rng = np.random.default_rng(3)
    matches = Matches(NAMES)
    images, wanted, answers = [], [], []
    for image_id in range(1, 13):
        count = int(rng.integers(1, 7))
        corners = rng.uniform(0, 70, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(8, 30, (count, 2))]).astype(np.float32)
        classes, crowd = rng.integers(0, 3, count), rng.random(count) < 0.15
        moved = np.vstack([boxes + rng.normal(0, 2, boxes.shape), boxes[:2] + rng.normal(0, 8, (min(2, count), 4))])
        guessed = np.concatenate([classes, rng.integers(0, 3, min(2, count))])
        scores = rng.random(len(moved))
        matches.add(truth_of(boxes, classes, crowd), result_of(moved, guessed, scores))
        images.append({"id": image_id, "width": 100, "height": 100})
        for box, class_id, is_crowd in zip(boxes, classes, crowd, strict=True):
            x1, y1, x2, y2 = map(float, box)
            shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(is_crowd)}
            wanted.append({"id": len(wanted) + 1, "image_id": image_id, "category_id": int(class_id), **shape})
        for box, class_id, score in zip(moved.astype(np.float32), guessed, scores.astype(np.float32), strict=True):
            x1, y1, x2, y2 = map(float, box)
            shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            one = {"id": len(answers) + 1, "image_id": image_id, "category_id": int(class_id), "score": float(score)}
            answers.append({**one, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (wanted, answers):
            coco: Any = COCO()
            categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
            coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
            coco.createIndex()
            sides.append(coco)
        evaluation: Any = COCOeval(sides[0], sides[1], "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # (recalls, classes) at an overlap of 0.5
    found = matches.to_json()
    assert found is not None
    for class_id, name in enumerate(NAMES):
        np.testing.assert_allclose(found["precision"][name], precision[:, class_id], atol=6e-5)
    np.testing.assert_allclose(found["precision"]["mean"], precision.mean(1), atol=6e-5)
    assert 0.2 < np.mean(found["precision"]["mean"]) < 0.95


def test_without_objects_there_is_nothing_to_show() -> None:
    matches = Matches(NAMES)
    matches.add(truth_of([], []), result_of([[0, 0, 5, 5]], [0], [0.9]))
    matches.add(Truth(2, Path("b.jpg"), (100, 100)), result_of([], [], []))
    assert matches.to_json() is None


def test_many_classes_are_shown_as_the_most_frequent_and_the_others() -> None:
    names = tuple(f"class {i}" for i in range(30))
    matches = Matches(names)
    for class_id in range(30):
        box = [[0, 0, 10, 10]]
        for _ in range(2 if class_id == 7 else 1):
            matches.add(truth_of(box, [class_id]), result_of(box, [class_id], [0.9]))
    found = matches.to_json()
    assert found is not None
    assert found["names"][0] == "class 7" and found["names"][-2:] == ["others", "nothing"]
    assert len(found["names"]) == 22
    assert np.array(found["confusion"]).trace() == np.sum(found["confusion"]) == 31
    assert list(found["precision"])[:2] == ["mean", "class 7"]
    assert found["precision"]["mean"] == pytest.approx([1.0] * 101)
