"""Scores of checkpoints and bundles through the one pipeline that ships, and what cannot be scored."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.dataset.segmentations import masks_from_rles
from yolor_edge.evaluation.dataset.truth import Truth
from yolor_edge.evaluation.evaluator import PLAIN, Evaluation, evaluate, score_model
from yolor_edge.runtime.bundle.spec import ModelSpec
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import BundleError, CheckpointError, DatasetError, UsageError
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.options import LoadOptions
from yolor_edge.runtime.results import Caption, InstanceMasks, Result
from yolor_edge.train.checkpoint import write_checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.scoring import evaluate_checkpoint, score_network
from yolor_edge.train.torch_backend import spec_of, torch_model

from ..train.tiny_network import tiny_network

if TYPE_CHECKING:
    from ..export.exported import Exported

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = CaptionOptions(beam_size=1)


@pytest.fixture(scope="module")
def of_checkpoint(exported: Exported) -> Evaluation:
    return evaluate_checkpoint(exported.checkpoint.path, exported.data, caption=GREEDY)


@pytest.fixture
def own_scenes(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the scenes that the test may spoil."""
    return Path(shutil.copytree(exported.data, tmp_path / "scenes"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def annotation_files(data: Path) -> list[Path]:
    return sorted((data / "annotations").glob("*.json"))


class TruthTeller:
    """Stands in for a model: it answers with the truth of the images, asked in their order."""

    def __init__(self, spec: ModelSpec, dataset: CocoDataset, captions: list[str] | None = None) -> None:
        self.spec = spec
        self.asked: list[dict[str, Any]] = []
        self._truths = [dataset[i] for i in range(len(dataset))]
        self._captions = captions

    def predict(self, image: np.ndarray, tasks: list[str], **options: Any) -> Result:
        index = len(self.asked)
        self.asked.append({"tasks": tasks, **options})
        truth: Truth = self._truths[index]
        assert image.shape[:2] == truth.size
        found: dict[str, Any] = {}
        if "boxes" in tasks and truth.boxes is not None and truth.class_ids is not None:
            found = {
                "boxes": truth.boxes,
                "scores": np.ones(len(truth.boxes), np.float32),
                "class_ids": truth.class_ids.astype(np.int32),
            }
        if "masks" in tasks and truth.rles is not None:
            masks = masks_from_rles([rle for rle in truth.rles if rle is not None], truth.size)
            found["masks"] = InstanceMasks([(0, 0, mask.astype(np.uint8)) for mask in masks], truth.size)
        if "semantic" in tasks:
            found["semantic_map"] = truth.semantic_map()
        if "caption" in tasks:
            text = self._captions[index] if self._captions else (truth.captions or ("",))[0]
            found["caption"] = Caption(text, (4,), -1.0, -1.0)
        return Result(truth.size, **found)


def truth_teller(data: Path, captions: list[str] | None = None) -> tuple[TruthTeller, CocoDataset]:
    dataset = CocoDataset.open(data)
    spec = spec_of(describe_network(dataset, "n", TrainConfig(), (64, 96), None, "truth"))
    return TruthTeller(spec, dataset, captions), dataset


# Scores.


def test_a_checkpoint_and_its_bundle_score_the_same(exported: Exported, of_checkpoint: Evaluation) -> None:
    of_bundle = evaluate(exported.bundle.path, exported.data, load=LoadOptions(threads=1), caption=GREEDY)
    expected, found = of_checkpoint.to_json(), of_bundle.to_json()
    assert (expected.pop("model"), found.pop("model")) == (str(exported.checkpoint.path), str(exported.bundle.path))
    assert found["data"] == expected["data"] == str(exported.data)
    assert found["split"] == "train"
    assert found["caption_facts"] == expected["caption_facts"]
    scores, others = expected["scores"], found["scores"]
    assert scores.keys() == others.keys()
    assert scores["images"] == 4
    assert scores["images_by_task"] == dict.fromkeys(("boxes", "masks", "semantic", "panoptic", "caption"), 4)
    intervals, other_intervals = scores.pop("intervals"), others.pop("intervals")
    for name, ends in intervals.items():
        assert other_intervals[name] == pytest.approx(ends, abs=1e-6), name
    for name, value in scores.items():
        assert others[name] == pytest.approx(value, abs=1e-6), name
    assert scores["pixel_accuracy"] > 0
    assert all(scores[name] is not None for name in ("box_ap", "mask_ap", "miou", "bleu4", "cider"))


def test_a_network_scores_as_its_checkpoint_does(exported: Exported) -> None:
    network = exported.checkpoint.network()
    dataset = CocoDataset.open(exported.data)
    found = score_network(network, dataset)
    expected = evaluate_checkpoint(exported.checkpoint.path, exported.data, options=PLAIN)
    assert found.model == "random"
    assert dataclasses.replace(found, model=expected.model) == expected
    assert not network.training


def test_a_run_is_taken_for_the_checkpoint_in_it(exported: Exported, of_checkpoint: Evaluation) -> None:
    run = exported.checkpoint.path.parent
    found = evaluate_checkpoint(run, exported.data, limit=1, caption=GREEDY)
    assert found.model == str(run)
    assert found.scores.images == 1


def test_the_truth_itself_scores_one(scenes: Path) -> None:
    teller, dataset = truth_teller(scenes)
    found = score_model(cast(Model, teller), dataset)
    scores = found.scores
    assert (scores.box_ap, scores.mask_ap, scores.miou, scores.fwiou) == pytest.approx((1, 1, 1, 1))
    assert scores.bleu4 == pytest.approx(1)
    assert found.model == "truth"
    assert found.facts is not None
    assert (found.facts.images, found.facts.names_largest, found.facts.states_true_relation) == (8, 1.0, 1.0)


def test_next_to_no_box_is_cut_off_and_the_search_is_as_asked(scenes: Path) -> None:
    teller, dataset = truth_teller(scenes)
    score_model(cast(Model, teller), dataset, limit=1, caption=GREEDY)
    (asked,) = teller.asked
    assert asked == {
        "tasks": ["boxes", "masks", "semantic", "caption"],
        "score_threshold": 0.001,
        "caption": GREEDY,
    }


def test_the_first_images_alone(scenes: Path) -> None:
    teller, dataset = truth_teller(scenes)
    steps: list[tuple[int, int]] = []
    found = score_model(cast(Model, teller), dataset, limit=3, progress=lambda _, done, of: steps.append((done, of)))
    assert found.scores.images == len(teller.asked) == 3
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert found.facts is not None
    assert found.facts.images == 3


def test_a_limit_above_the_number_of_images_is_no_limit(scenes: Path) -> None:
    teller, dataset = truth_teller(scenes)
    steps: list[tuple[int, int]] = []
    score_model(cast(Model, teller), dataset, limit=99, progress=lambda _, done, of: steps.append((done, of)))
    assert steps == [(i, 8) for i in range(1, 9)]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_must_be_positive(exported: Exported, limit: int) -> None:
    with pytest.raises(UsageError, match=f"limit must be at least 1, got {limit}"):
        evaluate_checkpoint(exported.checkpoint.path, exported.data, limit=limit)


def test_a_bundle_is_scored_without_torch(exported: Exported) -> None:
    code = (
        "import sys\n"
        "from yolor_edge.evaluation import evaluate\n"
        "from yolor_edge.runtime import LoadOptions\n"
        "found = evaluate(sys.argv[1], sys.argv[2], limit=1, load=LoadOptions(threads=1))\n"
        "print(found.scores.images, sorted({'torch', 'onnx', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(exported.bundle.path), str(exported.data)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout == "1 []\n"


def test_the_search_options_reach_the_decoder(exported: Exported) -> None:
    with pytest.raises(UsageError, match="beam_size must be from 1 to"):
        evaluate(exported.bundle.path, exported.data, caption=CaptionOptions(beam_size=1000))
    with pytest.raises(UsageError, match="caption_decoder must be one of native, native-int8, graph"):
        evaluate(exported.bundle.path, exported.data, load=LoadOptions(caption_decoder="python"))


# What captions of scenes say.


def test_captions_that_did_not_look(scenes: Path) -> None:
    teller, dataset = truth_teller(scenes, ["a thing on something"] * 8)
    found = score_model(cast(Model, teller), dataset)
    assert found.facts is not None
    assert (found.facts.images, found.facts.names_largest, found.facts.states_true_relation) == (8, 0.0, 0.0)


def test_shares_are_of_the_captions_judged(scenes: Path) -> None:
    """Of four captions three name the largest object, and two of those say no more."""
    teller, dataset = truth_teller(scenes)
    captions = [(dataset[i].captions or ("",))[0] for i in range(4)]
    named = [" ".join(caption.split()[1:3]) for caption in captions]
    teller, dataset = truth_teller(scenes, [captions[0], named[1], named[2], "nothing"])
    facts = score_model(cast(Model, teller), dataset, limit=4).facts
    assert facts is not None
    assert (facts.names_largest, facts.states_true_relation) == (0.75, 0.25)
    assert facts.table().endswith("4 images  largest object named 75.0%  true relation stated 25.0%")


def test_facts_stand_in_table_and_json(of_checkpoint: Evaluation) -> None:
    assert of_checkpoint.facts is not None
    tasks = [line.split()[0] for line in of_checkpoint.table().splitlines() if not line.startswith(" ")]
    assert tasks == ["boxes", "masks", "semantic", "panoptic", "caption", "caption"]
    assert [line.split()[0] for line in str(of_checkpoint).splitlines()] == tasks
    data = json.loads(json.dumps(of_checkpoint.to_json()))
    assert data["caption_facts"] == dataclasses.asdict(of_checkpoint.facts)
    data["caption_facts"]["images"] = 0
    assert of_checkpoint.facts.images == 4


def test_only_scenes_have_facts(own_scenes: Path) -> None:
    for file in annotation_files(own_scenes):
        edit(file, info={"description": "photographs"})
    teller, dataset = truth_teller(own_scenes)
    found = score_model(cast(Model, teller), dataset)
    assert found.facts is None
    assert found.to_json()["caption_facts"] is None
    assert found.scores.bleu4 == pytest.approx(1)
    assert "true relation" not in found.table()


@pytest.mark.parametrize("kind", ["captions", "panoptic", "instances"])
def test_scenes_that_lack_a_kind_of_truth(exported: Exported, own_scenes: Path, kind: str) -> None:
    """That task is left out of the scores, and facts go where captions or what judges them are not there."""
    (own_scenes / "annotations" / f"{kind}_train.json").unlink()
    scores = evaluate_checkpoint(exported.checkpoint.path, own_scenes, limit=2, caption=GREEDY)
    assert scores.facts is None
    assert (scores.scores.bleu4 is None) == (kind == "captions")
    assert (scores.scores.miou is None) == (kind == "panoptic")
    assert (scores.scores.box_ap is None) == (kind == "instances")


def test_a_model_without_captions_has_no_facts(scenes: Path) -> None:
    dataset = CocoDataset.open(scenes)
    config = describe_network(dataset, "n", TrainConfig(), (64, 96), ("semantic",), "one head")
    with torch_model(tiny_network(**vars(config))) as model:
        found = score_model(model, dataset, limit=2)
    assert found.facts is None
    assert found.scores.miou is not None
    assert (found.scores.box_ap, found.scores.bleu4) == (None, None)
    assert found.table().startswith("semantic")


# What cannot be scored.


def test_other_classes_are_refused(exported: Exported, own_scenes: Path) -> None:
    for file in annotation_files(own_scenes):
        categories = json.loads(file.read_text(encoding="utf-8")).get("categories")
        if categories:
            edit(file, categories=[{**one, "name": one["name"].replace("star", "moon")} for one in categories])
    message = "the first that differs is class 3: 'moon' in the data set, 'star' in the network"
    with pytest.raises(DatasetError, match=message):
        evaluate_checkpoint(exported.checkpoint.path, own_scenes)
    with pytest.raises(DatasetError, match=message):
        evaluate(exported.bundle.path, own_scenes)


def test_another_number_of_classes_is_refused(scenes: Path) -> None:
    with torch_model(tiny_network(tasks=("boxes",))) as model, pytest.raises(DatasetError, match=r"8 .*, .* 3"):
        score_model(model, CocoDataset.open(scenes))


def test_nothing_in_common_is_refused(own_scenes: Path) -> None:
    for kind in ("instances", "panoptic"):
        (own_scenes / "annotations" / f"{kind}_train.json").unlink()
    with torch_model(tiny_network(tasks=("boxes",))) as model, pytest.raises(UsageError) as caught:
        score_model(model, CocoDataset.open(own_scenes))
    assert str(caught.value) == (
        f"{own_scenes} (train): has truth for caption, the model answers boxes; nothing to score"
    )


def test_a_checkpoint_is_no_bundle(exported: Exported) -> None:
    with pytest.raises(BundleError, match="is a checkpoint; make a bundle of it: yolor-edge export"):
        evaluate(exported.checkpoint.path, exported.data)


def test_a_spoilt_model_is_named(exported: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported.bundle.path, tmp_path / "bundle"))
    (bundle / "caption_step.fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"caption_step\.fp32\.onnx is missing"):
        evaluate(bundle, exported.data)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_network(tasks=("boxes",)), {})
    (checkpoint.path / "network.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"network\.safetensors: has SHA-256"):
        evaluate_checkpoint(checkpoint.path, exported.data)


def test_a_data_set_that_is_none(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        evaluate(exported.bundle.path, tmp_path)
    with pytest.raises(DatasetError, match="val"):
        evaluate(exported.bundle.path, exported.data, split="val")
