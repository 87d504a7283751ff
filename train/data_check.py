"""The look at the data before the first step of a training."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..evaluation.dataset.check import check_opened
from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.opening import open_validation
from ..runtime.errors import DatasetError
from .config import TrainConfig
from .distributed import is_first
from .network.any_network import AnyConfig
from .progress import say

LABELS = "labels.png"


def require_targets(dataset: CocoDataset, tasks: Collection[str] | None) -> None:
    """Refuse data that has annotations of a task, none of which can be learned from.

    Args:
        dataset: To be trained on.
        tasks: That were asked for; None for all that can be learned.

    Raises:
        DatasetError: If a task that was asked for, or all of them, have no target.
    """
    reasons = {task: why for task, why in dataset.untaught.items() if tasks is None or task in tasks}
    if reasons and (tasks is not None or not dataset.tasks):
        listed = "; ".join(f"{task}: {why}" for task, why in reasons.items())
        raise DatasetError(
            f"{dataset.root} ({dataset.split}): nothing can be learned; {listed}; "
            f"see yolor-edge check {dataset.sources[0][0]}"
        )


def _count(what: str, done: int, total: int) -> None:
    """A line at each tenth of what takes a while."""
    if total >= 1000 and 10 * done // total != 10 * (done - 1) // total:
        say(f"{what} {done}/{total}")


def check_before_training(dataset: CocoDataset, network: AnyConfig, config: TrainConfig, out: Path) -> None:
    """Look at training and validation data, say what there is, and draw `labels.png` into the run.

    Raises:
        DatasetError: If something is wrong that training or validation would fail on.
    """
    if config.check == "off":
        return
    validation = open_validation(dataset)
    opened = [dataset] if validation is None else [dataset, validation]
    is_full = config.check == "full" and is_first()  # Of processes that train together one reads the files.
    found = check_opened(opened, read_files=is_full, input_size=network.input_size, progress=_count)
    say(found.table())
    found.raise_if_wrong()
    if is_full:
        found.draw(out / LABELS, opened)
