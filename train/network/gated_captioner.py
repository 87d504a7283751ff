"""The captioner of Generalist YOLO: a grid encoder, regions, and a decoder whose gates weigh two looks at them.

The arithmetic is that of the official network (GRIT's parallel attention, arXiv 2207.09666, as Generalist YOLO changed
it): post-norm everywhere, no norm and no positions on grid and regions, one gate for both looks, words without a bias.
Our own networks use the encoder and the decoder too; their options are the positions of the grid and learned positions
of words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .caption_decoder import Attend, Attention, Decoder, DecoderLayer
from .regions import best_cells


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by its norm."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, 0.0)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.ReLU(), nn.Linear(feed_forward, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        keys, values = attention.split(attention.key(x)), attention.split(attention.value(x))
        x = self.norms[0](x + attention.attend(x, keys, values))
        return self.norms[1](x + self.feed_forward(x))


class GridEncoder(nn.Module):
    """(B, L, C) vectors of cells to (B, L, D)."""

    def __init__(self, channels: int, width: int, heads: int, feed_forward: int, layers: int) -> None:
        super().__init__()
        self.entry = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feed_forward) for _ in range(layers))

    def forward(self, cells: Tensor, where: Tensor | None = None) -> Tensor:
        """With `where` (L, D), which says where the cells lie; the official network has none."""
        x = self.norm(self.entry(cells).relu())
        if where is not None:
            x = x + where.to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return x


class GatedDecoderLayer(DecoderLayer):
    """A layer that looks at the grid and at regions side by side; a gate weighs both.

    The gate sees the word before a look and after it, and opens feature by feature. The regions are the last `regions`
    vectors of the memory. What the looks show replaces the word: there is no way around them.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, regions: int) -> None:
        super().__init__(width, heads, feed_forward, dropout)
        self.regions = regions
        self.region_attention = Attention(width, heads, dropout)
        self.region_norm = nn.LayerNorm(width)
        self.gate = nn.Linear(2 * width, width)

    def cross(self, memory: Tensor, keyed: Tensor) -> tuple[Tensor, Tensor]:
        """As in `DecoderLayer`: those of the grid and, after them, those of the regions."""
        sizes = (memory.shape[1] - self.regions, self.regions)
        (grid, regions), (keyed_grid, keyed_regions) = memory.split(sizes, 1), keyed.split(sizes, 1)
        of_grid, of_regions = self.cross_attention, self.region_attention
        keys = torch.cat((of_grid.key(keyed_grid), of_regions.key(keyed_regions)), 1)
        values = torch.cat((of_grid.value(grid), of_regions.value(regions)), 1)
        return of_grid.split(keys), of_grid.split(values)

    def look(self, x: Tensor, cross_keys: Tensor, cross_values: Tensor, attend: Attend) -> Tensor:
        sizes = (cross_keys.shape[-2] - self.regions, self.regions)
        (grid_keys, region_keys), (grid_values, region_values) = (
            cross_keys.split(sizes, -2),
            cross_values.split(sizes, -2),
        )
        grid = self.norms[1](x + self.dropout(attend(self.cross_attention, x, grid_keys, grid_values)))
        regions = self.region_norm(x + self.dropout(attend(self.region_attention, x, region_keys, region_values)))
        of_grid, of_regions = (self.gate(torch.cat((x, seen), -1)).sigmoid() for seen in (grid, regions))
        return (of_grid * grid + of_regions * regions) * math.sqrt(0.5)


class GatedDecoder(Decoder):
    """Words from the encoded grid and the regions.

    Args:
        vocabulary: Words it chooses from.
        width: Of a word's vector and of the memory's.
        layers: Decoder layers.
        heads: Attention heads of a layer.
        feed_forward: Width inside a layer's feed-forward part.
        positions: Longest caption, in tokens.
        regions: How many vectors at the end of the memory are regions.
        padding: Id of the word that is masked: no word sees it, and all words are as likely after it.
        dropout: Share of values dropped in training.
        learns_positions: Whether the vectors of positions are learned; the official ones are fixed, random numbers.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        positions: int,
        regions: int,
        padding: int,
        dropout: float = 0.1,
        learns_positions: bool = True,
    ) -> None:
        super().__init__(width, heads, regions, padding)
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.positions.requires_grad_(learns_positions)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            GatedDecoderLayer(width, heads, feed_forward, dropout, regions) for _ in range(layers)
        )
        self.output = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.words(tokens) + positions)

    def normed(self, memory: Tensor) -> Tensor:
        return memory

    def logits(self, x: Tensor) -> Tensor:
        return self.output(x)


class GatedCaptioner(nn.Module):
    """The captioner of an imported network: memory from features, and the decoder that writes from the memory.

    Args:
        settings: `width`, `heads`, `feed_forward`, `encoder_layers`, `decoder_layers`, `grid_channels`, `words`,
            `positions` (words that have one), `regions` (cells that are looked at) and `padding` (an id).
        regions: Vectors at the end of the memory that are regions, for images of the network's own size.
    """

    def __init__(self, settings: Mapping[str, Any], regions: int) -> None:
        super().__init__()
        self.cells: int = settings["regions"]
        sizes = [settings[name] for name in ("width", "heads", "feed_forward")]
        self.grid = GridEncoder(settings["grid_channels"], *sizes, settings["encoder_layers"])
        self.decoder = GatedDecoder(
            settings["words"],
            settings["width"],
            settings["decoder_layers"],
            settings["heads"],
            settings["feed_forward"],
            settings["positions"],
            regions,
            settings["padding"],
            learns_positions=False,
        )

    def regions(
        self, levels: Sequence[Tensor], class_logits: Tensor, semantic_features: Tensor, semantic_logits: Tensor
    ) -> Tensor:
        """(B, k + S, D): vectors of the cells with the largest class logits, then one for each semantic channel.

        The cells are in the order of their numbers, see `regions.best_cells`; the official code has the likeliest
        first, and what looks at them does not see their order.

        Args:
            levels: (B, D, h_i, w_i) vectors of the cells.
            class_logits: (B, C, N) over the same cells.
            semantic_features: (B, D, h, w).
            semantic_logits: (B, S, h, w).
        """
        cells = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)
        chosen = best_cells(class_logits, self.cells)
        objects = cells.gather(1, chosen[..., None].expand(-1, -1, cells.shape[2]))
        places = semantic_logits.flatten(2).argmax(2)
        vectors = semantic_features.flatten(2).transpose(1, 2)
        stuff = vectors.gather(1, places[..., None].expand(-1, -1, vectors.shape[2]))
        return torch.cat((objects, stuff), 1)

    def memory(
        self,
        levels: Sequence[Tensor],
        class_logits: Tensor,
        grid: Tensor,
        semantic_features: Tensor,
        semantic_logits: Tensor,
    ) -> Tensor:
        """(B, L + k + S, D): the encoded grid (B, C, h, w) row by row, then the regions."""
        cells = self.grid(grid.flatten(2).transpose(1, 2))
        return torch.cat((cells, self.regions(levels, class_logits, semantic_features, semantic_logits)), 1)
