"""Folding: batch normalisation and implicit knowledge vanish into the convolutions beside them, exactly."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn

from ...train.network.any_network import SomeNetwork
from ...train.network.blocks import Conv, ImplicitAdd, ImplicitMul, Prediction
from ...train.network.layers import LayerNetwork
from ...train.network.layers_fold import fold as fold_layers


def fold(network: SomeNetwork) -> SomeNetwork:
    """A copy of `network` that computes the same without batch normalisation and without implicit vectors.

    Args:
        network: In evaluation mode; not changed.

    Returns:
        The copy, in evaluation mode. Arithmetic is done in float64 and rounded once.
    """
    if network.training:
        raise ValueError("network must be in evaluation mode: folding takes the running statistics")
    if isinstance(network, LayerNetwork):
        return fold_layers(network)
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv):
                setattr(parent, name, nn.Sequential(OrderedDict(conv=_fold_conv(child), act=nn.SiLU())))
            elif isinstance(child, Prediction):
                setattr(parent, name, _fold_prediction(child))
    return folded.eval()


def _fold_conv(block: Conv) -> nn.Conv2d:
    conv, norm = block[0], block[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * gain[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * gain
    return _conv_like(conv, weight, bias)


def _fold_prediction(block: Prediction) -> nn.Conv2d:
    """W (x + a) + b, times m, is the convolution with weights m W and bias m (W a + b)."""
    add, conv, mul = block
    assert isinstance(add, ImplicitAdd) and isinstance(conv, nn.Conv2d) and isinstance(mul, ImplicitMul)
    assert conv.bias is not None
    weight = conv.weight.double()
    gain = mul.vector.double().flatten()
    shifted = weight[:, :, 0, 0] @ add.vector.double().flatten() + conv.bias.double()
    return _conv_like(conv, weight * gain[:, None, None, None], shifted * gain)


def _conv_like(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=(conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=(conv.weight.shape[2] // 2, conv.weight.shape[3] // 2),
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)  # type: ignore[union-attr]
    return folded
