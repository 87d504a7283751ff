"""Predictions as files in COCO's results format, which pycocotools, pycocoevalcap and panopticapi read.

    DIR/bbox.json, segm.json       [{"image_id", "category_id", "bbox" or "segmentation", "score"}, ...]
    DIR/captions.json              [{"image_id", "caption"}, ...]
    DIR/panoptic.json, panoptic/   {"annotations": [{"image_id", "file_name", "segments_info"}]} and PNGs

A file is there where the model answers the task. Ids are the data set's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..runtime.errors import UsageError
from ..runtime.images.image_files import write_image
from ..runtime.results import Result
from .dataset.coco import CocoDataset
from .dataset.truth import Truth
from .panoptic_scores import merge, semantic_classes_of


def require_new_folder(folder: str | os.PathLike[str], argument: str) -> Path:
    """Refuse a folder that holds something already.

    Raises:
        UsageError: Naming it.
    """
    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            f"{path}: exists already; name a new folder as <{argument}>, or remove this one", argument=argument
        )
    return path


class PredictionFiles:
    """Writes the results of a data set, image by image; the folder takes its name once everything is in it.

    Args:
        folder: A new one.
        dataset: Whose images and categories are meant.

    Raises:
        UsageError: If the folder holds something already.
    """

    def __init__(self, folder: str | os.PathLike[str], dataset: CocoDataset) -> None:
        self._folder = require_new_folder(folder, "save_predictions")
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._folder.with_name(f".{self._folder.name}.{os.urandom(8).hex()}.part")
        self._part.mkdir()
        self._dataset = dataset
        self._to_semantic = semantic_classes_of(dataset.class_names, dataset.semantic_names)
        self._lists: dict[str, _List] = {}

    def __enter__(self) -> PredictionFiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the files; nothing is left if something failed."""
        for one in self._lists.values():
            one.close()
        if kind is not None:
            shutil.rmtree(self._part, ignore_errors=True)
            return
        if self._folder.exists():
            self._folder.rmdir()
        self._part.rename(self._folder)

    def add(self, truth: Truth, result: Result) -> None:
        """Write the result for one image."""
        image = {"image_id": truth.image_id}
        if result.boxes is not None and result.class_ids is not None and result.scores is not None:
            categories = [self._dataset.category_ids[i] for i in result.class_ids.tolist()]
            scores = result.scores.tolist()
            boxes = result.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            shapes: dict[str, tuple[str, Sequence[Any]]] = {"bbox": ("bbox", boxes.tolist())}
            if result.masks is not None:
                shapes["segm"] = ("segmentation", result.masks.rle())
            for name, (key, values) in shapes.items():
                self._list(name).add(
                    {**image, "category_id": category, key: value, "score": score}
                    for category, value, score in zip(categories, values, scores, strict=True)
                )
        if result.caption is not None:
            self._list("captions").add([{**image, "caption": result.caption.text}])
        if (
            result.masks is not None
            and result.semantic_map is not None
            and any(x is not None for x in self._to_semantic)
        ):
            self._list("panoptic").add([{**image, **self._panoptic(truth, result)}])

    def _panoptic(self, truth: Truth, result: Result) -> dict[str, Any]:
        """Writes the PNG; its name and what its segments are."""
        things = {one for one in self._to_semantic if one is not None}
        found = merge(result, self._to_semantic, things)
        name = f"{truth.image_id:012d}.png"
        (self._part / "panoptic").mkdir(exist_ok=True)
        # Blue, green, red as OpenCV writes them: the id is R + 256 G + 65536 B.
        shifts = np.array([16, 8, 0])
        write_image(self._part / "panoptic" / name, (found.segments[..., None] >> shifts & 255).astype(np.uint8))
        categories = self._dataset.semantic_category_ids
        segments = [{"id": one, "category_id": categories[index]} for one, index in found.classes.items()]
        return {"file_name": name, "segments_info": segments}

    def _list(self, name: str) -> _List:
        if name not in self._lists:
            around = ('{"annotations": [', "]}") if name == "panoptic" else ("[", "]")
            self._lists[name] = _List(self._part / f"{name}.json", *around)
        return self._lists[name]


class _List:
    """A JSON list that is written while it grows, one entry a line."""

    def __init__(self, path: Path, begin: str, end: str) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8")
        self._before, self._end = f"{begin}\n", f"\n{end}\n"

    def add(self, entries: Any) -> None:
        entry: Mapping[str, Any]
        for entry in entries:
            self._file.write(self._before + json.dumps(entry))
            self._before = ",\n"

    def close(self) -> None:
        if self._before != ",\n":  # nothing was added
            self._file.write(self._before.rstrip("\n"))
        self._file.write(self._end)
        self._file.close()
