"""The training loop: `fit` takes a data set to a checkpoint, `resume` goes on after a kill with the same result."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.coco_files import splits_of
from ..evaluation.evaluator import score_network
from ..runtime.backends.registry import check_threads
from ..runtime.bundle.tokenizer import PAD_ID, build_vocabulary
from ..runtime.errors import NotHereError, UsageError, YolorEdgeError
from ..runtime.files import write_atomically
from .batches import Batch, training_loader
from .checkpoint import Checkpoint, write_checkpoint
from .config import CAPTIONERS, TASKS, Captioner, NetworkConfig, Size, Task, TrainConfig
from .losses import DenseLoss, caption_loss
from .network.network import Network
from .progress import Progress, say
from .run_state import read_state, write_state

RUN, STATE, LOG = "run.json", "state.safetensors", "log.jsonl"


def fit(
    data: str | Path,
    out: str | Path,
    size: Size = "n",
    config: TrainConfig | None = None,
    input_size: tuple[int, int] = (640, 640),
    tasks: tuple[Task, ...] | None = None,
    split: str | None = None,
    name: str = "yolor-edge",
    captioner: Captioner = "catr",
    threads: int | None = None,
) -> Checkpoint:
    """Train a network from scratch on a data set in COCO's layout.

    Args:
        data: Folder of the data set.
        out: Folder of the run; must not hold one already. Gets `checkpoint/`, `log.jsonl` and what a resume needs.
        size: Network size.
        config: How to train.
        input_size: (height, width), multiples of 32.
        tasks: Heads to train; by default one for every kind of truth that the data set has.
        split: Training split; by default the first whose name starts with "train".
        name: What the network calls itself.
        captioner: Kind of the caption decoder: "catr" attends to a grid of the picture; "grit" to regions too, with
            gates between the two, and has one output layer. The second needs the task boxes.
        threads: CPU threads of torch, beside the processes that prepare batches; None for torch's own choice, which is
            every core that this process may run on. Another number rounds sums in another order.

    Returns:
        The checkpoint of the averaged (EMA) weights.

    Raises:
        UsageError, DatasetError: If an argument or the data set cannot be used.
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
    dataset = CocoDataset.open(data, split=split, role="train")
    network_config = describe_network(dataset, size, config, input_size, tasks, name, captioner)
    choose_device(config.device)  # Before anything is written: a run that cannot start must not be there to resume.
    out.mkdir(parents=True, exist_ok=True)
    run = {
        "data": str(Path(data).resolve()),
        "split": dataset.split,
        "network": network_config.to_json(),
        "train": config.to_json(),
        "threads": threads,
    }
    write_atomically(out / RUN, json.dumps(run, indent=1) + "\n")
    with _on_threads(threads):
        return _train(out, dataset, network_config, config)


def resume(out: str | Path, threads: int | None = None) -> Checkpoint:
    """Go on with the run in `out` from its last saved epoch; the result equals that of an uninterrupted run.

    Args:
        out: Folder of the run.
        threads: As for `fit`; None for as many as the run was begun with.

    Raises:
        UsageError: If `out` holds no run.
        DatasetError: If the data set is gone or has other classes than before.
    """
    check_threads(threads)
    out = Path(out)
    try:
        run = json.loads((out / RUN).read_text(encoding="utf-8"))
        network_config = NetworkConfig.from_json(run["network"])
        config = TrainConfig.from_json(run["train"])
        data, split = run["data"], run["split"]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{out}: holds no run to resume (no {RUN}); start one: yolor-edge train --data DIR --out {out}", "out"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / RUN}: is not the description of a run ({error}); start a new one") from None
    dataset = CocoDataset.open(data, split=split)
    # A network without the semantic head does not keep the names of its classes.
    dataset.require_classes(network_config.class_names, network_config.semantic_names or None)
    with _on_threads(run.get("threads") if threads is None else threads):
        return _train(out, dataset, network_config, config)


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
    vocabulary: list[str] = []
    if "caption" in chosen:
        captions = (text for i in range(len(dataset)) for text in dataset[i].captions or ())
        vocabulary = build_vocabulary(captions, config.minimum_word_count)
    return NetworkConfig(
        size=size,
        tasks=chosen,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        semantic_names=dataset.semantic_names if "semantic" in chosen else (),
        semantic_category_ids=dataset.semantic_category_ids if "semantic" in chosen else (),
        vocabulary=tuple(vocabulary),
        input_size=input_size,
        name=name,
        **CAPTIONERS[captioner],
    )


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one.

    Raises:
        UsageError: If torch does not know it.
        NotHereError: If torch cannot use it on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} is not known ({reason}); choose auto, cpu or cuda:N", "device") from None
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise NotHereError(
            f"device {name!r} cannot be used here ({reason}); choose auto, cpu or cuda:N", argument="device"
        ) from None
    return device


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The 16-bit type that `device` multiplies natively, or None to stay with float32."""
    if amp == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


class Trainer:
    """Network, average, optimiser and losses of one run, and the one step that moves them."""

    def __init__(self, network: NetworkConfig, config: TrainConfig, steps: int, device: torch.device) -> None:
        self.config, self.steps, self.device = config, steps, device
        torch.manual_seed(config.seed)
        self.network = Network(network).to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Network(network).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval()
        decayed = [p for p in self.network.parameters() if p.ndim >= 2 and min(p.shape[:2]) > 1]
        ids = {id(p) for p in decayed}
        plain = [p for p in self.network.parameters() if id(p) not in ids]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.dense_loss = DenseLoss(network, config, device)
        self.amp = amp_dtype(device, config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.where = (
            self.network.memory_positions(network.input_size).to(device) if "caption" in network.tasks else None
        )
        self.step_index = 0

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to `final_rate` of the peak."""
        config, done = self.config, self.step_index
        warmup = max(1, round(config.warmup * self.steps))
        if done < warmup:
            return config.learning_rate * (done + 1) / warmup
        share = (done - warmup) / max(1, self.steps - warmup)
        return config.learning_rate * (
            config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * share)) / 2
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One forward of both views, one backward, one move; returns the weighted losses by name."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise YolorEdgeError(
                f"the loss became {total.item()} at step {self.step_index + 1}; what was saved is kept, "
                "start again with a lower <learning_rate>",
                argument="learning_rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step_index += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        network = self.network.config
        images = batch.strong if batch.weak is None else torch.cat((batch.strong, batch.weak))
        if len(images) == 1 and images.shape[2:] == (32, 32):
            raise UsageError(
                "a step of one image at 32x32 leaves batch normalisation a single value to take the spread of; take a "
                "larger <input_size>, or a <batch_size> that leaves no single image for the last step",
                argument=("input_size", "batch_size"),
            )
        images = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        features = self.network.features(images)
        dense_count = len(batch.strong)
        dense = features if batch.weak is None else [level[:dense_count] for level in features]
        outputs = self.network.dense(dense)
        losses = self.dense_loss(outputs, batch.truth)
        if "caption" in network.tasks and len(batch.tokens):
            spoken = features if batch.weak is None else [level[dense_count:] for level in features]
            memory = self.network.memory(spoken, outputs if batch.weak is None else self._choosing(spoken))
            memory = memory[batch.owners]
            logits = self.network.caption_decoder(batch.tokens[:, :-1], memory, self.where)
            loss = caption_loss(logits, batch.tokens[:, 1:], PAD_ID, self.config.label_smoothing)
            losses["caption"] = self.config.caption_gain * loss
        elif not losses:  # A network that only speaks, and a batch without captions.
            losses["caption"] = features[3].sum() * 0.0
        return losses

    @torch.no_grad()
    def _choosing(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The logits that regions of views for captions are chosen by.

        As at inference, by the statistics gathered so far: these views are not to move those of the dense heads.
        """
        heads = [head for name, head in self.network.named_children() if name in ("box_head", "semantic_head")]
        for head in heads:
            head.eval()
        logits = self.network.choosing(features)
        for head in heads:
            head.train()
        return logits

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        own = self.network.state_dict()
        floats, targets = [], []
        for name, average in self.average.state_dict().items():
            if average.is_floating_point():
                floats.append(own[name])
                targets.append(average)
            else:
                average.copy_(own[name])
        for average, value in zip(targets, floats, strict=True):
            average.lerp_(value, 1 - decay)


def _train(out: Path, dataset: CocoDataset, network: NetworkConfig, config: TrainConfig) -> Checkpoint:
    device = choose_device(config.device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Nothing reads memory before writing it; filling it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    loader, order = training_loader(dataset, network, config)
    steps = config.epochs * len(loader)
    trainer = Trainer(network, config, steps, device)
    validation = _validation_split(dataset, network)
    checkpoint: Checkpoint | None = None
    first_epoch, seconds = 0, 0.0
    if (out / STATE).exists():
        first_epoch, seconds = read_state(out / STATE, trainer)
        say(f"resuming after epoch {first_epoch} of {config.epochs}")
    else:
        parameters = sum(p.numel() for p in trainer.network.parameters())
        say(
            f"size {network.size}, {', '.join(network.tasks)}: {parameters / 1e6:.2f} M parameters, "
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
        trainer.network.train()
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
                checkpoint = _write(out, trainer, dataset, epoch + 1, seconds, entry.get("validation"))
    if checkpoint is None:  # Complete already, but perhaps killed between state and checkpoint.
        scores = None if validation is None else _validate(trainer.average, validation)
        checkpoint = _write(out, trainer, dataset, config.epochs, seconds, scores)
    return checkpoint


def _write(
    out: Path,
    trainer: Trainer,
    dataset: CocoDataset,
    epochs: int,
    seconds: float,
    validation: dict[str, Any] | None,
) -> Checkpoint:
    provenance: dict[str, Any] = {
        "data": {"name": dataset.root.name, "split": dataset.split, "images": len(dataset)},
        "train": trainer.config.to_json(),
        "epochs_done": epochs,
        "seconds": round(seconds, 1),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
    }
    if validation is not None:
        provenance["validation"] = validation
    return write_checkpoint(out / "checkpoint", trainer.average, provenance, trainer.config.weights)


def _validation_split(dataset: CocoDataset, network: NetworkConfig) -> CocoDataset | None:
    """The data set's validation split, opened and checked before hours are spent; None if it has none."""
    if not any(name.startswith("val") and name != dataset.split for name in splits_of(dataset.root)):
        return None
    validation = CocoDataset.open(dataset.root, role="val")
    validation.require_classes(
        network.class_names if "boxes" in network.tasks and "boxes" in validation.tasks else None,
        network.semantic_names if "semantic" in network.tasks and "semantic" in validation.tasks else None,
    )
    return validation if any(task in validation.tasks for task in network.tasks) else None


def _validate(network: Network, validation: CocoDataset) -> dict[str, Any]:
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
