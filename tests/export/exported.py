"""One random network of all four tasks on scenes, as a checkpoint and as the bundle exported from it.

An export takes torch some twenty seconds, so the tests share this one; not a test itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.export.to_onnx import export_bundle
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.train.checkpoint import Checkpoint, write_checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network

from .random_network import random_network

INPUT_SIZE = (64, 96)


@dataclass(frozen=True)
class Exported:
    """What one export took and gave.

    Attributes:
        data: Four scenes, split "train".
        checkpoint: Of a random network of size n for them.
        bundle: Exported from it.
        steps: The lines of progress.
        printed: What the export wrote to stdout and stderr by itself.
    """

    data: Path
    checkpoint: Checkpoint
    bundle: Bundle
    steps: tuple[str, ...]
    printed: str


def export_random_network(folder: Path, **changes: Any) -> Exported:
    """Write scenes, checkpoint and bundle into `folder`; `changes` are fields of `NetworkConfig`."""
    data = write_scenes(folder / "scenes", count=4, seed=3, size=INPUT_SIZE)
    config = describe_network(CocoDataset.open(data), "n", TrainConfig(), INPUT_SIZE, None, "random")
    # Captions of at most eleven tokens.
    config = dataclasses.replace(config, caption_positions=12, **changes)
    steps: list[str] = []
    printed = io.StringIO()
    with one_torch_thread():
        checkpoint = write_checkpoint(
            folder / "checkpoint", random_network(config), {"data": "scenes", "licence": "CC-BY-4.0"}
        )
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            bundle = export_bundle(checkpoint, folder / "bundle", progress=steps.append)
    return Exported(data, checkpoint, bundle, tuple(steps), printed.getvalue())


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch on one thread, and leave its random state and thread count as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
