"""Official networks at full width with random weights, from the shapes that manifests of their state dicts list."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...evaluation.scenes.scene_drawing import draw_scene
from ...runtime.images.preprocess import preprocess
from ...train.importing.importer import Imported, imported_network
from ...train.importing.pickle_machine import Storage, StoredTensor
from ...train.importing.state_dicts import graph_of_state_dict
from ...train.network.layers import ConvLayer, LayerNetwork

PUBLISHED = {  # parameters in M and FLOPs in G of the deployed networks, from the authors' papers and READMEs
    "yolov7-training-yolov7-tiny": (6.2, 13.8),
    "yolov7-training-yolov7": (36.9, 104.7),
    "yolov7-training-yolov7x": (71.3, 189.9),
    "yolov7-training-yolov7-w6": (70.4, 360.0),
    "yolov7-training-yolov7-e6": (97.2, 515.2),
    "yolov7-training-yolov7-e6e": (151.7, 843.2),
    "yolov9-detect-gelan-s": (7.1, 26.4),
    "yolov9-detect-gelan-m": (20.0, 76.3),
    "yolov9-detect-gelan-c": (25.3, 102.1),
    "yolov9-detect-yolov9-c": (25.3, 102.1),
    "yolov9-detect-yolov9-e": (57.3, 189.0),
    "yolov9-segment-gelan-c-seg": (27.4, 144.6),
    "yolov9-panoptic-gelan-c-pan": (27.6, 146.7),
}
# Pixels a side that statistics are taken at: enough for every level to have cells.
_SIDE = 256
_SHOWN = 40


class RandomTensor(StoredTensor):
    """A tensor of which the file knows the shape alone, filled so that activations neither vanish nor grow."""

    name: str
    seed: int

    def array(self) -> np.ndarray:
        if "dfl" in self.name:
            return np.arange(math.prod(self.shape), dtype=np.float32).reshape(self.shape)
        if "anchor" in self.name:
            return np.linspace(1, 200, math.prod(self.shape), dtype=np.float32).reshape(self.shape)
        if self.name.endswith(("running_var", "bn.weight")) or "norm" in self.name or ".im." in self.name:
            return np.ones(self.shape, np.float32)
        if len(self.shape) < 2 or self.seed < 0:
            return np.zeros(self.shape, np.float32)
        chance = np.random.default_rng((self.seed, *self.name.encode()))
        spread = np.float32(math.sqrt(2 / math.prod(self.shape[1:])))
        return chance.standard_normal(self.shape, np.float32) * spread


def full_size_network(manifest: Path, seed: int = -1) -> Imported:
    """The network of a manifest; with `seed` its kernels are random, else zero, which is faster and enough to count."""
    content = json.loads(lzma.decompress(manifest.read_bytes()))
    tensors: dict[str, StoredTensor] = {}
    for name, (dtype, *shape) in content["state_dict"].items():
        tensor = RandomTensor(Storage(dtype, math.prod(shape), "0"), 0, tuple(shape), tuple(0 for _ in shape))
        object.__setattr__(tensor, "name", name)
        object.__setattr__(tensor, "seed", seed)
        tensors[name] = tensor
    graph, heads, family, name = graph_of_state_dict(tensors, Path(content["cfg"]).name)
    names = [f"class {index}" for index in range(heads.classes)]
    words = [f"word{index}" for index in range((heads.caption or {}).get("words", 0))]
    return imported_network(graph, heads, family, name, names, words, {"random": seed}, False)


@torch.no_grad()
def lively(network: LayerNetwork) -> LayerNetwork:
    """`network` with statistics of its own features on drawn scenes, and a few boxes above the score threshold.

    Signals then neither fade nor grow on their way to the heads, and answers depend on the image: else nothing would
    be compared.
    """
    config = network.config.with_input_size((_SIDE, _SIDE))
    pixels = [preprocess(draw_scene(9, i, config.input_size).image, config.preprocess_rule)[0] for i in range(4)]
    images = torch.from_numpy(np.stack(pixels))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train().features(images)
    features = network.eval().features(images[:1])
    wanted = config.thresholds.score
    if config.boxes["coding"] == "dfl":
        best = torch.cat([features[name].amax(1).flatten() for name in config.boxes["classes"]])
        _shift([(network, name, slice(None)) for name in config.boxes["classes"]], best, wanted)
        return network
    levels = network.raw_levels(features)
    best = torch.cat([(level[..., 4].sigmoid() * level[..., 5:].sigmoid().amax(-1)).flatten() for level in levels])
    places = []
    for name, level in zip(config.boxes["levels"], levels, strict=True):
        step = level.shape[-1]
        conv = name if isinstance(network.layers[name], ConvLayer) else _source_of(network, name)
        places.append((network, conv, slice(4, None, step)))
    _shift(places, best.logit(), wanted)
    return network


def _source_of(network: LayerNetwork, name: str) -> str:
    return next(layer["from"][0] for layer in network.config.layers if layer["name"] == name)


def _shift(places: list[tuple[LayerNetwork, str, slice]], best: torch.Tensor, wanted: float) -> None:
    """Move the biases at `places` so that about `_SHOWN` of the `best` logits come above the probability `wanted`."""
    shown = best.topk(min(_SHOWN, len(best))).values[-1]
    for network, name, channels in places:
        module = network.layers[name]
        assert isinstance(module, ConvLayer) and module.conv.bias is not None
        module.conv.bias[channels] -= shown - math.log(wanted / (1 - wanted))
