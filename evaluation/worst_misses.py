"""Drawings of the images that a model gets most wrong: the truth beside the prediction, what was missed marked."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..runtime.drawing import draw
from ..runtime.drawing.lettering import INK, PAPER, wrapped, write_text
from ..runtime.images.image_files import write_image
from ..runtime.results import InstanceMasks, Result
from .dataset.coco import CocoDataset
from .dataset.segmentations import coco_mask
from .dataset.truth import IGNORED, Truth
from .prediction_files import require_new_folder

_ENOUGH = 0.5  # IoU from which a box is found
_GAP = 6
_SIDE = 640  # smaller images are enlarged to it
# RGB: what is right, missed, false, and taken for another class.
_COLOURS = {"": (70, 190, 90), "missed": (230, 40, 40), "false": (250, 150, 20), "for": (200, 80, 230)}


@dataclass(frozen=True)
class Misses:
    """What is wrong in one image.

    Attributes:
        missed: Rows of the truth that nothing lies on.
        false: Rows of the result that lie on nothing.
        confused: Row of the result by row of the truth, at the same place but of another class.
        wrong_pixels: Share of the labelled pixels whose semantic class is wrong; None without a map.
    """

    missed: tuple[int, ...] = ()
    false: tuple[int, ...] = ()
    confused: tuple[tuple[int, int], ...] = ()
    wrong_pixels: float | None = None

    @property
    def cost(self) -> float:
        """Objects missed, false or confused, and the share of wrong pixels."""
        return len(self.missed) + len(self.false) + len(self.confused) + (self.wrong_pixels or 0.0)

    def __str__(self) -> str:
        parts = [f"{len(self.missed)} missed, {len(self.false)} false, {len(self.confused)} of another class"]
        if self.wrong_pixels is not None:
            parts.append(f"{self.wrong_pixels:.0%} of the pixels of another class")
        return "; ".join(parts)


def misses_of(truth: Truth, result: Result) -> Misses:
    """Compare a result, of objects that count as found, with the truth of its image.

    Objects pair by falling score with the free one of their class that they overlap most, from an IoU of 0.5; what is
    left pairs without regard to class. What lies mostly in a crowd is not false.
    """
    wrong_pixels = None
    if result.semantic_map is not None and truth.semantic is not None:
        expected = truth.semantic.read(truth.size)
        known = expected != IGNORED
        if known.any():
            wrong_pixels = float(np.mean(expected[known] != result.semantic_map[known]))
    if truth.boxes is None or truth.class_ids is None or truth.crowd is None:
        return Misses(wrong_pixels=wrong_pixels)
    if result.boxes is None or result.class_ids is None or result.scores is None:
        return Misses(wrong_pixels=wrong_pixels)
    overlaps = np.zeros((len(result.boxes), len(truth.boxes)))
    if overlaps.size:
        boxes = [np.hstack([one[:, :2], one[:, 2:] - one[:, :2]]) for one in (result.boxes, truth.boxes)]
        overlaps = coco_mask.iou(*(one.astype(np.float64) for one in boxes), truth.crowd.tolist())
    order = np.argsort(-result.scores, kind="stable").tolist()
    pairs: dict[int, int] = {}
    for same_class in (True, False):
        for row in order:
            if row in pairs:
                continue
            allowed = ~truth.crowd & (overlaps[row] >= _ENOUGH)
            allowed[list(pairs.values())] = False
            if same_class:
                allowed &= truth.class_ids == result.class_ids[row]
            if allowed.any():
                pairs[row] = int(np.argmax(np.where(allowed, overlaps[row], -1)))
    in_crowd = np.any(overlaps[:, truth.crowd] >= _ENOUGH, axis=1).tolist()
    found = set(pairs.values())
    return Misses(
        missed=tuple(i for i in range(len(truth.boxes)) if i not in found and not truth.crowd[i]),
        false=tuple(i for i in range(len(result.boxes)) if i not in pairs and not in_crowd[i]),
        confused=tuple((i, j) for i, j in pairs.items() if result.class_ids[i] != truth.class_ids[j]),
        wrong_pixels=wrong_pixels,
    )


class WorstMisses:
    """Keeps the results with the most misses, and draws them at the end.

    Args:
        folder: A new one.
        dataset: The images and their classes.
        count: How many to draw.
        score_threshold: Objects that score less do not count as found.

    Raises:
        UsageError: If the folder holds something already.
    """

    def __init__(
        self, folder: str | os.PathLike[str], dataset: CocoDataset, count: int, score_threshold: float
    ) -> None:
        self._folder = require_new_folder(folder, "draw_worst")
        self._dataset = dataset
        self._count = count
        self._threshold = score_threshold
        self._worst: list[tuple[float, int, Truth, Result, Misses]] = []
        self._seen = 0

    def add(self, truth: Truth, result: Result) -> None:
        """Take the result of one image."""
        if result.scores is not None:
            result = result[result.scores >= self._threshold]
        misses = misses_of(truth, result)
        self._seen += 1
        if misses.cost > 0:  # earlier images go before later ones that are as bad
            heapq.heappush(self._worst, (misses.cost, -self._seen, truth, result, misses))
            if len(self._worst) > self._count:
                heapq.heappop(self._worst)

    def write(self) -> list[Path]:
        """Draw them, worst first; the files are called by rank and image."""
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for rank, (_, _, truth, result, misses) in enumerate(sorted(self._worst, key=lambda one: one[:2])[::-1], 1):
            path = self._folder / f"{rank:03d}-{truth.path.stem}.jpg"
            write_image(path, draw_misses(self._dataset, truth, result, misses))
            paths.append(path)
        return paths


def draw_misses(dataset: CocoDataset, truth: Truth, result: Result, misses: Misses) -> np.ndarray:
    """The truth to the left, the result to the right, (h, w, 3) uint8 BGR; below them maps and captions, if any."""
    image = dataset.read(truth)
    scale = max(1.0, _SIDE / max(truth.size))
    names = dataset.class_names
    rows = []
    if truth.boxes is not None and truth.class_ids is not None and truth.crowd is not None:
        labels = [names[i] for i in truth.class_ids.tolist()]
        kinds = [""] * len(labels)
        for i in misses.missed:
            labels[i], kinds[i] = f"{labels[i]} missed", "missed"
        for i in np.flatnonzero(truth.crowd).tolist():
            labels[i] += " (crowd)"
        masks = truth.masks()
        crops = None if masks is None else InstanceMasks([(0, 0, one.astype(np.uint8)) for one in masks], truth.size)
        expected = Result(truth.size, boxes=truth.boxes, masks=crops, scores=np.ones(len(labels), np.float32))
        left = _objects(image, expected, labels, kinds, scale)
        right = _enlarged(image, scale)
        if result.class_ids is not None and result.scores is not None:
            labels = [f"{names[i]} {s:.2f}" for i, s in zip(result.class_ids.tolist(), result.scores, strict=True)]
            kinds = [""] * len(labels)
            for i in misses.false:
                labels[i], kinds[i] = f"{labels[i]} false", "false"
            for i, j in misses.confused:
                labels[i], kinds[i] = f"{labels[i]} for {names[int(truth.class_ids[j])]}", "for"
            right = _objects(image, result, labels, kinds, scale)
        rows.append(_beside(left, right))
    if result.semantic_map is not None and truth.semantic is not None:
        maps = (truth.semantic.read(truth.size), result.semantic_map)
        answers = [
            Result(truth.size, semantic_map=one, class_names=names, semantic_names=dataset.semantic_names)
            for one in maps
        ]
        left, right = (_enlarged(draw(image, one), scale) for one in answers)
        rows.append(_beside(left, right))
    if not rows:
        rows.append(_enlarged(image, scale))
    width = rows[0].shape[1]
    text = [f"{truth.path.name}, truth and prediction: {misses}"]
    if truth.captions and result.caption is not None:
        text += [f"truth: {truth.captions[0]}", f"prediction: {result.caption.text}"]
    return np.vstack([_bar(text[:1], width), *rows, *([_bar(text[1:], width)] if text[1:] else [])])


def _objects(image: np.ndarray, result: Result, labels: list[str], kinds: list[str], scale: float) -> np.ndarray:
    """Objects on the enlarged image, each in the colour of its kind; what is wrong lies on top."""
    order = sorted(range(len(labels)), key=lambda i: not kinds[i])
    result, labels, kinds = result[order], [labels[i] for i in order], [kinds[i] for i in order]
    if scale > 1:
        size = (round(result.image_size[0] * scale), round(result.image_size[1] * scale))
        crops: Any = None
        if result.masks is not None:
            crops = [(0, 0, _enlarged(one, scale)) for one in result.masks.full().astype(np.uint8)]
            crops = InstanceMasks(crops, size)
        boxes = None if result.boxes is None else result.boxes * np.float32(scale)
        result = replace(result, image_size=size, masks=crops, boxes=boxes)
    result = replace(
        result,
        class_ids=np.arange(len(labels), dtype=np.int32),
        class_names=tuple(labels),
        semantic_map=None,
        caption=None,
        semantic_names=tuple(labels),
    )
    palette = [_COLOURS[kind] for kind in kinds]  # the colour of a class is that of its name: a label says its kind
    return draw(_enlarged(image, scale), result, scores=False, palette=palette)


def _enlarged(image: np.ndarray, scale: float) -> np.ndarray:
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((left.shape[0], _GAP, 3), PAPER, np.uint8)
    row = np.hstack([left, gap, right])
    return np.vstack([row, np.full((_GAP, row.shape[1], 3), PAPER, np.uint8)])


def _bar(lines: list[str], width: int) -> np.ndarray:
    letter = 14.0
    lines = [part for line in lines for part in wrapped(line, width - 16, letter)]
    bar = np.full((len(lines) * 24 + 10, width, 3), PAPER, np.uint8)
    for number, line in enumerate(lines):
        write_text(bar, line, (8, 8 + 24 * number), letter, INK)
    return bar
