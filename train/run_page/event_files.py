"""Losses, rate and scores for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import say
from .results_csv import scalars_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventFiles:
    """Event files in a folder; none where the package tensorboard is missing or does not load.

    Args:
        folder: Of the event files.
        epochs_done: Of the run, as after a resume; what the folder holds of later ones is taken back.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self._writer: SummaryWriter | None = None
        if importlib.util.find_spec("tensorboard") is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # whatever a broken installation raises
            say(f"no files for TensorBoard: it does not load ({str(error).splitlines()[0] if str(error) else error!r})")
            return
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1 if epochs_done else None)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take an entry of the log."""
        if self._writer is None:
            return
        epoch = entry["epoch"]
        values = {f"losses/{name}": value for name, value in entry["losses"].items()}
        values["learning_rate"] = entry["learning_rate"]
        if entry.get("score") is not None:
            values["score"] = entry["score"]
        values |= {f"scores/{name}": value for name, value in scalars_of(entry).items()}
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
