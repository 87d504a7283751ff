"""Ranges that a training with int8 in the loop has learned: from the graph to its plan, and back into a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx

from ...train.quantisation import QuantisationPlan
from ..onnx_graphs.graph_view import GraphView
from .calibration import Calibration
from .to_int8 import held_in_int8

DIALECT = "s8s8"
"""What is trained: the dialect of devices, whose scales are the coarser ones. The other shares weights and ranges."""


def plan_of(model: onnx.ModelProto, calibration: Calibration) -> QuantisationPlan:
    """What a training has to round so that it sees the int8 graph of `model`, with the calibration's ranges to begin.

    Args:
        model: The fp32 vision graph of a network of our own plan.
        calibration: Of that graph.
    """
    convolutions, groups = held_in_int8(model, DIALECT)
    bounds: dict[str, float] = {}
    for tensor, group in groups.items():
        low, high = calibration.ranges[tensor]
        bounds[group] = max(bounds.get(group, 0.0), -low, high)
    blocks = {block: groups[tensor] for tensor, block in _outputs_of_blocks(model).items() if tensor in groups}
    used = set(blocks.values())
    return QuantisationPlan(
        tuple(_block_of(name) for name in convolutions),
        blocks,
        {group: bound for group, bound in bounds.items() if group in used},
        len(calibration.images),
    )


def with_learned_bounds(
    calibration: Calibration, model: onnx.ModelProto, bounds: Mapping[str, float]
) -> tuple[Calibration, int]:
    """A calibration in which what was learned stands in place of what was measured; how many tensors that are.

    Args:
        calibration: Of `model`.
        model: The fp32 vision graph.
        bounds: By block, largest absolute value of its output; blocks that the graph lacks are passed over.
    """
    _, groups = held_in_int8(model, DIALECT)
    learned = {
        groups[tensor]: bounds[block]
        for tensor, block in _outputs_of_blocks(model).items()
        if tensor in groups and block in bounds
    }
    found = {tensor: learned[group] for tensor, group in groups.items() if group in learned}

    def replaced(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        own = {tensor: (max(ranges[tensor][0], -bound), bound) for tensor, bound in found.items()}
        return {**ranges, **own}

    changed = replace(calibration, ranges=replaced(calibration.ranges), widest=replaced(calibration.widest))
    return changed, len(found)


def _outputs_of_blocks(model: onnx.ModelProto) -> dict[str, str]:
    """By tensor that the activation behind a convolution gives, the block of both."""
    view = GraphView(model)
    pairs = ((conv, view.activation_of(conv)) for conv in view.convolutions())
    return {pair[1].output[0]: _block_of(conv.name) for conv, pair in pairs if pair is not None}


def _block_of(convolution: str) -> str:
    return convolution.removesuffix(".conv")
