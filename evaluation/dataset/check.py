"""A look at a data set before anything is learned from it: what there is, what is wrong, what is doubtful."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.bundle.tokenizer import normalise
from ...runtime.errors import DatasetError, YolorEdgeError
from ...runtime.images.image_files import decode_image, read_image
from ...runtime.progress import Count
from .coco import CocoDataset
from .file_memory import FileMemory
from .image_sizes import header_of
from .layouts import find_layout
from .opening import Data, MergedDataset, open_dataset, open_validation, roots_of
from .sheet import Objects, write_sheet
from .truth import IGNORED, PanopticMap, StuffThingMap

LEAST_SIDE = 2.0
"""Pixels of the network's input below which a side of a box is too small to be learned."""
TASKS = ("boxes", "masks", "semantic", "caption")
_SHOWN = 5  # classes that a line names


@dataclass(frozen=True)
class SplitCheck:
    """What one split of a data set holds.

    Attributes:
        data, split, layout: What was looked at.
        figures: Counts by kind of truth ("images", "boxes", "masks", "semantic", "caption").
        problems: What makes it fail, one line each.
        doubts: What may not be meant, one line each, with an example.
        objects_by_class: Objects of each class, crowds left out.
        sides: (N,) square root of the area of each box in pixels, crowds left out.
        digests: Of the content of each file that was read, by path.
    """

    data: str
    split: str
    layout: str
    figures: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]
    objects_by_class: Mapping[str, int]
    sides: np.ndarray = field(repr=False)
    digests: Mapping[str, str] = field(repr=False)

    def lines(self) -> list[str]:
        """A line for each kind of truth."""
        return [f"{self.split}  {kind:<9} {_sentence(kind, figures)}" for kind, figures in self.figures.items()]

    def to_json(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if name not in ("sides", "digests")}
        return {**values, "problems": list(self.problems), "doubts": list(self.doubts)}


@dataclass(frozen=True)
class DatasetCheck:
    """What was found in all splits, and between them; `lacks` is what there is not, with what helps."""

    splits: tuple[SplitCheck, ...]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    @property
    def all_problems(self) -> list[str]:
        return [*(text for one in self.splits for text in one.problems), *self.problems]

    @property
    def all_doubts(self) -> list[str]:
        return [*(text for one in self.splits for text in one.doubts), *self.doubts]

    def table(self) -> str:
        """All lines: the layout, one a kind of truth and split, then doubts and problems."""
        lines = []
        for one in self.splits:
            head = f"{one.data}: {one.layout}"
            if head not in lines:
                lines.append(head)
            lines += one.lines()
        lines += [f"lacking: {text}" for text in self.lacks]
        lines += [f"doubtful: {text}" for text in self.all_doubts]
        lines += [f"wrong: {text}" for text in self.all_problems]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "splits": [one.to_json() for one in self.splits],
            "problems": self.all_problems,
            "doubts": self.all_doubts,
            "lacks": list(self.lacks),
        }

    def draw(self, path: Path, datasets: Sequence[CocoDataset]) -> None:
        """Draw sample images of the first data set with their labels, and histograms of all splits, into one file."""
        titles = [f"{Path(one.data).name} ({one.split})" for one in self.splits]
        objects = [
            Objects(title, one.sides, one.objects_by_class) for title, one in zip(titles, self.splits, strict=True)
        ]
        write_sheet(path, datasets, objects)

    def raise_if_wrong(self) -> None:
        """Refuse a data set with problems.

        Raises:
            DatasetError: With the first of them, and how many there are.
        """
        problems = self.all_problems
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            data = " --data ".join(dict.fromkeys(one.data for one in self.splits))
            raise DatasetError(f"{'; '.join(problems[:10])}{more}; all of it: yolor-edge check {data}")


def check_dataset(
    data: Data,
    split: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    val_share: float = 0.0,
    seed: int = 0,
    read_files: bool = True,
    input_size: tuple[int, int] | None = None,
    progress: Count | None = None,
) -> DatasetCheck:
    """Look at a data set in any layout: structure, counts, and every file once.

    What was read of a file is remembered (in XDG_CACHE_HOME) while its size and time stay, so a second look is quick.

    Args:
        data: Folder of the data set, or several.
        split: Look at this one alone; by default at all.
        out: File to draw `labels.png` to: sample images with their labels, sizes and classes as histograms.
        val_share: Look at the two parts that a training with this share would have; see `open_dataset`.
        seed: Of that.
        read_files: Read every image and map; else only their names are looked at.
        input_size: (height, width) of the network, which says what is too small; None for pixels of the images.
        progress: Called with files read and files to be read.

    Raises:
        DatasetError: If the annotations do not hold together at all.
    """
    opened: list[CocoDataset] = []
    for root in roots_of(data):
        names = list(find_layout(root).splits)
        is_shared = bool(val_share) and not any(name.lower().startswith("val") for name in names)
        if split is not None or is_shared:
            opened.append(open_dataset(root, split, "train", val_share if is_shared else 0.0, seed))
            validation = open_validation(opened[-1]) if is_shared else None
            opened += [validation] if validation is not None else []
        else:
            opened += [CocoDataset.open(root, name) for name in names]
    found = check_opened(opened, read_files=read_files, input_size=input_size, progress=progress)
    if out is not None:
        found.draw(Path(out), opened)
    return found


def check_opened(
    datasets: Sequence[CocoDataset],
    *,
    read_files: bool = True,
    input_size: tuple[int, int] | None = None,
    progress: Count | None = None,
) -> DatasetCheck:
    """As `check_dataset`, of splits that are open already."""
    members = [one for dataset in datasets for one in members_of(dataset)]
    splits = tuple(_check_split(one, read_files, input_size, progress) for one in members)
    doubts = [*_copies(splits)]
    merged = [one for one in datasets if isinstance(one, MergedDataset)]
    if not merged and len({str(one.root) for one in members}) > 1:
        firsts: dict[str, CocoDataset] = {}
        for one in members:
            firsts.setdefault(str(one.root), one)
        merged = [MergedDataset(list(firsts.values()))]
    for name, other in merged[0].similar if merged else ():
        doubts.append(
            f'the classes "{name}" and "{other}" of two data sets are learned as different ones; if they are the same, '
            "give them one name"
        )
    problems = []
    for kind, attribute in (("classes", "class_names"), ("semantic classes", "semantic_names")):
        by_root: dict[str, tuple[CocoDataset, tuple[str, ...]]] = {}
        for one in members:
            names = getattr(one, attribute)
            first, wanted = by_root.setdefault(str(one.root), (one, names))
            if names and wanted and names != wanted:
                differing = sorted(set(names) ^ set(wanted))[:_SHOWN]
                what = f"differ in {', '.join(differing)}" if differing else "come in another order"
                problems.append(f"{one.root}: the {kind} of {first.split} and {one.split} {what}")
    if not any(one.tasks for one in datasets):
        problems.append(_nothing(datasets[0]))
    return DatasetCheck(splits, tuple(problems), tuple(doubts), tuple(_lacks(datasets)))


def _lacks(datasets: Sequence[CocoDataset]) -> list[str]:
    lacks = []
    absent = [task for task in TASKS if not any(task in one.tasks for one in datasets)]
    if 0 < len(absent) < len(TASKS):
        lacks.append(
            f"truth for {', '.join(absent)}: not trained; yolor-edge label writes what a network knows of it, and a "
            "second --data adds images that have it"
        )
    if not any(re.match(r"(.*:)?val", split) for one in datasets for _, split in one.sources):
        lacks.append(
            "a split to validate on, so nothing tells how good the network is; train --val-share 0.1 holds a tenth out"
        )
    return lacks


def members_of(dataset: CocoDataset) -> list[CocoDataset]:
    """The data sets that one was put together of; itself, for most."""
    return list(dataset.members) if isinstance(dataset, MergedDataset) else [dataset]


def _nothing(dataset: CocoDataset) -> str:
    reasons = "; ".join(f"{task}: {reason}" for task, reason in dataset.untaught.items()) or "there are no annotations"
    return f"{dataset.root} ({dataset.split}): nothing can be learned; {reasons}"


def _check_split(
    dataset: CocoDataset, read_files: bool, input_size: tuple[int, int] | None, progress: Count | None
) -> SplitCheck:
    where = f"{dataset.root} ({dataset.split})"
    truths = [dataset[i] for i in range(len(dataset))]
    paths = [truth.path for truth in truths]
    problems: list[str] = []
    doubts: list[str] = [f"{where}: the task {task} is left out, {why}" for task, why in dataset.untaught.items()]
    for what, note in dataset.notes.items():
        if _TASK_OF.get(what) in dataset.untaught:  # said already
            continue
        doubts.append(f"{where}: {_NOTES.get(what, what)} ({_first(note.count, note.example)})")
    figures: dict[str, dict[str, Any]] = {"images": {"count": len(truths)}}
    listed = Counter(paths)
    twice = [path for path, count in listed.items() if count > 1]
    if twice:
        doubts.append(f"{where}: images are listed under several ids ({_first(len(twice), twice[0])})")
    digests: dict[str, str] = {}
    if read_files:
        memory = FileMemory(dataset.root, "images")
        facts = memory.of(paths, _image_facts, f"reading images of {dataset.split}", progress)
        unread = [path for path in listed if "error" in facts[path]]
        problems += [str(facts[path]["error"]) for path in unread]
        turned, foreign = [], []
        for truth in truths:
            fact = facts[truth.path]
            if "error" in fact or list(truth.size) == fact["size"]:
                continue
            (turned if list(truth.size) == fact["stored"] else foreign).append((truth, fact["size"]))
        problems += [
            f"{truth.path}: is {size[0]} x {size[1]} (height x width), but the annotations say {truth.size[0]} x "
            f"{truth.size[1]}"
            for truth, size in foreign
        ]
        if turned:
            example = _first(len(turned), turned[0][0].path)
            doubts.append(f"{where}: images are labelled as they are stored, not as EXIF turns them ({example})")
        digests = {str(path): fact["digest"] for path, fact in facts.items() if "digest" in fact}
        sizes = Counter("x".join(map(str, reversed(fact["size"]))) for fact in facts.values() if "size" in fact)
        figures["images"] |= {
            "read": len(listed) - len(unread),
            "unreadable": len(unread),
            "of_another_size": len(foreign),
            "sizes": dict(sizes.most_common(_SHOWN)),
        }
    by_class, sides = _check_objects(dataset, truths, input_size, figures, doubts, where)
    with_map = [truth for truth in truths if truth.semantic is not None]
    if with_map:
        figures["semantic"] = {"maps": len(with_map), "classes": len(dataset.semantic_names)}
        if read_files:
            figures["semantic"] |= _check_maps(dataset, with_map, problems, doubts, where, progress)
    captions = [text for truth in truths for text in truth.captions or ()]
    note = dataset.notes.get("captions without a word")
    if captions or note:
        words = {word for text in captions for word in normalise(text)}
        figures["caption"] = {
            "captions": len(captions),
            "images": sum(bool(truth.captions) for truth in truths),
            "without_words": note.count if note else 0,
            "words": len(words),
        }
    return SplitCheck(
        str(dataset.root),
        dataset.split,
        dataset.layout,
        figures,
        tuple(problems),
        tuple(doubts),
        by_class,
        sides,
        digests,
    )


_TASK_OF = {"captions without a word": "caption", "outline without a pixel": "masks", "outside": "boxes"}
_NOTES = {
    "outside": "boxes lie outside their images and are left out",
    "outline without a pixel": "outlines have no pixel and are left out, their boxes stay",
    "captions without a word": "captions have no word and are left out",
    "without a label file": "images have no label file and count as images without objects",
    "found under another name": "images were found under another name than the annotations list",
    "the same line twice": "label lines are there twice and are read once",
    "category above all others left out": "a category stands above all others, has no object and is left out",
    "categories of one name": "several categories have one name",
}


def _first(count: int, example: object) -> str:
    return f"first of {count}: {example}" if count > 1 else str(example)


def _check_objects(
    dataset: CocoDataset,
    truths: Sequence[Any],
    input_size: tuple[int, int] | None,
    figures: dict[str, dict[str, Any]],
    doubts: list[str],
    where: str,
) -> tuple[dict[str, int], np.ndarray]:
    """The figures of boxes and masks; objects by class, and the sides of their boxes."""
    known = [truth for truth in truths if truth.boxes is not None]
    by_class = np.zeros(len(dataset.class_names), np.int64)
    sides: list[np.ndarray] = []
    small: list[str] = []
    twice: list[str] = []
    without: list[str] = []
    objects = crowds = small_count = twice_count = without_count = filled = 0
    for truth in known:
        plain = ~truth.crowd
        objects += int(plain.sum())
        crowds += int(truth.crowd.sum())
        filled += bool(plain.any())
        by_class += np.bincount(truth.class_ids[plain], minlength=len(by_class))
        spans = truth.boxes[plain, 2:] - truth.boxes[plain, :2]
        sides.append(np.sqrt(spans.prod(1)))
        scale = 1.0 if input_size is None else min(input_size[0] / truth.size[0], input_size[1] / truth.size[1])
        if count := int((spans.min(1, initial=np.inf) * scale < LEAST_SIDE).sum()):
            small_count += count
            small.append(str(truth.path))
        rows = np.column_stack((truth.boxes, truth.class_ids))
        if count := len(rows) - len(np.unique(rows, axis=0)):
            twice_count += count
            twice.append(str(truth.path))
        if truth.has_masks and (count := int((plain & ~truth.mask_known).sum())):
            without_count += count
            without.append(str(truth.path))
    note = dataset.notes.get("outside")
    if known and (objects or crowds or note):
        figures["boxes"] = {
            "objects": objects,
            "images": filled,
            "without_objects": len(known) - filled,
            "not_labelled": len(truths) - len(known),
            "classes": len(by_class),
            "classes_without_object": [dataset.class_names[i] for i in np.flatnonzero(by_class == 0)],
            "crowds": crowds,
            "outside": note.count if note else 0,
            "too_small": small_count,
            "twice": twice_count,
        }
        if small:
            unit = "of the image" if input_size is None else f"at input {input_size[0]}x{input_size[1]}"
            doubts.append(f"{where}: boxes have a side below 2 pixels {unit} ({_first(small_count, small[0])})")
        if twice:
            doubts.append(f"{where}: the same box of the same class is there twice ({_first(twice_count, twice[0])})")
        empty = figures["boxes"]["classes_without_object"]
        if empty and not dataset.split.startswith(("val", "test")):
            doubts.append(f"{where}: {len(empty)} of {len(by_class)} classes have no object: {_names(empty)}")
        if crowds > objects:
            doubts.append(f"{where}: {crowds} of {objects + crowds} objects are crowds, which teach nothing")
    if "masks" in dataset.tasks:
        figures["masks"] = {"objects": objects - without_count, "without_outline": without_count}
        if without:
            doubts.append(f"{where}: boxes have no outline and teach no mask ({_first(without_count, without[0])})")
    elif "masks" not in dataset.untaught and objects:
        figures["masks"] = {"objects": 0, "without_outline": objects}
    return dict(zip(dataset.class_names, by_class.tolist(), strict=True)), np.concatenate([np.zeros(0), *sides])


def _check_maps(
    dataset: CocoDataset,
    truths: Sequence[Any],
    problems: list[str],
    doubts: list[str],
    where: str,
    progress: Count | None,
) -> dict[str, Any]:
    """What the PNGs of semantic maps hold; pixels are counted by class."""
    memory = FileMemory(dataset.root, "maps")
    readers: dict[Path, Callable[[Path], Any]] = {
        truth.semantic.path: _panoptic_facts if isinstance(truth.semantic, PanopticMap) else _label_facts
        for truth in truths
    }
    facts = memory.of(readers, lambda path: readers[path](path), f"reading maps of {dataset.split}", progress)
    pixels = np.zeros(256, np.int64)
    nothing = []
    for truth in truths:
        semantic, fact = truth.semantic, facts[truth.semantic.path]
        if "error" in fact:
            problems.append(str(fact["error"]))
            continue
        if fact["size"] != list(truth.size):
            problems.append(
                f"{semantic.path}: is {fact['size'][0]} x {fact['size'][1]} (height x width), but the JSON says "
                f"{truth.size[0]} x {truth.size[1]}"
            )
            continue
        counts = np.zeros(256, np.int64)
        for value, count in fact["counts"]:
            if isinstance(semantic, StuffThingMap):
                class_id = int(semantic.table[value])
            elif value and value not in semantic.classes:
                problems.append(f"{semantic.path}: holds segment {value}, which segments_info does not list")
                break
            else:
                class_id = semantic.classes[value] if value else IGNORED
            counts[class_id] += count
        if not counts[:IGNORED].any():
            nothing.append(str(semantic.path))
        pixels += counts
    if not pixels[:IGNORED].any():
        problems.append(f"{where}: semantic: none of {len(truths)} maps has a pixel with a class")
    elif nothing:
        doubts.append(f"{where}: maps have no pixel with a class ({_first(len(nothing), nothing[0])})")
    without = [name for i, name in enumerate(dataset.semantic_names) if not pixels[i]]
    return {
        "ignored": round(float(pixels[IGNORED] / max(1, pixels.sum())), 4),
        "classes_without_pixel": without,
    }


def _image_facts(path: Path) -> dict[str, Any]:
    """Size, size as stored, and digest of an image file; or the error that reading it raises."""
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    try:
        image = decode_image(data, str(path)) if data else read_image(path)
        header = header_of(data)
        stored = header[:2] if header else decode_image(data, str(path), apply_orientation=False).shape[:2]
    except YolorEdgeError as error:
        return {"error": str(error)}
    digest = hashlib.blake2b(data, digest_size=12).hexdigest()
    return {"size": list(image.shape[:2]), "stored": list(stored), "digest": digest}


def _panoptic_facts(path: Path) -> dict[str, Any]:
    """Size and pixels by segment of a panoptic PNG."""
    try:
        bgr = read_image(path, apply_orientation=False).astype(np.int64)
    except YolorEdgeError as error:
        return {"error": str(error)}
    return {"size": list(bgr.shape[:2]), "counts": _counts(bgr[..., 2] + (bgr[..., 1] << 8) + (bgr[..., 0] << 16))}


def _label_facts(path: Path) -> dict[str, Any]:
    """Size and pixels by label of a grey PNG."""
    import cv2

    from ...runtime.environment.opencv import name_for_opencv

    try:
        read_image(path)  # says in words what is wrong with a damaged file
    except YolorEdgeError as error:
        return {"error": str(error)}
    with name_for_opencv(path) as name:
        labels = cv2.imread(name, cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        return {"error": f"{path}: expected a grey 8-bit PNG of category ids, as COCO-Stuff publishes them"}
    return {"size": list(labels.shape), "counts": _counts(np.asarray(labels, np.int64))}


def _counts(values: np.ndarray) -> list[list[int]]:
    """[value, pixels] of each value of an array, by runs, which are far fewer than pixels."""
    flat = values.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(starts, flat.size))
    found, where = np.unique(flat[starts], return_inverse=True)
    return np.column_stack((found, np.bincount(where, lengths).astype(np.int64))).tolist()


def _copies(splits: Sequence[SplitCheck]) -> list[str]:
    """Images whose content is there more than once, inside a split and in two of them."""
    doubts = []
    seen: dict[str, tuple[SplitCheck, str]] = {}
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for split in splits:
        for path, digest in split.digests.items():
            first, other = seen.setdefault(digest, (split, path))
            if path != other:
                found.setdefault((first.split, split.split), []).append((other, path))
    for (one, other), pairs in found.items():
        example = _first(len(pairs), f"{pairs[0][0]} and {pairs[0][1]}")
        if one == other:
            doubts.append(f"{one}: the same image is there under two names ({example})")
        else:
            doubts.append(f"{one} and {other} share images, so scores on one tell of the other ({example})")
    return doubts


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sentence(kind: str, figures: Mapping[str, Any]) -> str:
    """The line of one kind of truth."""
    if kind == "images":
        if "read" not in figures:
            return f"{figures['count']} listed, not read"
        sizes = ", ".join(f"{size} ({count})" for size, count in figures["sizes"].items())
        return (
            f"{figures['count']} listed, {figures['read']} read, {figures['unreadable']} unreadable, "
            f"{figures['of_another_size']} of another size than listed; {sizes}"
        )
    if kind == "boxes":
        unknown = f", {figures['not_labelled']} images not labelled" if figures["not_labelled"] else ""
        return (
            f"{figures['objects']} objects in {figures['images']} images, {figures['without_objects']} images without"
            f"{unknown}; {figures['classes']} classes, {len(figures['classes_without_object'])} without an object; "
            f"{figures['crowds']} crowds, {figures['outside']} outside, {figures['too_small']} too small"
        )
    if kind == "masks":
        return f"{figures['objects']} objects with an outline, {figures['without_outline']} without"
    if kind == "semantic":
        line = f"{figures['maps']} maps, {figures['classes']} classes"
        if "ignored" not in figures:
            return line
        empty = len(figures["classes_without_pixel"])
        return f"{line}, {empty} without a pixel; {figures['ignored']:.1%} of pixels ignored"
    return (
        f"{figures['captions']} captions of {figures['images']} images, {figures['without_words']} without a word; "
        f"{figures['words']} words"
    )
