"""The vision part as it is to be exported: the network with what `GraphOptions` build into its graph."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.backends.base import TensorInfo
from ...runtime.bundle.graph_options import HEADS_OF_CELLS, GraphOptions
from ...runtime.bundle.spec import SCORE_HEADS, ModelSpec
from ...runtime.errors import UsageError
from ...train.network.any_network import AnyConfig, AnyNetwork
from ...train.torch_backend import TorchGraph, spec_of

__all__ = ["GraphOptions", "spec_with_options", "vision_with_options"]


class OptionedVision(torch.nn.Module):
    """Images to the outputs of a graph with `options`, in the order of `vision_with_options`."""

    def __init__(self, network: AnyNetwork, options: GraphOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heads = self.network(images)
        if self.options.top_k is not None:
            scores = next(heads[name] for name in SCORE_HEADS.values() if name in heads)
            best = scores.amax(1)  # (B, N)
            cells = best.topk(self.options.top_k, dim=1).indices  # (B, K)
            for name in HEADS_OF_CELLS:
                if name in heads:
                    rows = heads[name].shape[1]
                    heads[name] = heads[name].gather(2, cells[:, None].expand(-1, rows, -1))
            heads["cells"] = cells.int()
        if self.options.semantic_map:
            logits = heads.pop("semantic_logits")
            stride = images.shape[2] // logits.shape[2]
            full = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
            # By way of float32: TensorRT casts nothing else to uint8.
            heads["semantic_map"] = full.argmax(1).float().to(torch.uint8)
        return tuple(heads.values())


def vision_with_options(vision: TorchGraph, network: AnyNetwork, options: GraphOptions) -> TorchGraph:
    """The vision part of `network` with `options`; `vision` itself where there are none.

    Args:
        vision: The part as `parts_of` gives it.
        network: In evaluation mode.
        options: Checked already, by `spec_with_options`.
    """
    if options == GraphOptions():
        return vision
    batch = options.batch or "batch"
    inputs = {name: replace(info, shape=(batch, *info.shape[1:])) for name, info in vision.inputs.items()}
    outputs = {name: replace(info, shape=(batch, *info.shape[1:])) for name, info in vision.outputs.items()}
    if options.top_k is not None:
        for name in HEADS_OF_CELLS:
            if name in outputs:
                outputs[name] = replace(outputs[name], shape=(*outputs[name].shape[:2], options.top_k))
        outputs["cells"] = TensorInfo("cells", (batch, options.top_k), "int32")
    if options.semantic_map:
        outputs.pop("semantic_logits")
        size = network.config.input_size
        outputs["semantic_map"] = TensorInfo("semantic_map", (batch, *size), "uint8")
    return TorchGraph(OptionedVision(network, options).eval(), inputs, outputs)


def spec_with_options(config: AnyConfig, options: GraphOptions) -> ModelSpec:
    """What the runtime has to know about a network whose graph has `options`.

    Raises:
        UsageError: If the options are not for this network; every complaint in one line.
    """
    spec = replace(spec_of(config), graph=options)
    complaints = spec.graph_complaints()
    if complaints:
        raise UsageError("; ".join(f"<{name}> {what}" for name, what in complaints.items()), tuple(complaints))
    return spec
