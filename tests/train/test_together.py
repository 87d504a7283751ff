"""Two and four processes train as one does with the same batches: losses, weights, scores; and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.train.batches import training_loader
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network.caption_decoder import Attention
from yolor_edge.train.network.config import Task
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.trainer import Trainer

from .processes import in_processes

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
TRAIN = TrainConfig(epochs=2, batch_size=3, workers=0, plain_epochs=1, captions_per_image=2, amp="off")


def without_dropout(network: nn.Module) -> None:
    """What is dropped is drawn anew in each process, so that it never is the same in several as in one."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, Attention):
            module.dropout = 0.0


def an_epoch(data: Path, config: TrainConfig, tasks: tuple[Task, ...] | None) -> tuple[list[dict[str, float]], Any]:
    """The losses of each step, and the weights at the end."""
    dataset = CocoDataset.open(data)
    network = describe_network(dataset, "n", config, SIZE, tasks, "tiny")
    trainer = Trainer(network, config, steps=6, device=torch.device("cpu"))
    without_dropout(trainer.network)
    trainer.train_mode()
    losses = [trainer.step(batch) for batch in training_loader(dataset, network, config)[0]]  # type: ignore[arg-type]
    return losses, {"network": trainer.network.state_dict(), "average": trainer.average.state_dict()}


def assert_same_training(
    found: tuple[list[dict[str, float]], Any], expected: tuple[list[dict[str, float]], Any]
) -> None:
    for step, (own, wanted) in enumerate(zip(found[0], expected[0], strict=True)):
        assert {name for name in own if own[name]} == {name for name in wanted if wanted[name]}
        for name, value in wanted.items():
            assert own[name] == pytest.approx(value, rel=1e-4, abs=1e-6), f"{name} of step {step}"
    for which, state in expected[1].items():
        for name, value in state.items():
            torch.testing.assert_close(found[1][which][name], value, rtol=1e-3, atol=1e-4, msg=f"{which} {name}")


@pytest.mark.parametrize("processes", [2, 4])
def test_an_epoch_is_that_of_one_process(scenes: Path, processes: int) -> None:
    """Batches of 3, 3 and 2 images: some of four processes have none."""
    expected = an_epoch(scenes, TRAIN, None)
    first, *others = in_processes(processes, an_epoch, scenes, TRAIN, None)
    assert_same_training(first, expected)
    for other in others:
        assert other[0] == first[0]
        assert all(torch.equal(value, first[1]["network"][name]) for name, value in other[1]["network"].items())
