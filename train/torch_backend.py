"""The training network behind the runtime's backend interface, so that validation runs the pipeline that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..runtime.backends.base import Array, TensorInfo, checked_feed
from ..runtime.bundle.spec import ModelSpec
from ..runtime.bundle.tensors import describe_tensors
from ..runtime.model import Model
from .network.any_network import AnyConfig, AnyNetwork


def spec_of(config: AnyConfig) -> ModelSpec:
    """What the runtime has to know about a network, the same for a checkpoint under evaluation and for a bundle."""
    return ModelSpec(
        name=config.name,
        tasks=config.tasks,
        preprocess=config.preprocess_rule,
        strides=config.strides,
        box_coding=config.box_coding,
        score_coding=config.score_coding,
        reg_max=config.reg_max,
        box_count=config.box_count,
        semantic_stride=config.semantic_stride,
        class_names=config.class_names,
        category_ids=config.category_ids,
        semantic_names=config.semantic_names,
        semantic_category_ids=config.semantic_category_ids,
        caption=config.caption_spec,
        thresholds=config.thresholds,
    )


class TorchGraph:
    """One part of a network ("vision", "caption_prefill" or "caption_step") as a `runtime.backends.base.Graph`."""

    def __init__(
        self, part: torch.nn.Module, inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]
    ) -> None:
        self.part = part
        self.inputs, self.outputs = inputs, outputs

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see `Graph.run`."""
        names = checked_feed(type(self.part).__name__, self.inputs, self.outputs, feed, wanted)
        device = next(self.part.parameters()).device
        # torch takes neither strides it does not know nor, without a warning, arrays that are read-only.
        arrays = [np.require(feed[name], requirements=["C", "W"]) for name in self.inputs]
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
        with torch.inference_mode():
            results = self.part(*tensors)
        named = dict(zip(self.outputs, results, strict=True))
        return {name: named[name].float().cpu().numpy() for name in names}

    def close(self) -> None:
        """Nothing to free: the network belongs to the caller."""


class VisionPart(torch.nn.Module):
    """Images to the raw heads, in the order of `names`."""

    def __init__(self, network: AnyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(images).values())


class PrefillPart(torch.nn.Module):
    """The caption decoder's first run; the memory's positions are a constant of the input size."""

    def __init__(self, network: AnyNetwork, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.decoder = network.caption_decoder
        device = next(self.decoder.parameters()).device
        self.register_buffer("where", network.memory_positions(input_size).to(device))
        self.where: Tensor

    def forward(self, caption_memory: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        return self.decoder.prefill(tokens, caption_memory, self.where)


class StepPart(torch.nn.Module):
    """The caption decoder's run for every later word."""

    def __init__(self, network: AnyNetwork) -> None:
        super().__init__()
        self.decoder = network.caption_decoder

    def forward(
        self, tokens: Tensor, past_keys: Tensor, past_values: Tensor, cross_keys: Tensor, cross_values: Tensor
    ) -> tuple[Tensor, ...]:
        return self.decoder.step(tokens, past_keys, past_values, cross_keys, cross_values)


def parts_of(network: AnyNetwork, input_size: tuple[int, int] | None = None) -> dict[str, TorchGraph]:
    """The parts of a network as graphs, by the names of a bundle's graphs.

    Args:
        network: In evaluation mode.
        input_size: (height, width) the graphs are for; the network's own by default.

    Shapes hold names for the axes that may vary: `batch` images, `beam` hypotheses, `past` words.

    Raises:
        ValueError: If the network is in training mode, where running it would change its statistics, or its captions
            look at another number of regions at `input_size` than at the network's own.
    """
    if network.training:
        raise ValueError("network must be in evaluation mode; call network.eval()")
    config = network.config
    height, width = size = input_size or config.input_size
    regions = config.regions_at(size)
    if regions != config.regions_at(config.input_size):
        raise ValueError(
            f"the caption decoder looks at {config.regions_at(config.input_size)} regions, an image of "
            f"{height}x{width} has {regions}; make a network of that input size"
        )
    if size != config.input_size:
        config = config.with_input_size(size)
    contract = describe_tensors(spec_of(config))

    def graph(part: str, module: torch.nn.Module, **free: int | str) -> TorchGraph:
        """A part of the contract with its axes as long as this network has them."""
        named = {**config.axes, **{name.replace("_", " + "): axis for name, axis in free.items()}}
        inputs, outputs = (
            {
                name: TensorInfo(
                    name,
                    tuple(named.get(axis, axis) if isinstance(axis, str) else axis for axis in one["axes"]),
                    one["dtype"],
                )
                for name, one in contract[part][side].items()
            }
            for side in ("inputs", "outputs")
        )
        return TorchGraph(module, inputs, outputs)

    parts = {"vision": graph("vision", VisionPart(network))}
    if "caption" in config.tasks:
        parts["caption_prefill"] = graph("caption_prefill", PrefillPart(network, size), batch=1, T_1=1)
        parts["caption_step"] = graph("caption_step", StepPart(network), batch="beam", T="past", T_1="past + 1")
    return parts


def torch_model(network: AnyNetwork) -> Model:
    """The runtime's pipeline over the training network, on whatever device the network is."""
    return Model(spec_of(network.config), parts_of(network))
