"""The tensor contract: every input and output of every graph, by name, with axes, dtype and meaning."""

from __future__ import annotations

from typing import Any

from .spec import ModelSpec

MASK_STRIDE = 4  # pixels of the input from one point of the prototypes to the next


def outputs_of(spec: ModelSpec, task: str) -> tuple[str, ...]:
    """The outputs of the vision graph that the answer to `task` is made of."""
    if task == "boxes":
        heads = (spec.score_head, spec.box_head)
        return heads if spec.graph.top_k is None else (*heads, "cells")
    if task == "masks":
        return "mask_coefficients", "prototypes"
    if task == "semantic":
        return ("semantic_map",) if spec.graph.semantic_map else ("semantic_logits",)
    return ("caption_memory",)


def describe_tensors(spec: ModelSpec) -> dict[str, Any]:
    """Inputs and outputs of every graph a model of this spec has, by name: axes, dtype and meaning."""

    def tensor(axes: list[str | int], dtype: str, meaning: str) -> dict[str, Any]:
        return {"axes": axes, "dtype": dtype, "meaning": meaning}

    height, width = spec.input_size
    batch = spec.graph.batch or "batch"
    cells = spec.graph.top_k or spec.cells
    numbering = "cells level by level in the order of strides, row by row"
    if spec.box_coding == "xyxy":
        numbering = "boxes in the network's own order"
    what = numbering.partition(" ")[0]
    order = f"of the {cells} {what} with the highest scores, best first" if spec.graph.top_k else numbering
    outputs: dict[str, Any] = {}
    if "boxes" in spec.tasks:
        scores = {
            "logits": "class logits before the sigmoid",
            "probabilities": "class probabilities, an objectness multiplied in",
        }
        outputs[spec.score_head] = tensor(
            [batch, len(spec.class_names), cells], "float32", f"{scores[spec.score_coding]}; {order}"
        )
        rows, meaning = {
            "dfl": (
                4 * spec.reg_max,
                "logits of the distance to left, top, right, bottom; softmax expectation over bins, in strides",
            ),
            "ltrb": (4, "distances to left, top, right, bottom, in strides"),
            "xyxy": (4, "left, top, right, bottom in pixels of the input"),
        }[spec.box_coding]
        outputs[spec.box_head] = tensor([batch, rows, cells], "float32", meaning)
        if spec.graph.top_k:
            outputs["cells"] = tensor([batch, cells], "int32", f"which cell a column is of; {numbering}")
    if "masks" in spec.tasks:
        outputs["mask_coefficients"] = tensor([batch, "K", cells], "float32", "weights of the prototypes")
        outputs["prototypes"] = tensor(
            [batch, "K", height // MASK_STRIDE, width // MASK_STRIDE],
            "float32",
            "mask logits are coefficients times prototypes",
        )
    if spec.graph.semantic_map:
        outputs["semantic_map"] = tensor(
            [batch, height, width], "uint8", "semantic class of every pixel of the letterboxed image"
        )
    elif "semantic" in spec.tasks:
        outputs["semantic_logits"] = tensor(
            [batch, len(spec.semantic_names), height // spec.semantic_stride, width // spec.semantic_stride],
            "float32",
            "logits per semantic class at the head's own resolution",
        )
    if "caption" in spec.tasks:
        outputs["caption_memory"] = tensor([batch, "L", "D"], "float32", "what the caption decoder attends to")
    images = tensor([batch, 3, height, width], "float32", "letterboxed images, see model.preprocess")
    parts: dict[str, Any] = {"vision": {"inputs": {"images": images}, "outputs": outputs}}
    if spec.caption is None or "caption" not in spec.tasks:
        return parts
    words = len(spec.caption.vocabulary)
    memory = tensor([1, "L", "D"], "float32", "caption_memory of one image")
    cross = tensor(["layers", 1, "heads", "L", "d"], "float32", "cross-attention of the memory")
    past = tensor(["layers", "batch", "heads", "T", "d"], "float32", "self-attention of the T tokens so far")
    present = tensor(["layers", "batch", "heads", "T + 1", "d"], "float32", "past with the token just fed")
    cross_cache = {"cross_keys": cross, "cross_values": cross}
    present_cache = {"present_keys": present, "present_values": present}
    parts["caption_prefill"] = {
        "inputs": {"caption_memory": memory, "tokens": tensor([1], "int64", "bos")},
        "outputs": {
            "log_probs": tensor([1, words], "float32", "logarithm of the probability of the first token"),
            **cross_cache,
            **present_cache,
        },
    }
    parts["caption_step"] = {
        "inputs": {
            "tokens": tensor(["batch"], "int64", "the last token of each sentence"),
            "past_keys": past,
            "past_values": past,
            **cross_cache,
        },
        "outputs": {
            "log_probs": tensor(["batch", words], "float32", "logarithm of the probability of the next token"),
            **present_cache,
        },
    }
    return parts
