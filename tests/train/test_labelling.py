"""A checkpoint labels images, and a network learns from the labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.labelling import LabelOptions
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.main import main
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.labelling import label_by_checkpoint
from yolor_edge.train.loop import fit
from yolor_edge.train.run_files import LOG
from yolor_edge.train.torch_backend import torch_model

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)


def train(data: Path, out: Path, epochs: int) -> Checkpoint:
    config = TrainConfig(epochs=epochs, batch_size=4, workers=0, amp="off", augment="none", learning_rate=3e-3)
    return fit(data, out, config=config, input_size=SIZE, tasks=("semantic",))


def agreement(checkpoint: Checkpoint, data: CocoDataset) -> float:
    """Share of the labelled pixels that the network of a checkpoint calls the same."""
    with torch_model(checkpoint.network()) as model:
        shares = []
        for i in range(len(data)):
            found = model.predict(data.read(data[i])).semantic_map
            assert found is not None
            shares.append(float((found == data[i].semantic_map()).mean()))
    return float(np.mean(shares))


def test_a_network_learns_from_the_labels_of_another(scenes: Path, tmp_path: Path) -> None:
    teacher = train(scenes, tmp_path / "teacher", 6)
    unlabelled = write_scenes(tmp_path / "unlabelled", count=8, seed=7, size=SIZE) / "train"
    summary = label_by_checkpoint(tmp_path / "teacher", unlabelled, tmp_path / "labelled")
    assert (summary.images, summary.maps, summary.objects, summary.captions) == (8, 8, None, None)
    data = CocoDataset.open(tmp_path / "labelled")
    assert agreement(teacher, data) == 1.0
    assert data.info["labelled_by"] == {
        "kind": "checkpoint",
        "name": "yolor-edge",
        "folder": "checkpoint",
        "sha256": teacher.sha256,
        "licence": "unknown",
    }
    student = train(tmp_path / "labelled", tmp_path / "student", 10)
    lines = (tmp_path / "student" / LOG).read_text(encoding="utf-8").splitlines()
    first, *_, last = (json.loads(line)["losses"]["semantic"] for line in lines)
    assert last < 0.75 * first
    assert student.provenance["data"]["labelled_by"] == data.info["labelled_by"]


def test_the_command_takes_a_checkpoint(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(scenes, tmp_path / "run", 1)
    line = ["label", str(tmp_path / "run"), str(scenes / "train"), "--out"]
    assert main([*line, str(tmp_path / "out"), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["maps"] == 8
    assert main([*line, str(tmp_path / "other"), "--precision", "int8"]) == 2
    assert "is a checkpoint, which runs in torch; --precision is for a bundle" in capsys.readouterr().err


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="doubtful_threshold must be at most score_threshold"):
        LabelOptions(score_threshold=0.3, doubtful_threshold=0.4)
    assert LabelOptions(score_threshold=0.3).least_score == 0.15
