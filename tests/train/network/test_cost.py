"""What `inspect` counts agrees with the network itself and with counts made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.network.cost import PAST_WORDS, RULE, inspect_network

from ..tiny_network import published_config, tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")


def conv_flops(network: torch.nn.Module, images: torch.Tensor) -> int:
    """2 x multiply-accumulates of every convolution that `network` runs, seen by hooks."""
    total = 0

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return total


GRIT: dict[str, Any] = {"caption_regions": 20}


@pytest.mark.parametrize(
    "changes",
    [{}, GRIT, {**GRIT, "tasks": ("boxes", "caption")}, {**GRIT, "tasks": ("caption",), "silent_tasks": ("boxes",)}],
    ids=["catr", "grit", "grit, no semantic map", "grit, captions alone"],
)
def test_parts_add_up_to_the_network(changes: dict[str, Any]) -> None:
    network = tiny_network(**changes)
    inspection = inspect_network(network.config)
    assert inspection.input_size == (64, 96)
    assert inspection.parameters == sum(p.numel() for p in network.parameters())
    flops = {part.name: part.flops for part in inspection.parts if part.runs == "image"}
    convolutions = sum(flops[name] for name in flops if "decoder" not in name and name != "caption grid")
    assert convolutions == conv_flops(network, torch.rand(1, 3, 64, 96))
    if "caption_regions" in changes:
        width, inner, cells = network.config.plan.caption_width, network.config.plan.caption_feed_forward, 6
        encoded = cells * (width**2 + 4 * width**2 + 2 * width * inner) + 2 * cells**2 * width
        assert flops["caption grid"] == 2 * encoded


def test_the_words_of_a_caption_cost_what_a_count_by_hand_says() -> None:
    config = tiny_config()
    plan, words, cells = config.plan, len(config.vocabulary), 2 * 3
    width = plan.caption_width
    inspection = inspect_network(config)
    flops = {part.name: part.flops for part in inspection.parts}
    output = width * 2 * width + (2 * width) ** 2 + 2 * width * words

    def layer(seen: int) -> int:
        projections = 4 * width**2 + 2 * width**2  # self-attention; query and output of the cross-attention
        products = 2 * seen * width + 2 * cells * width
        return projections + products + 2 * width * plan.caption_feed_forward

    word = plan.caption_layers * layer(PAST_WORDS + 1) + output
    first = plan.caption_layers * (layer(1) + 2 * cells * width**2) + output
    assert flops["caption decoder, a further word"] == 2 * word
    assert flops["caption decoder, prefill"] == 2 * first


def test_the_words_of_a_gated_caption_cost_what_a_count_by_hand_says() -> None:
    config = tiny_config(**GRIT)
    plan, words, cells, regions = config.plan, len(config.vocabulary), 2 * 3, 20 + 5
    width = plan.caption_width
    inspection = inspect_network(config)
    flops = {part.name: part.flops for part in inspection.parts}

    def layer(seen: int) -> int:
        # Self-attention; query and output of both attentions to the memory; the gate, of twice the width, for each.
        projections = 4 * width**2 + 2 * 2 * width**2 + 2 * 2 * width**2
        products = 2 * seen * width + 2 * (cells + regions) * width
        return projections + products + 2 * width * plan.caption_feed_forward

    word = plan.caption_layers * layer(PAST_WORDS + 1) + width * words
    first = plan.caption_layers * (layer(1) + 2 * (cells + regions) * width**2) + width * words
    assert flops["caption decoder, a further word"] == 2 * word
    assert flops["caption decoder, prefill"] == 2 * first
    assert inspection.to_json()["regions"] == regions
    assert "captions over 25 regions beside the grid; input 64x96" in inspection.table()


def test_regions_are_counted_at_the_size_of_the_input() -> None:
    inspection = inspect_network(tiny_config(**{**GRIT, "caption_regions": 300}), (224, 288))
    assert "captions over 305 regions beside the grid; input 224x288" in inspection.table()


def test_size_l_costs_what_was_published() -> None:
    """YOLOv7-AF, boxes alone, is about 130 GFLOPs at 640 x 640 (network.md)."""
    inspection = inspect_network(published_config(tasks=("boxes",)))
    assert inspection.flops / 1e9 == pytest.approx(130, rel=0.02)
    assert inspection.parameters / 1e6 == pytest.approx(43.6, rel=0.01)


def test_work_grows_with_the_picture_and_parameters_do_not() -> None:
    small, large = (inspect_network(tiny_config(), size) for size in ((64, 64), (128, 128)))
    assert small.parameters == large.parameters
    for a, b in zip(small.parts, large.parts, strict=True):
        assert a.parameters == b.parameters
        if "decoder" not in a.name:
            assert b.flops == 4 * a.flops


@pytest.mark.parametrize(
    ("tasks", "heads"),
    [
        (("boxes",), ["box head"]),
        (("boxes", "masks"), ["box head", "mask head"]),
        (("semantic",), ["semantic head"]),
        (
            ("caption",),
            ["caption memory", "caption decoder, prefill", "caption decoder, a further word"],
        ),
    ],
)
def test_only_the_heads_it_has_are_listed(tasks: tuple[str, ...], heads: list[str]) -> None:
    inspection = inspect_network(tiny_config(tasks=tasks))
    assert [part.name for part in inspection.parts] == ["backbone", "neck", *heads]
    assert all(part.flops > 0 for part in inspection.parts)


def test_the_table_says_what_was_counted_and_how() -> None:
    table = inspect_network(published_config("n"), (224, 288)).table()
    lines = table.splitlines()
    assert lines[0] == (
        "yolor-edge: size n, boxes, masks, semantic, caption; "
        "80 classes, 173 semantic classes, vocabulary of 30522; input 224x288"
    )
    assert lines[-1] == RULE
    rows = {line[:31].strip(): line[31:].split() for line in lines[4:14]}
    assert rows["backbone"] == ["668", "K", "551", "M"]
    assert rows["caption decoder, a further word"] == ["-", "17.3", "M"]
    assert rows["all, once an image"][1::2] == ["M", "G"]


def test_the_json_holds_the_same_numbers() -> None:
    inspection = inspect_network(tiny_config())
    document = json.loads(json.dumps(inspection.to_json()))
    assert document["parameters"] == inspection.parameters == sum(p["parameters"] for p in document["parts"])
    assert document["flops"] == sum(p["flops"] for p in document["parts"] if p["runs"] == "image")
    assert document["input_size"] == [64, 96]
    assert document["rule"] == RULE


def test_a_size_that_no_network_takes_is_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 32 within 32 and 8192, got 100x64"):
        inspect_network(tiny_config(), (100, 64))
