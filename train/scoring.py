"""Scores of the training network: `evaluation.score_model` over torch, with the pre- and post-processing that ships."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth
from ..evaluation.evaluator import Evaluation, score_model
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.progress import Count
from ..runtime.results import Result
from .checkpoint import Checkpoint
from .network.any_network import AnyNetwork
from .torch_backend import torch_model


def evaluate_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    split: str | None = None,
    limit: int | None = None,
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
) -> Evaluation:
    """Score a checkpoint on a data set in COCO's layout, in float32; `evaluation.evaluate` scores a bundle.

    Args:
        checkpoint: Folder of a checkpoint or of a training run.
        data: Folder of the data set.
        split: By default the first split whose name starts with "val", or the only one.
        limit: Score only the first images.
        caption: How captions are searched for.
        progress: Called with images done and images in all.

    Raises:
        UsageError: If it is no checkpoint, or `limit` is not positive.
        DatasetError: If the data set cannot be read, or has other classes than the network.
    """
    dataset = CocoDataset.open(data, split=split, role="val")
    with torch_model(Checkpoint.open(checkpoint).network()) as model:
        return score_model(model, dataset, limit, caption, progress, os.fspath(checkpoint))


def score_network(
    network: AnyNetwork, dataset: CocoDataset, on_image: Callable[[int, Truth, Result], None] | None = None
) -> Evaluation:
    """Score the training network itself, on the device it is on; `on_image` as in `evaluation.scores.score_dataset`."""
    return score_model(torch_model(network), dataset, on_image=on_image)
