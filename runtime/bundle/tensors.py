"""The tensor contract: which outputs of the vision graph a task is made of, and at which strides."""

from __future__ import annotations

from .spec import ModelSpec

OUTPUTS_OF_TASK = {
    "boxes": ("class_logits", "box_bins"),
    "masks": ("mask_coefficients", "prototypes"),
    "semantic": ("semantic_logits",),
    "caption": ("caption_memory",),
}
# Pixels of the input from one point of the prototypes, and of the semantic logits, to the next.
MASK_STRIDE = 4
SEMANTIC_STRIDE = 8


def outputs_of(spec: ModelSpec, task: str) -> tuple[str, ...]:
    """The outputs of the vision graph that the answer to `task` is made of."""
    if task == "boxes" and spec.graph.top_k is not None:
        return (*OUTPUTS_OF_TASK[task], "cells")
    if task == "semantic" and spec.graph.semantic_map:
        return ("semantic_map",)
    return OUTPUTS_OF_TASK[task]
