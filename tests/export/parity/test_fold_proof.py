"""The proof of folding: exact in float64, within rounding in float32, and what it saves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.export.parity import fold_proof
from yolor_edge.export.parity.fold_proof import VisionCost, cost_line, prove_fold, unfolded_cost
from yolor_edge.export.to_onnx import export_part
from yolor_edge.runtime.errors import ParityError
from yolor_edge.runtime.verification.comparison import Tolerances
from yolor_edge.train.network.cost import inspect_network
from yolor_edge.train.network.network import Network
from yolor_edge.train.torch_backend import parts_of

from ...train.tiny_network import tiny_config, tiny_network
from ..random_network import random_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_quiet_network_and_its_fold_agree_to_1e_5_in_float32_and_exactly_in_float64() -> None:
    network = tiny_network(tasks=("boxes", "semantic"))
    proof = prove_fold(network, fold(network))
    assert list(proof.float32) == list(proof.float64) == ["class_logits", "box_bins", "semantic_logits"]
    assert max(proof.float32.values()) < 1e-5
    assert max(proof.float64.values()) < 1e-12
    assert proof.rounding == {}
    assert "float32 alone rounds" not in proof.line()


def test_where_float32_rounds_more_the_network_itself_does() -> None:
    """Large gains, layer after layer: the network in float32 is as far from the truth as the fold is from it."""
    network = random_network(tiny_config(tasks=("boxes",)))
    proof = prove_fold(network, fold(network))
    assert max(proof.float64.values()) < 1e-12
    assert proof.rounding
    for name, own in proof.rounding.items():
        assert 1e-5 < proof.float32[name] < 4 * own
    assert "; float32 alone rounds by " in proof.line()


def test_a_slip_is_found_in_float64_that_float32_would_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network(tasks=("boxes",))

    def careless_fold(network: Network) -> Network:
        careless = fold(network)
        with torch.no_grad():
            careless.box_head.classes[0].get_parameter("2.bias").mul_(1 + 1e-7)
        return careless

    monkeypatch.setattr(fold_proof, "fold", careless_fold)
    with pytest.raises(
        ParityError, match=r"folded network: output '\w+' differs by .* in float64, allowed 1e-09 of its"
    ):
        prove_fold(network, fold(network))


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_wrong_fold_is_named(value: float) -> None:
    network = tiny_network(tasks=("boxes", "semantic"))
    folded = fold(network)
    with torch.no_grad():
        folded.semantic_head.body.get_parameter("1.bias").add_(value)
    with pytest.raises(ParityError, match=r"folded network: output 'semantic_logits' differs by .*, allowed 1e-05"):
        prove_fold(network, folded)


def test_costs_before_and_after() -> None:
    network = tiny_network(tasks=("boxes", "caption"))
    folded = fold(network)
    before = unfolded_cost(network)
    after = VisionCost.of(folded, export_part("vision", parts_of(folded)["vision"]))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    predictions = 3 + 3 + 1  # of classes, boxes and the caption memory, each with two implicit vectors
    assert after.nodes is not None and before.bytes is not None and after.bytes is not None
    assert before.nodes == after.nodes + len(norms) + 2 * predictions
    assert before.bytes > after.bytes
    assert after.parameters == sum(p.numel() for p in folded.parameters()) - sum(
        p.numel() for p in folded.caption_decoder.parameters()
    )
    assert before.parameters > after.parameters
    counted = inspect_network(network.config)
    expected = sum(part.flops for part in counted.parts if not part.name.startswith("caption decoder"))
    assert before.flops == after.flops == expected
    assert before.norm_flops > 0
    assert after.norm_flops == 0

    line = cost_line(before, after)
    assert f"nodes {before.nodes} -> {after.nodes}, " in line
    assert "\n" not in line
    assert dataclasses.asdict(before) == before.to_json()


def test_a_network_that_rounds_more_may_differ_more() -> None:
    usual = fold_proof.FoldProof({"a": 1e-6}, {"a": 1e-15}, {})
    assert usual.tolerances() == Tolerances()
    deep = fold_proof.FoldProof({"a": 3e-3}, {"a": 1e-15}, {"a": 1e-3})
    assert deep.tolerances() == dataclasses.replace(Tolerances(), head=4e-3, borderline=1e-3)
    slight = fold_proof.FoldProof({"a": 2e-5}, {"a": 1e-15}, {"a": 1e-5})
    assert slight.tolerances() == Tolerances()
