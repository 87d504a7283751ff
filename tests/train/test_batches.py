"""Batches: the same sample for the same epoch and index, and everything padded to fit together."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.runtime.bundle.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from yolor_edge.train.batches import Batch, training_loader
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network.config import NetworkConfig
from yolor_edge.train.network_for_data import describe_network

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = TrainConfig(epochs=3, batch_size=3, workers=0, captions_per_image=2, plain_epochs=1)


def network_for(data: CocoDataset, **changes: object) -> NetworkConfig:
    config = describe_network(data, "n", TRAIN, (64, 96), None, "tiny")
    return NetworkConfig(**{**config.to_json(), **changes})


def batches_of(data: CocoDataset, network: NetworkConfig, train: TrainConfig, epoch: int = 0) -> list[Batch]:
    loader, order = training_loader(data, network, train)
    order.epoch = epoch
    return list(loader)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    truth = batch.truth
    assert batch.weak is not None
    return [
        *(batch.strong, batch.weak, batch.owners, batch.tokens, truth.boxes, truth.classes, truth.valid),
        *(truth.classes_known, truth.mask_known, truth.first_mask, truth.semantic, truth.masks),
    ]


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    for one, other in zip(a, b, strict=True):
        for left, right in zip(tensors_of(one), tensors_of(other), strict=True):
            assert torch.equal(left, right)


def test_shapes_and_padding(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    network = network_for(data)
    batches = batches_of(data, network, TRAIN)
    assert [len(batch.strong) for batch in batches] == [3, 3, 2]
    tokenizer = Tokenizer(network.vocabulary)
    for batch in batches:
        pictures, truth = len(batch.strong), batch.truth
        assert batch.strong.shape == (pictures, 3, 64, 96)
        assert batch.strong.dtype == torch.uint8
        assert batch.weak is not None
        assert batch.weak.shape == batch.strong.shape
        assert truth.boxes.shape == (*truth.valid.shape, 4)
        assert truth.semantic.shape == (pictures, 16, 24)
        objects = truth.valid.sum(1)
        assert truth.masks.shape == (int(objects.sum()), 16, 24)
        assert truth.first_mask.tolist() == (objects.cumsum(0) - objects).tolist()
        assert torch.equal(truth.mask_known, truth.valid)
        assert bool((truth.boxes[~truth.valid] == 0).all())
        assert batch.owners.tolist() == [i for i in range(pictures) for _ in range(2)]
        for row in batch.tokens.tolist():
            end = row.index(EOS_ID)
            assert row[0] == BOS_ID
            assert set(row[end + 1 :]) <= {PAD_ID}
            assert tokenizer.decode(row[1:end])
        assert int((batch.tokens != PAD_ID).sum(1).max()) == batch.tokens.shape[1]


def test_every_picture_once_an_epoch_in_a_new_order(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    orders = []
    for epoch in range(3):
        _, order = training_loader(data, network_for(data), TRAIN)
        order.epoch = epoch
        keys = list(order)
        assert {index for _, index in keys} == set(range(8))
        assert {e for e, _ in keys} == {epoch}
        orders.append([index for _, index in keys])
    assert orders[0] != orders[1] != orders[2]


def test_the_same_epoch_gives_the_same_batches_and_another_others(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    network = network_for(data)
    first, again = (batches_of(data, network, TRAIN, epoch=1) for _ in range(2))
    assert_equal(first, again)
    assert not torch.equal(first[0].strong, batches_of(data, network, TRAIN, epoch=0)[0].strong)
    assert not torch.equal(first[0].strong, batches_of(data, network, replace(TRAIN, seed=1), epoch=1)[0].strong)


def test_workers_prepare_the_same_batches_in_every_epoch(scenes: Path) -> None:
    """The workers live on from epoch to epoch, and the last goes without mosaic."""
    data = CocoDataset.open(scenes)
    network = network_for(data)
    loader, order = training_loader(data, network, replace(TRAIN, workers=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside torch's threads
        for epoch in (0, 2):
            order.epoch = epoch
            assert_equal(batches_of(data, network, TRAIN, epoch), list(loader))


def test_without_augmentation_captions_speak_of_the_one_view(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    for batch in batches_of(data, network_for(data), replace(TRAIN, augment="none")):
        assert batch.weak is None
        assert batch.owners.tolist() == [i for i in range(len(batch.strong)) for _ in range(2)]


def test_one_strong_view_for_all_is_what_captions_speak_of(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    network = network_for(data)
    for batch, apart in zip(
        batches_of(data, network, replace(TRAIN, augment="strong")), batches_of(data, network, TRAIN), strict=True
    ):
        assert torch.equal(batch.strong, apart.strong)
        assert torch.equal(batch.tokens, apart.tokens)
        assert batch.weak is None
        assert batch.owners.tolist() == [i for i in range(len(batch.strong)) for _ in range(2)]


def test_captions_go_to_the_pictures_that_have_them(scenes_with_one_caption: Path) -> None:
    data = CocoDataset.open(scenes_with_one_caption)
    network = network_for(data)
    batches = batches_of(data, network, TRAIN)
    assert sum(len(batch.tokens) for batch in batches) == 1
    for batch in batches:
        assert len(batch.strong) == len(batch.truth.first_mask)
        if len(batch.tokens):
            assert batch.weak is not None
            assert len(batch.weak) == 1
            assert batch.owners.tolist() == [0]
        else:
            assert batch.weak is None
            assert batch.owners.shape == (0,)
    owned = [batch for batch in batches_of(data, network, replace(TRAIN, augment="none")) if len(batch.tokens)]
    keys = list(training_loader(data, network, TRAIN)[1])
    place = next(i for i, (_, index) in enumerate(keys) if data[index].captions)
    assert owned[0].owners.tolist() == [place % TRAIN.batch_size]


def test_no_captions_are_read_for_a_network_without_words(scenes: Path) -> None:
    data = CocoDataset.open(scenes)
    for batch in batches_of(data, network_for(data, tasks=("boxes",), vocabulary=()), TRAIN):
        assert batch.weak is None
        assert len(batch.tokens) == 0


def test_a_long_caption_is_cut_to_the_positions_of_the_decoder(tmp_path: Path, scenes_with_one_caption: Path) -> None:
    path = scenes_with_one_caption / "annotations" / "captions_train.json"
    captions = json.loads(path.read_text(encoding="utf-8"))
    captions["annotations"][0]["caption"] = "red " * 500
    path.write_text(json.dumps(captions), encoding="utf-8")
    data = CocoDataset.open(scenes_with_one_caption)
    network = network_for(data, caption_positions=12, vocabulary=("<pad>", "<unk>", "<bos>", "<eos>", "red"))
    (tokens,) = (batch.tokens for batch in batches_of(data, network, TRAIN) if len(batch.tokens))
    # The decoder reads all but the last token, so it needs one position less than there are tokens.
    assert tokens.shape[1] - 1 <= 12
    assert tokens[0, -1] == EOS_ID
    assert (tokens[0, 1:-1] == 4).all()
