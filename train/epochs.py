"""The epochs of a run: each is trained, logged and saved, then scored where that is due, then shown.

Scores come after the state is on disk, so that neither an error nor a kill while they are computed takes back an epoch.
What is chosen by them, the best epoch and an early end, follows from the log, which a resume has up to the saved epoch.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.dataset.coco import CocoDataset
from ..runtime.errors import YolorEdgeError
from ..runtime.files import write_atomically
from .bad_images import keep_bad_images
from .balance import task_report
from .batch_statistics import BatchStatistics
from .batches import Batch, training_loader
from .best import best_epoch, epochs_without_better, main_score, score_line
from .checkpoint import Checkpoint, with_provenance, write_checkpoint
from .config import TrainConfig
from .distributed import ProcessLost, copy_from_first, is_first, size, wait_for_all
from .network.any_network import AnyNetwork
from .network.layers import LayersConfig
from .network.network import Network
from .progress import Progress, say
from .quantisation import learned_bounds, unquantised
from .run_files import BEST, CACHE, LAST, STATE, finish_before_stopping, read_log, write_log
from .run_page.detections import Matches
from .run_page.page import BATCHES, MATCHES, SAMPLES, RunPage
from .run_page.pictures import SAMPLES as SAMPLE_COUNT
from .run_page.pictures import write_batch, write_samples
from .run_state import read_state, write_state
from .running_losses import RunningLosses
from .trainer import NonFiniteLoss, Trainer
from .trouble import is_lost_worker, is_out_of_memory, largest_that_fits, lost_worker, out_of_memory
from .validation import Validation, evenly_spread

BATCHES_DRAWN = 2
"""Of the first epoch."""
STEPS_REMEMBERED = 200
"""How long after the step that it came from a loss that is no number may be noticed."""
LOG_EVERY = 10
"""Steps between two readings of the losses, each of which waits for the device."""


def steps_of_epoch(batches: int, config: TrainConfig) -> int:
    """Of so many batches, the last step perhaps with fewer than the others."""
    return -(-batches // config.accumulate)


class Epochs:
    """What is left of a run, from its last saved epoch on.

    Args:
        out: Folder of the run.
        dataset: What is trained on.
        trainer: Before its first step; brought to the state that `out` holds, if it holds one.
        run: As `run.json` holds it: `start` of a run from other weights goes into the provenance of checkpoints,
            `patient_since` is the epoch from which a run that was stopped early and goes on counts its patience.

    Attributes:
        done: How many epochs are trained.
        log: The entry of each.
    """

    def __init__(self, out: Path, dataset: CocoDataset, trainer: Trainer, run: dict[str, Any]) -> None:
        self.out, self.dataset, self.trainer, self.run_facts = out, dataset, trainer, run
        self.config, self.network = trainer.config, trainer.network.config
        torch.use_deterministic_algorithms(trainer.device.type == "cpu")
        # Nothing reads memory before writing it; filling it first would only cost time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        self.loader, self.order = training_loader(dataset, self.network, self.config, out / CACHE)
        self.validation = Validation.of(dataset, self.network, self.config.validate_images)
        self.samples = evenly_spread(dataset if self.validation is None else self.validation.whole, SAMPLE_COUNT)
        self.statistics = BatchStatistics(dataset, self.network, self.config)
        self._weights: tuple[int, AnyNetwork] | None = None
        self.done, self.seconds = 0, 0.0
        if (out / STATE).exists():
            self.done, self.seconds = read_state(out / STATE, trainer)
            trainer.step_index = round(trainer.steps * self.done / self.config.epochs)  # of another batch size too
        self.saved = self.done
        # Epochs that a kill took back are trained again.
        self.log = [entry for entry in read_log(out) if entry["epoch"] <= self.done]
        self.steps = steps_of_epoch(len(self.loader), self.config)
        self.progress = Progress(self.config.epochs, self.steps, self.done)
        about = self._about()
        self.page = RunPage(out, self.network, about, self.config.epochs, self.done) if is_first() else None
        copy_from_first(trainer.network)

    def run(self) -> Checkpoint:
        """Train, save, score and show what is left; returns the best checkpoint, or the last where none was scored."""
        self._say_what_is_left()
        write_log(self.out, self.log)
        if self.done:  # What a kill between state and checkpoint, or in a validation, has left undone.
            self.write(LAST)
            self.validate_if_due()
        self.show()
        while not self.ended:
            self.log.append(self.train_epoch(self.done))
            self.done += 1
            write_log(self.out, self.log)
            if self.done % self.config.save_every == 0 or self.is_last:
                self.save()
            self.validate_if_due()
            if self.ended and self.saved < self.done:  # stopped early, between two saves
                self.save()
            self.draw_samples_if_due()
            self.show()
        if self.page is not None:
            self.page.close()
            shutil.rmtree(self.out / CACHE, ignore_errors=True)  # decoded images, which may be many gigabytes
        wait_for_all()
        best = best_epoch(self.log)
        return Checkpoint.open(self.out / (LAST if best is None else BEST))

    def show(self) -> None:
        """Write the page of the run."""
        if self.page is not None:
            self.page.write(self.log, self.ended)

    @property
    def is_last(self) -> bool:
        """Whether all epochs are trained."""
        return self.done >= self.config.epochs

    @property
    def ended(self) -> str:
        """Why no further epoch is trained, in words; empty where one is."""
        if self.is_last:
            return f"All {self.done} epochs are done."
        patience, since = self.config.patience, self.run_facts.get("patient_since", 0)
        if patience and epochs_without_better(self.log, since) >= patience:
            return f"Stopped early after epoch {self.done}: no better score in {patience} epochs."
        return ""

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train epoch `epoch`, from 0; returns its line of the log: `epoch`, from 1, `losses`, `learning_rate`...

        Raises:
            NonFiniteLoss: If a loss is no number; what led to it lies in `nan/`.
            OutOfMemory: If there is not enough of it.
            YolorEdgeError: If an image cannot be read.
        """
        started = time.perf_counter()
        self.progress.begin_epoch()
        self.order.epoch = epoch
        keys, images = list(self.order), self.config.batch_size * self.config.accumulate
        recent: deque[tuple[int, list[tuple[int, int]]]] = deque(maxlen=STEPS_REMEMBERED)
        self.trainer.train_mode()
        losses = RunningLosses(self.trainer.step_index)
        try:
            for i, batches in enumerate(self._steps(epoch)):
                recent.append((self.trainer.step_index + 1, keys[i * images : (i + 1) * images]))
                losses.add(self.step(batches, measure=i == 0))
                if (i + 1) % LOG_EVERY == 0 or i + 1 == self.steps:
                    self.progress.tell(epoch, i + 1, losses.means())
            means = losses.means()
        except NonFiniteLoss as error:
            if size() > 1:  # The images of a step lie with several processes.
                raise
            raise keep_bad_images(self.out, self.trainer, self.dataset, epoch, list(recent), error) from None
        except RuntimeError as error:
            if is_lost_worker(error):
                raise lost_worker(self.config.workers, shlex.quote(str(self.out))) from None
            raise
        took = time.perf_counter() - started
        self.seconds += took
        return {
            "epoch": epoch + 1,
            "losses": {name: round(value, 5) for name, value in means.items()},
            "tasks": task_report(means, self.trainer.balance.weights(), self.trainer.gradient_norms),
            "learning_rate": self.trainer.learning_rate(),
            "seconds": round(took, 2),
        }

    def _steps(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches of each step of an epoch."""
        found: list[Batch] = []
        for i, batch in enumerate(self.loader):
            if isinstance(batch, YolorEdgeError):
                raise batch
            if epoch == 0 and i < BATCHES_DRAWN and is_first():
                write_batch(self.out / BATCHES, i + 1, batch, self.network)
            found.append(batch)
            if len(found) == self.config.accumulate:
                yield found
                found = []
        if found:
            yield found

    def step(self, batches: list[Batch], measure: bool = False) -> dict[str, Tensor]:
        """One step of the trainer.

        Raises:
            OutOfMemory: Naming a batch that fits.
        """
        try:
            return self.trainer.step(*[batch.to(self.trainer.device) for batch in batches], measure=measure)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the block, whose error holds on to everything that the step had made.
        self.progress.end_line()
        fitting = largest_that_fits(self.trainer, batches[0].to(self.trainer.device))
        raise out_of_memory(self.trainer, len(batches[0].strong), fitting, shlex.quote(str(self.out)))

    def weights(self) -> AnyNetwork:
        """The network that is scored and written: the average, with batch statistics of its own."""
        if self._weights is None or self._weights[0] != self.trainer.step_index:
            self._weights = None  # One copy at a time.
            self._weights = (
                self.trainer.step_index,
                self.statistics.of(self.trainer.average, self.trainer.frozen_layers()),
            )
        return self._weights[1]

    def save(self) -> None:
        """Write state and checkpoint; a signal waits until what is being written is there."""
        with finish_before_stopping():
            if is_first():
                write_state(self.out / STATE, self.trainer, self.done, self.seconds)
        self.weights()
        with finish_before_stopping():
            self.write(LAST)
        self.saved = self.done

    def validate_if_due(self) -> None:
        """Score the last epoch, if it is to be and was not yet; keep its weights if they are the best so far.

        What goes wrong is told and logged, and the training goes on.
        """
        every, entry = self.config.validate_every, self.log[-1] if self.log else {}
        is_due = self.is_last or (every and self.done % every == 0)
        if self.validation is None or not is_due or {"validation", "validation_error"} & set(entry):
            return
        try:
            self._validate(self.validation, entry)
        except ProcessLost:
            raise
        except (YolorEdgeError, RuntimeError, MemoryError) as error:
            if not isinstance(error, YolorEdgeError) and not is_out_of_memory(error):
                raise
            entry["validation_error"] = str(error).splitlines()[0]
            say(f"epoch {self.done} was not scored, the training goes on: {entry['validation_error']}")
        write_log(self.out, self.log)

    def _validate(self, validation: Validation, entry: dict[str, Any]) -> None:
        matches = Matches(self.network.class_names)
        evaluation = validation.score(self.weights(), lambda _, truth, result: matches.add(truth, result))
        scores = evaluation.to_json()
        found = {"score": main_score(scores["scores"]), "validation": scores}
        best = best_epoch([*self.log[:-1], {**entry, **found}])
        is_best = best == self.done
        say(f"epoch {self.done} scored: {score_line(scores['scores'])}" + ("" if is_best else f" (best: epoch {best})"))
        if is_best:
            self.write(BEST, scores)
        ends = self.is_last or bool(self._would_end({**entry, **found}))
        if ends and validation.is_partial:
            evaluation = validation.score(self.weights(), is_whole=True)
            found["validation"] = evaluation.to_json()
            self._score_best_on_all(validation, is_best, found["validation"])
        if ends:
            say(str(evaluation))
        by_overlap = matches.to_json()
        if by_overlap is not None and is_first():
            write_atomically(self.out / MATCHES, json.dumps({"epoch": self.done, **by_overlap}) + "\n")
        if self.saved == self.done and is_first():
            with_provenance(Checkpoint.open(self.out / LAST), validation=found["validation"])
        entry.update(found)

    def _would_end(self, entry: dict[str, Any]) -> str:
        before = self.log
        self.log = [*before[:-1], entry]
        try:
            return self.ended
        finally:
            self.log = before

    def _score_best_on_all(self, validation: Validation, is_last: bool, scores: dict[str, Any]) -> None:
        """At the end the best checkpoint too says what it scores on the whole split."""
        wait_for_all()
        best = Checkpoint.open(self.out / BEST)
        if not is_last:
            network = best.network().to(self.trainer.device)
            scores = validation.score(network, is_whole=True).to_json()
        wait_for_all()  # Until the others have read it.
        if is_first():
            with_provenance(best, validation=scores)

    def draw_samples_if_due(self) -> None:
        """Draw predictions beside the truth: after the first epoch, the last and every `samples_every`."""
        every = self.config.samples_every
        if every and (self.done == 1 or self.ended or self.done % every == 0):
            weights = self.weights()
            if is_first():
                write_samples(self.out / SAMPLES, weights, self.samples, self.done)

    def write(self, name: str, validation: dict[str, Any] | None = None) -> None:
        """Write the checkpoint of the averaged weights into a folder of the run; a signal waits until it is there."""
        weights = self.weights()
        if not is_first():
            return
        entry = self.log[-1] if self.log else {}
        provenance: dict[str, Any] = {
            "data": {
                "name": self.dataset.root.name,
                "split": self.dataset.split,
                "images": len(self.dataset),
                # A data set that a machine labelled says so, and what was trained on it goes on saying it.
                **{key: self.dataset.info[key] for key in ("labelled_by",) if key in self.dataset.info},
            },
            "train": self.config.to_json(),
            "epochs_done": self.done,
            "seconds": round(self.seconds, 1),
            "device": str(self.trainer.device),
            "threads": torch.get_num_threads(),
        }
        if self.trainer.distillation is not None:
            provenance["teacher"] = self.trainer.distillation.facts()
        begun = self.run_facts.get("start")
        if begun is not None:
            provenance["start"] = begun
            if "licence" in begun:  # What was trained on stays under it.
                provenance["licence"] = begun["licence"]
        validation = validation or entry.get("validation")
        if validation is not None:
            provenance["validation"] = validation
        bounds = learned_bounds(weights)
        if bounds:
            assert isinstance(weights, Network)
            weights = unquantised(weights)
        with finish_before_stopping():
            write_checkpoint(self.out / name, weights, provenance, self.config.weights, bounds)

    def _about(self) -> dict[str, str]:
        """What is trained on what, for people."""
        network, trainer = self.network, self.trainer
        parameters = sum(p.numel() for p in trainer.network.parameters())
        kind = network.name if isinstance(network, LayersConfig) else f"size {network.size}"
        return {
            "network": f"{kind}, {', '.join(network.tasks)}: {parameters / 1e6:.2f} M parameters",
            "data": f"{len(self.dataset)} images of {self.dataset.split}",
            "input": f"{network.input_size[0]}x{network.input_size[1]}",
            "device": f"{trainer.device}, {str(trainer.amp or torch.float32).removeprefix('torch.')}",
        }

    def _say_what_is_left(self) -> None:
        out, done = self.out, self.done
        if self.ended:
            say(f"{self.ended} For more: yolor-edge train --resume {out} --epochs {2 * done}")
        elif done:
            say(f"resuming after epoch {done} of {self.config.epochs}")
        else:
            network, *rest = self._about().items()
            say(", ".join([network[1], *(f"input {value}" if name == "input" else value for name, value in rest)]))
