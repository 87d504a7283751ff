"""Configurations travel as JSON, and refuse what no network or training can be."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network.config import CAPTIONERS, SIZE_PLANS, SIZES, TASKS, NetworkConfig, Task, check_input_size

from .tiny_network import tiny_config


def test_a_network_survives_the_journey_through_json() -> None:
    config = tiny_config(size="s", tasks=("boxes", "caption"), input_size=(96, 64), name="mine")
    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_training_survives_the_journey_through_json() -> None:
    config = TrainConfig(epochs=3, learning_rate=2e-4, weights="float16")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_tasks_come_in_one_order_whatever_the_order_asked_for() -> None:
    assert tiny_config(tasks=("caption", "masks", "boxes")).tasks == ("boxes", "masks", "caption")


def test_every_size_has_a_plan_of_even_attention_heads() -> None:
    assert tuple(SIZE_PLANS) == SIZES
    for plan in SIZE_PLANS.values():
        assert plan.caption_width % plan.caption_heads == 0
        assert plan.caption_width % 4 == 0  # sine_positions wants sines and cosines of two axes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "xl"}, "size must be one of n, s, m, l, got 'xl'"),
        ({"tasks": ()}, "tasks must be some of boxes, masks, semantic, caption, got none"),
        ({"tasks": ("boxes", "depth")}, "got boxes, depth"),
        ({"tasks": ("masks", "semantic")}, "masks needs the task boxes"),
        ({"class_names": (), "category_ids": ()}, "boxes needs at least one class name"),
        ({"category_ids": (1, 2)}, "3 class names but 2 category ids"),
        ({"semantic_names": ()}, "semantic needs 1 to 255 class names, got 0"),
        ({"semantic_names": ("x",) * 256}, "semantic needs 1 to 255 class names, got 256"),
        ({"vocabulary": ("<pad>", "<unk>", "<bos>", "<eos>")}, "caption needs a vocabulary, got 4 entries"),
        ({"input_size": (64, 100)}, "multiples of 32 within 32 and 8192, got 64x100"),
        ({"input_size": (0, 64)}, "got 0x64"),
        ({"input_size": (64,)}, "two multiples of 32 within 32 and 8192, got 64"),
        ({"caption_regions": -1}, "caption_regions must be a whole number from 0 to 3840, got -1"),
        ({"caption_regions": 3841}, "caption_regions must be a whole number from 0 to 3840, got 3841"),
        ({"caption_regions": "300"}, "caption_regions must be a whole number from 0 to 3840, got '300'"),
        ({"caption_regions": True}, "caption_regions must be a whole number from 0 to 3840, got True"),
        (
            {"caption_regions": 300, "tasks": ("semantic", "caption")},
            "caption_regions, which the captioner grit has, needs the task boxes: regions are its likeliest cells",
        ),
        ({"silent_tasks": ("masks",)}, "silent_tasks must be of boxes, semantic, and none of the tasks, got masks"),
        ({"silent_tasks": ("boxes",)}, "silent_tasks must be of boxes, semantic, and none of the tasks, got boxes"),
    ],
)
def test_an_impossible_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny_config(**changes)
    assert message in str(caught.value)


def test_a_captioner_is_told_by_its_regions() -> None:
    assert tiny_config().captioner == "catr"
    assert tiny_config(**CAPTIONERS["grit"]).captioner == "grit"
    assert tiny_config(caption_regions=20).captioner == "caption_regions=20"


def test_a_plain_network_is_described_as_older_versions_read_it() -> None:
    newer = {"caption_regions", "silent_tasks"}
    assert not newer & set(tiny_config().to_json())
    gated = tiny_config(**CAPTIONERS["grit"])
    described = json.loads(json.dumps(gated.to_json()))
    assert newer & set(described) == {"caption_regions"}
    assert NetworkConfig.from_json(described) == gated
    part = gated.with_tasks(("caption",))
    assert NetworkConfig.from_json(json.loads(json.dumps(part.to_json()))) == part


@pytest.mark.parametrize(
    ("changes", "tasks", "regions"),
    [
        ({}, TASKS, 126 + 5),  # every cell, where there are fewer than 300
        ({"input_size": (224, 288)}, TASKS, 300 + 5),
        ({"input_size": (224, 288)}, ("boxes", "caption"), 300),
        ({"input_size": (224, 288)}, ("boxes", "semantic"), 0),
        ({"caption_regions": 0}, TASKS, 0),
        ({"caption_regions": 20}, TASKS, 20 + 5),
    ],
)
def test_how_many_regions_there_are(changes: dict[str, Any], tasks: tuple[Task, ...], regions: int) -> None:
    config = tiny_config(**{**CAPTIONERS["grit"], **changes}, tasks=tasks)
    assert config.regions_at(config.input_size) == regions


@pytest.mark.parametrize(
    ("tasks", "silent"),
    [
        (("caption",), ("boxes", "semantic")),
        (("boxes", "caption"), ("semantic",)),
        (("semantic", "caption"), ("boxes",)),
        (TASKS, ()),
        (("boxes", "masks"), ()),
    ],
)
def test_a_part_of_a_network_keeps_what_its_regions_are_chosen_by(
    tasks: tuple[Task, ...], silent: tuple[Task, ...]
) -> None:
    whole = tiny_config(**CAPTIONERS["grit"])
    part = whole.with_tasks(tasks)
    assert (part.tasks, part.silent_tasks) == (tasks, silent)
    expected = whole.regions_at((64, 96)) if "caption" in tasks else 0
    assert part.regions_at((64, 96)) == expected
    assert tiny_config().with_tasks(tasks).silent_tasks == ()
    # Where there was no semantic head, a part has none either.
    assert tiny_config(**CAPTIONERS["grit"], tasks=("boxes", "caption")).with_tasks(("caption",)).heads == (
        "boxes",
        "caption",
    )


def test_names_of_tasks_that_are_not_wanted_may_be_absent() -> None:
    config = tiny_config(
        tasks=("caption",), class_names=(), category_ids=(), semantic_names=(), semantic_category_ids=()
    )
    assert config.tasks == ("caption",)
    assert tiny_config(tasks=("boxes",), vocabulary=()).vocabulary == ()


def test_a_field_from_the_future_is_named() -> None:
    with pytest.raises(UsageError, match="NetworkConfig has no field depth; written by a newer yolor-edge"):
        NetworkConfig.from_json({**tiny_config().to_json(), "depth": 3})
    with pytest.raises(UsageError, match="TrainConfig has no field lr"):
        TrainConfig.from_json({"lr": 3})


@pytest.mark.parametrize("size", [(32, 32), (64, 8192), (640, 480)])
def test_input_sizes_that_a_network_takes(size: tuple[int, int]) -> None:
    assert check_input_size(size) == size


def test_settings_are_read_by_the_type_of_their_field() -> None:
    config = TrainConfig().with_settings(["epochs=7", "learning_rate=2e-4", "augment=none", "mosaic=1"])
    assert (config.epochs, config.learning_rate, config.augment, config.mosaic) == (7, 2e-4, "none", 1.0)
    changed = {"epochs", "learning_rate", "augment", "mosaic"}
    for field in dataclasses.fields(TrainConfig):
        if field.name not in changed:
            assert getattr(config, field.name) == getattr(TrainConfig(), field.name)


def test_no_settings_change_nothing_and_the_last_one_wins() -> None:
    assert TrainConfig().with_settings([]) == TrainConfig()
    assert TrainConfig().with_settings(["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "settings epoch=3: there is no setting 'epoch', perhaps epochs"),
        ("lr=3", "settings lr=3: there is no setting 'lr', perhaps learning_rate; docs/settings.md lists all of them"),
        ("xyz=3", "settings xyz=3: there is no setting 'xyz'; docs/settings.md lists all of them"),
        ("batch=3", "settings batch=3: there is no setting 'batch', perhaps batch_size"),
        ("epochs", "settings epochs: expected NAME=VALUE, such as batch_size=8"),
        ("epochs=many", "settings epochs=many: expected a value of type int"),
        ("learning_rate=fast", "settings learning_rate=fast: expected a value of type float"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("mosaic=1.5", "mosaic must lie within 0 and 1, got 1.5"),
        ("learning_rate=0", "learning_rate must be greater than 0, got 0.0"),
        ("learning_rate=nan", "learning_rate must be greater than 0, got nan"),
        ("scale_range=1", "scale_range must lie within 0 and 1, got 1.0"),
        ("workers=-1", "workers must not be negative, got -1"),
        ("amp=half", "amp must be one of auto, off, got 'half'"),
        ("rotate=181", "rotate must lie within 0 and 180, got 181.0"),
        ("perspective=0.3", "perspective must lie within 0 and 0.2, got 0.3"),
        ("copy_paste=2", "copy_paste must lie within 0 and 1, got 2.0"),
        ("cache=gpu", "cache must be one of off, ram, disk, got 'gpu'"),
        ("augment=weak", "augment must be one of asymmetric, strong, none, got 'weak'"),
        ("weights=int8", "weights must be one of float32, float16, got 'int8'"),
    ],
)
def test_an_impossible_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig().with_settings([setting])
    assert message in str(caught.value)
