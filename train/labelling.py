"""Labels by a checkpoint: `evaluation.labelling` over torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..evaluation.labelling import LabelOptions, LabelSummary, label_by_model
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.progress import Count, Say
from .checkpoint import Checkpoint
from .torch_backend import torch_model
from .trainer import choose_device


def label_by_checkpoint(
    checkpoint: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: LabelOptions = LabelOptions(),
    *,
    device: str = "auto",
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    report: Say | None = None,
) -> LabelSummary:
    """Write what a checkpoint predicts as a data set in COCO's layout; see `evaluation.label`, which asks a bundle.

    Args:
        checkpoint: Folder of a checkpoint or of a training run.
        device: "auto" takes the GPU if there is one.
        images, out, options, caption, progress, report: As there.

    Raises:
        CheckpointError: If it is no checkpoint.
        UsageError: As there.
    """
    opened = Checkpoint.open(checkpoint)
    place = choose_device(device)
    teacher = {
        "kind": "checkpoint",
        "name": opened.layout.name,
        "folder": opened.path.resolve().name,
        "sha256": opened.sha256,
        "licence": opened.licence,
    }
    with torch_model(opened.network().to(place)) as model:
        return label_by_model(model, teacher, images, out, options, caption, progress, report)
