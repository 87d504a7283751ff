"""YOLO text labels: a data.yaml with class names and folders, and a text file of boxes or polygons for each image.

A line is `class x y width height`, the centre and the size of a box, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; all
but the class as shares of the image's width and height.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import DatasetError, ImageError
from ...runtime.images.image_files import IMAGE_SUFFIXES
from .coco_files import ListedImage, Objects, Parts, Row
from .complaints import Complaints, Notes
from .file_memory import FileMemory
from .image_sizes import read_size
from .segmentations import Segmentation

SPLITS = ("train", "val", "valid", "test")
_SLACK = 0.01  # What a coordinate may lie outside of 0..1 by, as rounding and tools leave it; it is clipped.


@dataclass(frozen=True)
class YoloSplit:
    """Where the images of one split lie, and what its numbers of classes mean.

    Attributes:
        root: Of the data set.
        source: The file that describes it, for messages.
        places: Folders of images and text files that list images.
        names: Class names by number.
        has_keypoints: Whether points follow the four numbers of a box.
    """

    root: Path
    source: Path
    places: tuple[Path, ...]
    names: Mapping[int, str]
    has_keypoints: bool = False


def describe_yolo(path: Path) -> dict[str, YoloSplit]:
    """The splits that a data.yaml names.

    Raises:
        DatasetError: If it cannot be read or lacks something.
    """
    import yaml  # here, since only these data sets need it

    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: expected names, train and val, got {type(document).__name__}")
    names = _names_of(path, document.get("names"))
    count = document.get("nc")
    if count is not None and count != len(names):
        raise DatasetError(f"{path}: nc is {count!r}, but names has {len(names)} entries; they must agree")
    root = _root_of(path, document.get("path"))
    splits = {}
    for split in SPLITS:
        given = document.get(split)
        places = given if isinstance(given, list) else [] if given in (None, "") else [given]
        if not all(isinstance(place, str) and place for place in places):
            raise DatasetError(f"{path}: {split} must be a folder, a text file or a list of them, got {given!r}")
        if places:
            found = tuple(_place_of(path, root, split, place) for place in places)
            splits[split] = YoloSplit(path.parent, path, found, names, "kpt_shape" in document)
    if not splits:
        raise DatasetError(f"{path}: names no images; expected train: and val: with folders of images")
    return splits


def describe_label_studio_yolo(path: Path) -> dict[str, YoloSplit]:
    """The one split of a folder with classes.txt, images/ and labels/."""
    lines = [line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]
    names = {number: name for number, name in enumerate(name for name in lines if name)}
    if not names:
        raise DatasetError(f"{path}: is empty, expected a class name a line")
    return {"all": YoloSplit(path.parent, path, (path.parent / "images",), names)}


def _names_of(path: Path, given: Any) -> dict[int, str]:
    """Class names by number, of a list or a mapping."""
    if isinstance(given, list) and given:
        given = dict(enumerate(given))
    if not isinstance(given, dict) or not given:
        raise DatasetError(f"{path}: expected names: with a list of class names, or numbers and names")
    names = {}
    for number, name in given.items():
        if type(number) is not int or number < 0:
            raise DatasetError(f"{path}: names must have whole numbers before the names, got {number!r}")
        if not isinstance(name, (str, int, float)) or isinstance(name, bool) or name == "":
            raise DatasetError(f"{path}: name {number} is {name!r}, expected text; put it in quotes")
        names[number] = str(name)
    return dict(sorted(names.items()))


def _root_of(path: Path, given: Any) -> Path:
    """What the folders in a data.yaml are relative to; its own folder where `path` is of another machine."""
    if given in (None, ""):
        return path.parent
    if not isinstance(given, str):
        raise DatasetError(f"{path}: path must be a folder, got {given!r}")
    root = path.parent / given.replace("\\", "/")
    return root if root.is_dir() else path.parent


def _place_of(path: Path, root: Path, split: str, given: str) -> Path:
    """A folder or list of images: as it is written, or without the ".." that Roboflow puts before it."""
    text = given.replace("\\", "/")
    candidates = [root / text, path.parent / text]
    if text.startswith("../"):
        candidates += [root / text[3:], path.parent / text[3:]]
    for one in candidates:
        if one.exists():
            return Path(os.path.normpath(one))
    raise DatasetError(
        f"{path}: {split}: {given} is not there (looked for {candidates[0]}); correct path: or {split}: in the file"
    )


def read_yolo(split: YoloSplit) -> Parts:
    """The images and labels of a split, checked.

    An image without a label file counts as one without objects, as it does where these labels come from.

    Raises:
        DatasetError: With everything found wrong, by file and line.
    """
    complaints, notes = Complaints(), Notes()
    paths = list(dict.fromkeys(path for place in split.places for path in _images_in(place, split, complaints)))
    if not paths:
        complaints.add(split.places[0], "holds no images")
    complaints.raise_if_any()
    images: list[ListedImage] = []
    sizes = FileMemory(split.root, "sizes").of(paths, _size_or_complaint)
    unread = [str(sizes[path]) for path in paths if isinstance(sizes[path], str)]
    if unread:
        shown = "; ".join(unread[:10])
        raise DatasetError(f"{split.source}: {len(unread)} images cannot be read: {shown}")
    rows: list[Row] = []
    segmentations: list[Segmentation | None] = []
    contiguous = {number: position for position, number in enumerate(split.names)}
    without = 0
    for position, path in enumerate(paths):
        height, width = sizes[path]
        place = path.relative_to(split.root) if path.is_relative_to(split.root) else path
        images.append(ListedImage(position + 1, place.as_posix(), (height, width)))
        label = _label_of(path)
        try:
            text = label.read_text("utf-8-sig")
        except FileNotFoundError:
            without += 1
            notes.add("without a label file", place.as_posix())
            continue
        except (OSError, UnicodeDecodeError) as error:
            complaints.add(label, f"cannot be read ({error})")
            continue
        seen = set()
        for number, line in enumerate(text.splitlines(), 1):
            words = tuple(line.split())
            if not words:
                continue
            if words in seen:
                notes.add("the same line twice", f"{label}, line {number}")
                continue
            seen.add(words)
            where = f"{label}, line {number}"
            found = _object_of(words, split, contiguous, (height, width), where, complaints)
            if found is None:
                continue
            box, class_id, outline, area = found
            if box[2] <= box[0] or box[3] <= box[1]:
                notes.add("outside", where)
                continue
            annotated = (box[0], box[1], box[2] - box[0], box[3] - box[1])
            rows.append((position, box, class_id, False, area, annotated))
            segmentations.append(outline)
    if without == len(paths):
        complaints.add(
            split.source, f"has no label file for any of {len(paths)} images", f"expected {_label_of(paths[0])}"
        )
    complaints.raise_if_any()
    objects = Objects.of_rows(np.ones(len(images), bool), rows, segmentations, [None] * len(rows))
    return Parts(images, split.root, dict(split.names), {}, objects, {}, {}, {}, notes.found)


def _size_or_complaint(path: Path) -> list[int] | str:
    try:
        return list(read_size(path))
    except ImageError as error:
        return str(error)


def _images_in(place: Path, split: YoloSplit, complaints: Complaints) -> Iterator[Path]:
    """The images of a folder and those below it, sorted, or those that a text file lists."""
    if place.is_dir():
        found = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=True) for name in names]
        yield from sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
        return
    for number, line in enumerate(place.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        candidates = [place.parent / name, split.root / name]
        path = next((one for one in candidates if one.is_file()), None)
        if path is None:
            complaints.add(place, "lists images that are not there", f"line {number}: {name}")
        else:
            yield Path(os.path.normpath(path))


def _label_of(image: Path) -> Path:
    """The label file of an image: the last folder "images" of its path is "labels"; else it lies beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _object_of(
    words: Sequence[str],
    split: YoloSplit,
    contiguous: Mapping[int, int],
    size: tuple[int, int],
    where: str,
    complaints: Complaints,
) -> tuple[tuple[float, ...], int, Segmentation | None, float] | None:
    """Box (xyxy, clipped), class, outline and area of one line, in pixels; None after a complaint."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        complaints.add(split.source, "label lines must be numbers", f"{where}: {' '.join(words)[:60]!r}")
        return None
    number, values = numbers[0], numbers[1:]
    if number not in contiguous:
        known = f"names has {len(contiguous)} classes, {min(contiguous)} to {max(contiguous)}"
        complaints.add(
            split.source, f"label lines have a class that is not there, {known}", f"{where}: class {words[0]}"
        )
        return None
    if split.has_keypoints:
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        expected = "label lines must be a class and 4 numbers, or a class and a polygon of three points and more"
        complaints.add(split.source, expected, f"{where}: {len(values)} numbers after the class")
        return None
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):  # Also refuses NaN, which compares false.
        expected = "label lines must have shares of the image's width and height, from 0 to 1"
        complaints.add(split.source, expected, f"{where}: {' '.join(words)[:60]}")
        return None
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        outline, area = None, w * width * h * height
    else:
        xs, ys = (np.clip(values[i::2], 0, 1) * side for i, side in ((0, width), (1, height)))
        corners = (xs.min(), ys.min(), xs.max(), ys.max())
        outline = (np.stack((xs, ys), 1).ravel(),)
        area = abs(float(xs @ np.roll(ys, -1) - ys @ np.roll(xs, -1))) / 2
        if math.isclose(area, 0, abs_tol=1e-9):
            outline = None
    clipped = tuple(
        float(min(max(value, 0), side)) for value, side in zip(corners, (width, height, width, height), strict=True)
    )
    return clipped, contiguous[int(number)], outline, area
