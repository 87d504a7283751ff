"""The training loop: `fit` takes a data set to a checkpoint, from nothing or from other weights; `resume` goes on.

A run that was killed and resumed ends with the same result; one that is done goes on when it is given more epochs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.coco_files import splits_of
from ..runtime.backends.registry import check_threads
from ..runtime.bundle.json_files import read_json
from ..runtime.bundle.tokenizer import build_vocabulary
from ..runtime.errors import UsageError, YolorEdgeError
from ..runtime.files import write_atomically
from .batches import training_loader
from .checkpoint import Checkpoint, config_from_json, write_checkpoint
from .config import TrainConfig
from .distillation import Distillation
from .network.any_network import AnyConfig, AnyNetwork
from .network.config import CAPTIONERS, TASKS, Captioner, NetworkConfig, Size, Task
from .network.layers import LayersConfig
from .network.parts import with_heads
from .progress import Progress, say
from .run_state import epochs_done, read_state, write_state
from .scoring import score_network
from .start import Transfer, Weights
from .teachers import open_teacher, reopen_teacher
from .trainer import StartRates, Trainer, choose_device

RUN, STATE, LOG = "run.json", "state.safetensors", "log.jsonl"


def fit(
    data: str | Path,
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
) -> Checkpoint:
    """Train a network on a data set in COCO's layout, from nothing or from the weights of another one.

    With `start`, tensors that fit by name and shape are kept and learn at `TrainConfig.kept_rate` of the rate; classes
    and words that both know keep their rows; what became of each part is said on stderr. An imported network is trained
    itself, with class heads for the data's classes; one of our own plan is made anew for the data and filled.

    Args:
        data: Folder of the data set.
        out: Folder of the run; must not hold one already. Gets `checkpoint/`, `log.jsonl` and what a resume needs.
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

    Returns:
        The checkpoint of the averaged (EMA) weights.

    Raises:
        UsageError, DatasetError, CheckpointError: If an argument, the data set or the start cannot be used.
    """
    config = config or TrainConfig()
    check_threads(threads)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, expected a folder to write the run to")
    if (out / RUN).exists():
        raise UsageError(
            f"{out}: holds a run already; continue it (yolor-edge train --resume {out}) or choose another <out>", "out"
        )
    for argument, value in (("freeze", freeze), ("vocabulary", vocabulary)):
        if value and start is None:
            raise UsageError(
                f"<{argument}> belongs to a training from other weights; give <start> too", (argument, "start")
            )
    dataset = CocoDataset.open(data, split=split, role="train")
    weights = None if start is None else Weights.open(start, vocabulary)
    layout = None if weights is None else weights.layout
    if isinstance(layout, LayersConfig):
        for argument, value in (("size", size), ("captioner", captioner)):
            if value is not None:
                raise UsageError(
                    f"<{argument}> is for networks of our own plan; {start} holds {layout.name}, which stays as it is",
                    argument,
                )
        network_config: AnyConfig = describe_layers(dataset, layout, config, input_size, tasks, name)
        untaught = [task for task in TASKS if task in dataset.tasks and task not in layout.tasks]
        if untaught and tasks is None:
            say(f"not trained: {', '.join(untaught)}; {layout.name} has no head for that")
    elif layout is None:
        network_config = describe_network(
            dataset,
            size or "n",
            config,
            input_size or (640, 640),
            tasks,
            name or "yolor-edge",
            captioner or "catr",
        )
    else:
        network_config = describe_network(
            dataset,
            size or layout.size,
            config,
            input_size or layout.input_size,
            tasks,
            name or layout.name,
            captioner or _captioner_of(layout, tasks or dataset.tasks),
        )
        # What neither options nor data say, so that as much as possible fits.
        network_config = dataclasses.replace(
            network_config,
            prototypes=layout.prototypes,
            reg_max=layout.reg_max,
            caption_positions=layout.caption_positions,
        )
    distillation = None
    if teacher is not None:
        distillation = Distillation(open_teacher(teacher, network_config.input_size, threads), network_config, config)
    choose_device(config.device)  # Before anything is written: a run that cannot start must not be there to resume.
    transfer, begun = None, None
    if weights is not None:
        transfer = Transfer.plan(weights, network_config)
        transfer.check_frozen(freeze)
        begun = {**weights.source, "frozen": list(freeze), "tensors": transfer.counts()}
    out.mkdir(parents=True, exist_ok=True)
    run = {
        "data": str(Path(data).resolve()),
        "split": dataset.split,
        "network": network_config.to_json(),
        "train": config.to_json(),
        "threads": threads,
    }
    if transfer is not None:
        run |= {"start": begun, "fresh": transfer.fresh}
    if distillation is not None:
        run["teacher"] = distillation.teacher.source
    with _on_threads(threads):
        write_atomically(out / RUN, json.dumps(run, indent=1) + "\n")
        trainer = _trainer(out, dataset, network_config, config, run, distillation)
        if weights is not None and transfer is not None:
            say(f"from {start}:\n{transfer.table()}")
            trainer.load_start(transfer, weights)
            # So that a resume has no need of the start, which may be gone by then.
            write_state(out / STATE, trainer, 0, 0.0)
        return _train(out, dataset, trainer, begun)


def resume(
    out: str | Path,
    threads: int | None = None,
    epochs: int | None = None,
    teacher: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Go on with the run in `out` from its last saved epoch; the result equals that of an uninterrupted run.

    Args:
        out: Folder of the run.
        threads: As for `fit`; None for as many as the run was begun with.
        epochs: How many the run is to have in all, those that are done included; the rate goes on as that of a run of
            so many. None for as many as before.
        teacher: Where the run's teacher is now, if it was moved.

    Raises:
        UsageError: If `out` holds no run, or more epochs of it are done, or its teacher is not there.
        DatasetError: If the data set is gone or has other classes than before.
    """
    check_threads(threads)
    out = Path(out)
    if not (out / RUN).is_file():
        raise UsageError(
            f"{out}: holds no run to resume (no {RUN}); start one: yolor-edge train --data DIR --out {out}", "out"
        )
    run = read_json(out / RUN, "the description of a run", UsageError, "start a new one")
    try:
        network_config = config_from_json(run["network"])
        config = TrainConfig.from_json(run["train"])
        data, split = run["data"], run["split"]
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / RUN}: is not the description of a run ({error}); start a new one") from None
    dataset = CocoDataset.open(data, split=split)
    # A network without the semantic head does not keep the names of its classes.
    dataset.require_classes(network_config.class_names, network_config.semantic_names or None)
    if "start" in run and not (out / STATE).exists():
        raise UsageError(
            f"{out / STATE}: is missing, and with it the weights that the run started from; start a new one"
        )
    if epochs is not None:
        config = dataclasses.replace(config, epochs=epochs)
        done = epochs_done(out / STATE) if (out / STATE).exists() else 0
        if epochs < done:
            raise UsageError(f"{out}: {done} epochs are done; <epochs> must be at least that, got {epochs}", "epochs")
        run["train"] = config.to_json()
        write_atomically(out / RUN, json.dumps(run, indent=1) + "\n")
    used_threads = run.get("threads") if threads is None else threads
    distillation = None
    if "teacher" in run:
        known = reopen_teacher(run["teacher"], network_config.input_size, used_threads, teacher)
        distillation = Distillation(known, network_config, config)
    elif teacher is not None:
        raise UsageError(f"{out}: this run has no <teacher>; start a new one to have it taught", "teacher")
    with _on_threads(used_threads):
        trainer = _trainer(out, dataset, network_config, config, run, distillation)
        return _train(out, dataset, trainer, run.get("start"))


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


def describe_network(
    dataset: CocoDataset,
    size: Size,
    config: TrainConfig,
    input_size: tuple[int, int],
    tasks: tuple[Task, ...] | None,
    name: str,
    captioner: Captioner = "catr",
) -> NetworkConfig:
    """The network that fits a data set: its classes, its words, and a head for every task asked for.

    Raises:
        UsageError: If the data set has no truth for a task that was asked for, or the captioner is unknown or lacks a
            task that it needs.
    """
    if captioner not in CAPTIONERS:
        raise UsageError(f"<captioner> must be one of {', '.join(CAPTIONERS)}, got {captioner!r}", argument="captioner")
    available: tuple[Task, ...] = tuple(task for task in TASKS if task in dataset.tasks)
    absent = [task for task in tasks or () if task not in available]
    if absent:
        raise UsageError(
            f"{dataset.root} ({dataset.split}): has no truth for {', '.join(absent)}; it has {', '.join(available)}",
            argument="tasks",
        )
    chosen = tasks or available
    lacking = [task for task in ("boxes", "caption") if task not in chosen]
    if captioner == "grit" and lacking:
        raise UsageError(
            f"the captioner grit needs the task {' and '.join(lacking)}: its captions look at the cells that boxes "
            f"come from; the tasks are {', '.join(chosen)}",
            argument=("captioner", "tasks"),
        )
    return NetworkConfig(
        size=size,
        tasks=chosen,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        semantic_names=dataset.semantic_names if "semantic" in chosen else (),
        semantic_category_ids=dataset.semantic_category_ids if "semantic" in chosen else (),
        vocabulary=_words_of(dataset, config) if "caption" in chosen else (),
        input_size=input_size,
        name=name,
        **CAPTIONERS[captioner],
    )


def describe_layers(
    dataset: CocoDataset,
    layers: LayersConfig,
    config: TrainConfig,
    input_size: tuple[int, int] | None,
    tasks: tuple[Task, ...] | None,
    name: str | None,
) -> LayersConfig:
    """The imported network with class heads and words for a data set, and the heads that both have something for.

    Raises:
        UsageError: If the data set has no truth for a task that was asked for, or the network no head.
    """
    available = tuple(task for task in layers.tasks if task in dataset.tasks)
    if "caption" in available and "semantic" not in available:
        available = tuple(task for task in available if task != "caption")
    absent = [task for task in tasks or () if task not in dataset.tasks]
    if absent or not available:
        raise UsageError(
            f"{dataset.root} ({dataset.split}): has no truth for {', '.join(absent) or ', '.join(layers.tasks)}; it "
            f"has {', '.join(task for task in TASKS if task in dataset.tasks)}",
            argument="tasks",
        )
    chosen = tasks or available
    return with_heads(
        layers,
        chosen,
        dataset.class_names,
        dataset.category_ids,
        dataset.semantic_names if "semantic" in chosen else (),
        dataset.semantic_category_ids if "semantic" in chosen else (),
        _words_of(dataset, config) if "caption" in chosen else (),
        input_size,
        name,
    )


def _captioner_of(start: NetworkConfig, tasks: Collection[str]) -> Captioner:
    """The captioner of the start, where the tasks allow it."""
    is_grit = start.captioner == "grit" and "caption" in start.tasks
    return "grit" if is_grit and {"boxes", "caption"} <= set(tasks) else "catr"


def _words_of(dataset: CocoDataset, config: TrainConfig) -> tuple[str, ...]:
    captions = (text for i in range(len(dataset)) for text in dataset[i].captions or ())
    return tuple(build_vocabulary(captions, config.minimum_word_count))


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
    batches = -(-len(dataset) // config.batch_size)
    start = None
    if "start" in run:
        try:
            start = StartRates(tuple(run["start"]["frozen"]), frozenset(run["fresh"]))
        except (KeyError, TypeError) as error:
            raise UsageError(f"{out / RUN}: is not the description of a run ({error}); start a new one") from None
    if distillation is not None:
        say(distillation.describe())
    return Trainer(network, config, config.epochs * batches, device, start, distillation)


def _train(out: Path, dataset: CocoDataset, trainer: Trainer, begun: dict[str, Any] | None) -> Checkpoint:
    """The epochs that are left; `begun` says of the provenance what the run started from."""
    device, config, network = trainer.device, trainer.config, trainer.network.config
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Nothing reads memory before writing it; filling it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    loader, order = training_loader(dataset, network, config)
    validation = _validation_split(dataset, network)
    checkpoint: Checkpoint | None = None
    first_epoch, seconds = 0, 0.0
    if (out / STATE).exists():
        first_epoch, seconds = read_state(out / STATE, trainer)
    if first_epoch == config.epochs:
        say(
            f"all {first_epoch} epochs of {out} are done; for more: yolor-edge train --resume {out} "
            f"--epochs {2 * first_epoch}"
        )
    elif first_epoch:
        say(f"resuming after epoch {first_epoch} of {config.epochs}")
    else:
        parameters = sum(p.numel() for p in trainer.network.parameters())
        kind = network.name if isinstance(network, LayersConfig) else f"size {network.size}"
        say(
            f"{kind}, {', '.join(network.tasks)}: {parameters / 1e6:.2f} M parameters, "
            f"{len(dataset)} images of {dataset.split}, input {network.input_size[0]}x{network.input_size[1]}, "
            f"{device}, {str(trainer.amp or torch.float32).removeprefix('torch.')}"
        )
    log = out / LOG
    _keep_lines(log, first_epoch)
    progress = Progress(config.epochs, len(loader), first_epoch)
    for epoch in range(first_epoch, config.epochs):
        started = time.perf_counter()
        progress.begin_epoch()
        order.epoch = epoch
        trainer.train_mode()
        sums: dict[str, float] = {}
        count = 0
        for i, batch in enumerate(loader):
            if isinstance(batch, YolorEdgeError):
                raise batch
            losses = trainer.step(batch.to(device))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
            count += 1
            progress.tell(epoch, i + 1, {name: value / count for name, value in sums.items()})
        took = time.perf_counter() - started
        seconds += took
        entry: dict[str, Any] = {
            "epoch": epoch + 1,
            "losses": {name: round(value / count, 5) for name, value in sums.items()},
            "learning_rate": trainer.learning_rate(),
            "seconds": round(took, 2),
        }
        last = epoch + 1 == config.epochs
        if validation and (last or (config.validate_every and (epoch + 1) % config.validate_every == 0)):
            entry["validation"] = _validate(trainer.average, validation)
        # Log before state: lines of epochs that a kill takes back are dropped by the resume, none is ever missing.
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        if (epoch + 1) % config.save_every == 0 or last:
            with _finish_before_stopping():
                write_state(out / STATE, trainer, epoch + 1, seconds)
                checkpoint = _write(out, trainer, dataset, begun, epoch + 1, seconds, entry.get("validation"))
    if checkpoint is None:  # Complete already, but perhaps killed between state and checkpoint.
        scores = None if validation is None else _validate(trainer.average, validation)
        checkpoint = _write(out, trainer, dataset, begun, config.epochs, seconds, scores)
    return checkpoint


def _write(
    out: Path,
    trainer: Trainer,
    dataset: CocoDataset,
    begun: dict[str, Any] | None,
    epochs: int,
    seconds: float,
    validation: dict[str, Any] | None,
) -> Checkpoint:
    provenance: dict[str, Any] = {
        "data": {
            "name": dataset.root.name,
            "split": dataset.split,
            "images": len(dataset),
            # A data set that a machine labelled says so, and what was trained on it goes on saying it.
            **{key: dataset.info[key] for key in ("labelled_by",) if key in dataset.info},
        },
        "train": trainer.config.to_json(),
        "epochs_done": epochs,
        "seconds": round(seconds, 1),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
    }
    if trainer.distillation is not None:
        source = trainer.distillation.teacher.source
        taught = {key: value for key, value in source.items() if key != "path"}
        provenance["teacher"] = taught | {"tasks": list(trainer.distillation.tasks)}
    if begun is not None:
        provenance["start"] = begun
        if "licence" in begun:  # What was trained on stays under it.
            provenance["licence"] = begun["licence"]
    if validation is not None:
        provenance["validation"] = validation
    return write_checkpoint(out / "checkpoint", trainer.average, provenance, trainer.config.weights)


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


def _validate(network: AnyNetwork, validation: CocoDataset) -> dict[str, Any]:
    scores = score_network(network, validation)
    say(str(scores))
    return scores.to_json()


def _keep_lines(log: Path, epochs: int) -> None:
    """Drop log lines of epochs that are about to be trained again, and one that a kill cut short."""
    if log.exists():
        lines = []
        for line in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["epoch"] <= epochs:
                    lines.append(line)
        write_atomically(log, "".join(line + "\n" for line in lines))


@contextlib.contextmanager
def _finish_before_stopping() -> Iterator[None]:
    """Hold back Ctrl-C and a polite kill until the block is done."""
    held: list[int] = []
    try:
        previous = {s: signal.signal(s, lambda number, _: held.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Not the main thread: signals do not arrive here.
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held:
            os.kill(os.getpid(), held[0])
