"""Batches of two views for the training loop.

Every sample depends only on (seed, epoch, index), so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth
from ..runtime.bundle.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from ..runtime.errors import YolorEdgeError
from .config import TrainConfig
from .dense_truth import DenseTruth
from .distributed import share, size
from .draws import epoch_draws, epoch_length, repeats_of
from .image_cache import ImageCache
from .network.any_network import AnyConfig
from .network.config import NetworkConfig
from .packed_truths import PackedTruths
from .views.compose import strong_view, weak_view
from .views.mirrored import mirrored_words
from .views.view import View

REDUCTIONS = (8, 4, 2)
"""How much smaller a JPEG can be read."""


@dataclass
class Batch:
    """One training step's inputs.

    Attributes:
        strong: (B, 3, H, W) uint8 RGB, the images of the dense tasks; channels last in memory.
        truth: Dense truth of `strong`.
        weak: (b, 3, H, W) uint8 RGB, the images that have captions, likewise; None when the captions speak of
            `strong` itself.
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

    def emptied(self) -> Batch:
        """A batch of no image."""
        return Batch(self.strong[:0], self.truth.first_images(0), None, self.owners[:0], self.tokens[:0])


@dataclass(frozen=True)
class _Sample:
    dense: View
    weak: View | None
    captions: list[list[int]]


class TrainingViews(Dataset[_Sample | YolorEdgeError]):
    """Samples addressed by (epoch, index), an image drawn again by index + length, as `draws.epoch_draws` has it.

    An error is handed on as a value: raised in a worker, it would come back with a traceback for a message.
    """

    def __init__(
        self, data: CocoDataset, network: AnyConfig, train: TrainConfig, cache_folder: Path | None = None
    ) -> None:
        self.data, self.network, self.train = data, network, train
        self.rule = network.preprocess_rule
        self.tokenizer = Tokenizer(network.vocabulary) if "caption" in network.tasks else None
        self.truths = PackedTruths(data)
        self.cache: ImageCache | None = None
        if train.cache != "off":
            reductions = np.array([self._reduction(self.truths[i]) for i in range(len(data))], np.int64)
            folder = cache_folder if train.cache == "disk" else None
            self.cache = ImageCache(self.truths, self._decode, reductions, folder)

    def __len__(self) -> int:
        return len(self.truths)

    def __getitem__(self, key: tuple[int, int]) -> _Sample | YolorEdgeError:
        try:
            return self._sample(*key)
        except YolorEdgeError as error:
            return error

    def _sample(self, epoch: int, index: int) -> _Sample:
        config = self.train
        rng = np.random.default_rng((config.seed, epoch, index))
        index %= len(self)  # drawn again in the same epoch, with another view
        truth = self._truth(index)
        reader = _Reader(self)
        if config.augment == "none":
            return _Sample(weak_view(truth, reader, self.rule, rng), None, self._captions(truth, rng)[0])
        flip = config.caption_flip if config.augment == "asymmetric" else 0.0
        captions, mirrored = self._captions(truth, rng, flip)
        dense = strong_view(
            truth,
            lambda draw: self._truth(self.truths.partner(index, draw)),
            reader,
            self.rule,
            config,
            rng,
            plain=epoch >= config.epochs - config.plain_epochs,
        )
        if config.augment == "strong":
            return _Sample(dense, None, captions)
        weak = weak_view(truth, reader, self.rule, rng, dense=False, mirrored=mirrored) if captions else None
        return _Sample(dense, weak, captions)

    def _truth(self, index: int) -> Truth:
        truth = self.truths[index]
        semantic = None if self.cache is None else self.cache.semantic(index)
        return truth if semantic is None else replace(truth, semantic=semantic)

    def _reduction(self, truth: Truth) -> int:
        """How much smaller than the file a cached image may be, so that no strong view is finer."""
        config = self.train
        if config.augment == "none" or config.perspective:
            return 1
        height, width = self.rule.input_size
        largest = min(height / truth.size[0], width / truth.size[1]) * (1 + config.scale_range)
        # A shear is longer than what it came from.
        return reduction_for(largest * (1 + np.tan(np.radians(config.shear))))

    def _decode(self, truth: Truth, reduction: int) -> NDArray[np.uint8]:
        """The image with sides of 1 / reduction, rounded up, whatever its format."""
        image = self.data.read(truth, reduction)
        height, width = (-(-side // reduction) for side in truth.size)
        if image.shape[:2] == (height, width):
            return image
        bottom, right = height * reduction - truth.size[0], width * reduction - truth.size[1]
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def _captions(self, truth: Truth, rng: np.random.Generator, flip: float = 0.0) -> tuple[list[list[int]], bool]:
        """Token ids of some captions, and whether they speak of the mirrored picture, with the probability `flip`."""
        if self.tokenizer is None or not truth.captions:
            return [], False
        count = min(self.train.captions_per_image, len(truth.captions))
        chosen = sorted(rng.choice(len(truth.captions), count, replace=False))
        network = self.network
        positions: int = (
            network.caption_positions if isinstance(network, NetworkConfig) else (network.caption or {})["positions"]
        )
        words = [self.tokenizer.encode(truth.captions[i]) for i in chosen]
        mirrored = flip > 0 and rng.random() < flip
        if mirrored:
            swapped = [self.tokenizer.encode(mirrored_words(truth.captions[i])) for i in chosen]
            # Not where the other side's word is unknown to the network.
            mirrored = sum(ids.count(UNK_ID) for ids in swapped) <= sum(ids.count(UNK_ID) for ids in words)
            words = swapped if mirrored else words
        return [[BOS_ID, *ids[: positions - 2], EOS_ID] for ids in words], mirrored


def reduction_for(scale: float) -> int:
    """1, 2, 4 or 8: how much smaller an image can be read of which a pixel becomes `scale` input pixels long."""
    return next((n for n in REDUCTIONS if scale * n <= 1), 1)


class _Reader:
    """Reads the images of one sample, each once."""

    def __init__(self, views: TrainingViews) -> None:
        self.views = views
        self.read: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def __call__(self, truth: Truth, scale: float) -> NDArray[np.uint8]:
        index, cache = truth.image_id, self.views.cache
        if cache is not None and (cache.reduction(index) == 1 or scale * cache.reduction(index) <= 1 + 1e-9):
            return cache.image(index)
        key = index, reduction_for(scale)
        if key not in self.read:
            self.read[key] = self.views.data.read(truth, key[1])
        return self.read[key]


class EpochOrder(Sampler[tuple[int, int]]):
    """A new order every epoch, fixed by the seed; `epoch` is set by the loop."""

    def __init__(self, repeats: NDArray[np.float64], seed: int) -> None:
        self.repeats, self.seed, self.epoch = repeats, seed, 0

    def __len__(self) -> int:
        return epoch_length(self.repeats)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, int(index)) for index in epoch_draws(self.repeats, self.seed, self.epoch)])


class OwnBatches(Sampler[list[tuple[int, int]]]):
    """Of every batch the images that this process takes; of all there are, where there is one process.

    Where a batch has fewer images than there are processes, some of them take its first image as a `spare`, which only
    says what a batch looks like.
    """

    def __init__(self, order: EpochOrder, batch_size: int) -> None:
        self.order, self.batch_size = order, batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = list(self.order)
        for first in range(0, len(keys), self.batch_size):
            whole = keys[first : first + self.batch_size]
            yield whole[share(len(whole))] or whole[:1]

    def spare(self, batch: int) -> bool:
        """Whether what this process has of a batch, from 0, is a spare."""
        count = min(self.batch_size, len(self.order) - batch * self.batch_size)
        return not range(count)[share(count)]


class TrainingLoader(DataLoader[_Sample | YolorEdgeError]):
    """Batches of an epoch, or the part of them that this process takes, which may be a batch of no image."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Each a `Batch`, or a `YolorEdgeError` as a value."""
        assert isinstance(self.batch_sampler, OwnBatches)
        for index, batch in enumerate(super().__iter__()):
            is_spare = isinstance(batch, Batch) and self.batch_sampler.spare(index)
            yield batch.emptied() if is_spare else batch


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
        known_classes=_known_classes(views),
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


def _known_classes(views: list[View]) -> Tensor | None:
    """(B, C) bool, or None where all views know all classes."""
    partial = next((view.known_classes for view in views if view.known_classes is not None), None)
    if partial is None:
        return None
    every = np.ones_like(partial)
    rows = [every if view.known_classes is None else view.known_classes for view in views]
    return torch.from_numpy(np.stack(rows))


def _images(views: list[View]) -> Tensor:
    return torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)


def training_loader(
    data: CocoDataset, network: AnyConfig, train: TrainConfig, cache_folder: Path | None = None
) -> tuple[TrainingLoader, EpochOrder]:
    """The loader of training batches and the order whose `epoch` the loop sets before each pass.

    Args:
        data: What to train on.
        network: What is trained.
        train: How.
        cache_folder: Where decoded images are kept with `cache` "disk".

    Raises:
        YolorEdgeError: If `cache` is on and an image cannot be read, or there is no room for all.
    """
    order = EpochOrder(repeats_of(data, network.tasks, train.least_share), train.seed)
    loader = TrainingLoader(
        TrainingViews(data, network, train, cache_folder),
        batch_sampler=OwnBatches(order, train.batch_size),
        num_workers=train.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # The order is drawn in this process and gives each sample its epoch, so workers need not be new to know it.
        persistent_workers=train.workers > 0,
        # Truths and cached images are shared with processes that are forked, of others each would have a copy.
        multiprocessing_context="fork" if train.workers and sys.platform == "linux" else None,
        worker_init_fn=_begin_worker,
        prefetch_factor=4 if train.workers else None,
    )
    return loader, order


def _begin_worker(_: int) -> None:
    if size() > 1 and hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # torchrun ends the whole group of a process, which would find its workers killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a group; the training ends its workers
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # The collector would write to all that was there before the fork, and so copy its memory.
