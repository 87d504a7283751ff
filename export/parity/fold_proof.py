"""Folding proven and measured: the same outputs on random images, and what a network costs before and after."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ...runtime.errors import ParityError
from ...runtime.verification.comparison import Tolerances
from ...runtime.verification.graph_form import regions_in_place
from ...train.network.any_network import AnyNetwork
from ...train.network.blocks import ImplicitAdd, ImplicitMul
from ...train.network.cost import count_flops
from ...train.network.layers import LayerNetwork, VectorLayer
from ...train.torch_backend import VisionPart
from ..onnx_graphs.fold import fold
from ..onnx_graphs.graph_cleanup import drop_metadata, drop_unread, fold_constants
from ..onnx_graphs.quiet import quietly

# Relative to the largest value of each output. In float64 rounding is out of the way (1e-14 is reached), so what would
# be left is the algebra of folding: a wrong sign, a forgotten epsilon.
ALGEBRA_TOLERANCE = 1e-9
# In float32 both networks round, each in its own way. The demo network reaches 2e-6; in a deep network with large gains
# rounding alone is more than this, and then the fold may differ by a few times what the network's own rounding is.
FLOAT32_TOLERANCE = 1e-5
ROUNDING_FACTOR = 4.0
# The algebra is that of one pixel, so the comparison in float64, which is slow, needs no full-sized image.
_ALGEBRA_SIDE = 128
# What makes a network one that rounds more than usual, and there a box may hover this near to the score threshold.
_MUCH_ROUNDING, _CLOSE_SCORE = 1e-4, 1e-3
# How far logits that regions are chosen by may be off where they are not among the outputs.
_SLACK = 1e-3
_OPSET = 18


@dataclass(frozen=True)
class FoldProof:
    """Largest differences between a network and its fold by output, relative to the output's scale.

    Attributes:
        float32: On two random images of the network's input size.
        float64: Of the same network and fold with everything in float64, on a smaller image.
        rounding: How far the network in float32 is from itself in float64, for the outputs whose `float32` is above
            `FLOAT32_TOLERANCE`.
    """

    float32: dict[str, float]
    float64: dict[str, float]
    rounding: dict[str, float]

    def tolerances(self) -> Tolerances:
        """How far the network in ONNX may be from itself in torch.

        A deep network whose rounding is more than usual may differ by a few times as much, and a box whose score is all
        but the threshold may come or go.
        """
        usual = Tolerances()
        own = max(self.rounding.values(), default=0.0)
        if own <= _MUCH_ROUNDING:
            return usual
        return replace(usual, head=max(usual.head, ROUNDING_FACTOR * own), borderline=max(_CLOSE_SCORE, own))

    def line(self) -> str:
        """For people."""
        moved = f"{max(self.float32.values()):.1e} of its largest value"
        algebra = f"in float64 by {max(self.float64.values()):.1e}, so this is rounding"
        own = f"; float32 alone rounds by {max(self.rounding.values()):.1e}" if self.rounding else ""
        return f"folded: no output of the network changed by more than {moved} ({algebra}{own})"


def prove_fold(network: AnyNetwork, folded: AnyNetwork) -> FoldProof:
    """Compare a network with its fold on random images.

    Args:
        network: In evaluation mode.
        folded: Its fold, float32.

    Raises:
        ParityError: If an output in float64 differs by more than `ALGEBRA_TOLERANCE`, or one in float32 by more than
            `FLOAT32_TOLERANCE` and by more than rounding explains.
    """
    height, width = network.config.input_size
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(network).double()
    small = images[:1, :, : min(height, _ALGEBRA_SIDE), : min(width, _ALGEBRA_SIDE)].double()
    with torch.inference_mode():
        algebra = _differences(exact(small), fold(exact)(small), exact.region_margins(small), ALGEBRA_TOLERANCE)
        answers, margins = network(images), network.region_margins(images)
        found = _differences(answers, folded(images), margins, _SLACK)
        beyond = [name for name, worst in found.items() if not worst <= FLOAT32_TOLERANCE]
        own = _differences(exact(images.double()), answers, margins, _SLACK) if beyond else {}
    rounding = {name: own[name] for name in beyond}
    for name, worst in algebra.items():
        _check(name, worst, ALGEBRA_TOLERANCE, " in float64")
    for name, worst in found.items():
        _check(name, worst, max(FLOAT32_TOLERANCE, ROUNDING_FACTOR * rounding.get(name, 0.0)), "")
    return FoldProof(found, algebra, rounding)


def _differences(
    before: dict[str, Tensor], after: dict[str, Tensor], margins: Tensor | None, slack: float
) -> dict[str, float]:
    """Largest difference of each output; of regions that were a close choice none, see `regions_in_place`."""
    expected, found = ({name: value.numpy() for name, value in outputs.items()} for outputs in (before, after))
    if margins is not None and "caption_memory" in found:
        found["caption_memory"], _ = regions_in_place(found, expected, margins.numpy(), slack)
    return {
        name: float(np.abs(found[name] - value).max() / max(float(np.abs(value).max()), 1e-12))
        for name, value in expected.items()
    }


def _check(name: str, worst: float, allowed: float, where: str) -> None:
    if not worst <= allowed:  # written so that a NaN fails
        raise ParityError(
            f"folded network: output {name!r} differs by {worst:.1e}{where}, allowed {allowed:.0e} of its scale"
        )


@dataclass(frozen=True)
class VisionCost:
    """What the vision part of a network costs.

    Attributes:
        parameters: Trainable values, those of the caption decoder apart.
        flops: Of convolutions for one image, by the rule of `inspect`.
        norm_flops: Of batch normalisation and implicit knowledge, which that rule leaves out: two for each value that
            is normalised, one for each that an implicit vector is added to or multiplied with.
        nodes: Of the ONNX graph; None where none is made.
        bytes: Of the ONNX graph.
    """

    parameters: int
    flops: int
    norm_flops: int
    nodes: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, network: AnyNetwork, graph: onnx.ModelProto | None) -> VisionCost:
        """Of `network`, whose exported vision graph is `graph`."""
        parameters = sum(p.numel() for p in network.parameters())
        if "caption" in network.config.tasks:
            parameters -= sum(p.numel() for p in network.caption_decoder.parameters())
        flops, norm_flops = _work(network)
        if graph is None:
            return cls(parameters, flops, norm_flops)
        return cls(parameters, flops, norm_flops, len(graph.graph.node), graph.ByteSize())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cost_line(before: VisionCost, after: VisionCost) -> str:
    """Before and after in one line."""
    return (
        f"vision, before -> after folding: parameters {before.parameters / 1e6:.3f} -> {after.parameters / 1e6:.3f} M, "
        f"FLOPs {before.flops / 1e9:.3f} -> {after.flops / 1e9:.3f} G, of norms and implicit vectors "
        f"{before.norm_flops / 1e6:.1f} -> {after.norm_flops / 1e6:.1f} M, "
        f"nodes {_change(before.nodes, after.nodes)}, {_change(before.bytes, after.bytes, 1e6, '.2f')} MB"
    )


def _change(before: int | None, after: int | None, unit: float = 1, digits: str = ".0f") -> str:
    return " -> ".join(f"{count / unit:{digits}}" for count in (before, after) if count is not None)


def unfolded_cost(network: AnyNetwork) -> VisionCost:
    """Of `network` as it was trained, with every norm and implicit vector still in its graph.

    Of an imported network no such graph is made: tracing its hundreds of layers takes as long as the export itself.
    """
    if isinstance(network, LayerNetwork):
        return VisionCost.of(network, None)
    with quietly():
        # Neither names nor weights depend on the size of the image, and a small one is traced fastest.
        program = torch.onnx.export(
            VisionPart(network).eval(),
            (torch.zeros(1, 3, 32, 64),),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            optimize=False,  # which would fold the norms
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    drop_metadata(model)
    weights = {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[2] not in weights:
            del node.input[2:]  # a bias of zeros that the exporter makes up, computed by two nodes
    drop_unread(model)
    fold_constants(model)
    drop_unread(model)
    return VisionCost.of(network, model)


def _work(network: AnyNetwork) -> tuple[int, int]:
    """FLOPs for one image, and those of norms and implicit vectors; only shapes are computed."""
    shadow = copy.deepcopy(network).to("meta")
    height, width = network.config.input_size
    norm_flops = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal norm_flops
        norm_flops += (2 if isinstance(module, nn.BatchNorm2d) else 1) * output.numel()

    for module in shadow.modules():
        if isinstance(module, nn.BatchNorm2d | ImplicitAdd | ImplicitMul | VectorLayer):
            module.register_forward_hook(count)
    with torch.no_grad():
        flops, _ = count_flops(lambda: shadow(torch.empty(1, 3, height, width, device="meta")))
    return flops, norm_flops
