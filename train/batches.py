"""Batches of two views for the training loop.

Every sample depends only on (seed, epoch, index), so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth
from ..runtime.bundle.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from ..runtime.errors import YolorEdgeError
from .augment import View, strong_view, weak_view
from .config import TrainConfig
from .dense_truth import DenseTruth
from .network.any_network import AnyConfig
from .network.config import NetworkConfig


@dataclass
class Batch:
    """One training step's inputs.

    Attributes:
        strong: (B, 3, H, W) uint8 RGB, the images of the dense tasks.
        truth: Dense truth of `strong`.
        weak: (b, 3, H, W) uint8 RGB, the images that have captions; None when the captions speak of `strong` itself.
        owners: (t,) int64, which image of `weak` (or of `strong`) each caption belongs to.
        tokens: (t, T + 1) int64, bos, words, eos, padding.
    """

    strong: Tensor
    truth: DenseTruth
    weak: Tensor | None
    owners: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.strong.to(device, non_blocking=True),
            self.truth.to(device),
            None if self.weak is None else self.weak.to(device, non_blocking=True),
            self.owners.to(device, non_blocking=True),
            self.tokens.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, which `to` copies from without waiting; a loader calls it."""
        return Batch(
            self.strong.pin_memory(),
            self.truth.pin_memory(),
            None if self.weak is None else self.weak.pin_memory(),
            self.owners.pin_memory(),
            self.tokens.pin_memory(),
        )


@dataclass(frozen=True)
class _Sample:
    dense: View
    weak: View | None
    captions: list[list[int]]


class TrainingViews(Dataset[_Sample | YolorEdgeError]):
    """Samples addressed by (epoch, index).

    An error is handed on as a value: raised in a worker, it would come back with a traceback for a message.
    """

    def __init__(self, data: CocoDataset, network: AnyConfig, train: TrainConfig) -> None:
        self.data, self.network, self.train = data, network, train
        self.rule = network.preprocess_rule
        self.tokenizer = Tokenizer(network.vocabulary) if "caption" in network.tasks else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> _Sample | YolorEdgeError:
        try:
            return self._sample(*key)
        except YolorEdgeError as error:
            return error

    def _sample(self, epoch: int, index: int) -> _Sample:
        config = self.train
        rng = np.random.default_rng((config.seed, epoch, index))
        truth = self.data[index]
        captions = self._captions(truth, rng)
        if config.augment == "none":
            return _Sample(weak_view(truth, self.data.read, self.rule, rng), None, captions)
        dense = strong_view(
            truth,
            lambda draw: self.data[int(draw.integers(len(self.data)))],
            self.data.read,
            self.rule,
            config,
            rng,
            plain=epoch >= config.epochs - config.plain_epochs,
        )
        weak = weak_view(truth, self.data.read, self.rule, rng, dense=False) if captions else None
        return _Sample(dense, weak, captions)

    def _captions(self, truth: Truth, rng: np.random.Generator) -> list[list[int]]:
        if self.tokenizer is None or not truth.captions:
            return []
        count = min(self.train.captions_per_image, len(truth.captions))
        chosen = rng.choice(len(truth.captions), count, replace=False)
        network = self.network
        positions: int = (
            network.caption_positions if isinstance(network, NetworkConfig) else (network.caption or {})["positions"]
        )
        longest = positions - 1
        return [[BOS_ID, *self.tokenizer.encode(truth.captions[i])[: longest - 1], EOS_ID] for i in sorted(chosen)]


class EpochOrder(Sampler[tuple[int, int]]):
    """A new order every epoch, fixed by the seed; `epoch` is set by the loop."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter([(self.epoch, int(index)) for index in order])


def collate(found: list[_Sample | YolorEdgeError]) -> Batch | YolorEdgeError:
    """Join samples into a `Batch`; boxes and captions are padded to the longest.

    If a sample is an error, the first of them is returned instead.
    """
    samples = []
    for one in found:
        if isinstance(one, YolorEdgeError):
            return one
        samples.append(one)
    views = [sample.dense for sample in samples]
    most = max((len(view.boxes) for view in views), default=0)
    boxes = np.zeros((len(views), most, 4), np.float32)
    classes = np.zeros((len(views), most), np.int64)
    valid, mask_known = np.zeros((2, len(views), most), bool)
    for i, view in enumerate(views):
        boxes[i, : len(view.boxes)] = view.boxes
        classes[i, : len(view.boxes)] = view.classes
        valid[i, : len(view.boxes)] = True
        mask_known[i, : len(view.boxes)] = view.mask_known
    truth = DenseTruth(
        boxes=torch.from_numpy(boxes),
        classes=torch.from_numpy(classes),
        valid=torch.from_numpy(valid),
        classes_known=torch.from_numpy(np.stack([view.classes_known for view in views])),
        masks=torch.from_numpy(np.concatenate([view.masks for view in views])),
        first_mask=torch.tensor([0, *(len(view.boxes) for view in views[:-1])]).cumsum(0),
        mask_known=torch.from_numpy(mask_known),
        semantic=torch.from_numpy(np.stack([view.semantic for view in views])),
    )
    with_captions = [i for i, sample in enumerate(samples) if sample.captions]
    rows = [(i, caption) for i in with_captions for caption in samples[i].captions]
    longest = max((len(caption) for _, caption in rows), default=2)
    tokens = np.full((len(rows), longest), PAD_ID, np.int64)
    for row, (_, caption) in zip(tokens, rows, strict=True):
        row[: len(caption)] = caption
    apart = [sample.weak for sample in samples if sample.weak is not None]
    position = {i: n for n, i in enumerate(with_captions)} if apart else {i: i for i in with_captions}
    return Batch(
        strong=_images(views),
        truth=truth,
        weak=_images(apart) if apart else None,
        owners=torch.tensor([position[i] for i, _ in rows], dtype=torch.int64),
        tokens=torch.from_numpy(tokens),
    )


def _images(views: list[View]) -> Tensor:
    return torch.from_numpy(np.stack([view.image for view in views]).transpose(0, 3, 1, 2).copy())


def training_loader(
    data: CocoDataset, network: AnyConfig, train: TrainConfig
) -> tuple[DataLoader[_Sample | YolorEdgeError], EpochOrder]:
    """The loader of training batches and the order whose `epoch` the loop sets before each pass."""
    order = EpochOrder(len(data), train.seed)
    loader = DataLoader(
        TrainingViews(data, network, train),
        batch_size=train.batch_size,
        sampler=order,
        num_workers=train.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if train.workers else None,
    )
    return loader, order


def _one_thread(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a group; the training ends its workers
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
