"""Which part of a network each tensor belongs to, and what the rows of a tensor stand for.

Both are asked when a training starts from other weights: parts can be frozen by name, and rows that stand for a class,
a word or a semantic class find their counterpart by its name. Networks of our own plan and lists of layers
answer alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ...runtime.errors import CheckpointError, UsageError
from .any_network import AnyConfig
from .config import NetworkConfig, check_input_size
from .layers import IMAGE, ConvLayer, Layer, LayerNetwork, LayersConfig

PARTS = ("backbone", "neck", "boxes", "masks", "semantic", "caption")
"""The parts of a network: what all heads share, and the head of each task."""

Rows = tuple[int, tuple[Hashable, ...]]
"""The axis along which a tensor has one row for each of some things, and a key for each of them."""

_OWN_PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "box_head": "boxes",
    "mask_head": "masks",
    "semantic_head": "semantic",
    "caption_memory": "caption",
    "grid_encoder": "caption",
    "region_memory": "caption",
    "caption_decoder": "caption",
}
# What changes the shape of a map of predictions, but not what its channels stand for.
_PASSED = ("multiply_vector", "add_vector", "upsample", "resize_like", "activation")


def modules_by_part(config: AnyConfig) -> dict[str, str]:
    """Part by the name of the module that belongs to it: what the names of its tensors begin with."""
    if isinstance(config, NetworkConfig):
        return _OWN_PARTS
    parts = {f"layers.{name}": part for name, part in _parts_of_layers(config).items()}
    return {**parts, "captioner": "caption"}


def part_of(tensor: str, modules: dict[str, str]) -> str:
    """The part of a tensor by its name; `modules` is from `modules_by_part`."""
    first, _, rest = tensor.partition(".")
    return modules.get(first) or modules[f"{first}.{rest.partition('.')[0]}"]


def _parts_of_layers(config: LayersConfig) -> dict[str, str]:
    """Part of every layer, by its name.

    A head is the official module that its outputs are of, which the names of layers begin with, and the convolutions
    and vectors that its channels come from. Of what is left the backbone ends where the first pooling of a pyramid
    (stride 1) or the first upsampling stands.
    """
    by_name = {layer["name"]: layer for layer in config.layers}
    parts: dict[str, str] = {}

    def claim(part: str, output: str) -> None:
        module = _module(output)
        chain = set(_chain(by_name, output))
        waiting = [output]
        while waiting:
            name = waiting.pop()
            if name in by_name and name not in parts and (_module(name) == module or name in chain):
                parts[name] = part
                waiting += by_name[name]["from"]

    boxes, masks, caption = config.boxes, config.masks or {}, config.caption or {}
    for name in (*boxes.get("levels", ()), *boxes.get("bins", ()), *boxes.get("classes", ())):
        claim("boxes", name)
    for name in (*(masks.get("coefficients") or ()), *([masks["prototypes"]] if masks else ())):
        claim("masks", name)
    if config.semantic:
        claim("semantic", config.semantic)
    if caption:
        for name in (*caption["levels"], caption["grid"], caption["semantic_features"]):
            claim("caption", name)
    ends = {_module(layer["name"]) for layer in config.layers if layer["name"] not in parts and _ends_backbone(layer)}
    part = "backbone"
    for layer in config.layers:
        if _module(layer["name"]) in ends:
            part = "neck"
        parts.setdefault(layer["name"], part)
    return parts


def _module(layer: str) -> str:
    """The official module that a layer is a piece of."""
    return layer.partition("_")[0]


def _ends_backbone(layer: Layer) -> bool:
    return layer["type"] == "upsample" or (layer["type"] == "max_pool" and layer.get("stride", 1) == 1)


def _chain(layers: dict[str, Layer], output: str) -> list[str]:
    """From a layer of predictions back to the convolution that makes them, and the vector that is added before it.

    Raises:
        CheckpointError: If something else makes them.
    """
    names, name = [], output
    while name != IMAGE and layers[name]["type"] in _PASSED:
        names.append(name)
        name = layers[name]["from"][0]
    if name == IMAGE or layers[name]["type"] != "conv":
        kind = "the image" if name == IMAGE else f"a layer of type {layers[name]['type']}"
        raise CheckpointError(f"the predictions of layer {output} come from {kind}; expected a convolution")
    names.append(name)
    before = layers[name]["from"][0]
    return [*names, before] if before != IMAGE and layers[before]["type"] == "add_vector" else names


def _channel_layers(config: LayersConfig, output: str) -> list[Layer]:
    """The layers whose channels are those of `output`: its convolution, and vectors after it."""
    by_name = {layer["name"]: layer for layer in config.layers}
    layers = [by_name[name] for name in _chain(by_name, output)]
    conv = next(index for index, layer in enumerate(layers) if layer["type"] == "conv")
    return [layer for layer in layers[: conv + 1] if "out" in layer]


def named_rows(config: AnyConfig) -> dict[str, Rows]:
    """For tensors with a row for each class, semantic class or word: their axis, and what each row stands for."""
    if isinstance(config, NetworkConfig):
        return _own_rows(config)
    rows: dict[str, Rows] = {}
    for output, keys in _layer_keys(config).items():
        for layer in _channel_layers(config, output):
            start = f"layers.{layer['name']}."
            if layer["type"] == "conv":
                tensors = [f"conv.{name}" for name in ("weight", "bias")]
                tensors += [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
                rows.update({start + name: (0, keys) for name in tensors})
            else:
                rows[start + "vector"] = (1, keys)
    if config.caption:
        words = _words(config.vocabulary)
        rows.update({f"captioner.decoder.{name}.weight": (0, words) for name in ("words", "output")})
    return rows


def _own_rows(config: NetworkConfig) -> dict[str, Rows]:
    rows: dict[str, Rows] = {}
    branches = [(f"box_head.classes.{level}.2", config.class_names) for level in range(len(config.strides))]
    branches += [("semantic_head.body.1", config.semantic_names)]
    for start, names in branches:
        rows |= {f"{start}.1.weight": (0, names), f"{start}.1.bias": (0, names), f"{start}.2.vector": (1, names)}
    outputs = ["output.weight"] if config.caption_regions else ["output.4.weight", "output.4.bias"]
    return rows | {f"caption_decoder.{name}": (0, _words(config.vocabulary)) for name in ("words.weight", *outputs)}


def _words(vocabulary: Sequence[str]) -> tuple[Hashable, ...]:
    """Words by themselves, the four special ones by their ids, which official vocabularies call otherwise."""
    return (0, 1, 2, 3, *vocabulary[4:])


def _layer_keys(config: LayersConfig) -> dict[str, tuple[Hashable, ...]]:
    """What the channels of the layers that hold classes stand for, by layer."""
    boxes, names = config.boxes, config.class_names
    keys: dict[str, tuple[Hashable, ...]] = dict.fromkeys(boxes.get("classes", ()), names)
    for level, anchors in zip(boxes.get("levels", ()), boxes.get("anchors", ()), strict=True):
        known = ("x", "y", "width", "height", "objectness")
        coefficients = [("coefficient", index) for index in range(boxes.get("mask_coefficients") or 0)]
        one = [*(("box", part) for part in known), *(("class", name) for name in names), *coefficients]
        keys[level] = tuple((anchor, key) for anchor in range(len(anchors)) for key in one)
    if config.semantic:
        keys[config.semantic] = config.semantic_names
    return keys


def with_heads(
    config: LayersConfig,
    tasks: Sequence[str],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    semantic_names: Sequence[str],
    semantic_category_ids: Sequence[int],
    vocabulary: Sequence[str],
    input_size: tuple[int, int] | None = None,
    name: str | None = None,
) -> LayersConfig:
    """The same network for other classes and words: the layers of its class heads have as many channels as these need.

    Args:
        config: The network.
        tasks: Those of its tasks that are kept; layers that no other task needs go with the rest.
        class_names, category_ids: Of boxes.
        semantic_names, semantic_category_ids: Of the semantic map.
        vocabulary: Of the captions, special tokens first.
        input_size: (height, width); None for that of the network.
        name: None for that of the network.

    Raises:
        UsageError: If a task is not one of the network's, one of them needs another one, or the input size does not
            fit its strides.
        CheckpointError: If its heads end in something else than a convolution.
    """
    lacking = [task for task in tasks if task not in config.tasks]
    if lacking:
        raise UsageError(
            f"the network {config.name} has no head for {', '.join(lacking)}; it has {', '.join(config.tasks)}",
            argument="tasks",
        )
    if "boxes" not in tasks:
        raise UsageError(f"the network {config.name} always finds boxes; <tasks> must hold boxes", argument="tasks")
    if "caption" in tasks and "semantic" in config.tasks and "semantic" not in tasks:
        raise UsageError("captions of this network look at its semantic map; <tasks> must hold semantic too", "tasks")
    size = check_input_size(input_size or config.input_size, max(32, *config.strides))
    boxes = {key: value for key, value in config.boxes.items() if key != "mask_coefficients" or "masks" in tasks}
    semantic = config.semantic if "semantic" in tasks else None
    caption = None
    if "caption" in tasks and config.caption:
        caption = {**config.caption, "words": len(vocabulary), "semantic_regions": len(semantic_names)}
    # A copy whose layers may change, with as many channels as the new names ask for.
    layers: dict[str, dict[str, Any]] = {layer["name"]: dict(layer) for layer in config.layers}
    changed = dataclasses.replace(
        config,
        name=name or config.name,
        boxes=boxes,
        masks=config.masks if "masks" in tasks else None,
        semantic=semantic,
        caption=caption,
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        semantic_names=tuple(semantic_names) if semantic else (),
        semantic_category_ids=tuple(semantic_category_ids) if semantic else (),
        vocabulary=tuple(vocabulary) if caption else (),
        input_size=size,
        left_out=(),
    )
    for output, keys in _layer_keys(changed).items():
        for layer in _channel_layers(config, output):
            if layer.get("groups", 1) > 1 and layer["out"] != len(keys):
                raise CheckpointError(f"layer {layer['name']} makes classes in groups; expected a plain convolution")
            layers[layer["name"]]["out"] = len(keys)
    needed = set(changed.outputs)
    for layer in reversed(layers.values()):
        if layer["name"] in needed:
            needed.update(layer["from"])
    return dataclasses.replace(changed, layers=tuple(layer for key, layer in layers.items() if key in needed))


@torch.no_grad()
def set_class_biases(network: LayerNetwork) -> None:
    """Biases of a class head that learns from nothing.

    A sigmoid of 0.01 where a score stands alone, the share of cells that hold an object (RetinaNet, arXiv 1708.02002);
    behind an objectness, which says that already, each class is as likely as another.
    """
    config = network.config
    classes = len(config.class_names)
    prior = -math.log(max(classes - 1, 1)) if "anchors" in config.boxes else -math.log((1 - 0.01) / 0.01)
    for output, keys in _layer_keys(config).items():
        if output == config.semantic:
            continue
        conv = network.layers[_channel_layers(config, output)[-1]["name"]]
        assert isinstance(conv, ConvLayer)
        if conv.conv.bias is not None:
            for row, key in enumerate(keys):
                if not isinstance(key, tuple) or key[1][0] == "class":
                    conv.conv.bias[row] = prior
