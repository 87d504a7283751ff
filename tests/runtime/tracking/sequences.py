"""Made-up objects that move, with boxes that tremble, scores that fall and boxes that are missing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from yolor_edge.runtime.results import Result

Objects = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def moving(count: int, frames: int, seed: int = 0, area: float = 1000.0) -> Iterator[Objects]:
    """Boxes, scores and class ids of each frame, in an order that changes."""
    rng = np.random.default_rng(seed)
    place, velocity = rng.uniform(0, area, (count, 2)), rng.normal(0, 3, (count, 2))
    size = rng.uniform(20, 90, (count, 2))
    for frame in range(frames):
        corner = place + velocity * frame + rng.normal(0, 1.5, (count, 2))
        boxes = np.concatenate([corner, corner + size + rng.normal(0, 1, (count, 2))], axis=1)
        scores = np.clip(rng.normal(0.75, 0.25, count), 0.02, 1.0)
        found = np.flatnonzero(rng.random(count) > 0.1)
        found = found[rng.permutation(len(found))]
        yield boxes[found].astype(np.float32), scores[found].astype(np.float32), (found % 3).astype(np.int32)


def result_of(
    boxes: object, scores: object = None, class_ids: object = None, size: tuple[int, int] = (480, 640)
) -> Result:
    """A result with these boxes, of score 0.9 and class 0 unless told."""
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(rows)
    return Result(
        size,
        boxes=rows,
        scores=np.full(n, 0.9, np.float32) if scores is None else np.asarray(scores, np.float32),
        class_ids=np.zeros(n, np.int32) if class_ids is None else np.asarray(class_ids, np.int32),
        class_names=("car", "person", "dog"),
    )
