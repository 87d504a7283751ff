"""With `caption_flip` the picture is mirrored, and its words with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.runtime.bundle.tokenizer import Tokenizer
from yolor_edge.train.batches import TrainingViews
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.views.mirrored import mirrored_words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a cup left of a plate", "a cup right of a plate"),
        ("Left and right, RIGHT and LEFT.", "Right and left, LEFT and RIGHT."),
        ("the leftmost one, on the right-hand side", "the rightmost one, on the left-hand side"),
        ("a bright light is upright, leftover food", "a bright light is upright, leftover food"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_left_and_right_change_places(words: str, expected: str) -> None:
    assert mirrored_words(words) == expected
    assert mirrored_words(expected) == words


def views_for(root: Path, **changes: float) -> tuple[TrainingViews, Tokenizer]:
    data = CocoDataset.open(root)
    train = replace(TrainConfig(epochs=3, captions_per_image=8), **changes)
    network = describe_network(data, "n", train, (64, 96), None, "tiny")
    return TrainingViews(data, network, train), Tokenizer(network.vocabulary)


def with_captions(root: Path, captions: list[str]) -> Path:
    path = root / "annotations" / "captions_train.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    first = document["images"][0]["id"]
    document["annotations"] = [{"id": i, "image_id": first, "caption": text} for i, text in enumerate(captions)]
    path.write_text(json.dumps(document), encoding="utf-8")
    return root


def test_the_picture_and_its_words_are_mirrored_together(scenes: Path, tmp_path: Path) -> None:
    root = with_captions(shutil.copytree(scenes, tmp_path / "data"), ["a circle left of a star", "a star to the right"])
    (plain, tokenizer), (flipped, _) = views_for(root), views_for(root, caption_flip=1.0)
    index = next(i for i in range(len(plain)) if plain.truths[i].captions)
    before, after = plain._sample(0, index), flipped._sample(0, index)
    assert before.weak is not None and after.weak is not None
    spoken = [tokenizer.decode(ids[1:-1]) for ids in after.captions]
    assert spoken == ["a circle right of a star", "a star to the left"]
    assert np.abs(before.weak.image[:, ::-1].astype(int) - after.weak.image).max() <= 1
    assert not np.array_equal(before.weak.image, after.weak.image)
    some, _ = views_for(root, caption_flip=0.5)
    seen = {tokenizer.decode(some._sample(0, index).captions[0][1:-1])}
    seen |= {tokenizer.decode(some._sample(epoch, index).captions[0][1:-1]) for epoch in range(12)}
    assert seen == {"a circle right of a star", "a circle left of a star"}


def test_a_word_that_the_network_does_not_know_keeps_the_picture_as_it_is(scenes: Path, tmp_path: Path) -> None:
    root = with_captions(shutil.copytree(scenes, tmp_path / "data"), ["a circle left of a star"])
    (plain, tokenizer), (flipped, _) = views_for(root), views_for(root, caption_flip=1.0)
    index = next(i for i in range(len(plain)) if plain.truths[i].captions)
    sample = flipped._sample(0, index)
    assert tokenizer.decode(sample.captions[0][1:-1]) == "a circle left of a star"
    weak = plain._sample(0, index).weak
    assert weak is not None and sample.weak is not None
    np.testing.assert_array_equal(sample.weak.image, weak.image)
