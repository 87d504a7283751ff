"""Two and four processes train as one does with the same batches: losses, weights, scores; and what goes wrong."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.evaluator import Evaluation
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.runtime.errors import YolorEdgeError
from yolor_edge.train import distributed
from yolor_edge.train.batches import training_loader
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.network.any_network import network_of
from yolor_edge.train.network.caption_decoder import Attention
from yolor_edge.train.network.config import Task
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.run_files import RUN as RUN_FILE
from yolor_edge.train.run_files import read_log
from yolor_edge.train.scoring import score_network
from yolor_edge.train.trainer import Trainer

from .processes import in_processes

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
Epoch = tuple[list[dict[str, float]], dict[str, dict[str, Tensor]]]
"""The losses of each step, and weights before and after it all, of network and average."""
TRAIN = TrainConfig(
    epochs=2, batch_size=3, workers=0, plain_epochs=1, captions_per_image=2, amp="off", learning_rate=2e-5
)


def without_dropout(network: nn.Module) -> None:
    """What is dropped is drawn anew in each process, so that it never is the same in several as in one."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, Attention):
            module.dropout = 0.0  # pyright: ignore[reportArgumentType]


def an_epoch(data: Path, config: TrainConfig, tasks: tuple[Task, ...] | None) -> Epoch:
    """The losses of each step, and the weights at the end."""
    dataset = CocoDataset.open(data)
    network = describe_network(dataset, "n", config, SIZE, tasks, "tiny")
    trainer = Trainer(network, config, steps=6, device=torch.device("cpu"))
    without_dropout(trainer.network)
    trainer.train_mode()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    losses = []
    batches = list(training_loader(dataset, network, config)[0])
    for i in range(0, len(batches), config.accumulate):
        found = trainer.step(*batches[i : i + config.accumulate], measure=True)  # type: ignore[arg-type]
        found |= {f"gradient of {task}": norm for task, norm in trainer.gradient_norms.items()}
        losses.append({name: value.item() for name, value in found.items()})
    return losses, {"before": before, "network": trainer.network.state_dict(), "average": trainer.average.state_dict()}


def assert_same_training(found: Epoch, expected: Epoch) -> None:
    """To rounding, which AdamW makes large where a gradient is next to 0: there its step is as long as any."""
    for step, (own, wanted) in enumerate(zip(found[0], expected[0], strict=True)):
        assert {name for name in own if own[name]} == {name for name in wanted if wanted[name]}
        for name, value in wanted.items():
            tolerance = 1e-2 if name.startswith("gradient") else 1e-4
            assert own[name] == pytest.approx(value, rel=tolerance, abs=1e-6), f"{name} of step {step}"
    for which, kind in itertools.product(("network", "average"), ("weight", "bias", "running_mean", "running_var")):
        off, moved = 0.0, 0.0
        for name, value in expected[1][which].items():
            if name.endswith(kind):
                off += float((found[1][which][name] - value).double().square().sum())
                moved += float((value - expected[1]["before"][name]).double().square().sum())
        assert off < 5e-2 * moved, f"{kind} of the {which}"


@pytest.mark.parametrize(
    ("processes", "changes", "tasks"),
    [
        (4, {"accumulate": 2, "balance": "uncertainty"}, None),
        (2, {"augment": "none"}, ("semantic", "caption")),
    ],
)
def test_an_epoch_is_that_of_one_process(
    scenes_with_one_caption: Path, processes: int, changes: dict[str, Any], tasks: tuple[Task, ...] | None
) -> None:
    """Batches of 3, 3 and 2 images: some of four processes have none, and one image alone has a caption."""
    config = replace(TRAIN, **changes)
    expected = an_epoch(scenes_with_one_caption, config, tasks)
    first, *others = in_processes(processes, an_epoch, scenes_with_one_caption, config, tasks)
    assert_same_training(first, expected)
    for other in others:
        assert other[0] == first[0]
        assert all(torch.equal(value, first[1]["network"][name]) for name, value in other[1]["network"].items())


RUN = replace(TRAIN, epochs=3, batch_size=4, samples_every=0, validate_every=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes and three to be scored on."""
    root = tmp_path_factory.mktemp("together") / "scenes"
    write_scenes(root, count=8, seed=3, size=SIZE)
    return write_scenes(root, count=3, seed=4, split="val", size=SIZE)


def begin(data: Path, out: Path, dies: tuple[int, int] | None = None) -> str:
    """A run of the semantic map, which drops nothing; `dies` in that process at that step."""
    if dies is not None:
        _die(*dies)
    return fit(data, out, config=RUN, input_size=SIZE, tasks=("semantic",)).sha256


def go_on(out: Path, dies: tuple[int, int] | None = None) -> str:
    if dies is not None:
        _die(*dies)
    return resume(out).sha256


def _die(process: int, at: int) -> None:
    step = Trainer.step

    def dying(trainer: Trainer, *batches: Any, **more: Any) -> Any:
        if trainer.step_index == at and distributed.rank() == process:
            if distributed.size() == 1:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, *batches, **more)

    Trainer.step = dying  # type: ignore[method-assign]  # The process ends.


def test_a_run_goes_on_with_other_numbers_of_processes(data: Path, tmp_path: Path) -> None:
    """Two, of which one is killed in the second epoch; one, interrupted in the third; four: as one all along."""
    alone, out = tmp_path / "alone", tmp_path / "run"
    begin(data, alone)
    first, second = in_processes(2, begin, data, out, (1, 3), join=False)
    assert second is None
    assert isinstance(first, distributed.ProcessLost) and not getattr(first, "is_silent")  # noqa: B009
    assert [entry["epoch"] for entry in read_log(out)] == [1]
    (interrupted,) = in_processes(1, go_on, out, (0, 4), join=False)
    assert isinstance(interrupted, KeyboardInterrupt)
    assert [entry["epoch"] for entry in read_log(out)] == [1, 2]
    digests = in_processes(4, go_on, out, join=False)
    assert len(set(digests)) == 1
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}
    assert json.loads((out / RUN_FILE).read_text()) == json.loads((alone / RUN_FILE).read_text())
    for own, wanted in zip(read_log(out), read_log(alone), strict=True):
        assert own["losses"] == pytest.approx(wanted["losses"], rel=1e-3)
    for name in ("miou", "pixel_accuracy"):
        scores = [read_log(folder)[-1]["validation"]["scores"][name] for folder in (out, alone)]
        assert scores[0] == pytest.approx(scores[1], abs=5e-3), name
    assert Checkpoint.open(out).provenance["epochs_done"] == Checkpoint.open(alone).provenance["epochs_done"]


def scored(data: Path, tasks: tuple[Task, ...] | None = None) -> Evaluation:
    """Of a random network."""
    dataset = CocoDataset.open(data, role="val")
    torch.manual_seed(0)
    network = network_of(describe_network(CocoDataset.open(data), "n", TRAIN, SIZE, tasks, "tiny")).eval()
    return score_network(network, dataset)


def test_scores_are_those_of_one_process(data: Path) -> None:
    """To the last digit, in every process, of more images than processes."""
    assert in_processes(2, scored, data) == [scored(data)] * 2


def test_an_image_that_one_process_cannot_read_stops_the_scoring_of_all(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(data, copy)
    picture = sorted((copy / "val").iterdir())[1]
    picture.write_bytes(picture.read_bytes()[:100])
    errors = in_processes(2, scored, copy, ("semantic",))
    assert all(isinstance(error, YolorEdgeError) and str(picture) in str(error) for error in errors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace(RUN, batch_size=1)}, "batch_size must be at least the number of processes, which is 2"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_told_once(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = {"data": data, "out": tmp_path / "run", "config": RUN, "input_size": SIZE, **changes}
    errors = in_processes(2, lambda: fit(**arguments), join=False)
    assert all(isinstance(error, YolorEdgeError) for error in errors)
    told = [error for error in errors if not error.is_silent]
    assert len(told) == 1 and message in str(told[0])
    assert not (tmp_path / "run").exists()
