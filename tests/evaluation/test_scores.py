"""The scores: the truth scores 1, what is wrong costs what it should, and tasks without truth are None."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.evaluation.dataset.segmentations import coco_mask
from yolor_edge.evaluation.scores import Predictions, Scores, score_dataset
from yolor_edge.runtime.results import Caption, InstanceMasks, Result

SIZE = (40, 60)
CLASSES = ("circle", "star")
SEMANTIC = ("circle", "star", "grass")


def perfect_result(truth: Truth) -> Result:
    """The truth of an image as if it had been predicted: no crowds, and the first of its captions."""
    fields: dict[str, Any] = {}
    if truth.boxes is not None and truth.class_ids is not None and truth.crowd is not None:
        kept = ~truth.crowd
        fields["boxes"] = truth.boxes[kept]
        fields["class_ids"] = truth.class_ids[kept].astype(np.int32)
        fields["scores"] = np.ones(int(kept.sum()), np.float32)
        masks = truth.masks()
        if masks is not None:
            fields["masks"] = InstanceMasks(
                [(0, 0, mask.astype(np.uint8)) for mask in masks[kept]], image_size=truth.size
            )
    semantic = truth.semantic_map()
    if semantic is not None:
        fields["semantic_map"] = np.where(semantic == 255, 0, semantic)
    if truth.captions:
        fields["caption"] = Caption(truth.captions[0], (), 0.0, 0.0)
    return Result(image_size=truth.size, **fields)


class FixedMap:
    """A semantic truth that is already in memory."""

    def __init__(self, semantic: np.ndarray) -> None:
        self.semantic = semantic

    def read(self, size: tuple[int, int]) -> np.ndarray:
        assert self.semantic.shape == size
        return self.semantic


def truth_of(boxes: list[list[float]], class_ids: list[int], crowd: list[bool] | None = None, **fields: Any) -> Truth:
    """An image of `SIZE` with these boxes; each mask fills its box."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    rles = []
    for x1, y1, x2, y2 in array.astype(int):
        mask = np.zeros(SIZE, np.uint8, order="F")
        mask[y1:y2, x1:x2] = 1
        rles.append({"size": list(SIZE), "counts": coco_mask.encode(mask)["counts"].decode()})
    return Truth(
        image_id=1,
        path=Path("1.png"),
        size=SIZE,
        boxes=array,
        class_ids=np.array(class_ids, np.int64),
        crowd=np.array(crowd or [False] * len(boxes), bool),
        areas=np.prod(array[:, 2:] - array[:, :2], axis=1),
        segmentations=tuple(rles),
        **fields,
    )


def score(*pairs: tuple[Truth, Result]) -> Scores:
    predictions = Predictions(CLASSES, SEMANTIC)
    for truth, result in pairs:
        predictions.add(truth, result)
    return predictions.finish()


ONE = [[2.0, 3.0, 22.0, 33.0]]
TWO = [*ONE, [30.0, 5.0, 50.0, 35.0]]


def test_the_truth_of_coco_tiny_scores_one(coco_tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = CocoDataset.open(coco_tiny, role="val")
    train = CocoDataset.open(coco_tiny, role="train")
    predictions = Predictions(dataset.class_names, dataset.semantic_names)
    with_crowd = [t for t in (train[i] for i in range(80)) if t.crowd is not None and t.crowd.any()]
    for truth in [*(dataset[i] for i in range(20)), *with_crowd]:
        predictions.add(truth, perfect_result(truth))
    scores = predictions.finish()
    for name in ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "miou", "fwiou", "pixel_accuracy"):
        assert getattr(scores, name) == pytest.approx(1.0, abs=1e-12), name
    assert scores.bleu4 == pytest.approx(1.0)
    assert scores.cider is not None
    assert scores.cider > 1
    assert scores.images == 25
    assert set(scores.images_by_task.values()) == {25}
    assert min(scores.box_ap_by_class.values()) == pytest.approx(1.0)
    assert capsys.readouterr().out == ""


def test_score_dataset_reads_predicts_and_reports(coco_tiny: Path) -> None:
    dataset = CocoDataset.open(coco_tiny, role="val")
    seen: list[int] = []

    def predict(images: list[np.ndarray]) -> list[Result]:
        assert len(images) in (8, 4)
        caption = Caption("a man", (), 0.0, 0.0)
        return [Result(image_size=(image.shape[0], image.shape[1]), caption=caption) for image in images]

    scores = score_dataset(dataset, predict, lambda done, truth, result: seen.append(done), batch=8)
    assert seen == list(range(1, 21))
    assert scores.bleu4 is not None
    assert 0 < scores.bleu4 < 0.2
    assert (scores.box_ap, scores.mask_ap, scores.miou) == (None, None, None)
    assert scores.images_by_task == {"boxes": 0, "masks": 0, "semantic": 0, "panoptic": 0, "caption": 20}


def test_a_missed_object_halves_ap() -> None:
    truth = truth_of(TWO, [0, 0])
    result = perfect_result(truth_of(ONE, [0]))
    scores = score((truth, result))
    # Recall reaches 0.5: precision is 1 at 51 of COCO's 101 recall thresholds.
    assert scores.box_ap == pytest.approx(51 / 101)
    assert scores.mask_ap == pytest.approx(51 / 101)
    assert scores.box_ap_by_class == {"circle": pytest.approx(51 / 101)}


def test_a_false_alarm_costs_by_its_rank_also_in_an_image_without_objects() -> None:
    truth, negative = truth_of(ONE, [0]), truth_of([], [])
    for alarm_score, expected in ((0.9, 0.5), (0.1, 1.0)):
        hit = dataclasses.replace(perfect_result(truth), scores=np.array([0.5], np.float32))
        alarm = dataclasses.replace(perfect_result(truth), scores=np.array([alarm_score], np.float32))
        scores = score((truth, hit), (negative, alarm))
        assert scores.box_ap == pytest.approx(expected)
        assert scores.mask_ap == pytest.approx(expected)
        assert scores.images_by_task["boxes"] == 2


def test_a_box_that_is_off_fails_the_high_iou_thresholds() -> None:
    truth = truth_of([[0.0, 0.0, 20.0, 20.0]], [1])
    result = perfect_result(truth_of([[0.0, 0.0, 20.0, 16.0]], [1]))  # IoU 0.8
    scores = score((truth, result))
    assert scores.box_ap == pytest.approx(0.7)  # right at 0.50, 0.55, ... 0.80
    assert (scores.box_ap50, scores.box_ap75) == (pytest.approx(1), pytest.approx(1))
    assert scores.mask_ap == pytest.approx(0.7)
    assert scores.box_ap_small == pytest.approx(0.7)
    assert (scores.box_ap_medium, scores.box_ap_large) == (None, None)


def test_a_box_that_sticks_out_of_the_image_is_scored_as_it_was_annotated() -> None:
    truth = truth_of([[40.0, 0.0, 60.0, 20.0]], [0])
    result = perfect_result(truth)
    assert score((truth, result)).box_ap == pytest.approx(1.0)
    truth = dataclasses.replace(truth, annotated_boxes=np.array([[40.0, 0.0, 32.0, 20.0]]))  # IoU 20 / 32
    assert score((truth, result)).box_ap == pytest.approx(0.3)


def test_intervals_hold_the_scores_and_narrow_with_more_images() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for images in (10, 160):
        predictions = Predictions(CLASSES, SEMANTIC)
        for _ in range(images):
            expected = rng.integers(0, 3, SIZE).astype(np.uint8)
            predicted = np.where(rng.random(SIZE) < rng.uniform(0.5, 1), expected, 2).astype(np.uint8)
            truth = truth_of(TWO, [0, 1], captions=("a star on grass", "one circle"), semantic=FixedMap(expected))
            result = perfect_result(truth)
            kept = rng.random(2) < 0.7
            result = dataclasses.replace(result[kept], semantic_map=predicted)
            predictions.add(truth, result)
        scores = predictions.finish(200)
        assert set(scores.intervals) >= {"box_ap", "mask_ap", "miou", "bleu4", "cider", "rouge_l_ptb"}
        for name, (low, high) in scores.intervals.items():
            assert low <= getattr(scores, name) <= high, name
        assert predictions.finish(200) == scores
        assert predictions.finish(200, seed=1).intervals != scores.intervals
        assert predictions.finish().intervals == {}
        assert f"AP {scores.box_ap:.3f} ({scores.intervals['box_ap'][0]:.3f} to " in scores.table(brief=True)
        widths.append([scores.intervals[name][1] - scores.intervals[name][0] for name in ("box_ap", "miou")])
    assert (np.array(widths[1]) < 0.6 * np.array(widths[0])).all()


def test_the_wrong_class_finds_nothing() -> None:
    scores = score((truth_of(ONE, [0]), perfect_result(truth_of(ONE, [1]))))
    assert scores.box_ap == 0.0
    assert scores.box_ap_by_class == {"circle": 0.0}


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    truth = truth_of(TWO, [0, 0], [False, True])
    everything = perfect_result(truth_of([*TWO, [32.0, 8.0, 40.0, 20.0]], [0, 0, 0]))
    scores = score((truth, everything))
    assert scores.box_ap == pytest.approx(1.0)
    assert scores.mask_ap == pytest.approx(1.0)


def test_images_without_a_kind_of_truth_do_not_count_for_it() -> None:
    full = truth_of(ONE, [0], captions=("a circle",))
    unknown = Truth(image_id=2, path=Path("2.png"), size=SIZE)
    maskless = dataclasses.replace(full, segmentations=None, captions=None)
    alarm = dataclasses.replace(perfect_result(full), scores=np.array([1.0], np.float32))
    scores = score((full, perfect_result(full)), (unknown, alarm), (maskless, perfect_result(maskless)))
    assert scores.images_by_task == {"boxes": 2, "masks": 1, "semantic": 0, "panoptic": 0, "caption": 1}
    assert (scores.box_ap, scores.mask_ap) == (pytest.approx(1), pytest.approx(1))
    assert scores.bleu1 == pytest.approx(1.0)
    assert scores.cider == 0.0  # one image has no rare words


def test_no_objects_at_all_have_no_ap() -> None:
    truth = truth_of([], [])
    scores = score((truth, perfect_result(truth)))
    assert (scores.box_ap, scores.mask_ap, scores.images_by_task["boxes"]) == (None, None, 1)
    assert score().table() == "nothing to score in 0 images"


def test_semantic_scores_by_hand() -> None:
    expected = np.full(SIZE, 255, np.uint8)
    expected[0, :10] = 0
    expected[1, :30] = 2
    predicted = np.full(SIZE, 1, np.uint8)  # what is predicted where there is no truth does not count
    predicted[0, :10] = [0] * 8 + [2] * 2
    predicted[1, :30] = [2] * 24 + [1] * 6
    truth = truth_of([], [], semantic=FixedMap(expected))
    scores = score((truth, Result(image_size=SIZE, semantic_map=predicted)))
    circle, grass = 8 / 10, 24 / 32
    assert scores.iou_by_class == {"circle": pytest.approx(circle), "grass": pytest.approx(grass)}
    assert scores.miou == pytest.approx((circle + grass) / 2)  # the star is not in the truth
    assert scores.fwiou == pytest.approx((10 * circle + 30 * grass) / 40)
    assert scores.pixel_accuracy == pytest.approx(32 / 40)


def test_captions_are_compared_as_normalised_words() -> None:
    truth = truth_of([], [], captions=("A red STAR, on grass.",))
    result = Result(image_size=SIZE, caption=Caption("a red star on grass", (), 0.0, 0.0))
    assert score((truth, result)).bleu4 == pytest.approx(1.0)


def test_json_and_table() -> None:
    truth = truth_of(ONE, [0], captions=("a circle on the grass",))
    scores = score((truth, perfect_result(truth)))
    document = json.loads(json.dumps(scores.to_json()))
    assert document["box_ap"] == pytest.approx(1.0)
    assert document["miou"] is None
    assert document["images_by_task"]["masks"] == 1
    lines = scores.table().splitlines()
    tasks = [line.split()[:3] for line in lines if not line.startswith(" ")]
    assert tasks == [[task, "1", "images"] for task in ("boxes", "masks", "caption")]
    assert "AP 1.000" in lines[0]
    assert "large -" in lines[0]
    assert lines[1].startswith(" " * 23 + "AR100 1.000")
    assert lines[-1].lstrip().startswith("in COCO's words: BLEU-4 1.000")


def test_a_result_that_does_not_belong_to_its_truth_is_refused() -> None:
    truth = truth_of(ONE, [0])
    with pytest.raises(ValueError, match=r"image 1 is .* its result is of"):
        score((truth, Result(image_size=(9, 9))))
    with pytest.raises(ValueError, match=r"image 1: class_ids must be in 0\.\.1, got 2\.\.2"):
        score((truth, perfect_result(truth_of(ONE, [2]))))
    semantic = truth_of([], [], semantic=FixedMap(np.zeros(SIZE, np.uint8)))
    with pytest.raises(ValueError, match=r"semantic_map must be in 0\.\.2, got 3\.\.3"):
        score((semantic, Result(image_size=SIZE, semantic_map=np.full(SIZE, 3, np.uint8))))
    with pytest.raises(ValueError, match=r"semantic_map must have shape \(40, 60\), got \(4, 4\)"):
        score((semantic, Result(image_size=SIZE, semantic_map=np.zeros((4, 4), np.uint8))))
