"""How often an epoch draws each image, so that a kind of truth that few images have is not met too seldom."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..evaluation.dataset.coco import CocoDataset
from .network.config import TASKS

MOST_DRAWS = 5.0
"""Of one image in an epoch: more would be learned by heart."""


def repeats_of(data: CocoDataset, tasks: Collection[str], least_share: float) -> NDArray[np.float64]:
    """(N,) mean draws of each image in an epoch, at least 1.

    An image of a task that the share f < `least_share` of all images has truth for is drawn sqrt(least_share / f)
    times, as images of rare classes are in LVIS (arXiv 1908.03195); of several tasks the rarest counts.

    Args:
        data: To be trained on.
        tasks: That are trained.
        least_share: See above; 0 draws each image once.
    """
    teaching = data.teaching()[:, [task in tasks for task in TASKS]]
    shares = np.maximum(teaching.mean(0), 1e-12)
    wanted = np.sqrt(np.maximum(least_share / shares, 1.0)).clip(max=MOST_DRAWS)
    return np.where(teaching, wanted, 1.0).max(1, initial=1.0)


def epoch_length(repeats: NDArray[np.float64]) -> int:
    """How many images an epoch draws."""
    return len(repeats) + int((np.floor(repeats) - 1).sum()) + _extra(repeats)


def epoch_draws(repeats: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The images of one epoch in their order, (L,): image i drawn for the k-th time is i + k * N, k from 0."""
    rng = np.random.default_rng((seed, epoch))
    times = np.floor(repeats).astype(np.int64)
    if extra := _extra(repeats):
        parts = np.cumsum(repeats - times)
        # Evenly spaced marks on the fractions laid end to end hit each in proportion, and none twice.
        marks = (np.arange(extra) + np.random.default_rng((seed, epoch, 1)).random()) * parts[-1] / extra
        times += np.bincount(np.searchsorted(parts, marks, "right").clip(max=len(parts) - 1), minlength=len(parts))
    copies = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    drawn = np.repeat(np.arange(len(repeats)), times) + copies * len(repeats)
    return drawn[rng.permutation(len(drawn))]


def _extra(repeats: NDArray[np.float64]) -> int:
    return round(float((repeats - np.floor(repeats)).sum()))
