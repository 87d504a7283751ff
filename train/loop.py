"""The training loop: `fit` takes a data set to a checkpoint, from nothing or from other weights; `resume` goes on.

A run that was killed and resumed ends with the same result; one that is done goes on when it is given more epochs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.opening import Data, open_dataset, roots_of
from ..runtime.backends.registry import check_threads
from ..runtime.errors import UsageError
from .checkpoint import Checkpoint, config_from_json
from .config import TrainConfig
from .data_check import check_before_training
from .distillation import Distillation
from .distributed import check_batch_size, is_first, together, wait_for_all
from .draws import epoch_length, repeats_of
from .epochs import Epochs, steps_of_epoch
from .labelling import labelled_first
from .network.any_network import AnyConfig
from .network.config import Captioner, NetworkConfig, Size, Task
from .network_for_data import network_for
from .progress import say
from .quantisation import QuantisationPlan
from .run_files import RUN, STATE, not_a_run, read_run, write_run
from .run_state import epochs_done, write_state
from .start import Transfer, Weights
from .teachers import open_teacher, reopen_teacher
from .trainer import StartRates, Trainer, check_compiler, choose_device

FEW_IMAGES = 1000
"""Fewer are few to learn from nothing."""


@together
def fit(
    data: Data,
    out: str | Path,
    size: Size | None = None,
    config: TrainConfig | None = None,
    input_size: tuple[int, int] | None = None,
    tasks: tuple[Task, ...] | None = None,
    split: str | None = None,
    name: str | None = None,
    captioner: Captioner | None = None,
    threads: int | None = None,
    start: str | os.PathLike[str] | None = None,
    freeze: Sequence[str] = (),
    vocabulary: str | os.PathLike[str] | None = None,
    teacher: str | os.PathLike[str] | None = None,
    quantisation: QuantisationPlan | None = None,
) -> Checkpoint:
    """Train a network on a data set, from nothing or from the weights of another one.

    Called in each of the processes that torchrun starts, it trains one network in all of them; the folders of data and
    run must be the same for all.

    With `start`, tensors that fit by name and shape are kept and learn at `TrainConfig.kept_rate` of the rate; classes
    and words that both know keep their rows; what became of each part is said on stderr. An imported network is trained
    itself, with class heads for the data's classes; one of our own plan is made anew for the data and filled.

    Args:
        data: Folder of the data set, in any layout of docs/data.md, or several that are put together; with `teacher`
            also a folder of nothing but images, which it labels first.
        out: Folder of the run; must not hold one already. Gets `checkpoint/`, `best/`, `log.jsonl`, `results.csv`,
            `index.html` with its pictures, and what a resume needs (docs/training.md).
        size: Network size; by default that of the start, else "n".
        config: How to train.
        input_size: (height, width), multiples of 32 and of the network's largest stride; by default that of the start,
            else (640, 640).
        tasks: Heads to train; by default one for every kind of truth that the data set has, and an imported network has
            a head for.
        split: Training split; by default the first whose name starts with "train".
        name: What the network calls itself; by default as the start, else "yolor-edge".
        captioner: Kind of the caption decoder: "catr" attends to a grid of the image; "grit" to the encoded grid
            and to regions, with a gate that weighs both. The second needs the task boxes. By default that of the
            start, else "catr".
        threads: CPU threads of torch, beside the processes that prepare batches; None for torch's own choice, which is
            every core that this process may run on. Another number rounds sums in another order.
        start: Weights to start from: folder of a checkpoint (also of an imported one) or of a run, or an official .pt
            file.
        freeze: Parts that keep weights and batch statistics of the start, of `network.parts.PARTS`.
        vocabulary: Words of the captions, one a line, where the start is an official file of a network with captions.
        teacher: Folder of a checkpoint, a run or a bundle whose predictions are learnt too, as `TrainConfig.distill`
            says.

        quantisation: What is rounded to int8 in every step, as `export.quantised_training.plan_quantisation` finds it
            for the start; batch statistics stay those of the start.

    Returns:
        The checkpoint of the averaged (EMA) weights: the best one where the data set has a validation split, else the
        last.

    Raises:
        UsageError, DatasetError, CheckpointError: If an argument, the data set or the start cannot be used.
        NonFiniteLoss: If a loss is no number; what led to it lies in `out`/nan.
        OutOfMemory: If a step needs more memory than there is.
    """
    config = config or TrainConfig()
    check_threads(threads)
    check_batch_size(config.batch_size)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, expected a folder to write the run to")
    if (out / RUN).exists():
        raise UsageError(
            f"{out}: holds a run already; continue it (yolor-edge train --resume {out}) or choose another <out>", "out"
        )
    if out.exists() and any(out.samefile(root) for root in roots_of(data) if root.exists()):
        raise UsageError(f"{out}: is the data set's own folder; choose another <out> for the run", "out")
    for argument, value in (("freeze", freeze), ("vocabulary", vocabulary)):
        if value and start is None:
            raise UsageError(
                f"<{argument}> belongs to a training from other weights; give <start> too", (argument, "start")
            )
    if teacher is not None:
        data = labelled_first(data, teacher, out, config.device, threads)
    if quantisation is not None:
        config = dataclasses.replace(config, statistics_images=0)
    dataset = open_dataset(data, split, "train", config.val_share, config.seed)
    weights = None if start is None else Weights.open(start, vocabulary)
    layout = None if weights is None else weights.layout
    network = network_for(dataset, config, layout, size, input_size, tasks, name, captioner, str(start))
    distillation = None
    if teacher is not None:
        distillation = Distillation(open_teacher(teacher, network.input_size, threads), network, config)
    # Before anything is written: a run that cannot start must not be there to resume.
    check_compiler(choose_device(config.device), config)
    transfer, begun = None, None
    if weights is not None:
        transfer = Transfer.plan(weights, network)
        transfer.check_frozen(freeze)
        begun = {**weights.source, "frozen": list(freeze), "tensors": transfer.counts()}
    if quantisation is not None and (transfer is None or transfer.fresh):
        what = "nothing to start from" if transfer is None else f"{len(transfer.fresh)} tensors that are new"
        raise UsageError(
            f"<quantise> goes on with a trained network, here is {what}; train in float first, on the same classes and "
            "words, and give that as <start>",
            argument=("quantise", "start"),
        )
    if start is None and len(dataset) < FEW_IMAGES:
        say(
            f"{len(dataset)} images are few to learn from nothing; with --from the training starts from the weights of "
            "another network, such as an official one (yolor-edge import --help)"
        )
    check_before_training(dataset, network, config, out)
    out.mkdir(parents=True, exist_ok=True)
    folders = [str(root.resolve()) for root in roots_of(data)]
    run: dict[str, Any] = {
        "data": folders[0] if len(folders) == 1 else folders,
        "split": dataset.split,
        "network": network.to_json(),
        "train": config.to_json(),
        "threads": threads,
        "options": {
            "input_size": network.input_size,
            "tasks": network.tasks,
            "name": network.name,
            "start": None if start is None else os.path.abspath(start),
            "freeze": list(freeze),
            "vocabulary": None if vocabulary is None else os.path.abspath(vocabulary),
            "teacher": None if teacher is None else os.path.abspath(teacher),
        },
    }
    if isinstance(network, NetworkConfig):
        run["options"] |= {"size": network.size, "captioner": network.captioner if "caption" in network.tasks else None}
    if transfer is not None:
        run |= {"start": begun, "fresh": transfer.fresh}
    if distillation is not None:
        run["teacher"] = distillation.teacher.source
    if quantisation is not None:
        run["quantisation"] = quantisation.to_json()
    with _on_threads(threads):
        write_run(out, run)
        trainer = _trainer(out, dataset, network, config, run, distillation)
        if weights is not None and transfer is not None:
            say(f"from {start}:\n{transfer.table()}")
            trainer.load_start(transfer, weights)
            # So that a resume has no need of the start, which may be gone by then.
            if is_first():
                write_state(out / STATE, trainer, 0, 0.0)
            wait_for_all()
        return Epochs(out, dataset, trainer, run).run()


@together
def resume(
    out: str | Path,
    threads: int | None = None,
    epochs: int | None = None,
    settings: Sequence[str] = (),
    teacher: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Go on with the run in `out` from its last saved epoch; the result equals that of an uninterrupted run.

    Args:
        out: Folder of the run.
        threads: As for `fit`; None for as many as the run was begun with.
        epochs: How many the run is to have in all, those that are done included; the rate goes on as that of a run of
            so many. None for as many as before. One that was stopped early goes on.
        settings: `name=value` texts that change the settings from here on; with another `batch_size` the rate goes on
            from the same share of the run. The result is then no longer that of an uninterrupted run.
        teacher: Where the run's teacher is now, if it was moved.

    Returns:
        As `fit`.

    Raises:
        UsageError: If `out` holds no run, more epochs of it are done, a setting is none, or its teacher is not there.
        DatasetError: If the data set is gone or has other classes than before.
    """
    check_threads(threads)
    out = Path(out)
    run = read_run(out)
    try:
        network = config_from_json(run["network"])
        config = TrainConfig.from_json(run["train"])
        data, split = run["data"], run["split"]
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise not_a_run(out, error) from None
    dataset = open_dataset(data, split)
    # A network without the semantic head does not keep the names of its classes.
    dataset.require_classes(network.class_names, network.semantic_names or None)
    if "start" in run and not (out / STATE).exists():
        raise UsageError(
            f"{out / STATE}: is missing, and with it the weights that the run started from; start a new one"
        )
    if epochs is not None:
        config = dataclasses.replace(config, epochs=epochs)
        done = epochs_done(out / STATE) if (out / STATE).exists() else 0
        if epochs < done:
            raise UsageError(f"{out}: {done} epochs are done; <epochs> must be at least that, got {epochs}", "epochs")
        run["patient_since"] = done
    config = config.with_settings(list(settings))
    check_batch_size(config.batch_size)
    used_threads = run.get("threads") if threads is None else threads
    distillation = None
    if "teacher" in run:
        taught_by = reopen_teacher(run["teacher"], network.input_size, used_threads, teacher)
        distillation = Distillation(taught_by, network, config)
    elif teacher is not None:
        raise UsageError(f"{out}: this run has no <teacher>; start a new one to have it taught", "teacher")
    if config.to_json() != run["train"] or epochs is not None:
        run["train"] = config.to_json()
        write_run(out, run)
    with _on_threads(used_threads):
        return Epochs(out, dataset, _trainer(out, dataset, network, config, run, distillation), run).run()


@contextlib.contextmanager
def _on_threads(threads: int | None) -> Iterator[None]:
    """Inside the block, torch works with this many CPU threads."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def busy_cores() -> float:
    """How many cores were busy in the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _trainer(
    out: Path,
    dataset: CocoDataset,
    network: AnyConfig,
    config: TrainConfig,
    run: dict[str, Any],
    distillation: Distillation | None,
) -> Trainer:
    """What moves the weights of a run, before its first step."""
    device = choose_device(config.device)
    if device.type == "cpu" and torch.get_num_threads() > 1 and busy_cores() > 0.5:
        # Threads of torch wait for each other by spinning: one that another program keeps from running holds up all.
        say(
            f"other programs keep {busy_cores():.1f} of {torch.get_num_threads()} cores busy; on such a machine "
            "--threads 1 can be several times as fast"
        )
    drawn = epoch_length(repeats_of(dataset, network.tasks, config.least_share))
    steps = steps_of_epoch(-(-drawn // config.batch_size), config)
    start = None
    if "start" in run:
        try:
            start = StartRates(tuple(run["start"]["frozen"]), frozenset(run["fresh"]))
        except (KeyError, TypeError) as error:
            raise not_a_run(out, error) from None
    if distillation is not None:
        say(distillation.describe())
    quantisation = None
    if "quantisation" in run:
        try:
            quantisation = QuantisationPlan.from_json(run["quantisation"])
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_run(out, error) from None
        say(
            f"int8 in the loop: weights of {len(quantisation.weights)} convolutions, {len(quantisation.groups)} "
            f"activations with bounds first measured on {quantisation.images} images"
        )
    return Trainer(network, config, config.epochs * steps, device, start, distillation, quantisation)
