"""The text decoder: a Transformer decoder that attends to the network's top-level features (network.md; CATR).

Post-norm layers (arXiv 1706.03762); a 2-D sine encoding tells the keys of the cross-attention where they lie (DETR,
arXiv 2005.12872), so that a caption can speak of left and right. Two ways to run a decoder agree: the whole caption at
once (`forward`, training) and word by word with caches (`prefill` and `step`, what is exported). Both are written once,
in `Decoder`, for this decoder and for the one with gated layers (`gated_captioner`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = -3e4
"""What hides a word from attention, as its score: its share is 0. In a cache it stands in place of the word's key. Half
precision holds it too, and no key or score comes near it."""


def sine_axis(cells: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(cells, channels / 2) float32: sines and cosines of the centres of cells in a row."""
    quarter = channels // 4
    wavelengths = 10000 ** (torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    # Relative to the image, so that "left" means the same at every input size.
    centre = (torch.arange(cells, dtype=torch.float32, device=device) + 0.5) / cells * 2 * math.pi
    angles = centre[:, None] / wavelengths
    return torch.cat((angles.sin(), angles.cos()), 1)


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(height * width, channels) float32: sines and cosines of y in the first half of the channels, of x after."""
    y = sine_axis(height, channels, device)[:, None].expand(height, width, -1)
    x = sine_axis(width, channels, device)[None, :].expand(height, width, -1)
    return torch.cat((y, x), 2).reshape(height * width, channels)


class Attention(nn.Module):
    """Multi-head attention with its four projections apart, so that keys and values can be computed once and kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, heads, T, D / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def attend(
        self, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False, hiding: Tensor | None = None
    ) -> Tensor:
        """Queries from x (B, T, D) over keys and values (B or 1, heads, S, D / heads) -> (B, T, D).

        `hiding` (B, 1, T, S) is added to the scores.
        """
        query = self.split(self.query(x))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query,
            keys.expand(query.shape[0], -1, -1, -1),
            values.expand(query.shape[0], -1, -1, -1),
            attn_mask=hiding,
            dropout_p=dropout,
            is_causal=causal,
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def attend_one(self, x: Tensor, keys: Tensor, values: Tensor, may_hide: bool = False) -> Tensor:
        """`attend` for the exported graphs, where each row has one query.

        Rows stay (B, D), so that projections are plain matrix products and splitting into heads is no transposition.
        Keys of batch 1 are broadcast by the product instead of being copied.

        Args:
            x: (B, D).
            keys, values: (1, B or 1, heads, S, D / heads).
            may_hide: Whether keys of `HIDDEN` are not to be seen.

        Returns:
            (B, D).
        """
        query = self.split_one(self.query(x)) * (1.0 / math.sqrt(x.shape[1] // self.heads))
        scores = query @ keys.transpose(3, 4)
        if may_hide:
            scores = torch.where(keys[..., 0].unsqueeze(3) > HIDDEN / 2, scores, HIDDEN)
        return self.output((torch.softmax(scores, dim=-1) @ values).reshape(-1, x.shape[1]))

    def split_one(self, x: Tensor) -> Tensor:
        """(B, D) -> (1, B, heads, 1, D / heads)."""
        return x.reshape(1, -1, self.heads, 1, x.shape[1] // self.heads)


# `Attention.attend` or `Attention.attend_one`: of whole captions, or of one word of each hypothesis.
Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each followed by its norm."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(feed_forward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def cross(self, memory: Tensor, keyed: Tensor) -> tuple[Tensor, Tensor]:
        """Keys from `keyed`, the memory with its positions, and values from `memory` (B, L, D): (B, heads, L, d)."""
        attention = self.cross_attention
        return attention.split(attention.key(keyed)), attention.split(attention.value(memory))

    def look(self, x: Tensor, cross_keys: Tensor, cross_values: Tensor, attend: Attend) -> Tensor:
        """What the words x know after a look at the image, whose keys and values `cross` has given."""
        return self.norms[1](x + self.dropout(attend(self.cross_attention, x, cross_keys, cross_values)))

    def forward(self, x: Tensor, cross_keys: Tensor, cross_values: Tensor, hiding: Tensor | None = None) -> Tensor:
        """Whole captions x (B, T, D); with `hiding` (B, 1, T, T), which is added to the scores of words for words."""
        attention = self.self_attention
        keys, values = attention.split(attention.key(x)), attention.split(attention.value(x))
        seen = attention.attend(x, keys, values, causal=hiding is None, hiding=hiding)
        x = self.norms[0](x + self.dropout(seen))
        x = self.look(x, cross_keys, cross_values, Attention.attend)
        return self.norms[2](x + self.dropout(self.feed_forward(x)))

    def step(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor] | None,
        cross_keys: Tensor,
        cross_values: Tensor,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position of B hypotheses after T others.

        Args:
            x: (B, D).
            past: Keys and values (1, B, heads, T, d) of the positions before it; None if it is the first.
            cross_keys, cross_values: (1, 1, heads, L, d).
            padding: (B,) True where no later word may see this one; None where all may be seen.

        Returns:
            x (B, D), and keys and values (1, B, heads, T + 1, d).
        """
        attention = self.self_attention
        keys, values = attention.split_one(attention.key(x)), attention.split_one(attention.value(x))
        if padding is not None:
            keys = torch.where(padding.reshape(1, -1, 1, 1, 1), HIDDEN, keys)
        if past is not None:
            keys, values = torch.cat((past[0], keys), 3), torch.cat((past[1], values), 3)
        x = self.norms[0](x + attention.attend_one(x, keys, values, may_hide=padding is not None))
        x = self.look(x, cross_keys, cross_values, Attention.attend_one)
        return self.norms[2](x + self.feed_forward(x)), keys, values


class Decoder(nn.Module, ABC):
    """What all decoders share: how a caption is run as a whole, and word by word.

    Attributes:
        width: Of a word's vector and of the memory's.
        heads: Attention heads of a layer.
        regions: How many vectors at the end of the memory are regions; 0 for plain layers.
        padding: Id of the word that no word sees and that says nothing itself; None where it is a word like others.
    """

    layers: nn.ModuleList
    positions: nn.Embedding

    def __init__(self, width: int, heads: int, regions: int, padding: int | None) -> None:
        super().__init__()
        self.width, self.heads, self.regions, self.padding = width, heads, regions, padding

    @abstractmethod
    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(..., D) of tokens (...), whose vectors of positions are `positions`."""

    @abstractmethod
    def normed(self, memory: Tensor) -> Tensor:
        """The memory (B, L, D) as the layers see it."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """(..., V) of what follows the words x (..., D)."""

    def cross(self, memory: Tensor, where: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer's look at the image, from memory (B, L, D) and its positions (L, D)."""
        memory = self.normed(memory)
        keyed = memory + where.to(memory.dtype) if self.regions == 0 else memory
        return [layer.cross(memory, keyed) for layer in cast("Iterable[DecoderLayer]", self.layers)]

    def forward(self, tokens: Tensor, memory: Tensor, where: Tensor, owners: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the word after each of tokens (B, T).

        Args:
            tokens: (B, T) int64.
            memory: (B, L, D), or with `owners` of any number of images.
            where: (L, D), positions of the memory.
            owners: (B,) int64, the image of each caption, so that keys and values are computed once an image.
        """
        length = tokens.shape[1]
        x = self.embed(tokens, self.positions.weight[:length])
        hiding = padding = None
        if self.padding is not None:
            padding = tokens == self.padding
            future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
            hiding = (future | padding[:, None, None]).to(x.dtype) * HIDDEN
        for layer, (keys, values) in zip(self.layers, self.cross(memory, where), strict=True):
            if owners is not None:
                keys, values = keys.index_select(0, owners), values.index_select(0, owners)
            x = layer(x, keys, values, hiding)
        return self.logits(x if padding is None else x * ~padding[..., None])

    def prefill(self, tokens: Tensor, memory: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first word (B = 1) and all that is computed once an image.

        Args:
            tokens: (1,) int64, the beginning-of-sentence id.
            memory: (1, L, D).
            where: (L, D), positions of the memory; gated layers look at none.

        Returns:
            log_probs (1, V), cross_keys and cross_values (layers, 1, heads, L, d), present_keys and present_values
            (layers, 1, heads, 1, d).
        """
        pairs = self.cross(memory, where)
        cross_keys = torch.stack([keys for keys, _ in pairs])
        cross_values = torch.stack([values for _, values in pairs])
        cross = [(keys[None], values[None]) for keys, values in pairs]
        log_probs, present_keys, present_values = self._next(tokens, 0, None, cross)
        return log_probs, cross_keys, cross_values, present_keys, present_values

    def step(
        self, tokens: Tensor, past_keys: Tensor, past_values: Tensor, cross_keys: Tensor, cross_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next word of B hypotheses over one image.

        Args:
            tokens: (B,) int64, the latest word of each.
            past_keys, past_values: (layers, B, heads, T, d) of the words before it; keys of padding are `HIDDEN`.
            cross_keys, cross_values: (layers, 1, heads, L, d) from `prefill`.

        Returns:
            log_probs (B, V), present_keys and present_values (layers, B, heads, T + 1, d).
        """
        past = list(zip(past_keys.split(1), past_values.split(1), strict=True))
        cross = list(zip(cross_keys.split(1), cross_values.split(1), strict=True))
        return self._next(tokens, past_keys.shape[3], past, cross)

    def _next(
        self,
        tokens: Tensor,
        position: int,
        past: list[tuple[Tensor, Tensor]] | None,
        cross: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`step` with keys and values a layer, (1, ...) each; `past` is None for the first word, which has none."""
        x = self.embed(tokens, self.positions.weight[position])  # (B, D)
        padding = None if self.padding is None else tokens == self.padding
        present_keys, present_values = [], []
        for i, layer in enumerate(cast("Iterable[DecoderLayer]", self.layers)):
            x, keys, values = layer.step(x, past[i] if past else None, *cross[i], padding)
            present_keys.append(keys)
            present_values.append(values)
        logits = self.logits(x if padding is None else torch.where(padding[:, None], 0.0, x))
        return torch.log_softmax(logits, dim=-1), torch.cat(present_keys), torch.cat(present_values)


class CaptionDecoder(Decoder):
    """Word vectors and learned positions in, log-probabilities of the next word out.

    Args:
        vocabulary: Words it chooses from.
        width: Of a word's vector and of the memory's.
        layers: Decoder layers.
        heads: Attention heads of a layer.
        feed_forward: Width inside a layer's feed-forward part.
        positions: Longest caption, in tokens.
        dropout: Share of values dropped in training.
        output_layers: 3, two of twice the width before the words, or 1, from a word's vector to the words at once.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        positions: int,
        dropout: float = 0.1,
        output_layers: int = 3,
    ) -> None:
        if output_layers not in (1, 3):
            raise ValueError(f"output_layers must be 1 or 3, got {output_layers}")
        super().__init__(width, heads, 0, None)
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width)
        # Brings the memory, raw convolution outputs, to the scale of the words and of the positions added to its keys.
        self.memory_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        if output_layers == 3:
            self.output = nn.Sequential(
                nn.Linear(width, 2 * width),
                nn.ReLU(inplace=True),
                nn.Linear(2 * width, 2 * width),
                nn.ReLU(inplace=True),
                nn.Linear(2 * width, vocabulary),
            )
        else:
            self.output = nn.Sequential(nn.Linear(width, vocabulary))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.norm(self.words(tokens) + positions))

    def normed(self, memory: Tensor) -> Tensor:
        return self.memory_norm(memory)

    def logits(self, x: Tensor) -> Tensor:
        return self.output(x)
