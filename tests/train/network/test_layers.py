"""Networks of listed layers: what each operation computes, and that folding keeps it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.network.layers import LayerNetwork, LayersConfig
from yolor_edge.train.network.layers_fold import fold, layers_cost


def conv(name: str, source: str, inner: int, out: int, kernel: int = 3, **more: Any) -> dict[str, Any]:
    layer = {"name": name, "type": "conv", "from": [source], "in": inner, "out": out, "kernel": kernel}
    return {**layer, "padding": kernel // 2, "norm": 1e-3, "activation": "silu", **more}


def branches(inner: int, out: int, groups: int = 1, stride: int = 1, identity: bool = True) -> list[dict[str, Any]]:
    one = {"in": inner, "out": out, "groups": groups, "stride": stride}
    found: list[dict[str, Any]] = [
        {**one, "kernel": 3, "padding": 1, "norm": 1e-3},
        {**one, "kernel": 1, "norm": 1e-4, "bias": True},
    ]
    return [*found, {"out": out, "norm": 0.1}] if identity else found


def config(*layers: dict[str, Any], classes: int = 3) -> LayersConfig:
    """`layers`, the last of which has 8 channels at stride 8, and an anchor head on it."""
    last = layers[-1]["name"]
    head = {"norm": None, "activation": None, "bias": True, "padding": 0}
    more = (
        {"name": "add", "type": "add_vector", "from": [last], "out": 8},
        {**conv("m", "add", 8, 2 * (5 + classes), 1), **head},
        {"name": "multiply", "type": "multiply_vector", "from": ["m"], "out": 2 * (5 + classes)},
    )
    boxes = {"coding": "anchors", "levels": ["multiply"], "strides": [8], "anchors": [[[10.0, 20.0], [30.0, 15.0]]]}
    names = tuple("abcdef"[:classes])
    return LayersConfig("test", "yolov7", (*layers, *more), boxes, names, (64, 96))


def filled(network: LayerNetwork, seed: int = 0) -> LayerNetwork:
    """`network` in float64 with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) * 0.5)
        for module in network.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_var is not None
                and module.running_mean is not None
            ):
                module.running_var.uniform_(0.2, 3, generator=generator)
                module.running_mean.uniform_(-1, 1, generator=generator)
    return network


STEM = (
    {"name": "reorg", "type": "reorg", "from": ["image"]},
    conv("a", "reorg", 12, 8, stride=2),
    conv("b", "a", 8, 8, stride=2, activation=["leaky_relu", 0.1]),
)
BODIES: dict[str, tuple[dict[str, Any], ...]] = {
    "convolutions": (conv("c", "b", 8, 8, groups=4), conv("d", "c", 8, 8, 1, bias=True, activation=None)),
    "identity": ({"name": "c", "type": "rep_conv", "from": ["b"], "branches": branches(8, 8), "activation": "silu"},),
    "groups": ({"name": "c", "type": "rep_conv", "from": ["b"], "branches": branches(8, 8, 4), "activation": "silu"},),
    "norm": (
        {"name": "join", "type": "concat", "from": ["b", "b"]},
        {"name": "n", "type": "norm", "from": ["join"], "out": 16, "norm": 1e-2, "activation": "silu"},
        conv("c", "n", 16, 8, 1),
    ),
    "vectors that others read": (
        {"name": "v", "type": "add_vector", "from": ["b"], "out": 8},
        conv("c", "v", 8, 8, 1, padding=1, norm=None),  # the border is padded after the vector is added
        {"name": "pool", "type": "max_pool", "from": ["c"], "kernel": 3, "stride": 1, "padding": 0},
        {"name": "sum", "type": "add", "from": ["pool", "v"]},
        conv("d", "sum", 8, 8, 1, norm=None, activation=None),
        {"name": "w", "type": "multiply_vector", "from": ["d"], "out": 8},
        {"name": "e", "type": "add", "from": ["w", "d"]},
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", BODIES)
def test_folding_is_exact(name: str) -> None:
    network = filled(LayerNetwork(config(*STEM, *BODIES[name])))
    folded = fold(network)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for key, value in network(images).items():
        torch.testing.assert_close(folded(images)[key], value, rtol=1e-10, atol=1e-10)
    kinds = [layer["type"] for layer in folded.config.layers]
    assert "norm" not in kinds and "rep_conv" not in kinds
    if name != "vectors that others read":
        assert "add_vector" not in kinds and "multiply_vector" not in kinds
    else:
        assert kinds.count("add_vector") == kinds.count("multiply_vector") == 1  # those that something else reads too


@torch.no_grad()
def test_branches_of_stride_two_fold() -> None:
    parts = branches(8, 8, stride=2, identity=False)
    layers = (STEM[0], conv("a", "reorg", 12, 8, stride=2), {"name": "r", "type": "rep_conv", "from": ["a"]})
    network = filled(LayerNetwork(config(*layers[:2], {**layers[2], "branches": parts, "activation": "silu"})))
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for key, value in network(images).items():
        torch.testing.assert_close(fold(network)(images)[key], value, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_boxes_are_decoded_by_anchor_row_and_column() -> None:
    network = filled(LayerNetwork(config(*STEM)))
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    (raw,) = network.raw_levels(network.features(images))
    outputs = network(images)
    assert raw.shape == (1, 2, 8, 12, 8)
    assert outputs["boxes"].shape == (1, 4, 192) and outputs["class_scores"].shape == (1, 3, 192)
    anchor, row, column = 1, 5, 7
    x, y, w, h, objectness, *classes = raw[0, anchor, row, column].sigmoid().tolist()
    cx, cy, width, height = (2 * x - 0.5 + column) * 8, (2 * y - 0.5 + row) * 8, (2 * w) ** 2 * 30, (2 * h) ** 2 * 15
    cell = anchor * 96 + row * 12 + column
    expected = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
    assert outputs["boxes"][0, :, cell].tolist() == pytest.approx(expected)
    assert outputs["class_scores"][0, :, cell].tolist() == pytest.approx([objectness * score for score in classes])


def test_reorg_takes_rows_before_columns() -> None:
    network = LayerNetwork(config(*STEM))
    image = torch.arange(16.0).view(1, 1, 4, 4)
    found = network.layers["reorg"](image)
    assert found[0, :, 0, 0].tolist() == [0, 4, 1, 5]


def test_costs_are_counted_before_and_after() -> None:
    cost = layers_cost(config(*STEM, *BODIES["identity"]), (64, 96))
    rest = (12 * 8 * 9 + 16) + (8 * 8 * 9 + 16) + (8 * 16 + 16) + 8 + 16
    assert cost.parameters == rest + (8 * 8 * 9 + 16) + (8 * 8 + 8 + 16) + 16
    assert cost.folded_parameters == (12 * 8 * 9 + 8) + 2 * (8 * 8 * 9 + 8) + (8 * 16 + 16)
    cells = 8 * 12
    assert cost.folded_flops == 2 * (12 * 8 * 9 * 16 * 24 + (8 * 8 * 9 * 2 + 8 * 16) * cells)
    assert "folded" in cost.table() and "64x96" in cost.table()
    with pytest.raises(UsageError, match="multiples of 8"):
        layers_cost(config(*STEM), (60, 96))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"name": "a.b"}, "no name of its own"),
        ({"name": "reorg"}, "no name of its own"),
        ({"type": "magic"}, "has the type 'magic'; known are conv"),
        ({"from": ["later"]}, "reads later"),
        ({"from": []}, "reads nothing"),
    ],
)
def test_layers_that_cannot_be_are_refused(change: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        config(STEM[0], {**STEM[1], **change}, STEM[2])
