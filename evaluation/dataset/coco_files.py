"""Reading and checking COCO's annotation files: what is wrong with a split is found before the first image.

A file is parsed once; what stays in memory is flat arrays of boxes, polygons as arrays, and captions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import DatasetError
from .coco_names import STUFF_NAMES, THING_NAMES
from .segmentations import BadSegmentation, Segmentation, compact_segmentation
from .truth import IGNORED, PanopticMap, StuffThingMap

_KINDS = ("instances", "captions", "panoptic")
_COCO_STUFF_OTHER = 183  # In stuff_*.json "other" stands for every thing; a stuffthingmaps PNG never holds it.


@dataclass(frozen=True)
class ListedImage:
    image_id: int
    file_name: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Objects:
    """All boxes of the split, sorted by image: those of image i are rows offsets[i] to offsets[i + 1]."""

    offsets: np.ndarray  # (images + 1,) int64
    listed: np.ndarray  # (images,) bool, whether the instances file knows the image
    boxes: np.ndarray
    annotated_boxes: np.ndarray
    class_ids: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segmentations: list[Segmentation | None]
    attributes: list[dict[str, Any] | None]
    dropped: int
    have_masks: bool

    def of(self, index: int) -> dict[str, Any]:
        """The box fields of image `index`'s `Truth`."""
        if not self.listed[index]:
            return {}
        rows = slice(self.offsets[index], self.offsets[index + 1])
        segmentations = tuple(one for one in self.segmentations[rows] if one is not None)
        attributes = tuple(self.attributes[rows])
        boxes = self.boxes[rows].copy()
        return {
            "boxes": boxes,
            "annotated_boxes": self.annotated_boxes[rows].copy(),
            "class_ids": self.class_ids[rows].copy(),
            "crowd": self.crowd[rows].copy(),
            "areas": self.areas[rows].copy(),
            "segmentations": segmentations if self.have_masks and len(segmentations) == len(boxes) else None,
            "attributes": attributes if any(one is not None for one in attributes) else None,
        }


@dataclass(frozen=True)
class Parts:
    """Everything that opening a split brings together."""

    images: list[ListedImage]
    image_folder: Path
    classes: dict[int, str]
    semantic_classes: dict[int, str]
    objects: Objects
    captions: dict[int, tuple[str, ...]]
    semantic: Mapping[int, PanopticMap | StuffThingMap]
    info: dict[str, Any]


class _Complaints:
    """What is wrong, gathered by kind: how often, and the first case of it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, problem: str, example: object = "") -> None:
        """Note `problem` (the same words for every case) in `path`; `example` says where it first was."""
        count, first = self._found.get((str(path), problem), (0, str(example)))
        self._found[str(path), problem] = (count + 1, first)

    def raise_if_any(self) -> None:
        if not self._found:
            return
        texts: dict[str, list[str]] = {}
        for (path, problem), (count, example) in self._found.items():
            case = f"first of {count}: {example}" if count > 1 else example
            texts.setdefault(path, []).append(f"{problem} ({case})" if case else problem)
        raise DatasetError("; ".join(f"{path}: {', '.join(problems)}" for path, problems in texts.items()))


def open_split(root: Path, split: str | None, role: str) -> tuple[str, Parts]:
    """The name of the split to use and everything in its files, checked; see `CocoDataset.open`."""
    split = _choose_split(root, split, role)
    annotations = root / "annotations"
    complaints = _Complaints()
    documents: dict[str, tuple[Path, dict[str, Any]]] = {}
    for kind in _KINDS:
        path = annotations / f"{kind}_{split}.json"
        if path.exists():
            documents[kind] = (path, _parse(path, kind, complaints))
    complaints.raise_if_any()

    images = _images_of(documents, complaints)
    positions = {image.image_id: position for position, image in enumerate(images)}
    folder = _image_folder(root, split, images, complaints)
    objects, classes = _objects_of(documents.get("instances"), images, positions, complaints)
    captions = _captions_of(documents.get("captions"), positions, complaints)
    if "panoptic" in documents:
        semantic, semantic_classes = _panoptic_of(root, split, documents["panoptic"], positions, complaints)
    else:
        semantic, semantic_classes = _stuffthing_of(root, split, images, classes, complaints)
    info = next((d["info"] for _, d in documents.values() if isinstance(d.get("info"), dict)), {})
    complaints.raise_if_any()
    return split, Parts(images, folder, classes, semantic_classes, objects, captions, semantic, info)


def splits_of(root: Path) -> list[str]:
    """The names of the splits that have an annotation file, sorted; empty if `root` is no data set."""
    files = ((kind, path) for kind in _KINDS for path in (root / "annotations").glob(f"{kind}_*.json"))
    return sorted({path.stem.removeprefix(f"{kind}_") for kind, path in files})


def _choose_split(root: Path, split: str | None, role: str) -> str:
    expected = "expected a folder with annotations/instances_<split>.json (or captions_, panoptic_) in COCO's layout"
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise DatasetError(f"{root}: {what}; {expected}")
    found = splits_of(root)
    if not found:
        raise DatasetError(f"{root}: is not a data set, {expected}")
    listing = ", ".join(found)
    if split is not None:
        if split not in found:
            raise DatasetError(f'{root}: has no split "{split}"; found {listing}')
        return split
    for name in found:
        if name.startswith(role):
            return name
    if len(found) == 1:
        return found[0]
    raise DatasetError(f'{root}: no split whose name starts with "{role}"; found {listing}; name the one to use')


_ENTRY_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "instances": {"image_id": int, "category_id": int, "bbox": list},
    "captions": {"image_id": int, "caption": str},
    "panoptic": {"image_id": int, "file_name": str, "segments_info": list},
}
_TYPE_NAMES = {int: "an integer", str: "text", list: "a list"}


def _parse(path: Path, kind: str, complaints: _Complaints) -> dict[str, Any]:
    """The JSON document of one annotation kind with its outer shape checked; {} after a complaint.

    Entries that lack a key are complained about and left out, so what follows may rely on the keys.
    """
    document = _load_json(path, complaints)
    if document is None:
        return {}
    wanted = ["images", "annotations"] + ([] if kind == "captions" else ["categories"])
    if not isinstance(document, dict):
        complaints.add(path, f"expected a JSON object with {', '.join(wanted)}, got {type(document).__name__}")
        return {}
    absent = [key for key in wanted if not isinstance(document.get(key), list)]
    if absent:
        complaints.add(path, f"is not a COCO {kind} file: no list {' and no list '.join(map(repr, absent))}")
        return {}
    if not document["images"]:
        complaints.add(path, 'lists no images; "images" must name at least one')
    keys = {
        "images": {"id": int, "file_name": str, "height": int, "width": int},
        "annotations": _ENTRY_KEYS[kind],
    }
    if kind != "captions":
        keys["categories"] = {"id": int, "name": str}
    for name, types in keys.items():
        document[name] = _checked(path, name, document[name], types, complaints)
    return document


def _checked(
    path: Path,
    name: str,
    entries: list[Any],
    types: Mapping[str, type | tuple[type, ...]],
    complaints: _Complaints,
) -> list[dict[str, Any]]:
    """The entries of the list `name` whose keys exist with the right type; complaints for the others."""
    good = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            complaints.add(path, f"{name} must be JSON objects", f"{name}[{position}]")
            continue
        for key, kind in types.items():
            value = entry.get(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                words = _TYPE_NAMES.get(kind, "a value") if isinstance(kind, type) else "a value"
                complaints.add(path, f'{name} need "{key}", {words}', f"{name}[{position}]")
                break
        else:
            good.append(entry)
    return good


def _load_json(path: Path, complaints: _Complaints) -> Any:
    try:
        return json.loads(path.read_bytes(), object_hook=_with_compact_segmentation)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        complaints.add(path, f"is not JSON ({error}); fetch or export the file again")
    except OSError as error:
        complaints.add(path, f"cannot be read ({error.strerror})")
    return None


def _with_compact_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn polygons into arrays while the file is being parsed: as lists, full COCO would need gigabytes."""
    if "segmentation" in entry and "bbox" in entry:
        entry["segmentation"] = compact_segmentation(entry["segmentation"])
    return entry


def _images_of(documents: Mapping[str, tuple[Path, dict[str, Any]]], complaints: _Complaints) -> list[ListedImage]:
    """The images of all files together, by rising id; the files must agree about each."""
    images: dict[int, ListedImage] = {}
    for path, document in documents.values():
        seen = set()
        for entry in document["images"]:
            image = ListedImage(entry["id"], entry["file_name"], (entry["height"], entry["width"]))
            if min(image.size) < 1:
                complaints.add(path, "images must be at least 1 x 1", image.file_name)
            if image.image_id in seen:
                complaints.add(path, "lists an image id twice", f"id {image.image_id}")
            seen.add(image.image_id)
            if images.setdefault(image.image_id, image) != image:
                complaints.add(
                    path,
                    "gives an image another name or size than the other files of this split",
                    f"id {image.image_id}, {image.file_name}",
                )
    return [images[image_id] for image_id in sorted(images)]


def _image_folder(root: Path, split: str, images: Sequence[ListedImage], complaints: _Complaints) -> Path:
    """The folder that `file_name` is relative to; complains about images that are not in it."""
    candidates = (root / split, root / "images" / split)
    folder = next((one for one in candidates if one.is_dir()), None)
    if folder is None:
        complaints.add(candidates[0], f"no such folder (nor {candidates[1]}), expected the images of the split")
        return candidates[0]
    names = _names_in(folder)
    for image in images:
        if image.file_name not in names and not ("/" in image.file_name and (folder / image.file_name).is_file()):
            complaints.add(folder, "images are missing that the annotations list", image.file_name)
    return folder


def _names_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def _categories_of(path: Path, document: Mapping[str, Any], complaints: _Complaints) -> dict[int, dict[str, Any]]:
    categories = {entry["id"]: entry for entry in sorted(document["categories"], key=lambda entry: entry["id"])}
    if len(categories) != len(document["categories"]):
        complaints.add(path, "lists a category id twice")
    return categories


def _objects_of(
    source: tuple[Path, dict[str, Any]] | None,
    images: Sequence[ListedImage],
    positions: Mapping[int, int],
    complaints: _Complaints,
) -> tuple[Objects, dict[int, str]]:
    """All boxes of the instances file, and the thing names by category id."""
    path, document = source if source else (Path(), {"images": [], "annotations": [], "categories": []})
    classes = {key: entry["name"] for key, entry in _categories_of(path, document, complaints).items()}
    contiguous = {category_id: class_id for class_id, category_id in enumerate(classes)}
    listed = np.zeros(len(images), bool)
    for entry in document["images"]:
        listed[positions[entry["id"]]] = True

    rows: list[tuple[int, tuple[float, ...], int, bool, float, list[float]]] = []
    segmentations: list[Segmentation | None] = []
    attributes: list[dict[str, Any] | None] = []
    dropped = 0
    for number, entry in enumerate(document["annotations"]):
        name = f"annotation id {entry['id']}" if "id" in entry else f"annotations[{number}]"
        position = positions.get(entry["image_id"])
        class_id = contiguous.get(entry["category_id"])
        if position is None or not listed[position]:
            complaints.add(
                path,
                'annotations point to an image that "images" does not list',
                f"{name}, image {entry['image_id']}",
            )
        if class_id is None:
            complaints.add(
                path,
                'annotations point to a category that "categories" does not list',
                f"{name}, category {entry['category_id']}",
            )
        box = entry["bbox"]
        if len(box) != 4 or not all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in box):
            complaints.add(path, '"bbox" must be [x, y, width, height] in pixels', name)
            continue
        area = entry.get("area", box[2] * box[3])
        if not isinstance(area, (int, float)) or not abs(area) < 1e18:
            complaints.add(path, '"area" must be a number of pixels', name)
            continue
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, BadSegmentation):
            complaints.add(path, f'"segmentation" must be {segmentation.reason}', name)
            continue
        if position is None or class_id is None:
            continue
        height, width = images[position].size
        if isinstance(segmentation, dict) and segmentation["size"] != [height, width]:
            complaints.add(path, "run lengths must have the size of their image", name)
            continue
        x1, y1 = max(box[0], 0), max(box[1], 0)
        x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
        if x2 <= x1 or y2 <= y1:
            dropped += 1
            continue
        rows.append((position, (x1, y1, x2, y2), class_id, bool(entry.get("iscrowd", 0)), area, box))
        segmentations.append(segmentation)
        extra = entry.get("attributes")
        attributes.append(extra if isinstance(extra, dict) and extra else None)

    owners = np.array([row[0] for row in rows], np.int64)
    order = np.argsort(owners, kind="stable")
    offsets = np.zeros(len(images) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(images)), out=offsets[1:])
    objects = Objects(
        offsets=offsets,
        listed=listed,
        boxes=np.array([row[1] for row in rows], np.float32).reshape(-1, 4)[order],
        annotated_boxes=np.array([row[5] for row in rows], np.float64).reshape(-1, 4)[order],
        class_ids=np.array([row[2] for row in rows], np.int64)[order],
        crowd=np.array([row[3] for row in rows], bool)[order],
        areas=np.array([row[4] for row in rows], np.float64)[order],
        segmentations=[segmentations[i] for i in order],
        attributes=[attributes[i] for i in order],
        dropped=dropped,
        have_masks=any(one is not None for one in segmentations),
    )
    return objects, classes


def _captions_of(
    source: tuple[Path, dict[str, Any]] | None, positions: Mapping[int, int], complaints: _Complaints
) -> dict[int, tuple[str, ...]]:
    if source is None:
        return {}
    path, document = source
    captions: dict[int, list[str]] = {}
    for number, entry in enumerate(document["annotations"]):
        position = positions.get(entry["image_id"])
        if position is None:
            complaints.add(
                path,
                'annotations point to an image that "images" does not list',
                f"annotations[{number}], image {entry['image_id']}",
            )
        elif text := entry["caption"].strip():
            captions.setdefault(position, []).append(text)
    return {position: tuple(texts) for position, texts in captions.items()}


def _panoptic_of(
    root: Path,
    split: str,
    source: tuple[Path, dict[str, Any]],
    positions: Mapping[int, int],
    complaints: _Complaints,
) -> tuple[dict[int, PanopticMap], dict[int, str]]:
    """The panoptic PNG of each image, and the names of things then stuff by category id."""
    path, document = source
    candidates = (root / "annotations" / f"panoptic_{split}", root / f"panoptic_{split}")
    folder = next((one for one in candidates if one.is_dir()), None)
    if folder is None:
        complaints.add(candidates[0], f"no such folder (nor {candidates[1]}), expected the PNGs of {path.name}")
        return {}, {}
    categories = _categories_of(path, document, complaints)
    ordered = sorted(categories.values(), key=lambda entry: (not entry.get("isthing", 0), entry["id"]))
    names = {entry["id"]: entry["name"] for entry in ordered}
    _check_class_count(path, names, complaints)
    contiguous = {category_id: class_id for class_id, category_id in enumerate(names)}
    files = _names_in(folder)
    maps: dict[int, PanopticMap] = {}
    for number, entry in enumerate(document["annotations"]):
        name = f"annotations[{number}], image {entry['image_id']}"
        position = positions.get(entry["image_id"])
        if position is None:
            complaints.add(path, 'annotations point to an image that "images" does not list', name)
            continue
        if entry["file_name"] not in files:
            complaints.add(folder, f"PNGs are missing that {path.name} lists", entry["file_name"])
        classes, crowds = {}, set()
        for segment in entry["segments_info"]:
            if not isinstance(segment, dict) or not all(
                isinstance(segment.get(key), int) for key in ("id", "category_id")
            ):
                complaints.add(path, 'segments_info need "id" and "category_id", integers', name)
            elif segment["category_id"] not in contiguous:
                complaints.add(
                    path,
                    'segments_info point to a category that "categories" does not list',
                    f"{name}, category {segment['category_id']}",
                )
            else:
                classes[segment["id"]] = contiguous[segment["category_id"]]
                if segment.get("iscrowd"):
                    crowds.add(segment["id"])
        maps[position] = PanopticMap(folder / entry["file_name"], classes, frozenset(crowds))
    return maps, names


def _stuffthing_of(
    root: Path, split: str, images: Sequence[ListedImage], things: Mapping[int, str], complaints: _Complaints
) -> tuple[dict[int, StuffThingMap], dict[int, str]]:
    """COCO-Stuff's PNG of each image that has one, and the names of things then stuff by category id.

    The stuff names are COCO-Stuff's, unless annotations/stuff_<split>.json brings its own categories.
    """
    folder = root / "stuffthingmaps" / split
    if not folder.is_dir():
        return {}, {}
    stuff = STUFF_NAMES
    path = root / "annotations" / f"stuff_{split}.json"
    if path.exists():
        document = _load_json(path, complaints)
        if not isinstance(document, dict) or not isinstance(document.get("categories"), list):
            complaints.add(path, 'is not a COCO-Stuff file: no list "categories"')
            return {}, {}
        entries = _checked(path, "categories", document["categories"], {"id": int, "name": str}, complaints)
        stuff = {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}
        if stuff.get(_COCO_STUFF_OTHER) == "other":
            del stuff[_COCO_STUFF_OTHER]
    things = things or THING_NAMES
    names = {
        **things,
        **{category_id: name for category_id, name in stuff.items() if category_id not in things},
    }
    for category_id in names:
        if not 1 <= category_id <= IGNORED:
            complaints.add(folder, "pixels hold category ids 1 to 255 only", f"category {category_id}")
            return {}, {}
    _check_class_count(folder, names, complaints)
    table = np.full(256, IGNORED, np.uint8)
    for class_id, category_id in enumerate(names):
        if class_id < IGNORED:
            table[category_id - 1] = class_id
    table[IGNORED] = IGNORED
    files = _names_in(folder)
    maps = {}
    for position, image in enumerate(images):
        name = Path(image.file_name).with_suffix(".png").name
        if name in files:
            maps[position] = StuffThingMap(folder / name, table)
    return maps, names if maps else {}


def _check_class_count(path: Path, names: Mapping[int, str], complaints: _Complaints) -> None:
    if len(names) > IGNORED:
        complaints.add(path, f"a semantic map can hold 255 classes, the categories are {len(names)}")
