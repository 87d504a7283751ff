"""Predictions in COCO's results format: the public tools read them and give the same scores."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.evaluation.prediction_files import PredictionFiles
from yolor_edge.evaluation.scores import Predictions, Scores
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.results import Caption, InstanceMasks, Result


def guess(truth: Truth, dataset: CocoDataset, rng: np.random.Generator) -> Result:
    """The truth with boxes and masks that are off, some of another class, and false ones."""
    masks = truth.masks()
    assert truth.boxes is not None and truth.class_ids is not None and masks is not None
    found = []
    for box, class_id, mask in zip(truth.boxes, truth.class_ids, masks, strict=True):
        for _ in range(int(rng.integers(0, 3))):
            shift = rng.integers(-6, 7, 2).tolist()
            moved = np.roll(mask, shift, axis=(0, 1))
            moved_box = np.clip(box + rng.normal(0, 3, 4), 0, np.tile(truth.size[::-1], 2))
            if (moved_box[2:] > moved_box[:2]).all():
                other = int(rng.integers(0, len(dataset.class_names))) if rng.random() < 0.2 else int(class_id)
                found.append((moved_box, other, moved, rng.random()))
    found.sort(key=lambda one: -one[3])
    semantic = truth.semantic_map()
    assert semantic is not None
    semantic = np.where(semantic == 255, 3, np.roll(semantic, 5, axis=1))
    semantic[semantic == 255] = 3
    return Result(
        truth.size,
        boxes=np.array([one[0] for one in found], np.float32).reshape(-1, 4),
        class_ids=np.array([one[1] for one in found], np.int32),
        scores=np.array([one[3] for one in found], np.float32),
        masks=InstanceMasks([(0, 0, one[2].astype(np.uint8)) for one in found], truth.size),
        semantic_map=semantic.astype(np.uint8),
        caption=Caption(f"a photo of {len(found)} things", (), 0.0, 0.0),
    )


@pytest.fixture(scope="module")
def saved(coco_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    """The folder of the guesses on coco-tiny's validation split, and our scores of them."""
    folder = tmp_path_factory.mktemp("saved") / "predictions"
    dataset = CocoDataset.open(coco_tiny, role="val")
    rng = np.random.default_rng(0)
    predictions = Predictions(dataset.class_names, dataset.semantic_names)
    with PredictionFiles(folder, dataset) as files:
        for truth in (dataset[i] for i in range(len(dataset))):
            result = guess(truth, dataset, rng)
            predictions.add(truth, result)
            files.add(truth, result)
        assert not folder.exists()
    return folder, predictions.finish()


@pytest.mark.parametrize(("kind", "prefix"), [("bbox", "box"), ("segm", "mask")])
def test_pycocotools_reads_them_and_gives_the_same_scores(
    coco_tiny: Path, saved: tuple[Path, Scores], kind: Any, prefix: str
) -> None:
    folder, scores = saved
    (annotations,) = (coco_tiny / "annotations").glob("instances_val*.json")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / f"{kind}.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    names += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
    found = [getattr(scores, f"{prefix}_{name}") for name in names]
    assert found == pytest.approx(evaluation.stats.tolist(), abs=1e-12)
    assert 0.02 < found[0] < 0.98


def test_panopticapi_reads_them_and_gives_the_same_quality(coco_tiny: Path, saved: tuple[Path, Scores]) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation")
    folder, scores = saved
    (truth,) = (coco_tiny / "annotations").glob("panoptic_val*.json")
    document = json.loads(truth.read_text())
    categories = {one["id"]: one for one in document["categories"]}
    answers = {one["image_id"]: one for one in json.loads((folder / "panoptic.json").read_text())["annotations"]}
    pairs = [(one, answers[one["image_id"]]) for one in document["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        places = str(truth.with_suffix("")), str(folder / "panoptic")
        counted = evaluation.pq_compute_single_core(0, pairs, *places, categories)
    for group, isthing in (("", None), ("_things", True), ("_stuff", False)):
        expected, _ = counted.pq_average(categories, isthing=isthing)
        for name in ("pq", "sq", "rq"):
            assert getattr(scores, f"{name}{group}") == pytest.approx(expected[name]), name + group
    assert scores.pq is not None
    assert 0.02 < scores.pq < 0.98


def test_captions_and_segments_are_listed_with_the_ids_of_the_data_set(
    coco_tiny: Path, saved: tuple[Path, Scores]
) -> None:
    folder, _ = saved
    dataset = CocoDataset.open(coco_tiny, role="val")
    captions = json.loads((folder / "captions.json").read_text())
    assert [one["image_id"] for one in captions] == [dataset[i].image_id for i in range(len(dataset))]
    assert captions[0]["caption"].startswith("a photo of")
    listed = json.loads((folder / "panoptic.json").read_text())["annotations"]
    assert {one["category_id"] for image in listed for one in image["segments_info"]} <= set(
        dataset.semantic_category_ids
    )
    assert sorted(path.name for path in (folder / "panoptic").iterdir()) == [one["file_name"] for one in listed]


def test_nothing_is_left_of_what_failed_and_nothing_is_written_over(coco_tiny: Path, tmp_path: Path) -> None:
    dataset = CocoDataset.open(coco_tiny, role="val")
    result = Result((1, 1), caption=Caption("a man", (), 0.0, 0.0))
    with pytest.raises(IndexError), PredictionFiles(tmp_path / "out", dataset) as files:
        files.add(dataset[99], result)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with PredictionFiles(tmp_path / "empty", dataset) as files:
        files.add(dataset[0], result)
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["captions.json"]
    with pytest.raises(UsageError, match="empty: exists already; name a new folder"):
        PredictionFiles(tmp_path / "empty", dataset)
    empty = Result((1, 1), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    with PredictionFiles(tmp_path / "none", dataset) as files:
        files.add(dataset[0], empty)
    assert json.loads((tmp_path / "none" / "bbox.json").read_text()) == []
