"""Folds a network of layers for inference: norms, parallel branches and implicit vectors become plain convolutions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.errors import UsageError
from .cost import RULE, count_flops
from .layers import ConvLayer, Layer, LayerNetwork, LayersConfig, NormLayer, RepConvLayer, VectorLayer


def fold(network: LayerNetwork) -> LayerNetwork:
    """The same function with fewer operations; `network` is left as it is.

    A batch norm goes into its convolution with its own epsilon, a norm by itself becomes a 1x1 convolution of each
    channel, the branches of a `rep_conv` become one kernel, and implicit vectors go into the 1x1 convolution between
    them. All in float64, so that only the last rounding differs.
    """
    convolutions: dict[str, tuple[Layer, Tensor, Tensor]] = {}
    layers: list[Layer] = []
    names: dict[str, str] = {}  # of layers that went into another one, and where their values are now
    added: dict[str, Tensor] = {}  # vectors that wait for the convolution that reads them
    readers = _readers(network.config)
    for layer in network.config.layers:
        module = network.layers[layer["name"]]
        name: str = layer["name"]
        sources = [str(names.get(source, source)) for source in layer["from"]]
        layer = {**layer, "from": sources}
        if isinstance(module, VectorLayer):
            vector = module.vector.detach().double().flatten()
            before = convolutions.get(sources[0])
            if module.multiplies and before and not before[0].get("activation") and readers[layer["from"][0]] == 1:
                inner, weight, bias = before
                del convolutions[sources[0]]
                position = next(i for i, item in enumerate(layers) if item["name"] == inner["name"])
                inner = layers[position] = {**inner, "name": name}
                convolutions[name] = (inner, weight * vector[:, None, None, None], bias * vector)
                continue
            follower = _only_reader(network.config, name, readers)
            plain = follower is not None and follower["type"] == "conv" and follower["kernel"] == 1
            if follower is not None and plain and not module.multiplies and not follower.get("padding"):
                names[name] = sources[0]
                added[follower["name"]] = vector
                continue
        merged = _merged(layer, module)
        if merged is None:
            layers.append(layer)
            continue
        plain, weight, bias = merged
        if name in added:
            bias = bias + _response(weight, added.pop(name), plain.get("groups", 1))
        convolutions[name] = (plain, weight, bias)
        layers.append(plain)
    config = dataclasses.replace(network.config, layers=tuple(layers))
    some = next(network.parameters())
    with torch.device(some.device):
        folded = LayerNetwork(config).to(some.dtype)
    with torch.no_grad():
        for name, (_, weight, bias) in convolutions.items():
            module = folded.layers[name]
            assert isinstance(module, ConvLayer) and module.conv.bias is not None
            module.conv.weight.copy_(weight)
            module.conv.bias.copy_(bias)
        if folded.captioner is not None and network.captioner is not None:
            folded.captioner.load_state_dict(network.captioner.state_dict())
        for name, module in folded.layers.items():
            if name not in convolutions and network.layers[name].state_dict():
                module.load_state_dict(network.layers[name].state_dict())
    return folded.train(network.training)


def _readers(config: LayersConfig) -> dict[str, int]:
    counts = dict.fromkeys(config.outputs, 1)
    for layer in config.layers:
        for source in layer["from"]:
            counts[source] = counts.get(source, 0) + 1
    return counts


def _only_reader(config: LayersConfig, name: str, readers: dict[str, int]) -> Layer | None:
    if readers.get(name) != 1:
        return None
    return next((layer for layer in config.layers if name in layer["from"]), None)


def _response(weight: Tensor, vector: Tensor, groups: int) -> Tensor:
    """What a 1x1 convolution makes of `vector` at every cell."""
    parts = vector.view(groups, -1)
    return torch.einsum("goc,gc->go", weight.flatten(1).view(groups, -1, parts.shape[1]), parts).flatten()


def _merged(layer: Layer, module: nn.Module) -> tuple[Layer, Tensor, Tensor] | None:
    """A layer as one convolution with bias: its description, kernel and bias in float64; None where it is none."""
    if isinstance(module, ConvLayer):
        weight, bias = _folded(module)
        plain = {key: value for key, value in layer.items() if key != "norm"}
        return {**plain, "bias": True}, weight, bias
    if isinstance(module, NormLayer):
        scale, shift = _affine(module.norm)
        channels = len(scale)
        plain = {key: value for key, value in layer.items() if key not in ("norm", "out")}
        plain |= {"type": "conv", "in": channels, "out": channels, "kernel": 1, "groups": channels, "bias": True}
        return plain, scale.view(-1, 1, 1, 1), shift
    if isinstance(module, RepConvLayer):
        return _joined_branches(layer, module)
    return None


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm, in float64."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _folded(module: ConvLayer) -> tuple[Tensor, Tensor]:
    weight = module.conv.weight.detach().double()
    given = module.conv.bias
    bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    if given is not None:
        bias = given.detach().double()
    if module.norm is None:
        return weight, bias
    scale, shift = _affine(module.norm)
    return weight * scale.view(-1, 1, 1, 1), bias * scale + shift


def _joined_branches(layer: Layer, module: RepConvLayer) -> tuple[Layer, Tensor, Tensor] | None:
    """All branches as the kernel of the largest one; None where their kernels are not centred alike."""
    branches = layer["branches"]
    largest = max((branch for branch in branches if "kernel" in branch), key=lambda branch: branch["kernel"])
    size, padding, groups = largest["kernel"], largest.get("padding", 0), largest.get("groups", 1)
    if not isinstance(size, int) or not isinstance(padding, int) or largest.get("dilation", 1) != 1:
        return None
    kernel: Any = 0
    bias: Any = 0
    for branch, part in zip(branches, module.branches, strict=True):
        if isinstance(part, NormLayer):
            scale, shift = _affine(part.norm)
            if size % 2 == 0 or padding != size // 2 or largest.get("stride", 1) != 1:
                return None
            width = len(scale) // groups
            channel = torch.arange(len(scale), device=scale.device)
            weight = torch.zeros(len(scale), width, size, size, dtype=scale.dtype, device=scale.device)
            weight[channel, channel % width, size // 2, size // 2] = scale
        else:
            assert isinstance(part, ConvLayer)
            weight, shift = _folded(part)
            small, edge = branch["kernel"], padding - branch.get("padding", 0)
            alike = all(branch.get(key, 1) == largest.get(key, 1) for key in ("groups", "stride", "dilation"))
            if not alike or not isinstance(small, int) or 2 * edge != size - small:
                return None
            weight = nn.functional.pad(weight, (edge,) * 4)
        kernel, bias = kernel + weight, bias + shift
    plain: Layer = {key: layer[key] for key in ("name", "from", "activation") if key in layer}
    plain |= {key: value for key, value in largest.items() if key != "norm"}
    return {**plain, "type": "conv", "bias": True}, kernel, bias


@dataclass(frozen=True)
class LayersCost:
    """What an imported network costs, for one image; by the rule of `cost.RULE`.

    Attributes:
        input_size: (height, width).
        parameters, flops: As the file has it, without the layers that were left out.
        folded_parameters, folded_flops: As it is exported.
        caption_parameters: Of the captioner's encoder and decoder, within both counts of parameters.
    """

    input_size: tuple[int, int]
    parameters: int
    flops: int
    folded_parameters: int
    folded_flops: int
    caption_parameters: int

    def table(self) -> str:
        """A text table for people."""
        height, width = self.input_size
        rows = [("as imported", self.parameters, self.flops), ("folded", self.folded_parameters, self.folded_flops)]
        lines = [f"{name:<12}{count / 1e6:>10.2f} M{flops / 1e9:>11.2f} G" for name, count, flops in rows]
        head = f"{f'{height}x{width}':<12}{'parameters':>12}{'FLOPs':>13}"
        return "\n".join([head, *lines, "", RULE])


def layers_cost(config: LayersConfig, input_size: tuple[int, int] | None = None) -> LayersCost:
    """Parameters and FLOPs before and after folding, counted without weights or data on torch's meta device.

    Args:
        config: The network.
        input_size: (height, width), multiples of its largest stride; by default the one in `config`.

    Raises:
        UsageError: If no network can take `input_size`.
    """
    height, width = size = config.input_size if input_size is None else input_size
    multiple = max(config.strides)
    if any(side % multiple or not multiple <= side <= 8192 for side in size):
        raise UsageError(f"input size must be multiples of {multiple} up to 8192, got {height}x{width}")
    with torch.device("meta"), torch.no_grad():
        network = LayerNetwork(config).eval()
        folded = fold(network)
        images = torch.empty(1, 3, height, width)
        before, after = (count_flops(lambda item=item: item(images))[0] for item in (network, folded))
    return LayersCost(
        (height, width), _size(network), before, _size(folded), after, _size(network.captioner or nn.Identity())
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
