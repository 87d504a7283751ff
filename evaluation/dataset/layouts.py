"""Which layout a folder of images and labels has, by what lies in it, and which splits there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...runtime.errors import DatasetError
from ...runtime.sources.file_kinds import kind_of
from .coco_files import KINDS, CocoSplit, Parts, read_coco
from .yolo_files import YoloSplit, describe_label_studio_yolo, describe_yolo, read_yolo

_ROBOFLOW = "_annotations.coco.json"
_EXPECTED = (
    "expected a folder with annotations/instances_<split>.json (or captions_, panoptic_) in COCO's layout, "
    f"<split>/{_ROBOFLOW}, result.json with images/, or data.yaml with YOLO labels; docs/data.md shows all layouts"
)


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        name: Of the layout, for people.
        splits: By name, how everything of it is read; that may raise a `DatasetError`.
    """

    name: str
    splits: Mapping[str, Callable[[], Parts]]


def find_layout(root: Path) -> Layout:
    """The layout of a folder, of a data.yaml or of one file in COCO's format.

    Raises:
        DatasetError: If it is none that is known, saying what was expected and what is there.
    """
    if root.is_file():
        if root.suffix.lower() in (".yaml", ".yml"):
            return _yolo(f"YOLO labels, described by {root.name}", describe_yolo(root))
        if root.suffix.lower() == ".json":
            return _one_file(root)
        raise DatasetError(f"{root}: is a file; {_EXPECTED}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; {_EXPECTED}")
    for look in (_coco, _roboflow, _yolo_folder, _single):
        layout = look(root)
        if layout is not None:
            return layout
    raise DatasetError(f"{root}: is not a data set, {_EXPECTED}{_hint(root)}")


def choose_split(root: Path, names: Sequence[str], split: str | None, role: str) -> str:
    """The split that was named, or the one for a role: the first whose name starts with it, or the only one."""
    listing = ", ".join(names)
    if split is not None:
        if split not in names:
            raise DatasetError(f'{root}: has no split "{split}"; found {listing}')
        return split
    for name in names:
        if name.lower().startswith(role):
            return name
    if len(names) == 1:
        return names[0]
    raise DatasetError(f'{root}: no split whose name starts with "{role}"; found {listing}; name the one to use')


def _coco(root: Path) -> Layout | None:
    annotations = root / "annotations"
    files = {(kind, path) for kind in KINDS for path in annotations.glob(f"{kind}_*.json")}
    documents: dict[str, dict[str, Path]] = {}
    for kind, path in sorted(files):
        documents.setdefault(path.stem.removeprefix(f"{kind}_"), {})[kind] = path
    name = "COCO's layout" if set(documents) != {"default"} else "COCO's layout, as CVAT exports it"
    if not documents:  # annotations/<split>.json
        found = sorted(annotations.glob("*.json"))
        documents = {path.stem: {"instances": path} for path in found if _is_coco(path)}
        name = "COCO files in annotations/"
    splits = {}
    for split in sorted(documents):
        own = (root / split, root / "images" / split)
        if not any(folder.is_dir() for folder in own) and (root / "images").is_dir():
            own = (root / "images",)
        splits[split] = CocoSplit(
            documents[split],
            own,
            (root,) if not (root / split).is_dir() else (),
            (annotations / f"panoptic_{split}", root / f"panoptic_{split}"),
            root / "stuffthingmaps" / split,
            annotations / f"stuff_{split}.json",
        )
    return _of_coco(name, splits)


def _roboflow(root: Path) -> Layout | None:
    files = sorted(root.glob(f"*/{_ROBOFLOW}")) or sorted(root.glob(_ROBOFLOW))
    splits = {
        path.parent.name if path.parent != root else "all": CocoSplit({"instances": path}, (path.parent,))
        for path in files
    }
    return _of_coco(f"Roboflow's COCO export ({_ROBOFLOW})", splits)


def _yolo_folder(root: Path) -> Layout | None:
    files = [root / name for name in ("data.yaml", "dataset.yaml", "data.yml") if (root / name).is_file()]
    files = files or [path for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]) if _is_description(path)]
    if len(files) > 1:
        listing = ", ".join(path.name for path in files)
        raise DatasetError(f"{root}: has several descriptions, {listing}; name the one to use, such as {files[0]}")
    if files:
        return _yolo(f"YOLO labels, described by {files[0].name}", describe_yolo(files[0]))
    classes = root / "classes.txt"
    if classes.is_file() and (root / "images").is_dir() and (root / "labels").is_dir():
        return _yolo("YOLO labels with classes.txt, as Label Studio exports them", describe_label_studio_yolo(classes))
    return None


def _single(root: Path) -> Layout | None:
    files = [path for path in sorted(root.glob("*.json")) if _is_coco(path)]
    if len(files) > 1:
        listing = ", ".join(path.name for path in files)
        raise DatasetError(f"{root}: has several COCO files, {listing}; name the one to use, such as {files[0]}")
    return _one_file(files[0]) if files else None


def _one_file(path: Path) -> Layout:
    folders = (path.parent / "images", path.parent) if (path.parent / "images").is_dir() else (path.parent,)
    name = f"one COCO file, {path.name}"
    if path.name.startswith("result"):
        name = f"Label Studio's COCO export ({path.name})"
    return Layout(name, {"all": lambda: read_coco(CocoSplit({"instances": path}, folders))})


def _of_coco(name: str, splits: Mapping[str, CocoSplit]) -> Layout | None:
    def reader(split: CocoSplit) -> Callable[[], Parts]:
        return lambda: read_coco(split)

    return Layout(name, {key: reader(split) for key, split in splits.items()}) if splits else None


def _yolo(name: str, splits: Mapping[str, YoloSplit]) -> Layout:
    def reader(split: YoloSplit) -> Callable[[], Parts]:
        return lambda: read_yolo(split)

    return Layout(name, {key: reader(split) for key, split in splits.items()})


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has the lists of an instances file."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def _is_description(path: Path) -> bool:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return "names:" in text and ("train:" in text or "val:" in text)


def _hint(root: Path) -> str:
    """What to do with what lies there instead."""
    if next(root.rglob("*.xml"), None) is not None:
        return "; XML files (Pascal VOC) are not read, export the labels as COCO or YOLO"
    if (root / "labels").is_dir() or next(root.glob("*/labels"), None) is not None:
        return "; there are labels/ but no data.yaml, which names the classes: write one"
    if any(path.is_file() and kind_of(path) == "image" for path in islice(root.rglob("*"), 1000)):
        return (
            f"; it holds images and no labels: yolor-edge label TEACHER {root} --out DATA makes some, and "
            "yolor-edge train --teacher TEACHER takes it as it is"
        )
    return ""
