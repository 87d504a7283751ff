"""The caption decoder from its definition: whole sentences at once, in double precision, nothing kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPSILON = 1e-5


class ReferenceDecoder:
    """Log-probabilities of the next word over one image.

    Args:
        parameters: By their names in the network.
        heads: Of the attention.
        memory: (L, D) of the image.
        where: (L, D), positions of the memory.
        regions: How many of the memory's last vectors gated layers take for regions; 0 for plain layers.
        padding: The word that gated layers mask.
    """

    def __init__(
        self,
        parameters: Mapping[str, NDArray[np.float32]],
        heads: int,
        memory: NDArray[np.float32],
        where: Array,
        regions: int = 0,
        padding: int = 0,
    ) -> None:
        self.parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
        self.heads = heads
        self.is_gated = regions > 0
        self.padding = padding
        self.memory = (
            memory.astype(np.float64) if self.is_gated else self.norm("memory_norm", memory.astype(np.float64))
        )
        self.keyed = self.memory if self.is_gated else self.memory + where
        self.grid = len(memory) - regions

    def __call__(self, sentences: Sequence[tuple[int, ...]], bos_id: int = 2) -> Array:
        """(sentences, V), what follows each sentence."""
        return np.array([self.log_probs((bos_id, *sentence))[-1] for sentence in sentences])

    def log_probs(self, tokens: Sequence[int]) -> Array:
        """(T, V), what follows each of `tokens`."""
        x = self.parameters["words.weight"][list(tokens)] + self.parameters["positions.weight"][: len(tokens)]
        hidden = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
        if self.is_gated:
            hidden[:, np.array(tokens) == self.padding] = -np.inf
        else:
            x = self.norm("norm", x)
        layer = 0
        while f"layers.{layer}.norms.0.weight" in self.parameters:
            at = f"layers.{layer}"
            x = self.norm(f"{at}.norms.0", x + self.attention(f"{at}.self_attention", x, x, x, hidden))
            x = self.look(at, x)
            inner = np.maximum(self.linear(f"{at}.feed_forward.0", x), 0)
            x = self.norm(f"{at}.norms.2", x + self.linear(f"{at}.feed_forward.3", inner))
            layer += 1
        if self.is_gated:
            x[np.array(tokens) == self.padding] = 0
            logits = x @ self.parameters["output.weight"].T
        else:
            *wider, last = (i for i in (0, 2, 4) if f"output.{i}.weight" in self.parameters)
            for i in wider:
                x = np.maximum(self.linear(f"output.{i}", x), 0)
            logits = self.linear(f"output.{last}", x)
        shifted = logits - logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def look(self, at: str, x: Array) -> Array:
        """What words know after the layer's look at the grid, and, if it is gated, at the regions."""
        keys, values, grid = self.keyed, self.memory, self.grid
        seen = self.norm(f"{at}.norms.1", x + self.attention(f"{at}.cross_attention", x, keys[:grid], values[:grid]))
        if not self.is_gated:
            return seen
        there = self.attention(f"{at}.region_attention", x, keys[grid:], values[grid:])
        weighed = np.zeros_like(x)
        for view in (seen, self.norm(f"{at}.region_norm", x + there)):
            opened = self.linear(f"{at}.gate", np.concatenate([x, view], 1))
            weighed += view / (1 + np.exp(-opened))
        return weighed / np.sqrt(2)

    def attention(self, name: str, queries: Array, keys: Array, values: Array, mask: Array | float = 0.0) -> Array:
        q = self.linear(f"{name}.query", queries)
        k, v = self.linear(f"{name}.key", keys), self.linear(f"{name}.value", values)
        mixed = np.empty_like(q)
        depth = q.shape[1] // self.heads
        for head in range(self.heads):
            columns = slice(head * depth, (head + 1) * depth)
            scores = q[:, columns] @ k[:, columns].T / np.sqrt(depth) + mask
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, columns] = weights / weights.sum(1, keepdims=True) @ v[:, columns]
        return self.linear(f"{name}.output", mixed)

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.parameters[f"{name}.weight"].T + self.parameters[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPSILON)
        return normal * self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]
