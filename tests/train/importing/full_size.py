"""Official networks at full width with random weights, from the shapes that the manifests list; not a test itself."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
from yolor_edge.train.importing.importer import Imported, imported_network
from yolor_edge.train.importing.pickle_machine import Storage, StoredTensor
from yolor_edge.train.importing.state_dicts import graph_of_state_dict


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
