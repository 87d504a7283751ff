"""Regions that a caption looks at beside the grid: the cells that most likely hold an object, and one a semantic class.

After the region features of GRIT (arXiv 2207.09666), which has a detector of its own for them; here they are those of
the network's other heads. Which cells they are is looked up in the outputs of those heads, so no gradient flows
through the choice; it flows through the features of the chosen cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Prediction
from .caption_decoder import sine_axis


class RegionMemory(nn.Module):
    """Vectors (B, R, D) of the chosen cells, each with its place in it."""

    def __init__(self, channels: Sequence[int], width: int, cells: int, has_semantic: bool) -> None:
        super().__init__()
        self.cells = cells
        self.levels = nn.ModuleList(Prediction(c, width) for c in channels)
        if has_semantic:
            self.semantic = Prediction(channels[0], width)
        self.has_semantic = has_semantic

    def forward(self, levels: Sequence[Tensor], class_logits: Tensor, semantic_logits: Tensor | None) -> Tensor:
        """Regions of a batch of images.

        Args:
            levels: The neck's features, (B, c_i, H / stride_i, W / stride_i).
            class_logits: (B, C, N) at every cell of the levels.
            semantic_logits: (B, S, H / 8, W / 8), at every cell of the first level; None without such a head.

        Returns:
            (B, R, D): the cells with the highest class logits in the order of their numbers, which is that of
            `class_logits`; then, class by class, the cell where that semantic class is likeliest.
        """
        cells = best_cells(class_logits, self.cells)
        maps = [project(level).flatten(2) for project, level in zip(self.levels, levels, strict=True)]
        vectors = take(torch.cat(maps, 2), cells)
        if semantic_logits is not None:
            spots = semantic_logits.flatten(2).argmax(2)
            seen = take(levels[0].flatten(2), spots)
            vectors = torch.cat((vectors, self.semantic(seen.unsqueeze(3)).squeeze(3)), 2)
            cells = torch.cat((cells, spots), 1)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        places = cell_positions(sizes, cells, vectors.shape[1])
        return vectors.transpose(1, 2) + places.to(vectors.dtype)


def best_cells(class_logits: Tensor, count: int) -> Tensor:
    """(B, K) int64, rising: the `count` cells, or all, whose highest logit (B, C, N) of any class is highest.

    In rising order, a cell that takes the place of another one nearly as good leaves most of the others where they
    were.
    """
    best = class_logits.detach().amax(1)
    count = min(count, best.shape[1])
    cells = best.topk(count, dim=1).indices
    return cells.topk(count, dim=1, largest=False).values


def take(features: Tensor, cells: Tensor) -> Tensor:
    """(B, c, K): of features (B, c, N) those of the cells (B, K)."""
    return features.gather(2, cells[:, None].expand(-1, features.shape[1], -1))


def cell_positions(sizes: Sequence[tuple[int, int]], cells: Tensor, channels: int) -> Tensor:
    """(B, K, channels) float32: what `sine_positions` says of the cells (B, K) of maps of `sizes` one after the other.

    Looked up by row and by column, since a table of all cells would be as large as the weights of a small network.
    """
    row, column = 0, sum(height for height, _ in sizes)
    pairs = []  # (N, 2): for each cell, which rows of the table are its row's and its column's
    for height, width in sizes:
        rows = torch.arange(row, row + height, device=cells.device)
        columns = torch.arange(column, column + width, device=cells.device)
        pairs.append(torch.cartesian_prod(rows, columns))
        row, column = row + height, column + width
    lengths = [height for height, _ in sizes] + [width for _, width in sizes]
    table = torch.cat([sine_axis(length, channels, cells.device) for length in lengths])
    return F.embedding(F.embedding(cells, torch.cat(pairs)), table).flatten(2)


def region_margins(class_logits: Tensor, semantic_logits: Tensor | None, count: int) -> Tensor:
    """How clear the choice of each region was, (B, R) float32, relative to the largest of the logits it was made by.

    For a cell, how far its logit is above the best cell that was not chosen, infinite where all were; for a semantic
    class, how far its likeliest cell is above the next. Rounding by less than half of it cannot change the choice.
    """
    best = class_logits.amax(1)
    cells = best_cells(class_logits, count)
    ranked = best.sort(1, descending=True).values
    left_out = ranked[:, count : count + 1] if count < best.shape[1] else best.new_full((len(best), 1), -math.inf)
    margins = [(best.gather(1, cells) - left_out) / class_logits.abs().amax((1, 2))[:, None]]
    if semantic_logits is not None:
        flat = semantic_logits.flatten(2)
        first = flat.topk(min(2, flat.shape[2]), dim=2).values
        ahead = first[..., 0] - first[..., 1] if flat.shape[2] > 1 else torch.full_like(first[..., 0], math.inf)
        margins.append(ahead / flat.abs().amax((1, 2))[:, None])
    return torch.cat(margins, 1).float()
