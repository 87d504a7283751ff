"""Two and four processes train as one does with the same batches: losses, weights, scores; and what goes wrong."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
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
            module.dropout = 0.0


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
        assert off < 1e-3 * moved, f"{kind} of the {which}"


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
