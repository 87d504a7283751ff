"""Folding: the same network without batch normalisation and without implicit vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.train.network.blocks import Conv, ImplicitAdd, ImplicitMul, Prediction
from yolor_edge.train.network.config import TASKS, Task
from yolor_edge.train.network.network import Network

from ...train.tiny_network import tiny_config, tiny_network
from ..random_network import random_network

pytestmark = pytest.mark.usefixtures("one_thread")


def outputs_in_float64(network: Network, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return copy.deepcopy(network).double()(images.double())


def largest_relative_difference(network: Network, folded: Network) -> float:
    images = torch.rand(2, 3, *network.config.input_size, generator=torch.Generator().manual_seed(7))
    before, after = outputs_in_float64(network, images), outputs_in_float64(folded, images)
    assert list(before) == list(after)
    return max(float((after[name] - value).abs().max() / value.abs().max()) for name, value in before.items())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_folded_network_computes_the_same(seed: int) -> None:
    network = random_network(tiny_config(), seed)
    # What is left is the rounding of each folded weight to float32.
    assert largest_relative_difference(network, fold(network)) < 1e-5


@pytest.mark.parametrize("tasks", [("boxes",), ("boxes", "masks"), ("semantic",), ("caption",)])
def test_every_head_folds_alone(tasks: tuple[Task, ...]) -> None:
    network = random_network(tiny_config(tasks=tasks))
    assert largest_relative_difference(network, fold(network)) < 1e-5


def test_in_float64_folding_is_exact() -> None:
    network = random_network(tiny_config()).double()
    folded = fold(network)
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float64}
    assert largest_relative_difference(network, folded) < 1e-12


def test_a_larger_size_folds_too() -> None:
    network = random_network(tiny_config("s", tasks=("boxes", "semantic")))
    assert largest_relative_difference(network, fold(network)) < 1e-5


def test_nothing_to_fold_is_left() -> None:
    network = tiny_network()
    folded = fold(network)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {nn.BatchNorm2d, ImplicitAdd, ImplicitMul, Conv, Prediction}
    assert not folded.training
    assert list(folded.config.tasks) == list(TASKS)
    # Not one convolution is lost, and each took up a bias.
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    in_folded = [module for module in folded.modules() if isinstance(module, nn.Conv2d)]
    assert len(in_folded) == len(convolutions) > 100
    assert all(conv.bias is not None for conv in in_folded)


def test_the_network_itself_is_not_changed() -> None:
    network = random_network(tiny_config(tasks=("boxes",)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_caption_decoder_stays_as_it_is() -> None:
    network = tiny_network(tasks=("caption",))
    folded = fold(network)
    after = folded.caption_decoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in network.caption_decoder.state_dict().items())


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        fold(tiny_network(tasks=("boxes",)).train())


def test_odd_statistics_fold_exactly() -> None:
    """Dead, negative and nearly constant channels, and implicit vectors that switch a channel off or turn it round."""
    network = random_network(tiny_config(tasks=("boxes",)))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.weight[0] = 0.0
                module.weight[1] *= -1
                module.running_var[2] = 0.0
            elif isinstance(module, ImplicitMul):
                module.vector[0, 0] = 0.0
                module.vector[0, 1] *= -1
    folded = fold(network)
    assert all(torch.isfinite(parameter).all() for parameter in folded.parameters())
    assert largest_relative_difference(network, folded) < 1e-5
