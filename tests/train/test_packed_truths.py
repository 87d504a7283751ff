"""Pictures are mixed with those that know the same, so that partly labelled data teach nearly all they hold."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.train.batches import TrainingViews
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.packed_truths import PackedTruths


class PartlyLabelled(CocoDataset):
    """Forty pictures of scenes, of which only every n-th has instances."""

    def __init__(self, scenes: CocoDataset, every: int) -> None:
        self.scenes, self.every = scenes, every
        self.__dict__ |= {name: value for name, value in scenes.__dict__.items() if name not in self.__dict__}

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Truth:
        truth = self.scenes[index % len(self.scenes)]
        if index % self.every == 0:
            return truth
        return replace(truth, boxes=None, class_ids=None, crowd=None, areas=None, segmentations=None)


@pytest.mark.parametrize("every", [2, 4])
def test_partly_labelled_data_teach_nearly_all_they_hold(scenes: Path, every: int) -> None:
    """Half labelled, 20 % of the views taught classes and 30 % of the objects were kept; a quarter, 7.8 % and 18 %."""
    data = PartlyLabelled(CocoDataset.open(scenes), every)
    train = TrainConfig(epochs=30, mosaic=0.75, mixup=0.1, captions_per_image=1)
    views = TrainingViews(data, describe_network(data, "n", train, (64, 96), None, "tiny"), train)
    known, placed, kept = [], 0, 0
    for epoch in range(4):
        for index in range(len(data)):
            view = views._sample(epoch, index).dense
            known.append(view.classes_known.mean())
            placed += len(view.boxes)
            kept += len(view.boxes) if view.classes_known.any() else 0
    teaching = np.array(known) > 0.5
    # No more can teach than pictures have instances.
    assert teaching.mean() >= 0.95 / every
    assert np.array(known)[teaching].mean() > 0.9
    assert placed > 100
    assert kept / placed > 0.95


def test_partners_know_the_same_kinds_of_truth(scenes: Path) -> None:
    scenes_data = CocoDataset.open(scenes)
    packed = PackedTruths(PartlyLabelled(scenes_data, 4))
    rng = np.random.default_rng(0)
    for index in (0, 1, 4, 39):
        drawn = {packed.partner(index, rng) for _ in range(200)}
        assert all((one % 4 == 0) == (index % 4 == 0) for one in drawn)
        assert len(drawn) > 7
    # Where only a picture or two know the same, all serve.
    lonely = PackedTruths(PartlyLabelled(scenes_data, 39))
    assert len({lonely.partner(0, rng) for _ in range(300)}) > 30


def test_a_packed_truth_is_the_truth(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    packed = PackedTruths(data)
    assert len(packed) == len(data)
    for index in range(len(data)):
        truth, found = data[index], packed[index]
        assert found.image_id == index
        assert (found.path, found.size, found.captions) == (truth.path, truth.size, truth.captions)
        for name in ("boxes", "class_ids", "crowd", "areas"):
            np.testing.assert_array_equal(getattr(found, name), getattr(truth, name))
        np.testing.assert_array_equal(found.masks(), truth.masks())
        np.testing.assert_array_equal(found.semantic_map(), truth.semantic_map())


def test_looking_at_a_truth_leaves_nothing_behind(scenes: Path) -> None:
    """What the processes share is bytes that stay as they are."""
    packed = PackedTruths(CocoDataset.open(scenes))
    before = bytes(packed._block)
    for index in range(len(packed)):
        packed[index].masks()
    assert bytes(packed._block) == before
    assert all(pickle.dumps(packed[0]) == pickle.dumps(packed[0]) for _ in range(2))
