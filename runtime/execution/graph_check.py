"""Where the inputs and outputs of graphs do not fit what their bundle says of them."""

from __future__ import annotations

from collections.abc import Mapping

from ..backends.base import Graph, TensorInfo
from ..bundle.spec import ModelSpec
from ..bundle.tensors import MASK_STRIDE, OUTPUTS_OF_TASK, SEMANTIC_STRIDE, outputs_of
from ..captions.native_captioning import NativeCaptionDecoder


def graph_complaints(
    spec: ModelSpec, graphs: Mapping[str, Graph], caption_decoder: NativeCaptionDecoder | None
) -> list[str]:
    """Where the graphs' inputs and outputs do not fit the spec, in words; axes left free are not judged."""
    height, width = spec.input_size
    classes, semantic, batch = len(spec.class_names), len(spec.semantic_names), spec.graph.batch
    columns = spec.graph.top_k or spec.cells
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_logits": (batch, classes, columns),
        "box_bins": (batch, 4 * spec.reg_max, columns),
        "mask_coefficients": (batch, None, columns),
        "cells": (batch, columns),
        "prototypes": (batch, None, height // MASK_STRIDE, width // MASK_STRIDE),
        "semantic_logits": (batch, semantic, height // SEMANTIC_STRIDE, width // SEMANTIC_STRIDE),
        "semantic_map": (batch, height, width),
        "caption_memory": (batch, None, None),
    }
    outputs = {name: shapes[name] for task in spec.tasks if task in OUTPUTS_OF_TASK for name in outputs_of(spec, task)}
    if caption_decoder is not None:
        outputs["caption_memory"] = (batch, caption_decoder.dims.memory, caption_decoder.dims.width)
    found = _part_complaints("vision", graphs, {"images": (batch, 3, height, width)}, outputs)
    if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
        words = len(spec.caption.vocabulary)
        cache = {"present_keys": (None,) * 5, "present_values": (None,) * 5}
        cross = {"cross_keys": (None,) * 5, "cross_values": (None,) * 5}
        past = {"past_keys": (None,) * 5, "past_values": (None,) * 5}
        log_probs = {"log_probs": (None, words)}
        memory = {"caption_memory": (None, None, None), "tokens": (None,)}
        found += _part_complaints("caption_prefill", graphs, memory, {**log_probs, **cross, **cache})
        found += _part_complaints("caption_step", graphs, {"tokens": (None,), **past, **cross}, {**log_probs, **cache})
    return found


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
