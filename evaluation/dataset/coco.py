"""A data set as truth, one image at a time: boxes, masks, semantic map and captions where they exist.

In COCO's own layout (`layouts` knows more):

    ROOT/annotations/instances_<split>.json   captions_<split>.json   panoptic_<split>.json
    ROOT/annotations/panoptic_<split>/*.png   (or ROOT/panoptic_<split>/*.png)
    ROOT/stuffthingmaps/<split>/<stem>.png    COCO-Stuff's labels, read where there is no panoptic file:
                                              pixel = category id - 1, 255 unlabelled
    ROOT/<split>/*.jpg                        (or ROOT/images/<split>/*.jpg)

The annotation files are parsed and checked once, on opening; masks and semantic maps are made when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...runtime.errors import DatasetError
from ...runtime.images.image_files import read_image
from .coco_files import Parts
from .complaints import Note
from .layouts import choose_split, find_layout
from .truth import IGNORED, Truth

__all__ = ["IGNORED", "CocoDataset", "Truth"]


class CocoDataset:
    """One split of a data set; `dataset[i]` is the `Truth` of image i, images by rising id.

    Attributes:
        root, split: What was opened.
        layout: How it lies on disk, for people.
        sources: Each folder that it is read from, with the split; several where data sets were put together.
        class_names, category_ids: The things, by rising category id, and the data set's own ids of them.
        semantic_names, semantic_category_ids: The classes of the semantic map: things by id, then stuff.
        tasks: Which of "boxes", "masks", "semantic", "caption" can be learned from at least one image.
        untaught: Why a task cannot be learned although there are annotations of its kind.
        info: The "info" object of the first annotation file that has one.
        notes: What was met that is not wrong and may not be meant, with a count and the first case.
        dropped_boxes: How many boxes were left out because nothing of them lies inside their image.
    """

    def __init__(self, root: Path, split: str, parts: Parts, layout: str = "", rows: np.ndarray | None = None) -> None:
        self.root = root
        self.split = split
        self.layout = layout
        self.sources: tuple[tuple[Path, str], ...] = ((root, split),)
        self._parts = parts
        self._rows = np.arange(len(parts.images)) if rows is None else rows
        self.class_names: tuple[str, ...] = tuple(parts.classes.values())
        self.category_ids: tuple[int, ...] = tuple(parts.classes)
        self.semantic_names: tuple[str, ...] = tuple(parts.semantic_classes.values())
        self.semantic_category_ids: tuple[int, ...] = tuple(parts.semantic_classes)
        self.info: dict[str, Any] = parts.info
        self.notes: Mapping[str, Note] = parts.notes
        self.dropped_boxes = parts.notes["outside"].count if "outside" in parts.notes else 0
        self.untaught: dict[str, str] = {}
        self.tasks: frozenset[str] = frozenset(self._usable_tasks())

    def _usable_tasks(self) -> list[str]:
        """The tasks with a target; why there is none for others goes into `untaught`."""
        parts, objects = self._parts, self._parts.objects
        rows = set(self._rows.tolist())
        owners = np.repeat(np.arange(len(parts.images)), np.diff(objects.offsets))
        usable = np.isin(owners, self._rows) & ~objects.crowd
        tasks = []
        crowds = int(np.isin(owners, self._rows).sum() - usable.sum())
        total = crowds + self.dropped_boxes
        if usable.any():
            tasks.append("boxes")
        elif objects.listed[self._rows].any():
            kinds = [(crowds, "are crowds"), (self.dropped_boxes, "lie outside their images")]
            what = " and ".join(f"{count} of {total} objects {text}" for count, text in kinds if count)
            self.untaught["boxes"] = what if total else f"none of {len(self)} images has an object"
        if any(objects.segmentations[i] is not None for i in np.flatnonzero(usable)):
            tasks.append("masks")
        elif usable.any() and "outline without a pixel" in parts.notes:
            note = parts.notes["outline without a pixel"]
            self.untaught["masks"] = f"none of the outlines has a pixel, such as {note.example}"
        if any(row in parts.semantic for row in rows):
            tasks.append("semantic")
        if any(row in parts.captions for row in rows):
            tasks.append("caption")
        elif "captions without a word" in parts.notes:
            note = parts.notes["captions without a word"]
            self.untaught["caption"] = f"none of the {note.count} captions has a word, {note.example}"
        return tasks

    @classmethod
    def open(
        cls, root: str | os.PathLike[str], split: str | None = None, role: Literal["train", "val"] = "train"
    ) -> CocoDataset:
        """Read the annotation files of one split and check all of them; see `open_dataset` for more than one folder.

        Args:
            root: The folder of the data set, in any of the layouts of docs/data.md.
            split: The split's name ("train2017"). Without it, the first whose name starts with `role`, or the
                only split there is.
            role: What the split is wanted for.

        Raises:
            DatasetError: If this is no data set, the split is missing, or its files do not hold together;
                everything found wrong is listed at once.
        """
        root = Path(root)
        layout = find_layout(root)
        split = choose_split(root, list(layout.splits), split, role)
        return cls(root, split, layout.splits[split](), layout.name)

    def part(self, split: str, rows: Sequence[int]) -> CocoDataset:
        """The images `rows` of this split as one of their own, called `split`."""
        return CocoDataset(self.root, split, self._parts, self.layout, self._rows[list(rows)])

    def teaching(self) -> np.ndarray:
        """(images, 4) bool: from which images boxes, masks, semantic map and caption can be learned, in this order.

        An image known to be without objects teaches boxes.
        """
        objects, count = self._parts.objects, len(self._parts.images)
        owners = np.repeat(np.arange(count), np.diff(objects.offsets))
        has_mask = np.array([one is not None for one in objects.segmentations], bool) & ~objects.crowd
        columns = [objects.listed, np.bincount(owners[has_mask], minlength=count) > 0]
        columns += [np.isin(np.arange(count), list(found)) for found in (self._parts.semantic, self._parts.captions)]
        return np.stack(columns, 1)[self._rows]

    def file_name(self, index: int) -> str:
        """The file of image `index`, relative to the folder of the images where it lies below that."""
        return self._parts.images[self._rows[index]].file_name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Truth:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index = int(self._rows[index])
        parts = self._parts
        image = parts.images[index]
        truth = parts.objects.of(index)
        return Truth(
            image_id=image.image_id,
            path=parts.image_folder / image.file_name,
            size=image.size,
            captions=parts.captions.get(index),
            semantic=parts.semantic.get(index),
            **truth,
        )

    def read(self, truth: Truth, reduction: int = 1) -> np.ndarray:
        """The image as (height, width, 3) uint8 BGR, of exactly `truth.size`.

        With a `reduction` of 2, 4 or 8, a JPEG is read faster, with sides of that share, rounded up.

        An EXIF orientation is applied, unless only the stored orientation has the size that the JSON gives.

        Raises:
            ImageError: If the file cannot be read.
            DatasetError: If neither orientation has the size in the JSON.
        """
        sizes = {truth.size, (-(-truth.size[0] // reduction), -(-truth.size[1] // reduction))}
        upright = read_image(truth.path, reduction=reduction)
        if upright.shape[:2] in sizes:
            return upright
        stored = read_image(truth.path, apply_orientation=False, reduction=reduction)
        if stored.shape[:2] in sizes:
            return stored
        raise DatasetError(
            f"{truth.path}: is {upright.shape[0]} x {upright.shape[1]} (height x width), but the annotations "
            f"say {truth.size[0]} x {truth.size[1]}; the annotations belong to another copy of this image"
        )

    def require_classes(
        self, class_names: Sequence[str] | None = None, semantic_names: Sequence[str] | None = None
    ) -> None:
        """Check that this data set has exactly these classes in this order; None leaves a list unchecked.

        Raises:
            DatasetError: Naming both counts and the first class that differs, for each list that does.
        """
        complaints = []
        for kind, wanted, found in (
            ("class", class_names, self.class_names),
            ("semantic class", semantic_names, self.semantic_names),
        ):
            if wanted is None or tuple(wanted) == found:
                continue
            first = next(
                (i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b),
                min(len(wanted), len(found)),
            )
            here, there = (repr(names[first]) if first < len(names) else "absent" for names in (found, wanted))
            complaints.append(
                f"the data set has {f'{len(found)} {kind}es'}, the network {len(wanted)}; "
                f"the first that differs is {kind} {first}: {here} in the data set, {there} in the network"
            )
        if complaints:
            raise DatasetError(
                f"{self.root} ({self.split}): {'; '.join(complaints)}; use the data set that the network was "
                "trained for, or train on this one"
            )

    def __repr__(self) -> str:
        return f"CocoDataset({str(self.root)!r}, {self.split!r}, {len(self)} images, {sorted(self.tasks)})"
