"""Training with int8 in the loop: weights and activations are rounded as the exported `s8s8` graph rounds them.

A plan, made of that graph, says which blocks have int8 weights and where an activation is held in int8. Convolutions
are folded with their batch normalisation, whose statistics stay, at every step, as the exporter folds them; weights
take their scale from their largest value, activations from a bound that is learned (LSQ, arXiv 1902.08153). Rounding
has the gradient of the identity, and none outside the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network.blocks import Conv
from .network.network import Network

LOWEST, HIGHEST = -128, 127
BOUNDS = "int8"
"""Name of the module that the bounds are parameters of."""
_TINY = 1e-8


@dataclass(frozen=True)
class QuantisationPlan:
    """What is int8 in the exported graph.

    Attributes:
        weights: Paths of the `Conv` blocks whose weights are int8.
        groups: By path of each `Conv` block whose output is held in int8, the group that it shares its scale with.
        bounds: By group, the largest absolute value that it begins with.
        images: How many images these were measured on.
    """

    weights: tuple[str, ...]
    groups: Mapping[str, str]
    bounds: Mapping[str, float]
    images: int

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "groups": dict(self.groups),
            "bounds": dict(self.bounds),
            "images": self.images,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> QuantisationPlan:
        return cls(tuple(values["weights"]), dict(values["groups"]), dict(values["bounds"]), int(values["images"]))


class QuantisedConv(Conv):
    """A `Conv` with its norm folded in, rounded; parameters and buffers have the names they had."""

    def __init__(self, block: Conv, has_int8_weights: bool, log_bound: nn.Parameter | None) -> None:
        nn.Sequential.__init__(self, *block)
        self.c_out, self.has_int8_weights = block.c_out, has_int8_weights
        self._log_bound = (log_bound,)  # in a tuple: it belongs to the network, since several blocks share it

    def forward(self, input: Tensor) -> Tensor:
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        weight, bias = self.folded()
        if self.has_int8_weights:
            weight = _Straight.apply(weight, rounded_weights(weight.detach()))
        x = F.silu(F.conv2d(input, weight, bias, conv.stride, conv.padding))  # type: ignore[arg-type]
        return x if self._log_bound[0] is None else _Rounded.apply(x, self._log_bound[0])

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the exporter folds them: in float64, rounded once."""
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = conv.weight.double() * gain[:, None, None, None]
        return weight.float(), (norm.bias.double() - norm.running_mean.double() * gain).float()


def quantise(network: nn.Module, plan: QuantisationPlan) -> None:
    """Make the blocks of `network` round as the plan says, in place; all norms keep their statistics from here on.

    Raises:
        ValueError: If the plan names a block that is not there.
    """
    blocks = {path: module for path, module in network.named_modules() if isinstance(module, Conv)}
    if unknown := [path for path in (*plan.weights, *plan.groups) if path not in blocks]:
        raise ValueError(f"the network has no block {unknown[0]}")
    device = next(network.parameters()).device
    bounds = {group: nn.Parameter(torch.tensor(math.log(max(value, _TINY)))) for group, value in plan.bounds.items()}
    for path, block in blocks.items():
        parent, _, name = path.rpartition(".")
        bound = bounds[plan.groups[path]] if path in plan.groups else None
        setattr(network.get_submodule(parent), name, QuantisedConv(block, path in plan.weights, bound))
    keys = {group.replace(".", "-"): bound for group, bound in bounds.items()}
    network.add_module(BOUNDS, nn.ParameterDict(keys).to(device))


def learned_bounds(network: nn.Module) -> dict[str, float]:
    """By path of a block, the bound of its output; empty where the network does not round."""
    return {
        path: math.exp(float(bound.detach()))
        for path, module in network.named_modules()
        if isinstance(module, QuantisedConv) and (bound := module._log_bound[0]) is not None
    }


def unquantised(network: Network) -> Network:
    """A network with the same weights that does not round."""
    plain = Network(network.config)
    state = network.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(f"{BOUNDS}.")})
    return plain.to(next(network.parameters()).device).train(network.training)


def is_bound(name: str) -> bool:
    """Whether a parameter of that name is a bound."""
    return name.startswith(f"{BOUNDS}.")


def rounded_weights(weight: Tensor) -> Tensor:
    """Weights (out, in, h, w) as the numbers that int8 with a scale per output channel stands for, float32."""
    exact = weight.double()
    scale = _halves_up(exact.abs().flatten(1).amax(1).clamp(min=_TINY) / HIGHEST).double()[:, None, None, None]
    return ((exact / scale).round().clamp(-HIGHEST, HIGHEST) * scale).float()


class _Straight(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _Rounded(torch.autograd.Function):
    """A tensor as int8 holds it, with one scale: the exponential of the second, a bound, over 127."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_bound: Tensor) -> Tensor:
        scale = _halves_up(log_bound.double().exp().clamp(min=_TINY) / HIGHEST)
        ctx.save_for_backward(x, scale)
        return ((x.float() / scale).round_().clamp_(LOWEST, HIGHEST).mul_(scale)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        levels = x.float() / scale
        inside = (levels >= LOWEST) & (levels <= HIGHEST)
        # By the scale: how far rounding moved a value, in levels; outside, the level itself.
        moved = levels.round().clamp_(LOWEST, HIGHEST) - torch.where(inside, levels, 0.0)
        by_scale = (gradients[0].float() * moved).sum() / math.sqrt(x.numel() * HIGHEST)
        return gradients[0] * inside, by_scale * scale


def _halves_up(scale: Tensor) -> Tensor:
    """The next float16 numbers that are no smaller than these float64 ones, as float32; see `to_int8`."""
    half = scale.to(torch.float16)
    next_half = (half.view(torch.int16) + 1).view(torch.float16)
    half = torch.where(half.double() < scale, next_half, half)
    return torch.where(half.isfinite(), half.float(), scale.float())
