"""The captioner of Generalist YOLO: a grid encoder, regions, and a decoder whose gates weigh two looks at them.

The arithmetic is that of the official network (GRIT's parallel attention, arXiv 2207.09666, as Generalist YOLO changed
it): post-norm everywhere, no positions on grid and regions, word positions from a fixed table that the checkpoint
holds, and one gate for both looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FINISHED = -999.0
"""What any other continuation of a finished sentence scores in the official search."""


class Attention(nn.Module):
    """LN(queries + attention), with a bias in all four projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor | None = None) -> Tensor:
        """x (B, T, D) looks at memory (B, L, D), but not where `hidden`, which broadcasts to (B, 1, T, L), is True."""
        queries = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys = self.key(memory).unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)
        values = self.value(memory).unflatten(2, (self.heads, -1)).transpose(1, 2)
        scores = queries @ keys / math.sqrt(queries.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        seen = (scores.softmax(3) @ values).transpose(1, 2).flatten(2)
        return self.norm(x + self.out(seen))


class FeedForward(nn.Module):
    """LN(x + W2 relu(W1 x))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.rise = nn.Linear(width, inner)
        self.fall = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.fall(self.rise(x).relu()))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.attention(x, x))


class GridEncoder(nn.Module):
    """(B, L, C) vectors of cells to (B, L, D)."""

    def __init__(self, channels: int, width: int, heads: int, inner: int, layers: int) -> None:
        super().__init__()
        self.entry = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))

    def forward(self, cells: Tensor) -> Tensor:
        x = self.norm(self.entry(cells).relu())
        for layer in self.layers:
            x = layer(x)
        return x


class GatedLayer(nn.Module):
    """Words look at the words before them, then at grid and regions side by side; one gate weighs both."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.words = Attention(width, heads)
        self.grid = Attention(width, heads)
        self.regions = Attention(width, heads)
        self.gate = nn.Linear(2 * width, width)
        self.feed_forward = FeedForward(width, inner)

    def forward(self, x: Tensor, grid: Tensor, regions: Tensor, hidden: Tensor, kept: Tensor) -> Tensor:
        said = self.words(x, x, hidden) * kept
        looks = [look(said, memory) * kept for look, memory in ((self.grid, grid), (self.regions, regions))]
        gates = [self.gate(torch.cat((said, look), 2)).sigmoid() for look in looks]
        z = (looks[0] * gates[0] + looks[1] * gates[1]) / math.sqrt(2) * kept
        return self.feed_forward(z) * kept


class GatedCaptioner(nn.Module):
    """Memory from features, and log-probabilities of words from the memory.

    Args:
        settings: `width`, `heads`, `inner`, `encoder_layers`, `decoder_layers`, `grid_channels`, `words`, `positions`
            (rows of the table of word positions), `regions` (cells that are looked at), `padding`, `begin`, `end`
            (ids), `longest` (words of a caption) and `beams`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        width, heads, inner = settings["width"], settings["heads"], settings["inner"]
        self.grid = GridEncoder(settings["grid_channels"], width, heads, inner, settings["encoder_layers"])
        self.words = nn.Embedding(settings["words"], width)
        self.positions = nn.Embedding(settings["positions"], width)
        self.positions.requires_grad_(False)
        self.layers = nn.ModuleList(GatedLayer(width, heads, inner) for _ in range(settings["decoder_layers"]))
        self.out = nn.Linear(width, settings["words"], bias=False)

    def regions(
        self, levels: Sequence[Tensor], class_logits: Tensor, semantic_features: Tensor, semantic_logits: Tensor
    ) -> Tensor:
        """(B, k + S, D): vectors of the cells with the largest class logits, then one for each semantic channel.

        Args:
            levels: (B, D, h_i, w_i) vectors of the cells.
            class_logits: (B, C, N) over the same cells.
            semantic_features: (B, D, h, w).
            semantic_logits: (B, S, h, w).
        """
        cells = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)
        count = min(self.settings["regions"], cells.shape[1])
        chosen = class_logits.amax(1).topk(count, 1).indices
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

    def log_probabilities(self, tokens: Tensor, grid: Tensor, regions: Tensor, whole: bool = True) -> Tensor:
        """(B, T, words) of what follows each of `tokens` (B, T), which start with the id `begin`.

        Args:
            tokens: int64 ids.
            grid: (B, L, D), regions: (B, R, D).
            whole: As the official code reads a whole caption, in which padding stands at position 0; word by word,
                as it searches, positions just count on.
        """
        length = tokens.shape[1]
        padding = tokens == self.settings["padding"]
        positions = torch.arange(1, length + 1, device=tokens.device).expand_as(tokens)
        if whole:
            positions = positions.masked_fill(padding, 0)
        x = self.words(tokens) + self.positions(positions)
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = later[None, None] | padding[:, None, None]
        kept = (~padding)[..., None].to(x.dtype)
        for layer in self.layers:
            x = layer(x, grid, regions, hidden, kept)
        return self.out(x).log_softmax(2)

    @torch.no_grad()
    def search(self, grid: Tensor, regions: Tensor, beams: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The official search: always `longest` steps, finished sentences stay in the beam, ranked by plain sums.

        Args:
            grid: (B, L, D) and regions: (B, R, D), the two parts of `memory`.
            beams: Width of the beam; 1 is greedy.

        Returns:
            ids (B, beams, T), log-probabilities of each word (B, beams, T), 0 after the end, and their sums (B, beams),
            best first.
        """
        width: int = self.settings["beams"] if beams is None else beams
        found = [self._search_one(grid[i : i + 1], regions[i : i + 1], width) for i in range(len(grid))]
        ids, steps, sums = (torch.stack(part) for part in zip(*found, strict=True))
        return ids, steps, sums

    def _search_one(self, grid: Tensor, regions: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
        begin, end = self.settings["begin"], self.settings["end"]
        tokens = torch.full((1, 1), begin, dtype=torch.int64, device=grid.device)
        steps = grid.new_zeros(1, 0)
        sums = grid.new_zeros(1)
        finished = torch.zeros(1, dtype=torch.bool, device=grid.device)
        for _ in range(self.settings["longest"]):
            count = len(tokens)
            looks = (part.expand(count, -1, -1) for part in (grid, regions))
            words = self.log_probabilities(tokens, *looks, whole=False)[:, -1]
            # A finished sentence goes on with id 0 at no cost; its other words lose, whatever they would score.
            words = words.masked_fill(finished[:, None], 0.0)
            scores = sums[:, None] + words
            scores[finished, 1:] = FINISHED
            sums, flat = scores.flatten().topk(beams)
            origin, word = flat.div(words.shape[1], rounding_mode="floor"), flat.remainder(words.shape[1])
            tokens = torch.cat((tokens[origin], word[:, None]), 1)
            steps = torch.cat((steps[origin], words[origin, word][:, None]), 1)
            finished = finished[origin] | (word == end)
        order = sums.argsort(descending=True)
        return tokens[order, 1:], steps[order], sums[order]
