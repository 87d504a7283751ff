"""What led to a loss that is no number: the images, drawn as the network saw them, and the losses that each gives."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth
from ..runtime.errors import YolorEdgeError
from ..runtime.files import replacing_folder, write_atomically
from ..runtime.images.image_files import write_image
from .batches import Batch, TrainingViews, collate
from .run_files import STATE
from .run_page.pictures import strong_views, tile
from .run_state import read_state
from .trainer import NonFiniteLoss, Trainer

FOLDER, FACTS = "nan", "nan.json"
MOST_TRIED = 512
"""Images that are looked at one by one, from the step that was noticed backwards."""
MOST_DRAWN = 16

Key = tuple[int, int]


def keep_bad_images(
    out: Path,
    trainer: Trainer,
    dataset: CocoDataset,
    epoch: int,
    recent: Sequence[tuple[int, Sequence[Key]]],
    error: NonFiniteLoss,
) -> NonFiniteLoss:
    """Write what led to the error into `out`/nan; returns the error to raise, which names it.

    Each image of that step, then of those before, is given to the network alone. Where weights are no numbers any more,
    those that were saved last are taken, or those of the beginning.

    Args:
        out: Folder of the run.
        trainer: As it is after the error; its weights may be changed.
        dataset: What is trained on.
        epoch: Which, from 0.
        recent: The last steps, from 1, with the (epoch, index) of their images.
        error: What the trainer raised.
    """
    views = _Recorded(TrainingViews(dataset, trainer.network.config, trainer.config))
    if not _is_finite(trainer):
        if (out / STATE).exists():
            read_state(out / STATE, trainer)
        else:  # As it began, which the seed says.
            begun = Trainer(trainer.network.config, trainer.config, trainer.steps, trainer.device)
            trainer.network.load_state_dict(begun.network.state_dict())
    steps = [keys for step, keys in sorted(recent, reverse=True) if step <= error.step]
    culprits: list[dict[str, Any]] = []
    tried = 0
    for keys in steps if _is_finite(trainer) else ():
        culprits = [one for key in keys if (one := views.look_at(key, trainer))["bad"]]
        tried += len(keys)
        if culprits or tried >= MOST_TRIED:
            break
    note = "each of these images alone gives a loss that is no number"
    if not culprits:
        note = "no image alone gives such a loss; these are the images of the step at which it was noticed"
        culprits = [views.look_at(key, None) for key in (steps[0] if steps else ())]
    with replacing_folder(out / FOLDER) as folder:
        for number, one in enumerate(culprits[:MOST_DRAWN], 1):
            name = f"{number}-{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(one['files'][0]).stem)[:60]}.jpg"
            view, result, unlabelled = strong_views(one.pop("batch"), trainer.network.config, 1)[0]
            write_image(folder / name, tile(view, result, (), unlabelled))
            one["picture"] = name
        facts = {
            "epoch": epoch + 1,
            "step": error.step,
            "losses": {name: _plain(value) for name, value in error.losses.items()},
            "learning_rate": trainer.learning_rate(),
            "note": note,
            "images": [{k: v for k, v in one.items() if k not in ("batch", "bad")} for one in culprits],
        }
        write_atomically(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    names = [Path(one["files"][0]).name for one in culprits]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    bad = ", ".join(name for name, value in error.losses.items() if not np.isfinite(value)) or "loss"
    return NonFiniteLoss(
        error.step,
        error.losses,
        f"the loss is no number ({bad}) at step {error.step}, epoch {epoch + 1}; look at {listed} in {out / FOLDER}; "
        f"what was saved is kept: go on when the labels are right, or with a lower rate: yolor-edge train --resume "
        f"{shlex.quote(str(out))} --set learning_rate={trainer.config.learning_rate / 2:g}",
    )


class _Recorded:
    """Views of a data set, with the files that each is made of."""

    def __init__(self, views: TrainingViews) -> None:
        self._views, self._read = views, views.data.read
        self._files: list[str] = []
        views.data = _Reading(views.data, self._files)  # type: ignore[assignment]

    def look_at(self, key: Key, trainer: Trainer | None) -> dict[str, Any]:
        """A sample: `index`, `files`, `batch`, and with a trainer its `losses` and whether one of them is `bad`."""
        self._files.clear()
        sample = self._views[key]
        if isinstance(sample, YolorEdgeError):
            raise sample
        batch = collate([sample])
        assert isinstance(batch, Batch)
        found: dict[str, Any] = {
            "index": key[1] % len(self._views),
            "files": list(dict.fromkeys(self._files)),
            "batch": batch,
            "bad": False,
        }
        if trainer is not None:
            losses = _losses_of(trainer, batch)
            found |= {"losses": {name: _plain(value) for name, value in losses.items()}}
            found["bad"] = not all(np.isfinite(value) for value in losses.values())
        return found


class _Reading:
    """A data set that notes the files it reads."""

    def __init__(self, dataset: CocoDataset, files: list[str]) -> None:
        self._dataset, self._files = dataset, files

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Truth:
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, truth: Truth, reduction: int = 1) -> NDArray[np.uint8]:
        self._files.append(str(truth.path))
        return self._dataset.read(truth, reduction)


@torch.no_grad()
def _losses_of(trainer: Trainer, batch: Batch) -> dict[str, float]:
    """The losses of a batch with the statistics gathered so far; nothing moves."""
    trainer.network.eval()
    batch = batch.to(trainer.device)
    with torch.autocast(trainer.device.type, dtype=trainer.amp, enabled=trainer.amp is not None):
        losses = trainer._losses(batch, trainer._counts([batch]), trainer.network.features)
    return {name: float(loss) for name, loss in losses.items()}


def _is_finite(trainer: Trainer) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in trainer.network.state_dict().values())


def _plain(value: float) -> float | str:
    """JSON has no NaN."""
    return value if np.isfinite(value) else str(value)
