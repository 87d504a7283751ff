"""The truth of a data set as one block of bytes, which the processes that prepare batches share."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth

# Fewer pictures than this that are known in the same ways would make mosaics of the same few.
FEWEST_PARTNERS = 4


class PackedTruths:
    """All truths of a data set; `packed[i]` is that of picture i, and its `image_id` is i.

    Python's own objects cannot be shared between processes: looking at one counts a reference, which copies its page of
    memory. Of bytes nothing is written.
    """

    def __init__(self, data: CocoDataset) -> None:
        block, ends, kinds = bytearray(), [0], []
        known: dict[bytes, int] = {}
        for i in range(len(data)):
            truth = replace(data[i], image_id=i)
            block += pickle.dumps(truth, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(block))
            classes = b"" if truth.known_classes is None else truth.known_classes.tobytes()
            kind = (truth.boxes is not None) + 2 * truth.has_masks + 4 * truth.has_semantic
            kinds.append(kind + 8 * known.setdefault(classes, len(known)))
        self._block = memoryview(block)
        self._ends = np.array(ends, np.int64)
        self._kinds = np.array(kinds, np.int64)
        self._partners: list[NDArray[np.int64]] = []
        for kind in range(8 * max(1, len(known))):
            alike = np.flatnonzero(self._kinds == kind)
            self._partners.append(alike if len(alike) >= FEWEST_PARTNERS else np.arange(len(kinds)))

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, index: int) -> Truth:
        return pickle.loads(self._block[self._ends[index] : self._ends[index + 1]])

    def partner(self, index: int, rng: np.random.Generator) -> int:
        """A picture drawn from those that know boxes, their classes, masks and semantic map just as picture `index`."""
        alike = self._partners[self._kinds[index]]
        return int(alike[rng.integers(len(alike))])
