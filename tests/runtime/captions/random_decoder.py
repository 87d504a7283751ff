"""Caption decoders of any size with random weights, none of them zero; not a test itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from yolor_edge.export.onnx_graphs.caption_weights import write_caption_weights

from ...reference.caption_decoder import ReferenceDecoder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RandomDecoder:
    """A decoder's parameters, by their names in the network, with what belongs to an input size."""

    parameters: dict[str, Floats]
    where: Floats
    heads: int
    regions: int = 0
    padding: int = 0

    def write(self, path: Path, precision: str) -> Path:
        write_caption_weights(
            path, self.parameters, self.where, self.heads, precision, regions=self.regions, padding=self.padding
        )
        return path

    def memory(self, seed: int) -> Floats:
        """(L, D), of an image; plain layers norm it."""
        spread = 1.0 if self.regions else 2.0
        return np.random.default_rng((7, seed)).normal(0.3, spread, self.where.shape).astype(np.float32)

    def reference(self, memory: Floats) -> ReferenceDecoder:
        where = self.where.astype(np.float64)
        return ReferenceDecoder(self.parameters, self.heads, memory, where, self.regions, self.padding)


def random_decoder(
    seed: int = 0,
    vocabulary: int = 37,
    width: int = 24,
    layers: int = 2,
    heads: int = 3,
    feed_forward: int = 50,
    hidden: int = 29,
    positions: int = 12,
    memory: int = 21,
    regions: int = 0,
    padding: int = 0,
    gain: float = 4.0,
) -> RandomDecoder:
    """A decoder whose last layer is `gain` times as steep as it would be at the start of training.

    With `hidden` 0 it has one output layer; with `regions`, gated layers (and one output layer), and so many of its
    `memory` are regions.
    """
    generator = np.random.default_rng(seed)
    parameters: dict[str, Floats] = {}

    def normal(name: str, *shape: int, mean: float = 0.0, spread: float = 1.0) -> None:
        parameters[name] = generator.normal(mean, spread, shape).astype(np.float32)

    def norm(name: str) -> None:
        normal(f"{name}.weight", width, mean=1.0, spread=0.2)
        normal(f"{name}.bias", width, spread=0.2)

    def linear(name: str, inputs: int, outputs: int, steepness: float = 1.0) -> None:
        normal(f"{name}.weight", outputs, inputs, spread=steepness / np.sqrt(inputs))
        normal(f"{name}.bias", outputs, spread=0.1)

    normal("words.weight", vocabulary, width)
    normal("positions.weight", positions, width)
    if not regions:
        norm("norm")
        norm("memory_norm")
    for i in range(layers):
        for attention in ("self_attention", "cross_attention", *(["region_attention"] if regions else [])):
            for part in ("query", "key", "value", "output"):
                linear(f"layers.{i}.{attention}.{part}", width, width)
        linear(f"layers.{i}.feed_forward.0", width, feed_forward)
        linear(f"layers.{i}.feed_forward.3", feed_forward, width)
        for n in range(3):
            norm(f"layers.{i}.norms.{n}")
        if regions:
            linear(f"layers.{i}.gate", 2 * width, width)
            norm(f"layers.{i}.region_norm")
    if regions:
        normal("output.weight", vocabulary, width, spread=gain / np.sqrt(width))
    else:
        if hidden:
            linear("output.0", width, hidden)
            linear("output.2", hidden, hidden)
        linear("output.4" if hidden else "output.0", hidden or width, vocabulary, steepness=gain)
    where = generator.normal(0, 0.7, (memory, width)).astype(np.float32)
    where[memory - regions :] = 0  # a region's vector says itself where it lies
    return RandomDecoder(parameters, where, heads, regions, padding)
