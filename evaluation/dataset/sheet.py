"""Labels to look at: sample images with what is true about them, and histograms of sizes and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.drawing.colours import semantic_colours
from ...runtime.drawing.lettering import FAINT, INK, PAPER, Colour, text_width, wrapped, write_text
from ...runtime.drawing.objects import draw_objects
from ...runtime.drawing.options import DrawOptions
from ...runtime.errors import YolorEdgeError
from ...runtime.images.image_files import write_image
from ...runtime.results import InstanceMasks, Result
from .coco import CocoDataset
from .truth import IGNORED, Truth

_CELL = (300, 400)  # height and width of a sample
_COLUMNS = 4
_SAMPLES = 12
_LETTER = 9.0
_BAR = 16  # height of a bar of a histogram
_MOST_CLASSES = 24
_SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 256, 512)  # 32 and 96 part COCO's small, medium and large


@dataclass(frozen=True)
class Objects:
    """What the histograms of a split show.

    Attributes:
        title: Above them.
        sides: (N,) square root of the area of each box, in pixels.
        by_class: Objects of each class.
    """

    title: str
    sides: NDArray[np.float64]
    by_class: Mapping[str, int]


def draw_truth(
    image: NDArray[np.uint8], truth: Truth, dataset: CocoDataset, semantic: bool = False
) -> NDArray[np.uint8]:
    """An image with what is true about it laid over it.

    Args:
        image: (h, w, 3) uint8 BGR, of the truth or a smaller copy of it.
        truth: Of the image.
        dataset: Says what its classes are called.
        semantic: Draw the semantic map; else boxes and masks.

    Returns:
        (h, w, 3) uint8 BGR.
    """
    height, width = image.shape[:2]
    panel = np.ascontiguousarray(image)
    if semantic:
        found = truth.semantic_map()
        if found is not None:
            small = np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
            colours = semantic_colours(dataset.class_names, dataset.semantic_names, None)
            blended = cv2.addWeighted(panel, 0.35, np.ascontiguousarray(colours[small]), 0.65, 0)
            panel = np.where((small == IGNORED)[..., None], panel // 3, blended).astype(np.uint8)
        return panel
    if truth.boxes is None or truth.class_ids is None:
        return panel
    scale = np.array([width / truth.size[1], height / truth.size[0]] * 2, np.float32)
    masks = truth.masks()
    crops = None
    if masks is not None:
        sized = [cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_AREA) for mask in masks]
        crops = InstanceMasks([(0, 0, np.asarray(mask, np.uint8)) for mask in sized], (height, width))
    result = Result(
        image_size=(height, width),
        boxes=truth.boxes * scale,
        scores=np.ones(len(truth.boxes), np.float32),
        class_ids=truth.class_ids.astype(np.int32),
        masks=crops,
        class_names=dataset.class_names,
        semantic_names=dataset.semantic_names,
    )
    draw_objects(panel, result, DrawOptions(scores=False))
    return panel


def write_sheet(path: Path, datasets: Sequence[CocoDataset], objects: Sequence[Objects]) -> None:
    """Write sample images with their labels, of the first split of each folder, and histograms, as one picture."""
    first = list({one.root: one for one in reversed(datasets)}.values())[::-1]
    parts = []
    for one in first:
        parts += [_title(f"{one.root.name} ({one.split}): labels"), _samples(one, max(4, _SAMPLES // len(first)))]
    for found in objects:
        if found.sides.size:
            parts += [_title(found.title), _histograms(found)]
    width = max(part.shape[1] for part in parts)
    rows = [
        cv2.copyMakeBorder(part, 0, 0, 0, width - part.shape[1], cv2.BORDER_CONSTANT, value=PAPER) for part in parts
    ]
    write_image(path, np.asarray(np.vstack(rows), np.uint8))


def _title(text: str) -> NDArray[np.uint8]:
    panel = np.full((34, _COLUMNS * _CELL[1], 3), PAPER, np.uint8)
    write_text(panel, _plain(text), (10, 10), 13.0, INK)
    return panel


def _samples(dataset: CocoDataset, cells_wanted: int) -> NDArray[np.uint8]:
    """Images evenly through the split; those with a map get a second cell that shows it."""
    cells: list[NDArray[np.uint8]] = []
    shows_maps = "semantic" in dataset.tasks
    wanted = cells_wanted // 2 if shows_maps else cells_wanted
    for index in np.linspace(0, len(dataset) - 1, min(wanted, len(dataset))).astype(int):
        truth = dataset[int(index)]
        cells.append(_cell(dataset, truth, False))
        if shows_maps:
            cells.append(_cell(dataset, truth, True))
    cells += [np.full((*_CELL, 3), PAPER, np.uint8)] * (-len(cells) % _COLUMNS)
    rows = [np.hstack(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)]
    return np.asarray(np.vstack(rows), np.uint8)


def _cell(dataset: CocoDataset, truth: Truth, semantic: bool) -> NDArray[np.uint8]:
    height, width = _CELL
    cell = np.full((height, width, 3), PAPER, np.uint8)
    lines = [_plain(truth.path.name)]
    if semantic:
        lines[0] = "semantic map" if truth.has_semantic else "no semantic map"
    elif truth.boxes is None:
        lines[0] += ", objects not labelled"
    if truth.captions and not semantic:
        lines += wrapped(_plain(truth.captions[0]), width - 12, _LETTER)[:2]
    room = height - 6 - 15 * len(lines)
    try:
        image = dataset.read(truth)
        scale = min(room / image.shape[0], (width - 4) / image.shape[1])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        drawn = draw_truth(small, truth, dataset, semantic)
        cell[2 : 2 + size[1], 2 : 2 + size[0]] = drawn
    except YolorEdgeError:
        lines[0] += ": cannot be read"
    for i, line in enumerate(lines):
        write_text(cell, line, (4, height - 15 * (len(lines) - i)), _LETTER, INK if i else FAINT)
    return cell


def _histograms(objects: Objects) -> NDArray[np.uint8]:
    """Objects by the side of their boxes, and by class."""
    counts = np.histogram(objects.sides, [*_SIDES, np.inf])[0]
    sides = [
        (f"{low}-{high}" if high else f"{low}+", int(count))
        for low, high, count in zip(_SIDES, [*_SIDES[1:], 0], counts, strict=True)
    ]
    ordered = sorted(objects.by_class.items(), key=lambda one: -one[1])
    classes = ordered[:_MOST_CLASSES]
    if len(ordered) > _MOST_CLASSES:
        rest = ordered[_MOST_CLASSES:]
        classes.append((f"{len(rest)} more classes", sum(count for _, count in rest)))
    left = _bars("side of a box (root of its area), pixels of the image", sides, (200, 150, 90))
    right = _bars("objects by class", classes, (120, 180, 120))
    height = max(left.shape[0], right.shape[0])
    panels = [
        cv2.copyMakeBorder(one, 0, height - one.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
        for one in (left, right)
    ]
    return np.asarray(np.hstack(panels), np.uint8)


def _bars(title: str, rows: Sequence[tuple[str, int]], colour: Colour) -> NDArray[np.uint8]:
    width = _COLUMNS * _CELL[1] // 2
    panel = np.full((30 + (_BAR + 4) * len(rows) + 8, width, 3), PAPER, np.uint8)
    write_text(panel, title, (10, 8), 10.0, FAINT)
    most = max([count for _, count in rows] or [1]) or 1
    for i, (name, count) in enumerate(rows):
        y = 30 + i * (_BAR + 4)
        label = _plain(name)[:24]
        write_text(panel, label, (190 - text_width(label, _LETTER), y + 3), _LETTER, INK)
        length = round((width - 290) * count / most)
        cv2.rectangle(panel, (198, y), (198 + length, y + _BAR), colour, -1)
        write_text(panel, str(count), (204 + length, y + 3), _LETTER, INK)
    return panel


def _plain(text: str) -> str:
    """What OpenCV's letters can write."""
    return text.encode("ascii", "replace").decode()
