"""Scores of the training network: `evaluation.score_model` over torch, with the pre- and post-processing that ships."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.opening import Data, open_dataset
from ..evaluation.dataset.truth import Truth
from ..evaluation.evaluator import PLAIN, Evaluation, ScoreOptions, score_model
from ..runtime.arguments import check_count
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.errors import UsageError
from ..runtime.progress import Count
from ..runtime.results import Result
from . import distributed
from .batched_model import BatchedModel
from .checkpoint import Checkpoint
from .network.any_network import AnyNetwork
from .shared_scoring import shared
from .trainer import choose_device

GPU_BATCH = 16
"""Images at once where nothing else is said. On the CPU it is one: more gain nothing there and take memory."""


def evaluate_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: Data,
    split: str | None = None,
    limit: int | None = None,
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    options: ScoreOptions = ScoreOptions(),
    *,
    device: str = "auto",
    batch: int | None = None,
) -> Evaluation:
    """Score a checkpoint on a data set, in float32; `evaluation.evaluate` scores a bundle.

    Args:
        checkpoint: Folder of a checkpoint or of a training run.
        data: Folder of the data set, or several that are put together.
        split: By default the first split whose name starts with "val", or the only one.
        limit: Score only the first images.
        caption: How captions are searched for.
        progress: Called with images done and images in all.
        options: Intervals, files and drawings.
        device: Of the network: "auto" (a GPU if there is one), "cpu" or "cuda:N".
        batch: Images that pass the network at once; by default 16 on a GPU, 1 on the CPU. The scores are the same, to
            rounding.

    Raises:
        UsageError: If it is no checkpoint, `limit` or `batch` is not positive, the device is not known or cannot be
            used, or a folder to write is there already.
        DatasetError: If the data set cannot be read, or has other classes than the network.
    """
    check_count("batch", batch, or_none=True)
    if batch is not None and batch < 1:
        raise UsageError(f"<batch> must be at least 1, got {batch}", argument="batch")
    options.require_new_folders()
    chosen = choose_device(device)
    dataset = open_dataset(data, split, "val")
    network = Checkpoint.open(checkpoint).network().to(chosen)
    model = BatchedModel(network, batch or usual_batch(network))
    return score_model(model, dataset, limit, caption, progress, os.fspath(checkpoint), options)


def score_network(
    network: AnyNetwork,
    dataset: CocoDataset,
    on_image: Callable[[int, Truth, Result], None] | None = None,
    options: ScoreOptions = PLAIN,
) -> Evaluation:
    """Score the training network itself, on the device it is on; `on_image` as in `evaluation.scores.score_dataset`.

    Processes that train together call it together: each predicts its share, and all give the scores of all images.
    """
    model: Any = BatchedModel(network, usual_batch(network))
    if distributed.size() > 1:
        model, dataset = shared(model, dataset)
    return score_model(model, dataset, on_image=on_image, options=options)


def usual_batch(network: AnyNetwork) -> int:
    """How many images pass a network at once on the device it is on."""
    return 1 if next(network.parameters()).device.type == "cpu" else GPU_BATCH
