"""A step of training beside the bare forward and backward pass of its network, interleaved in one process.

    python -m yolor_edge.benchmarks.studies.training_step --out benchmarks/results/training-step.json

The bare pass runs the same network on tensors of the same shapes and takes the gradient of the mean of its outputs: no
losses, no optimiser, no average. Truth is random, as much of it as COCO's: boxes with masks, a semantic map, captions.
What counts is the ratio within a round, once by the clock on the wall and once by the time of this process, which
other work on the machine takes less from. Beside it stands where a step's time goes, part by part.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.bundle.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPECIALS
from ...runtime.files import write_atomically
from ...train import trainer as trainer_module
from ...train.batches import Batch
from ...train.config import TrainConfig
from ...train.dense_truth import DenseTruth
from ...train.losses import DenseLoss
from ...train.network.config import CAPTIONERS, SIZES, TASKS, NetworkConfig
from ...train.network.network import Network
from ...train.trainer import Trainer, choose_device
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

CLASSES, SEMANTIC, WORDS = 80, 133, 10000
CAPTIONS, TOKENS = 5, 13
WARMUP = 2


@dataclass(frozen=True)
class Workload:
    """What is trained, and on how much."""

    size: str
    input_size: tuple[int, int]
    batch: int
    objects: int
    captioner: str
    amp: str

    def trainer(self, device: torch.device, compiled: bool) -> Trainer:
        names = tuple(f"c{i}" for i in range(max(CLASSES, SEMANTIC)))
        network = NetworkConfig(
            size=self.size,  # type: ignore[arg-type]
            tasks=TASKS,
            class_names=names[:CLASSES],
            category_ids=tuple(range(CLASSES)),
            semantic_names=names[:SEMANTIC],
            semantic_category_ids=tuple(range(SEMANTIC)),
            vocabulary=(*SPECIALS, *(f"w{i}" for i in range(WORDS - len(SPECIALS)))),
            input_size=self.input_size,
            **CAPTIONERS[self.captioner],  # type: ignore[index]
        )
        config = TrainConfig(amp=self.amp, compile=compiled)  # type: ignore[arg-type]
        trainer = Trainer(network, config, 1000, device)
        trainer.train_mode()
        return trainer

    def random_batch(self, device: torch.device) -> Batch:
        """Two views, and for each image `objects` boxes of all sizes with masks, a map and captions."""
        generator = torch.Generator().manual_seed(0)
        batch, objects, (height, width) = self.batch, self.objects, self.input_size
        cells = (height // 4, width // 4)

        def integers(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        sides = torch.rand(batch, objects, 2, generator=generator).square() * 0.7 + 0.02
        corners = torch.rand(batch, objects, 2, generator=generator) * (1 - sides)
        boxes = torch.cat((corners, corners + sides), 2) * torch.tensor([width, height, width, height])
        coarse = integers(SEMANTIC, batch, *(-(-side // 8) for side in cells))
        semantic = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : cells[0], : cells[1]]
        tokens = integers(WORDS - len(SPECIALS), batch * CAPTIONS, TOKENS) + len(SPECIALS)
        tokens[:, 0], tokens[:, -1], tokens[::3, -3:] = BOS_ID, EOS_ID, PAD_ID
        known = torch.ones(batch, objects, dtype=torch.bool)
        truth = DenseTruth(
            boxes=boxes,
            classes=integers(CLASSES, batch, objects),
            valid=known,
            classes_known=torch.ones(batch, *cells, dtype=torch.bool),
            masks=integers(256, batch * objects, *cells).to(torch.uint8),
            first_mask=objects * torch.arange(batch),
            mask_known=known,
            semantic=semantic.to(torch.uint8),
        )
        images = integers(256, 2, batch, 3, height, width).to(torch.uint8)
        owners = torch.arange(batch).repeat_interleave(CAPTIONS)
        return Batch(images[0], truth, images[1], owners, tokens).to(device)


def bare_pass(trainer: Trainer, batch: Batch) -> Callable[[], None]:
    """Forward of both views through all heads, and backward, on images of random numbers."""
    network, count = trainer.network, len(batch.strong)
    assert isinstance(network, Network)
    images = torch.rand(2 * count, 3, *batch.strong.shape[2:], device=trainer.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(trainer.device.type, dtype=trainer.amp, enabled=trainer.amp is not None):
            features = trainer.features(images)
            outputs = network.dense([level[:count] for level in features])
            spoken = [level[count:] for level in features]
            memory = network.memory(spoken, network.choosing(spoken) if network.config.caption_regions else {})
            words = network.caption_decoder(batch.tokens[:, :-1], memory, trainer.where, batch.owners)
            total = torch.stack([output.float().mean() for output in (*outputs.values(), words)]).sum()
        total.backward()

    return run


@contextmanager
def parts_of_step(trainer: Trainer) -> Iterator[dict[str, float]]:
    """Milliseconds inside the block by part of a step; the device is waited for at each border."""
    spent = dict.fromkeys(("forward", "losses", "backward", "optimiser", "average"), 0.0)
    network, changed = trainer.network, []

    def watch(owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            wait(trainer.device)
            started = time.perf_counter()
            result = function(*arguments, **options)
            wait(trainer.device)
            spent[part] += (time.perf_counter() - started) * 1e3
            return result

        changed.append((owner, name, owner.__dict__.get(name), function))
        setattr(owner, name, timed)

    watch(trainer, "features", "forward")
    for name in ("dense", "memory"):
        watch(network, name, "forward")
    watch(network.caption_decoder, "forward", "forward")
    watch(DenseLoss, "__call__", "losses")
    watch(trainer_module, "caption_loss", "losses")
    watch(torch.Tensor, "backward", "backward")
    watch(nn.utils, "clip_grad_norm_", "optimiser")
    watch(trainer.optimizer, "step", "optimiser")
    watch(trainer, "_update_average", "average")
    try:
        yield spent
    finally:
        for owner, name, own, function in changed:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own if owner is trainer else function)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(workload: Workload, device: torch.device, rounds: int, compiled: bool) -> dict[str, Any]:
    """Both in turn, round after round; a ratio is the median of the rounds' ratios."""
    trainer, batch = workload.trainer(device, compiled), workload.random_batch(device)
    calls: dict[str, Callable[[], Any]] = {"step": lambda: trainer.step(batch), "bare": bare_pass(trainer, batch)}
    for _ in range(WARMUP):
        for call in calls.values():
            call()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wait(device)
            started, cpu_started = time.perf_counter(), time.process_time()
            call()
            wait(device)
            cpu[name].append((time.process_time() - cpu_started) * 1e3)
            wall[name].append((time.perf_counter() - started) * 1e3)
    by_part: list[dict[str, float]] = []
    for _ in range(rounds):
        with parts_of_step(trainer) as spent:
            started = time.perf_counter()
            trainer.step(batch)
            wait(device)
            whole = (time.perf_counter() - started) * 1e3
        by_part.append({**spent, "rest": whole - sum(spent.values())})
    row: dict[str, Any] = {
        **vars(workload),
        "compiled": compiled,
        "dtype": str(trainer.amp or torch.float32).removeprefix("torch."),
        "rounds": rounds,
        "median_ms": {name: round(statistics.median(times), 1) for name, times in wall.items()},
        "bare_of_step": round(statistics.median(b / s for b, s in zip(wall["bare"], wall["step"], strict=True)), 3),
        "images_per_second": round(workload.batch / statistics.median(wall["step"]) * 1e3, 2),
        "parts_ms": {part: round(statistics.median(one[part] for one in by_part), 1) for part in by_part[0]},
    }
    if device.type == "cpu":
        row["bare_of_step_by_process_time"] = round(
            statistics.median(b / s for b, s in zip(cpu["bare"], cpu["step"], strict=True)), 3
        )
    else:
        row["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["n"], help="network sizes (default: n)")
    parser.add_argument("--input-size", type=int, default=320, help="pixels a side (default: 320)")
    parser.add_argument("--batch", type=int, default=8, help="images of each view (default: 8)")
    parser.add_argument("--objects", type=int, default=12, help="objects an image (default: 12)")
    parser.add_argument("--captioner", choices=tuple(CAPTIONERS), default="catr")
    parser.add_argument("--amp", choices=("auto", "off"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=9, help="steps and bare passes (default: 9)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="with backbone and neck compiled")
    given = parser.parse_args(arguments)
    if min(given.rounds, given.batch, given.objects) < 1 or given.input_size % 32:
        parser.error("--rounds, --batch and --objects must be at least 1, --input-size a multiple of 32")
    device, before = choose_device(given.device), describe_state()
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = []
    for size in given.sizes:
        shape = (given.input_size, given.input_size)
        workload = Workload(size, shape, given.batch, given.objects, given.captioner, given.amp)
        rows.append(measure(workload, device, given.rounds, given.compile))
        print(json.dumps(rows[-1]), flush=True)
    words = ["python", "-m", "yolor_edge.benchmarks.studies.training_step", *(arguments or sys.argv[1:])]
    report = {
        "command": shlex.join(words),
        "commit": source_commit(),
        "machine": describe_machine(),
        "state_before": before,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    write_atomically(Path(given.out), json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
