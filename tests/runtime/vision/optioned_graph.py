"""A vision graph with options made from one without, by their definition in numpy; not a test itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from yolor_edge.runtime.backends.base import Array, Graph, TensorInfo, checked_feed
from yolor_edge.runtime.bundle.graph_options import HEADS_OF_CELLS, GraphOptions
from yolor_edge.runtime.bundle.spec import SCORE_HEADS

from ...reference.semantic import semantic_argmax


class OptionedGraph:
    """`graph`, a vision graph with a free batch, with `options` built in."""

    def __init__(self, graph: Graph, options: GraphOptions) -> None:
        self._graph = graph
        self._options = options
        batch = options.batch or "batch"
        self.inputs = {name: replace(info, shape=(batch, *info.shape[1:])) for name, info in graph.inputs.items()}
        self.outputs = {name: replace(info, shape=(batch, *info.shape[1:])) for name, info in graph.outputs.items()}
        if options.top_k is not None:
            for name in set(HEADS_OF_CELLS) & self.outputs.keys():
                self.outputs[name] = replace(self.outputs[name], shape=(*self.outputs[name].shape[:2], options.top_k))
            self.outputs["cells"] = TensorInfo("cells", (batch, options.top_k), "int32")
        if options.semantic_map:
            shape = self.outputs.pop("semantic_logits").shape
            size = tuple(8 * side for side in shape[2:] if isinstance(side, int))
            self.outputs["semantic_map"] = TensorInfo("semantic_map", (batch, *size), "uint8")

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        checked_feed("optioned", self.inputs, self.outputs, feed, wanted)
        heads = self._graph.run(feed)
        if self._options.top_k is not None:
            best = next(heads[name] for name in SCORE_HEADS.values() if name in heads).max(axis=1)
            cells = np.argsort(-best, axis=1, kind="stable")[:, : self._options.top_k].astype(np.int32)
            for name in set(HEADS_OF_CELLS) & heads.keys():
                heads[name] = np.stack([head[:, row] for head, row in zip(heads[name], cells, strict=True)])
            heads["cells"] = cells
        if self._options.semantic_map:
            grids = heads.pop("semantic_logits")
            size = (8 * grids.shape[2], 8 * grids.shape[3])
            heads["semantic_map"] = np.stack([semantic_argmax(grid, size, (1.0, 1.0, 0, 0)) for grid in grids])
        return {name: heads[name] for name in (self.outputs if wanted is None else wanted)}

    def close(self) -> None:
        self._graph.close()
