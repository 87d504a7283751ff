"""Where the inputs and outputs of graphs do not fit what their bundle says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backends.base import Graph, TensorInfo
from ..bundle.spec import ModelSpec
from ..bundle.tensors import describe_tensors
from ..captions.native_captioning import NativeCaptionDecoder


def graph_complaints(
    spec: ModelSpec, graphs: Mapping[str, Graph], caption_decoder: NativeCaptionDecoder | None
) -> list[str]:
    """Where the graphs' inputs and outputs do not fit the spec, in words; axes left free are not judged."""
    found: list[str] = []
    for part, tensors in describe_tensors(spec).items():
        if part != "vision" and caption_decoder is not None:
            continue  # which writes the captions in place of these graphs
        expected = {kind: {name: _axes(one) for name, one in tensors[kind].items()} for kind in ("inputs", "outputs")}
        if "caption_memory" in expected["outputs"] and caption_decoder is not None:
            dims = caption_decoder.dims
            expected["outputs"]["caption_memory"] = (spec.graph.batch, dims.memory, dims.width)
        found += _part_complaints(part, graphs, expected["inputs"], expected["outputs"])
    return found


def _axes(tensor: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The lengths that a tensor of the contract has; None where it is free."""
    return tuple(axis if isinstance(axis, int) else None for axis in tensor["axes"])


def _part_complaints(
    part: str,
    graphs: Mapping[str, Graph],
    inputs: Mapping[str, tuple[int | None, ...]],
    outputs: Mapping[str, tuple[int | None, ...]],
) -> list[str]:
    graph = graphs.get(part)
    if graph is None:
        return [f"there is no {part!r} graph"]
    found = [f"{part} has an unknown input {name!r}" for name in graph.inputs if name not in inputs]
    for kind, expected, present in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
        for name, shape in expected.items():
            if name not in present:
                found.append(f"{part} has no {kind} {name!r}")
            elif not _fits(shape, present[name]):
                wanted = ", ".join("any" if axis is None else str(axis) for axis in shape)
                found.append(f"{part} {kind} {name!r} has shape {present[name].shape}, expected ({wanted})")
    return found


def _fits(shape: tuple[int | None, ...], info: TensorInfo) -> bool:
    return len(shape) == len(info.shape) and all(
        want is None or isinstance(got, str) or want == got for want, got in zip(shape, info.shape, strict=True)
    )
