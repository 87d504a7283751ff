"""The epochs of a run: each is trained, logged and saved, and scored where that is due."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.coco_files import splits_of
from ..runtime.errors import YolorEdgeError
from .batch_statistics import BatchStatistics
from .batches import training_loader
from .checkpoint import Checkpoint, write_checkpoint
from .network.any_network import AnyConfig, AnyNetwork
from .network.layers import LayersConfig
from .progress import Progress, say
from .run_files import CACHE, STATE, finish_before_stopping, read_log, write_log
from .run_state import read_state, write_state
from .scoring import score_network
from .trainer import Trainer


class Epochs:
    """What is left of a run, from its last saved epoch on.

    Args:
        out: Folder of the run.
        dataset: What is trained on.
        trainer: Before its first step; brought to the state that `out` holds, if it holds one.
        begun: What the provenance says of the start.
    """

    def __init__(self, out: Path, dataset: CocoDataset, trainer: Trainer, begun: dict[str, Any] | None = None) -> None:
        self.out, self.dataset, self.trainer, self.begun = out, dataset, trainer, begun
        self.config, network = trainer.config, trainer.network.config
        torch.use_deterministic_algorithms(trainer.device.type == "cpu")
        # Nothing reads memory before writing it; filling it first would only cost time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        self.loader, self.order = training_loader(dataset, network, self.config, out / CACHE)
        self.validation = _validation_split(dataset, network)
        self.statistics = BatchStatistics(dataset, network, self.config)
        self._average: tuple[int, AnyNetwork] | None = None
        self.done, self.seconds = 0, 0.0
        if (out / STATE).exists():
            self.done, self.seconds = read_state(out / STATE, trainer)
        # Epochs that a kill took back are trained again.
        self.log = [entry for entry in read_log(out) if entry["epoch"] <= self.done]
        self.progress = Progress(self.config.epochs, len(self.loader), self.done)

    def run(self) -> Checkpoint:
        """Train, log, save and score the epochs that are left."""
        self._say_what_is_left()
        write_log(self.out, self.log)
        checkpoint: Checkpoint | None = None
        for epoch in range(self.done, self.config.epochs):
            entry = self.train_epoch(epoch)
            last = epoch + 1 == self.config.epochs
            every = self.config.validate_every
            if self.validation is not None and (last or (every and (epoch + 1) % every == 0)):
                entry["validation"] = self.validate(self.validation)
            # Log before state: lines of epochs that a kill takes back are dropped by the resume, none is ever missing.
            self.log.append(entry)
            write_log(self.out, self.log)
            if (epoch + 1) % self.config.save_every == 0 or last:
                checkpoint = self.save(epoch + 1, entry.get("validation"))
        shutil.rmtree(self.out / CACHE, ignore_errors=True)  # decoded images, which may be many gigabytes
        if checkpoint is None:  # Complete already, but perhaps killed between state and checkpoint.
            scores = None if self.validation is None else self.validate(self.validation)
            checkpoint = self.write(self.config.epochs, scores)
        return checkpoint

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train epoch `epoch`, from 0; returns its line of the log: `epoch`, from 1, `losses`, `learning_rate`..."""
        started = time.perf_counter()
        self.progress.begin_epoch()
        self.order.epoch = epoch
        self.trainer.train_mode()
        sums: dict[str, float] = {}
        count = 0
        for i, batch in enumerate(self.loader):
            if isinstance(batch, YolorEdgeError):
                raise batch
            losses = self.trainer.step(batch.to(self.trainer.device))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
            count += 1
            self.progress.tell(epoch, i + 1, {name: value / count for name, value in sums.items()})
        took = time.perf_counter() - started
        self.seconds += took
        return {
            "epoch": epoch + 1,
            "losses": {name: round(value / count, 5) for name, value in sums.items()},
            "learning_rate": self.trainer.learning_rate(),
            "seconds": round(took, 2),
        }

    def average(self) -> AnyNetwork:
        """The averaged weights as they are scored and written, with batch statistics of their own."""
        if self._average is None or self._average[0] != self.trainer.step_index:
            self._average = None  # One copy at a time.
            self._average = self.trainer.step_index, self.statistics.average(self.trainer)
        return self._average[1]

    def validate(self, validation: CocoDataset) -> dict[str, Any]:
        """Scores of the averaged weights."""
        scores = score_network(self.average(), validation)
        say(str(scores))
        return scores.to_json()

    def save(self, epochs: int, validation: dict[str, Any] | None) -> Checkpoint:
        """Write state and checkpoint after so many epochs; a signal waits until what is being written is there."""
        with finish_before_stopping():
            write_state(self.out / STATE, self.trainer, epochs, self.seconds)
        self.average()
        with finish_before_stopping():
            return self.write(epochs, validation)

    def write(self, epochs: int, validation: dict[str, Any] | None) -> Checkpoint:
        """Write the checkpoint of the averaged weights."""
        provenance: dict[str, Any] = {
            "data": {"name": self.dataset.root.name, "split": self.dataset.split, "images": len(self.dataset)},
            "train": self.config.to_json(),
            "epochs_done": epochs,
            "seconds": round(self.seconds, 1),
            "device": str(self.trainer.device),
            "threads": torch.get_num_threads(),
        }
        if self.begun is not None:
            provenance["start"] = self.begun
            if "licence" in self.begun:  # What was trained on stays under it.
                provenance["licence"] = self.begun["licence"]
        if validation is not None:
            provenance["validation"] = validation
        return write_checkpoint(self.out / "checkpoint", self.average(), provenance, self.config.weights)

    def _say_what_is_left(self) -> None:
        out, done, trainer, network = self.out, self.done, self.trainer, self.trainer.network.config
        if done == self.config.epochs:
            say(f"all {done} epochs of {out} are done; for more: yolor-edge train --resume {out} --epochs {2 * done}")
        elif done:
            say(f"resuming after epoch {done} of {self.config.epochs}")
        else:
            parameters = sum(p.numel() for p in trainer.network.parameters())
            kind = network.name if isinstance(network, LayersConfig) else f"size {network.size}"
            say(
                f"{kind}, {', '.join(network.tasks)}: {parameters / 1e6:.2f} M parameters, "
                f"{len(self.dataset)} images of {self.dataset.split}, "
                f"input {network.input_size[0]}x{network.input_size[1]}, "
                f"{trainer.device}, {str(trainer.amp or torch.float32).removeprefix('torch.')}"
            )


def _validation_split(dataset: CocoDataset, network: AnyConfig) -> CocoDataset | None:
    """The data set's validation split, opened and checked before hours are spent; None if it has none."""
    if not any(name.startswith("val") and name != dataset.split for name in splits_of(dataset.root)):
        return None
    validation = CocoDataset.open(dataset.root, role="val")
    validation.require_classes(
        network.class_names if "boxes" in network.tasks and "boxes" in validation.tasks else None,
        network.semantic_names if "semantic" in network.tasks and "semantic" in validation.tasks else None,
    )
    return validation if any(task in validation.tasks for task in network.tasks) else None
