"""A trained network that another one learns from: a checkpoint, which runs in torch, or the graphs of a bundle.

Both are asked the same: the raw heads of images that are in memory already, and what they would say after each word of
given captions. A teacher is never trained: it runs in evaluation mode and without a gradient.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.backends.base import Graph
from ..runtime.backends.registry import open_graphs
from ..runtime.bundle.bundle import Bundle
from ..runtime.bundle.spec import ModelSpec
from ..runtime.bundle.tensors import outputs_of
from ..runtime.errors import UsageError
from .checkpoint import Checkpoint
from .network.any_network import AnyConfig, AnyNetwork, network_of
from .network.layers import LayersConfig
from .network.network import Network
from .torch_backend import spec_of

Anchors = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Grid:
    """The cells that boxes come from.

    Attributes:
        strides: Of the levels.
        anchors: Width and height in pixels of the anchors of each level; None for one box a cell without one.
    """

    strides: tuple[int, ...]
    anchors: Anchors | None = None

    @classmethod
    def of(cls, network: AnyConfig) -> Grid:
        """That of a network."""
        if isinstance(network, LayersConfig) and network.box_coding == "xyxy":
            levels = network.boxes["anchors"]
            return cls(network.strides, tuple(tuple((a[0], a[1]) for a in level) for level in levels))
        return cls(tuple(network.strides))


class Teacher(ABC):
    """What is learnt from.

    Attributes:
        spec: What it is, for images of the size that it is shown.
        grid: Where its boxes come from; None where nobody knows.
        source: For provenance and resume: `path`, `kind`, `name`, `sha256`, `licence`.
    """

    def __init__(self, spec: ModelSpec, grid: Grid | None, source: dict[str, str]) -> None:
        self.spec, self.grid, self.source = spec, grid, source

    @property
    def words_at_once(self) -> int:
        """Words of a caption, bos included, that it can follow."""
        return 0 if self.spec.caption is None else self.spec.caption.max_length

    def prepared(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..1, RGB, as this network takes them."""
        rule = self.spec.preprocess
        images = images if rule.channel_order == "RGB" else images.flip(1)
        return images if rule.scale == 1 / 255 else images * (255 * rule.scale)

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Run there from now on."""

    @abstractmethod
    def see(self, images: Tensor, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        """The raw heads of `tasks` by name (`bundle.tensors`) for images (B, 3, H, W) in 0..1, RGB."""

    @abstractmethod
    def follow(self, memory: Tensor, owners: Tensor, tokens: Tensor) -> Tensor:
        """(t, T, V) logarithms of probabilities, up to a constant: what it says after each word of captions.

        Args:
            memory: `caption_memory` of the images (B, L, D).
            owners: (t,) int64, the image of each caption.
            tokens: (t, T) int64, its own ids, bos first.
        """


class TorchTeacher(Teacher):
    """A checkpoint."""

    def __init__(self, network: AnyNetwork, source: dict[str, str]) -> None:
        super().__init__(spec_of(network.config), Grid.of(network.config), source)
        self.network = network.eval().requires_grad_(False)
        self.where: Tensor | None = None
        if self.spec.caption is not None:
            self.where = network.memory_positions(self.spec.input_size)

    @property
    def words_at_once(self) -> int:
        return self.network.caption_decoder.positions.num_embeddings if self.spec.caption is not None else 0

    def to(self, device: torch.device) -> None:
        self.network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.where = None if self.where is None else self.where.to(device)

    @torch.no_grad()
    def see(self, images: Tensor, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        network, images = self.network, self.prepared(images)
        if not isinstance(network, Network):
            # Boxes are decoded in float32: 16 bits round a large one by pixels.
            return network.heads({name: values.float() for name, values in network.features(images).items()})
        features = network.features(images)
        outputs = network.dense(features) if set(tasks) - {"caption"} else {}
        if "caption" in tasks:
            outputs["caption_memory"] = network.memory(features, outputs)
        return outputs

    @torch.no_grad()
    def follow(self, memory: Tensor, owners: Tensor, tokens: Tensor) -> Tensor:
        assert self.where is not None
        return self.network.caption_decoder(tokens, memory, self.where, owners)


class GraphTeacher(Teacher):
    """A bundle, whose graphs ONNX Runtime computes, on the CPU or, where the training runs on a GPU, there."""

    def __init__(self, bundle: Bundle, source: dict[str, str], threads: int | None) -> None:
        known = bundle.spec.box_coding != "xyxy"  # Whose boxes are in the network's own order.
        super().__init__(bundle.spec, Grid(bundle.spec.strides) if known else None, source)
        self._bundle, self._threads = bundle, threads
        self._device = torch.device("cpu")
        self._graphs: Mapping[str, Graph] = open_graphs(bundle, threads=threads)

    def to(self, device: torch.device) -> None:
        if device.type == "cuda" and self._device.type != "cuda":
            for graph in self._graphs.values():
                graph.close()
            self._graphs = open_graphs(self._bundle, "onnxruntime-cuda", threads=self._threads)
        self._device = device

    def see(self, images: Tensor, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        pixels = self.prepared(images).float().cpu().contiguous().numpy()
        wanted = [name for task in tasks for name in outputs_of(self.spec, task)]
        at_once = self.spec.graph.batch or len(pixels)
        parts = []
        for first in range(0, len(pixels), at_once):
            chunk = pixels[first : first + at_once]
            short = at_once - len(chunk)  # A graph of a fixed batch takes no fewer.
            padded = np.concatenate((chunk, np.zeros((short, *chunk.shape[1:]), np.float32))) if short else chunk
            found = self._graphs["vision"].run({"images": padded}, wanted)
            parts.append({name: found[name][: len(chunk)] for name in wanted})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
        return {name: torch.from_numpy(values).to(self._device) for name, values in joined.items()}

    def follow(self, memory: Tensor, owners: Tensor, tokens: Tensor) -> Tensor:
        seen, ids, owner_of = memory.float().cpu().numpy(), tokens.cpu().numpy(), owners.cpu().numpy()
        assert self.spec.caption is not None
        log_probs = np.zeros((*ids.shape, len(self.spec.caption.vocabulary)), np.float32)
        for image in np.unique(owner_of):
            rows = np.flatnonzero(owner_of == image)
            feed = {"caption_memory": seen[image : image + 1], "tokens": ids[rows[:1], 0]}
            first = self._graphs["caption_prefill"].run(feed)
            log_probs[rows, 0] = first["log_probs"]
            cross = {name: first[name] for name in ("cross_keys", "cross_values")}
            keys, values = (np.repeat(first[f"present_{name}"], len(rows), 1) for name in ("keys", "values"))
            for place in range(1, ids.shape[1]):
                feed = {"tokens": ids[rows, place], "past_keys": keys, "past_values": values, **cross}
                step = self._graphs["caption_step"].run(feed)
                log_probs[rows, place] = step["log_probs"]
                keys, values = step["present_keys"], step["present_values"]
        return torch.from_numpy(log_probs).to(self._device)


def open_teacher(path: str | os.PathLike[str], input_size: tuple[int, int], threads: int | None = None) -> Teacher:
    """Open the checkpoint, run or bundle at `path`, to be shown images of `input_size` (height, width).

    Args:
        path: Folder.
        input_size: In pixels. A checkpoint takes any, a bundle its own only.
        threads: CPU threads of a bundle's graphs.

    Raises:
        CheckpointError, BundleError: If it is neither, or altered.
        UsageError: If it cannot be shown such images.
        BackendError: If a bundle's graphs cannot be run.
    """
    folder = Path(path)
    if (folder / "bundle.json").is_file():
        bundle = Bundle.open(folder)
        if bundle.spec.input_size != input_size:
            own, asked = ("x".join(map(str, size)) for size in (bundle.spec.input_size, input_size))
            raise UsageError(
                f"<teacher> {path}: its graphs take images of {own} only, the student is trained on {asked}; train at "
                "<input_size> of the teacher, or take the checkpoint that it was exported from",
                argument=("teacher", "input_size"),
            )
        licence = bundle.licence or "unknown"
        return GraphTeacher(bundle, _source(folder, "bundle", bundle.spec.name, bundle.digest, licence), threads)
    checkpoint = Checkpoint.open(folder)
    weights = checkpoint.network().state_dict()
    try:
        layout = checkpoint.layout.with_input_size(input_size)
        network = network_of(layout)
        network.load_state_dict(weights)
    except (UsageError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"<teacher> {path}: cannot be shown images of {input_size} ({reason})", "teacher") from None
    source = _source(folder, "checkpoint", layout.name, checkpoint.sha256, checkpoint.licence)
    return TorchTeacher(network, source)


def reopen_teacher(
    known: Mapping[str, Any],
    input_size: tuple[int, int],
    threads: int | None,
    path: str | os.PathLike[str] | None = None,
) -> Teacher:
    """The teacher that a run remembers, from where it was or from `path`.

    Raises:
        UsageError: If it is not there any more, or has changed.
    """
    place = Path(known["path"] if path is None else path)
    if not place.exists():
        raise UsageError(
            f"{place}: the teacher of this run ({known['kind']} {known['name']}) is not there any more; put it back, "
            "or say where it is now with <teacher>",
            argument="teacher",
        )
    teacher = open_teacher(place, input_size, threads)
    if teacher.source["sha256"] != known["sha256"]:
        raise UsageError(
            f"{place}: is not the teacher that this run began with (SHA-256 {teacher.source['sha256'][:12]}..., then "
            f"{known['sha256'][:12]}...); say with <teacher> where that one is, or start a new run",
            argument="teacher",
        )
    return teacher


def _source(path: Path, kind: str, name: str, sha256: str, licence: str) -> dict[str, str]:
    return {"path": str(path.resolve()), "kind": kind, "name": name, "sha256": sha256, "licence": licence}
