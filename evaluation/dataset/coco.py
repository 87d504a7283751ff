"""COCO's own layout as truth, one image at a time: boxes, masks, semantic map and captions where they exist.

    ROOT/annotations/instances_<split>.json   captions_<split>.json   panoptic_<split>.json
    ROOT/annotations/panoptic_<split>/*.png   (or ROOT/panoptic_<split>/*.png)
    ROOT/stuffthingmaps/<split>/<stem>.png    COCO-Stuff's labels, read where there is no panoptic file:
                                              pixel = category id - 1, 255 unlabelled
    ROOT/<split>/*.jpg                        (or ROOT/images/<split>/*.jpg)

The annotation files are parsed and checked once, on opening; masks and semantic maps are made when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...runtime.errors import DatasetError
from ...runtime.images.image_files import read_image
from .coco_files import Parts, open_split
from .truth import IGNORED, Truth

__all__ = ["IGNORED", "CocoDataset", "Truth"]


class CocoDataset:
    """One split of a data set in COCO's layout; `dataset[i]` is the `Truth` of image i, images by rising id.

    Attributes:
        root, split: What was opened.
        class_names, category_ids: The things, by rising category id, and the data set's own ids of them.
        semantic_names, semantic_category_ids: The classes of the semantic map: things by id, then stuff.
        tasks: Which of "boxes", "masks", "semantic", "caption" at least one image has truth for.
        info: The "info" object of the first annotation file that has one.
        dropped_boxes: How many boxes were left out because nothing of them lies inside their image.
    """

    def __init__(self, root: Path, split: str, parts: Parts) -> None:
        self.root = root
        self.split = split
        self._parts = parts
        self.class_names: tuple[str, ...] = tuple(parts.classes.values())
        self.category_ids: tuple[int, ...] = tuple(parts.classes)
        self.semantic_names: tuple[str, ...] = tuple(parts.semantic_classes.values())
        self.semantic_category_ids: tuple[int, ...] = tuple(parts.semantic_classes)
        self.info: dict[str, Any] = parts.info
        self.dropped_boxes = parts.objects.dropped
        self.tasks: frozenset[str] = frozenset(
            task
            for task, exists in (
                ("boxes", bool(parts.objects.listed.any())),
                ("masks", any(one is not None for one in parts.objects.segmentations)),
                ("semantic", bool(parts.semantic)),
                ("caption", bool(parts.captions)),
            )
            if exists
        )

    @classmethod
    def open(
        cls, root: str | os.PathLike[str], split: str | None = None, role: Literal["train", "val"] = "train"
    ) -> CocoDataset:
        """Read the annotation files of one split and check all of them.

        Args:
            root: The folder that holds `annotations/`.
            split: The split's name ("train2017"). Without it, the first whose name starts with `role`, or the
                only split there is.
            role: What the split is wanted for.

        Raises:
            DatasetError: If this is no data set, the split is missing, or its files do not hold together;
                everything found wrong is listed at once.
        """
        root = Path(root)
        return cls(root, *open_split(root, split, role))

    def __len__(self) -> int:
        return len(self._parts.images)

    def __getitem__(self, index: int) -> Truth:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
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
