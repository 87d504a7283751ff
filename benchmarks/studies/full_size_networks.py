"""Official networks at full width with random weights, from the shapes that manifests of their state dicts list."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
import torch

from ...evaluation.scenes.scene_drawing import draw_scene
from ...runtime.images.preprocess import PreprocessRule, preprocess
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
# Cells of the three scenes that a box is shown at.
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
    """`network` with biases that leave a few boxes above the score threshold, that something may be compared."""
    config, boxes = network.config, network.config.boxes
    # The scenes that an export compares on, in its size: flat ones give the same score at every cell.
    seen = [network.features(image[None]) for image in _scenes(0, 3, config.preprocess_rule)]
    if boxes["coding"] == "dfl":
        places = [(name, slice(None)) for name in boxes["classes"]]
        best = [features[name].amax(1).flatten() for features in seen for name in boxes["classes"]]
    else:
        levels = [level for features in seen for level in network.raw_levels(features)]
        best = [(raw[..., 4].sigmoid() * raw[..., 5:].sigmoid().amax(-1)).flatten().logit() for raw in levels]
        sources = {layer["name"]: layer["from"][0] for layer in config.layers}
        convs = [name if isinstance(network.layers[name], ConvLayer) else sources[name] for name in boxes["levels"]]
        places = [(name, slice(4, None, raw.shape[-1])) for name, raw in zip(convs, levels, strict=False)]
    shown, wanted = torch.cat(best).topk(_SHOWN).values[-1], config.thresholds.score
    for name, channels in places:
        module = network.layers[name]
        assert isinstance(module, ConvLayer) and module.conv.bias is not None
        module.conv.bias[channels] -= shown - math.log(wanted / (1 - wanted))
    return network


def _scenes(seed: int, count: int, rule: PreprocessRule) -> torch.Tensor:
    height, width = rule.input_size
    scenes = [draw_scene(seed, i, (min(2048, height * 5 // 4), width)).image for i in range(count)]
    return torch.from_numpy(np.stack([preprocess(scene, rule)[0] for scene in scenes]))
