"""Reading and checking COCO's annotation files: what is wrong with a split is found before the first image.

A file is parsed once; what stays in memory is flat arrays of boxes, polygons as arrays, and captions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.bundle.tokenizer import normalise
from .coco_names import STUFF_NAMES, THING_NAMES
from .complaints import Complaints, Note, Notes
from .image_folders import find_images, names_in, posix_name
from .segmentations import BadSegmentation, Segmentation, coco_mask, compact_segmentation
from .truth import IGNORED, PanopticMap, StuffThingMap

KINDS = ("instances", "captions", "panoptic")
_COCO_STUFF_OTHER = 183  # In stuff_*.json "other" stands for every thing; a stuffthingmaps PNG never holds it.


@dataclass(frozen=True)
class ListedImage:
    image_id: int
    file_name: str
    size: tuple[int, int]


Row = tuple[int, tuple[float, ...], int, bool, float, Sequence[float]]
"""An object: its image, its box as clipped xyxy, its class, whether it is a crowd, its area, its box as annotated."""


@dataclass(frozen=True)
class Objects:
    """All boxes of the split, sorted by image: those of image i are rows offsets[i] to offsets[i + 1]."""

    offsets: np.ndarray  # (images + 1,) int64
    listed: np.ndarray  # (images,) bool, whether the instances file knows the image
    boxes: np.ndarray
    annotated_boxes: np.ndarray | None
    class_ids: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segmentations: list[Segmentation | None]
    attributes: list[dict[str, Any] | None]
    have_masks: bool

    @classmethod
    def of_rows(
        cls,
        listed: np.ndarray,
        rows: Sequence[Row],
        segmentations: Sequence[Segmentation | None],
        attributes: Sequence[dict[str, Any] | None],
    ) -> Objects:
        """Objects in any order, sorted by image."""
        owners = np.array([row[0] for row in rows], np.int64)
        order = np.argsort(owners, kind="stable")
        offsets = np.zeros(len(listed) + 1, np.int64)
        np.cumsum(np.bincount(owners, minlength=len(listed)), out=offsets[1:])
        return cls(
            offsets=offsets,
            listed=listed,
            boxes=np.array([row[1] for row in rows], np.float32).reshape(-1, 4)[order],
            class_ids=np.array([row[2] for row in rows], np.int64)[order],
            crowd=np.array([row[3] for row in rows], bool)[order],
            areas=np.array([row[4] for row in rows], np.float64)[order],
            annotated_boxes=np.array([row[5] for row in rows], np.float64).reshape(-1, 4)[order],
            segmentations=[segmentations[i] for i in order],
            attributes=[attributes[i] for i in order],
            have_masks=any(one is not None for one in segmentations),
        )

    def of(self, index: int) -> dict[str, Any]:
        """The box fields of image `index`'s `Truth`."""
        if not self.listed[index]:
            return {}
        rows = slice(self.offsets[index], self.offsets[index + 1])
        attributes = tuple(self.attributes[rows])
        boxes = self.boxes[rows].copy()
        return {
            "boxes": boxes,
            "annotated_boxes": None if self.annotated_boxes is None else self.annotated_boxes[rows].copy(),
            "class_ids": self.class_ids[rows].copy(),
            "crowd": self.crowd[rows].copy(),
            "areas": self.areas[rows].copy(),
            "segmentations": tuple(self.segmentations[rows]) if self.have_masks else None,
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
    notes: Mapping[str, Note]


@dataclass(frozen=True)
class CocoSplit:
    """Where the parts of one split in COCO's format lie.

    Attributes:
        documents: Annotation file by kind, of `KINDS`.
        image_folders: That may hold the images, the likeliest first.
        exact_folders: Further ones, which only whole file names are looked for in.
        panoptic_folders: That may hold the PNGs of the panoptic file.
        stuffthing_folder: With COCO-Stuff's label PNGs.
        stuff_file: With the names of their classes.
    """

    documents: Mapping[str, Path]
    image_folders: tuple[Path, ...]
    exact_folders: tuple[Path, ...] = ()
    panoptic_folders: tuple[Path, ...] = ()
    stuffthing_folder: Path | None = None
    stuff_file: Path | None = None


def read_coco(split: CocoSplit) -> Parts:
    """Everything in the files of a split, checked.

    Raises:
        DatasetError: With everything found wrong.
    """
    complaints, notes = Complaints(), Notes()
    documents = {kind: (path, _parse(path, kind, complaints)) for kind, path in split.documents.items()}
    complaints.raise_if_any()

    images = _images_of(documents, complaints)
    positions = {image.image_id: position for position, image in enumerate(images)}
    names = [image.file_name for image in images]
    folder, found = find_images(split.image_folders, split.exact_folders, names, complaints, notes)
    placed = [replace(image, file_name=name) for image, name in zip(images, found, strict=True)]
    objects, classes = _objects_of(documents.get("instances"), images, positions, complaints, notes)
    captions = _captions_of(documents.get("captions"), images, positions, complaints, notes)
    if "panoptic" in documents:
        semantic, semantic_classes = _panoptic_of(split, documents["panoptic"], positions, complaints)
    else:
        semantic, semantic_classes = _stuffthing_of(split, images, placed, classes, complaints)
    info = next((d["info"] for _, d in documents.values() if isinstance(d.get("info"), dict)), {})
    complaints.raise_if_any()
    return Parts(placed, folder, classes, semantic_classes, objects, captions, semantic, info, notes.found)


_ENTRY_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "instances": {"image_id": int, "category_id": int, "bbox": list},
    "captions": {"image_id": int, "caption": str},
    "panoptic": {"image_id": int, "file_name": str, "segments_info": list},
}
_TYPE_NAMES = {int: "an integer", str: "text", list: "a list"}


def _parse(path: Path, kind: str, complaints: Complaints) -> dict[str, Any]:
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
    complaints: Complaints,
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


def _load_json(path: Path, complaints: Complaints) -> Any:
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


def _images_of(documents: Mapping[str, tuple[Path, dict[str, Any]]], complaints: Complaints) -> list[ListedImage]:
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


def _categories_of(path: Path, document: Mapping[str, Any], complaints: Complaints) -> dict[int, dict[str, Any]]:
    categories = {entry["id"]: entry for entry in sorted(document["categories"], key=lambda entry: entry["id"])}
    if len(categories) != len(document["categories"]):
        complaints.add(path, "lists a category id twice")
    return categories


def _objects_of(
    source: tuple[Path, dict[str, Any]] | None,
    images: Sequence[ListedImage],
    positions: Mapping[int, int],
    complaints: Complaints,
    notes: Notes,
) -> tuple[Objects, dict[int, str]]:
    """All boxes of the instances file, and the thing names by category id."""
    path, document = source if source else (Path(), {"images": [], "annotations": [], "categories": []})
    categories = _categories_of(path, document, complaints)
    _drop_group(categories, document["annotations"], notes)
    classes = {key: entry["name"] for key, entry in categories.items()}
    for name in {name for name in classes.values() if list(classes.values()).count(name) > 1}:
        notes.add("categories of one name", repr(name))
    contiguous = {category_id: class_id for class_id, category_id in enumerate(classes)}
    listed = np.zeros(len(images), bool)
    for entry in document["images"]:
        listed[positions[entry["id"]]] = True

    rows: list[Row] = []
    segmentations: list[Segmentation | None] = []
    attributes: list[dict[str, Any] | None] = []
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
        if len(box) != 4 or not all(_is_number(v) and abs(v) < 1e9 for v in box):
            complaints.add(path, '"bbox" must be [x, y, width, height] in pixels', name)
            continue
        area = entry.get("area", box[2] * box[3])
        if not _is_number(area) or not abs(area) < 1e18:
            complaints.add(path, '"area" must be a number of pixels', name)
            continue
        if entry.get("iscrowd", 0) not in (0, 1):
            complaints.add(path, '"iscrowd" must be 0 or 1', f"{name}, {entry['iscrowd']!r}")
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
            notes.add("outside", f"{images[position].file_name}, {name}, box {box}")
            continue
        if segmentation is not None and _is_empty(segmentation):
            notes.add("outline without a pixel", f"{images[position].file_name}, {name}")
            segmentation = None
        rows.append((position, (x1, y1, x2, y2), class_id, bool(entry.get("iscrowd", 0)), area, box))
        segmentations.append(segmentation)
        extra = entry.get("attributes")
        attributes.append(extra if isinstance(extra, dict) and extra else None)

    return Objects.of_rows(listed, rows, segmentations, attributes), classes


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_empty(segmentation: Segmentation) -> bool:
    """Whether an outline has no area."""
    if isinstance(segmentation, dict):
        return not coco_mask.area(segmentation)
    return not any(_double_area(polygon) for polygon in segmentation)


def _double_area(polygon: np.ndarray) -> float:
    x, y = polygon[::2] - polygon[0], polygon[1::2] - polygon[1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def _drop_group(categories: dict[int, dict[str, Any]], annotations: Sequence[Mapping[str, Any]], notes: Notes) -> None:
    """Remove the category that Roboflow writes for the whole project: above all others, and of no object."""
    groups = {entry.get("supercategory") for entry in categories.values()} - {"none"}
    found = [key for key, entry in categories.items() if {entry["name"]} == groups and len(categories) > 1]
    used = {entry["category_id"] for entry in annotations} if found else set()
    for key in found:
        if categories[key].get("supercategory") == "none" and key not in used:
            notes.add("category above all others left out", categories.pop(key)["name"])


def _captions_of(
    source: tuple[Path, dict[str, Any]] | None,
    images: Sequence[ListedImage],
    positions: Mapping[int, int],
    complaints: Complaints,
    notes: Notes,
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
        elif normalise(entry["caption"]):
            captions.setdefault(position, []).append(entry["caption"].strip())
        else:
            notes.add("captions without a word", f"{path.name}: {images[position].file_name}, {entry['caption']!r}")
    return {position: tuple(texts) for position, texts in captions.items()}


def _panoptic_of(
    split: CocoSplit,
    source: tuple[Path, dict[str, Any]],
    positions: Mapping[int, int],
    complaints: Complaints,
) -> tuple[dict[int, PanopticMap], dict[int, str]]:
    """The panoptic PNG of each image, and the names of things then stuff by category id."""
    path, document = source
    candidates = split.panoptic_folders
    folder = next((one for one in candidates if one.is_dir()), None)
    if folder is None:
        complaints.add(candidates[0], f"no such folder (nor {candidates[1]}), expected the PNGs of {path.name}")
        return {}, {}
    categories = _categories_of(path, document, complaints)
    for entry in categories.values():
        if entry.get("isthing", 0) not in (0, 1):
            complaints.add(path, '"isthing" must be 0 or 1', f"category {entry['id']}, {entry['isthing']!r}")
    ordered = sorted(categories.values(), key=lambda entry: (not entry.get("isthing", 0), entry["id"]))
    names = {entry["id"]: entry["name"] for entry in ordered}
    _check_class_count(path, names, complaints)
    contiguous = {category_id: class_id for class_id, category_id in enumerate(names)}
    files = names_in(folder)
    maps: dict[int, PanopticMap] = {}
    for number, entry in enumerate(document["annotations"]):
        name = f"annotations[{number}], image {entry['image_id']}"
        position = positions.get(entry["image_id"])
        if position is None:
            complaints.add(path, 'annotations point to an image that "images" does not list', name)
            continue
        png = posix_name(entry["file_name"])
        if png not in files and not ("/" in png and (folder / png).is_file()):
            complaints.add(folder, f"PNGs are missing that {path.name} lists", entry["file_name"])
        classes, crowds = {}, set()
        for segment in entry["segments_info"]:
            if not isinstance(segment, dict) or not all(type(segment.get(key)) is int for key in ("id", "category_id")):
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
        maps[position] = PanopticMap(folder / png, classes, frozenset(crowds))
    return maps, names


def _stuffthing_of(
    split: CocoSplit,
    images: Sequence[ListedImage],
    placed: Sequence[ListedImage],
    things: Mapping[int, str],
    complaints: Complaints,
) -> tuple[dict[int, StuffThingMap], dict[int, str]]:
    """COCO-Stuff's PNG of each image that has one, and the names of things then stuff by category id.

    A map lies where its image lies, or bears its image's name alone. The stuff names are COCO-Stuff's, unless
    annotations/stuff_<split>.json brings its own categories.
    """
    folder, path = split.stuffthing_folder, split.stuff_file
    if folder is None or not folder.is_dir():
        return {}, {}
    stuff = STUFF_NAMES
    if path is not None and path.exists():
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
    files = names_in(folder)
    maps: dict[int, StuffThingMap] = {}
    owners: dict[str, str] = {}
    for position, (image, place) in enumerate(zip(images, placed, strict=True)):
        paths = [Path(posix_name(image.file_name)), Path(place.file_name)]
        names_of_map = [str(one.with_suffix(".png")) for one in paths if len(one.parts) > 1 and not one.is_absolute()]
        name = next((one for one in names_of_map if (folder / one).is_file()), paths[0].with_suffix(".png").name)
        if name not in files and name not in names_of_map:
            continue
        if name in owners:
            problem = "several images share one map; maps of images in folders lie in the same folders"
            complaints.add(folder, problem, f"{name}: {owners[name]} and {image.file_name}")
        owners[name] = image.file_name
        maps[position] = StuffThingMap(folder / name, table)
    return maps, names if maps else {}


def _check_class_count(path: Path, names: Mapping[int, str], complaints: Complaints) -> None:
    if len(names) > IGNORED:
        complaints.add(path, f"a semantic map can hold 255 classes, the categories are {len(names)}")
