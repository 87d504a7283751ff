"""Which images an epoch draws, and how often."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from yolor_edge.evaluation.dataset.opening import open_dataset
from yolor_edge.train.batches import training_loader
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.draws import MOST_DRAWS, epoch_draws, epoch_length, repeats_of
from yolor_edge.train.losses import DenseLoss
from yolor_edge.train.network_for_data import describe_network


@pytest.fixture
def two_sets(scenes: Path, tmp_path: Path) -> list[Path]:
    """`scenes`, and a copy that knows one class more and one class less, and has no map and no captions."""
    copy = tmp_path / "other"
    shutil.copytree(scenes, copy)
    for name in ("captions_train.json", "panoptic_train.json"):
        (copy / "annotations" / name).unlink()
    path = copy / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    next(one for one in document["categories"] if one["name"] == "circle")["name"] = "wheel"
    path.write_text(json.dumps(document))
    return [scenes, copy]


def test_without_a_rare_task_every_image_is_drawn_once(scenes: Path) -> None:
    repeats = repeats_of(open_dataset(scenes), ("boxes", "masks", "semantic", "caption"), 0.25)
    assert (repeats == 1).all()
    for epoch in range(3):
        drawn = epoch_draws(repeats, 5, epoch)
        np.testing.assert_array_equal(drawn, np.random.default_rng((5, epoch)).permutation(len(repeats)))


def test_images_of_a_rare_task_come_more_often(scenes_with_one_caption: Path) -> None:
    data = open_dataset(scenes_with_one_caption)
    repeats = repeats_of(data, ("boxes", "caption"), 1.0)
    np.testing.assert_allclose(sorted(repeats), [*[1] * 7, np.sqrt(8)])
    assert (repeats_of(data, ("boxes",), 1.0) == 1).all()
    assert (repeats_of(data, ("boxes", "caption"), 0.0) == 1).all()
    assert repeats.max() < MOST_DRAWS
    rare = int(repeats.argmax())
    assert epoch_length(repeats) == 10
    for epoch in range(4):
        drawn = epoch_draws(repeats, 0, epoch)
        assert len(set(drawn.tolist())) == len(drawn) == 10  # another view each time
        assert np.bincount(drawn % 8).tolist() == [3 if i == rare else 1 for i in range(8)]


def test_fractions_are_drawn_in_proportion() -> None:
    repeats = np.array([1.0, 1.5, 1.25, 1.25, 2.5])
    assert epoch_length(repeats) == 6 + 2
    counts = sum(np.bincount(epoch_draws(repeats, 1, epoch) % 5, minlength=5) for epoch in range(400))
    np.testing.assert_allclose(counts / 400, [1, 1.667, 1.333, 1.333, 2.667], atol=0.08)


def test_batches_say_which_classes_each_view_knows(two_sets: list[Path]) -> None:
    data = open_dataset(two_sets)
    assert data.class_names[-1] == "wheel"
    config = TrainConfig(batch_size=16, workers=0, mosaic=1.0, mixup=0.5)
    network = describe_network(data, "n", config, (64, 96), None, "test")
    loader, order = training_loader(data, network, config)
    keys = [index for _, index in order]
    truth = next(iter(loader)).truth
    assert truth.known_classes is not None
    circle, wheel = data.class_names.index("circle"), data.class_names.index("wheel")
    for row, index in enumerate(keys[:16]):
        # All pictures of a view are of one data set.
        expected = [name != ("wheel" if index < 8 else "circle") for name in data.class_names]
        assert truth.known_classes[row].tolist() == expected
        found = set(truth.classes[row][truth.valid[row]].tolist())
        assert (wheel if index < 8 else circle) not in found
    assert truth.to(torch.device("cpu")).known_classes is not None


def test_nothing_is_learned_from_the_absence_of_an_unknown_class(two_sets: list[Path]) -> None:
    data = open_dataset(two_sets)
    config = TrainConfig(batch_size=4, workers=0, augment="none")
    network = describe_network(data, "n", config, (64, 96), ("boxes",), "test")
    truth = next(iter(training_loader(data, network, config)[0])).truth
    loss = DenseLoss(network, config, torch.device("cpu"))
    cells = len(loss.points)
    torch.manual_seed(0)
    logits = torch.randn(4, len(data.class_names), cells, requires_grad=True)
    bins = torch.randn(4, 4 * network.reg_max, cells)
    loss({"class_logits": logits, "box_bins": bins}, truth)["class"].backward()
    assert isinstance(logits.grad, torch.Tensor) and truth.known_classes is not None
    gradient = logits.grad.abs().sum(2)
    assert (gradient[~truth.known_classes] == 0).all()
    assert (gradient[truth.known_classes] > 0).all()
    # An object of a class that is unknown elsewhere in the view is learned, with a loss that has a floor.
    truth.known_classes = torch.zeros_like(truth.known_classes)
    logits.grad = None
    value = loss({"class_logits": logits, "box_bins": bins}, truth)["class"]
    value.backward()
    assert isinstance(logits.grad, torch.Tensor)
    taught = logits.grad.abs().sum((0, 2)) > 0
    assert taught.tolist() == [i in set(truth.classes[truth.valid].tolist()) for i in range(len(data.class_names))]
    assert loss({"class_logits": logits * 0 + 50, "box_bins": bins}, truth)["class"] > 0
