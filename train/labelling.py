"""Labels by a checkpoint, `evaluation.labelling` over torch; and a folder of plain images as something to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.labelling import LabelOptions, LabelSummary, label, label_by_model
from ..runtime.bundle.bundle import Bundle
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.errors import UsageError
from ..runtime.options import LoadOptions
from ..runtime.progress import Count, Say
from ..runtime.sources.file_kinds import kind_of
from . import distributed
from .checkpoint import Checkpoint
from .progress import say
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


def labelled_first(
    data: Any, teacher: str | os.PathLike[str], out: Path, device: str = "auto", threads: int | None = None
) -> Any:
    """What to train on: `data` itself or, where it is a folder of images and nothing else, labels of the teacher.

    Args:
        data: As `fit` takes it.
        teacher: Folder of a checkpoint, a run or a bundle.
        out: Folder of the run; the labels go to `labels` in it, and are taken from there if they are there already.
        device: Of a checkpoint.
        threads: CPU threads of a bundle.

    Raises:
        UsageError: If the labels that are there are another teacher's.
        CheckpointError, BundleError: If there is no such teacher.
    """
    if not isinstance(data, str | os.PathLike) or not _holds_only_images(Path(data)):
        return data
    place, folder = out / "labels", Path(teacher)
    is_bundle = (folder / "bundle.json").is_file()
    digest = Bundle.open(folder).digest if is_bundle else Checkpoint.open(folder).sha256
    if any((place / "annotations").glob("*.json")):
        if CocoDataset.open(place).info.get("labelled_by", {}).get("sha256") != digest:
            raise UsageError(f"{place}: holds labels of another teacher; remove it, or choose another <out>", "out")
        return place
    if distributed.size() > 1:
        raise UsageError(
            f"{data}: holds images without labels, which one process has to make first: yolor-edge label {teacher} "
            f"{data} --out {place}"
        )
    say(f"{data}: holds images without labels; the teacher makes them, in {place}")
    if is_bundle:
        summary = label(folder, data, place, load=LoadOptions(threads=threads), report=say)
    else:
        summary = label_by_checkpoint(folder, data, place, device=device, report=say)
    say(str(summary))
    return place


def _holds_only_images(folder: Path) -> bool:
    """Whether nothing lies in a folder but files, and all that are not hidden are images."""
    if not folder.is_dir():
        return False
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return bool(files) and all(path.is_file() for path in files) and all(kind_of(path) == "image" for path in files)
