"""Statistics of batch normalisation: those of the images, whatever the moving averages hold, and nothing else moves."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.runtime.errors import ImageError
from yolor_edge.train.batch_statistics import BatchStatistics, estimate_statistics, set_momentum
from yolor_edge.train.batches import training_loader
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network.parts import modules_by_part
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.run_state import write_state
from yolor_edge.train.trainer import StartRates, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
TRAIN = TrainConfig(epochs=8, batch_size=4, workers=0, captions_per_image=2, amp="off", augment="none")


def trained(scenes: Path, config: TrainConfig = TRAIN, steps: int = 0, frozen: tuple[str, ...] = ()) -> Trainer:
    """A trainer of boxes and semantic map after some steps over the scenes."""
    data = CocoDataset.open(scenes)
    network = describe_network(data, "n", config, SIZE, ("boxes", "semantic"), "tiny")
    trainer = Trainer(network, config, steps=16, device=torch.device("cpu"), start=StartRates(frozen=frozen))
    loader, order = training_loader(data, network, config)
    trainer.train_mode()
    while trainer.step_index < steps:
        for batch in loader:
            trainer.step(batch)  # type: ignore[arg-type]
        order.epoch += 1
    return trainer


def statistics_of(scenes: Path, trainer: Trainer) -> BatchStatistics:
    return BatchStatistics(CocoDataset.open(scenes), trainer.network.config, trainer.config)


def test_all_images_count_alike_and_layers_see_normalised_inputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.SiLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).eval()
    images = 3 * torch.randn(10, 3, 6, 5) + 2
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    estimate_statistics(network, [images])
    assert torch.equal(random, torch.get_rng_state())
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {f"{layer}.running_{what}" for layer in (1, 5) for what in ("mean", "var")}
    whole = network(images)
    assert not network.training
    for layer in (1, 5):
        out = network[: layer + 1](images)
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(out.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var((0, 2, 3)), torch.ones(out.shape[1]), atol=2e-2, rtol=0)
    # The first layer's do not depend on how images are laid into batches.
    first = network[1].running_var.clone()  # type: ignore[union-attr, operator]
    estimate_statistics(network, images.split([7, 3]))
    torch.testing.assert_close(network[1].running_var, first)
    # A single value a channel has no spread, and is no error.
    estimate_statistics(network, [images[:1, :, :1, :1]])
    assert network[1].running_var.tolist() == [0.0] * 4  # type: ignore[union-attr, operator]
    # What is kept is kept.
    network.load_state_dict(state)
    estimate_statistics(network, [images], kept=["1"])
    assert torch.equal(network[1].running_mean, state["1.running_mean"])  # type: ignore[arg-type]
    assert not torch.equal(network(images), whole)


def test_the_momentum_begins_with_the_mean_of_all_batches() -> None:
    norm, batches = nn.BatchNorm2d(2), torch.randn(5, 4, 2, 3, 3) + 3
    for step, batch in enumerate(batches):
        set_momentum(norm, step)
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1, 3, 4)))
    set_momentum(norm, 1000)
    assert norm.momentum == 0.03


def distance(trainer: Trainer, network: nn.Module, images: Tensor) -> float:
    """How far outputs lie from those of the averaged weights normalised by the batch, relative to their spread."""
    expected = copy.deepcopy(trainer.average).train()
    with torch.no_grad():
        found, wanted = network(images)["class_logits"], expected(images)["class_logits"]
    return float((found - wanted).square().mean().sqrt() / wanted.std())


def test_after_a_short_run_the_network_answers_as_it_was_trained(scenes: Path) -> None:
    trainer = trained(scenes, steps=8)
    data = CocoDataset.open(scenes)
    batch = next(iter(training_loader(data, trainer.network.config, replace(TRAIN, batch_size=8))[0]))
    images = batch.strong.float() / 255  # type: ignore[union-attr]
    before = distance(trainer, trainer.average, images)
    after = distance(trainer, statistics_of(scenes, trainer).of(trainer.average), images)
    assert before > 1
    assert after < 1e-3


def test_nothing_of_the_training_changes(scenes: Path, tmp_path: Path) -> None:
    """The state to the bit, random numbers included, the same answer each time, and frozen parts as they are."""
    trainer = trained(scenes, steps=2, frozen=("backbone",))
    statistics = statistics_of(scenes, trainer)
    write_state(tmp_path / "before", trainer, 1, 0.0)
    first, second = (statistics.of(trainer.average, trainer.frozen_layers()).state_dict() for _ in range(2))
    write_state(tmp_path / "after", trainer, 1, 0.0)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    before = safetensors.torch.load_file(tmp_path / "before")
    parts = modules_by_part(trainer.network.config)
    changed = {name for name, value in first.items() if not torch.equal(value, before[f"average.{name}"])}
    assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)
    assert {parts[name.split(".")[0]] for name in changed} == {"neck", "boxes", "semantic"}


@pytest.mark.parametrize(("images", "sizes"), [(0, []), (3, [3]), (5, [3, 2]), (256, [4, 4])])
def test_how_many_images_are_taken(scenes: Path, images: int, sizes: list[int]) -> None:
    trainer = trained(scenes, replace(TRAIN, batch_size=1, statistics_images=images))
    statistics = statistics_of(scenes, trainer)
    assert [len(batch) for batch in statistics.batches if batch] == sizes
    assert (statistics.of(trainer.average) is trainer.average) == (images == 0)


def test_a_picture_that_cannot_be_read_is_named(scenes: Path, tmp_path: Path) -> None:
    trainer = trained(scenes)
    statistics = statistics_of(scenes, trainer)
    statistics.images.data.read = lambda truth: (_ for _ in ()).throw(ImageError(f"{truth.path}: gone"))  # type: ignore[method-assign]
    with pytest.raises(ImageError, match="gone"):
        statistics.of(trainer.average)
