"""A data set made by a machine: what a teacher predicts for images, written in COCO's layout.

    OUT/<split>/                             the images, linked or copied, under the names they came with
    OUT/annotations/instances_<split>.json   boxes, with run lengths where the teacher predicts masks
    OUT/annotations/panoptic_<split>.json    the semantic map, one segment for each class (a crowd where it is a thing),
    OUT/annotations/panoptic_<split>/*.png   as COCO's panoptic files hold it
    OUT/annotations/captions_<split>.json    one caption an image

`CocoDataset.open` reads it back. "info" says that a machine made the labels, which one, and the licence of its weights.
A box that is neither likely nor unlikely is written as a crowd, which training takes neither for an object nor for
background. The split appears whole or not at all; what an interrupted run has done is kept in a hidden folder beside
it, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

from ..runtime.arguments import check_flag, check_names, check_number
from ..runtime.bundle.bundle import Bundle
from ..runtime.bundle.spec import ModelSpec
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.environment.install import package_version
from ..runtime.errors import UsageError
from ..runtime.files import LineFile, write_atomically
from ..runtime.model import Model, with_fastest
from ..runtime.model import load as open_model
from ..runtime.options import LoadOptions, PredictOptions
from ..runtime.progress import Count, Say
from ..runtime.results import Caption, Result
from ..runtime.sources.sources import Source, open_images
from .dataset.split_files import check_new_split, move_split, write_json, write_panoptic_png
from .dataset.truth import IGNORED

_coco_mask: Any = mask  # The published type stubs of pycocotools disagree with the library.
_WHAT, _LINES = "what.json", "labels.jsonl"


@dataclass(frozen=True)
class LabelOptions:
    """What becomes a label.

    Attributes:
        tasks: Of "boxes", "masks", "semantic", "caption"; None for all that the teacher has. "masks" brings "boxes".
        score_threshold: Boxes that score above this are objects.
        doubtful_threshold: Boxes that score above this and are no objects are written as crowds; None for half of
            `score_threshold`, equal to it for none.
        caption_threshold: Captions whose words have a lower mean probability (geometric, the end counted as a word) are
            left out.
        split: Name of the split.
        copy: Whether images are copied; else they are linked.

    Raises:
        UsageError: If one of them makes no sense.
    """

    tasks: Sequence[str] | None = None
    score_threshold: float = 0.5
    doubtful_threshold: float | None = None
    caption_threshold: float = 0.0
    split: str = "train"
    copy: bool = False

    def __post_init__(self) -> None:
        check_names("tasks", self.tasks)
        check_flag("copy", self.copy)
        for name in ("score_threshold", "doubtful_threshold", "caption_threshold"):
            value = getattr(self, name)
            check_number(name, value, or_none=name == "doubtful_threshold")
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"<{name}> must be in [0, 1), got {value}", argument=name)
        if self.least_score > self.score_threshold:
            raise UsageError(
                f"<doubtful_threshold> must be at most <score_threshold>, got {self.doubtful_threshold} and "
                f"{self.score_threshold}",
                argument=("doubtful_threshold", "score_threshold"),
            )

    @property
    def least_score(self) -> float:
        """`doubtful_threshold` as it was given or follows."""
        return self.score_threshold / 2 if self.doubtful_threshold is None else self.doubtful_threshold

    def thresholds(self, tasks: Sequence[str]) -> dict[str, float]:
        """Those that concern some tasks, by name."""
        of_boxes = {"score": self.score_threshold, "doubtful": self.least_score} if "boxes" in tasks else {}
        return of_boxes | ({"caption": self.caption_threshold} if "caption" in tasks else {})


@dataclass(frozen=True)
class LabelSummary:
    """What was labelled.

    Attributes:
        out: Folder of the data set.
        split: The split of it.
        images: Images labelled.
        failed: Name and reason of each image that could not be read; none of them is in the data set.
        objects, doubtful, maps, captions: How many labels were written of each kind; None where it was not asked for.
    """

    out: Path
    split: str
    images: int
    failed: tuple[tuple[str, str], ...]
    objects: int | None
    doubtful: int | None
    maps: int | None
    captions: int | None

    @property
    def exit_code(self) -> int:
        """1 where images had to be left out."""
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        failed = [{"image": name, "error": reason} for name, reason in self.failed]
        return {**dataclasses.asdict(self), "out": str(self.out), "failed": failed}

    def __str__(self) -> str:
        counts = {"objects": self.objects, "doubtful ones": self.doubtful, "semantic maps": self.maps}
        counts["captions"] = self.captions
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count is not None)
        left_out = f"; {len(self.failed)} could not be read and are left out" if self.failed else ""
        return f"{self.images} images labelled: {said}{left_out}; see {self.out}, split {self.split}"


def label(
    bundle: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: LabelOptions = LabelOptions(),
    *,
    load: LoadOptions = LoadOptions(),
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    report: Say | None = None,
) -> LabelSummary:
    """Write what a bundle predicts as a data set in COCO's layout; `train.label_by_checkpoint` asks a checkpoint.

    Args:
        bundle: Folder of the teacher.
        images: A folder of images (not its sub-folders), a glob pattern, an image file or several.
        out: Folder of the data set, made if missing; other splits in it stay as they are.
        options: What becomes a label.
        load: How the bundle is opened.
        caption: How captions are searched for.
        progress: Called with "labelling", images done and images in all.
        report: Called with a line for each image that cannot be read, and for what an earlier run has left.

    Returns:
        What was written.

    Raises:
        UsageError: If an argument makes no sense, there are no images, none of them can be read, or `out` has the split
            already.
        BundleError, BackendError: If the bundle cannot be opened or run.
    """
    opened = Bundle.open(bundle)
    load = with_fastest(opened, load)
    teacher = {
        "kind": "bundle",
        "name": opened.spec.name,
        "folder": Path(bundle).resolve().name,
        "sha256": opened.digest,
        "licence": opened.licence or "unknown",
        "precision": load.precision,
    }
    with open_model(opened, options=load) as model:
        return label_by_model(model, teacher, images, out, options, caption, progress, report)


def label_by_model(
    model: Model,
    teacher: Mapping[str, Any],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: LabelOptions = LabelOptions(),
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    report: Say | None = None,
) -> LabelSummary:
    """See `label`; `teacher` is what "info" says of the model, with its `licence`."""
    out = Path(out)
    tasks = model.spec.choose_tasks(options.tasks)
    check_new_split(out, options.split)
    source = open_images(images, report)
    info = {
        "description": f"labels made by a machine ({model.spec.name}), not by people",
        "version": package_version(),
        "labelled_by": dict(teacher),
        "tasks": list(tasks),
        "thresholds": options.thresholds(tasks),
    }
    numbers = {path: number for number, path in enumerate(source.files, start=1)}
    with _staging(out, options, info, source, report) as staging:
        done = {line["number"] for line in _lines(staging)}
        left = dataclasses.replace(source, files=tuple(path for path, n in numbers.items() if n not in done))
        ids = _Categories.of(model.spec)
        # The lower of the two: what is doubtful is told apart from what is an object afterwards.
        asked = PredictOptions(tasks, score_threshold=options.least_score, caption=caption)
        with LineFile(staging / _LINES, append=True) as lines, model.stream(left, options=asked) as answers:
            for place, answer in enumerate(answers):
                number = numbers[left.files[place]]
                line: dict[str, Any] = {"number": number, "name": answer.frame.name}
                if answer.result is None:
                    line["error"] = answer.error or "cannot be read"
                    if report is not None:
                        report(f"left out: {line['error']}")
                else:
                    line |= _labels_of(answer.result, number, options, ids, staging)
                lines.write(json.dumps(line) + "\n")
                if progress is not None:
                    progress("labelling", len(done) + place + 1, len(numbers))
        summary = _finish(staging, out, options, info, tasks, ids, source)
    if summary.objects == 0 and summary.images and report is not None:
        report(
            f"warning: the teacher finds no object that scores above {options.score_threshold:g}; a lower "
            "threshold, or another teacher, may find some"
        )
    return summary


@dataclass(frozen=True)
class _Categories:
    """Ids of the classes such that a reader, which sorts by them, finds the classes in the model's order."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    semantic_names: tuple[str, ...]
    semantic_ids: tuple[int, ...]

    @classmethod
    def of(cls, spec: ModelSpec) -> _Categories:
        names, semantic = spec.class_names, spec.semantic_names
        ids, semantic_ids = spec.category_ids, spec.semantic_category_ids
        named = {**dict(zip(semantic_ids, semantic, strict=True)), **dict(zip(ids, names, strict=True))}
        is_sound = (
            list(ids) == sorted(set(ids))
            and len(set(semantic_ids)) == len(semantic_ids)
            and all(named[one] == name for one, name in zip(semantic_ids, semantic, strict=True))
            and len(set(named.values())) == len(named)
        )
        if not is_sound:  # As foreign networks have them; things and stuff of one name then share their number.
            ids = tuple(range(1, len(names) + 1))
            known = dict(zip(names, ids, strict=True))
            semantic_ids = tuple(known.get(name, len(ids) + 1 + i) for i, name in enumerate(semantic))
        return cls(names, ids, semantic, semantic_ids)

    def things(self) -> list[dict[str, Any]]:
        return [{"id": one, "name": name} for one, name in zip(self.ids, self.names, strict=True)]

    def both(self) -> list[dict[str, Any]]:
        pairs = zip(self.semantic_ids, self.semantic_names, strict=True)
        return [{"id": one, "name": name, "isthing": int(name in self.names)} for one, name in pairs]


@contextlib.contextmanager
def _staging(
    out: Path, options: LabelOptions, info: Mapping[str, Any], source: Source, report: Say | None
) -> Iterator[Path]:
    """A hidden folder inside `out`, with what an earlier run of the same has done; gone once it was emptied."""
    staging = out / f".{options.split}.labels"
    what = {"info": info, "copy": options.copy, "root": str(source.root.resolve()), "files": _names(source)}
    text = json.dumps(what, indent=1) + "\n"
    if staging.exists():
        try:
            same = (staging / _WHAT).read_text(encoding="utf-8") == text
        except OSError:
            same = False
        if not same:
            shutil.rmtree(staging)
        if report is not None:
            done = len(_lines(staging))
            report(f"going on after {done} images" if same else "starting over: other images or settings than before")
    is_new = not out.exists()
    (staging / "panoptic").mkdir(parents=True, exist_ok=True)
    write_atomically(staging / _WHAT, text)
    try:
        yield staging
    except BaseException:
        if not _lines(staging):  # Nothing to go on from.
            shutil.rmtree(staging, ignore_errors=True)
            if is_new:
                with contextlib.suppress(OSError):
                    out.rmdir()
        raise
    shutil.rmtree(staging)


def _names(source: Source) -> list[str]:
    return [path.relative_to(source.root).as_posix() for path in source.files]


def _lines(staging: Path) -> list[dict[str, Any]]:
    """What is known of the images that are done; half a line, as a kill leaves it, is none."""
    path = staging / _LINES
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _labels_of(result: Result, number: int, options: LabelOptions, ids: _Categories, staging: Path) -> dict[str, Any]:
    """What one image's annotations are made of; its panoptic PNG is written."""
    found: dict[str, Any] = {"size": list(result.image_size)}
    if result.boxes is not None:
        found["objects"] = _objects_of(result, options, ids)
    if result.semantic_map is not None:
        found["segments"] = _write_segments(result.semantic_map, ids, staging / "panoptic" / f"{number:012d}.png")
    if result.caption is not None:
        found["caption"] = _text_of(result.caption, options.caption_threshold)
    return found


def _objects_of(result: Result, options: LabelOptions, ids: _Categories) -> list[dict[str, Any]]:
    """COCO's annotations of the objects, without what numbers them; those that are doubtful are crowds."""
    assert result.boxes is not None and result.scores is not None and result.class_ids is not None
    rles = None if result.masks is None else result.masks.rle()
    areas = None if result.masks is None else result.masks.areas()
    objects = []
    for i, (box, score, class_id) in enumerate(
        zip(result.boxes.astype(float), result.scores.tolist(), result.class_ids.tolist(), strict=True)
    ):
        left, top, right, bottom = (round(float(side), 2) for side in box)
        if right <= left or bottom <= top:
            continue
        is_doubtful, area = score <= options.score_threshold, (right - left) * (bottom - top)
        one: dict[str, Any] = {"category_id": ids.ids[class_id], "score": round(score, 4)}
        if rles is not None and areas is not None:
            area = float(areas[i])
            one["segmentation"] = rles[i]
            if not area:  # A box that no pixel belongs to: something may be there, or nothing.
                is_doubtful, area = True, (right - left) * (bottom - top)
                one["segmentation"] = _rle_of_box((left, top, right, bottom), result.image_size)
        one |= {"bbox": [left, top, round(right - left, 2), round(bottom - top, 2)], "area": round(area, 2)}
        objects.append({**one, "iscrowd": int(is_doubtful)})
    return objects


def _rle_of_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> dict[str, Any]:
    full = np.zeros(size, np.uint8, order="F")
    full[math.floor(box[1]) : math.ceil(box[3]), math.floor(box[0]) : math.ceil(box[2])] = 1
    return {"size": list(size), "counts": _coco_mask.encode(full)["counts"].decode("ascii")}


def _write_segments(semantic: np.ndarray, ids: _Categories, path: Path) -> list[dict[str, Any]]:
    """Write the panoptic PNG of a semantic map (H, W), and return what COCO says of its segments.

    A thing's segment holds all objects of its class, which in COCO's words is a crowd.
    """
    # An odd factor gives every class a number, and so a colour, of its own; 0 is what has none.
    numbers = np.zeros(256, np.int32)
    numbers[:IGNORED] = (np.arange(1, IGNORED + 1) * 0x4C7F2B) % (1 << 24)
    write_panoptic_png(path, numbers[semantic])
    categories, segments = ids.both(), []
    for class_id in np.unique(semantic).tolist():
        if class_id >= len(categories):
            continue
        rows, columns = np.nonzero(semantic == class_id)
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        category = categories[class_id]
        segments.append(
            {
                "id": int(numbers[class_id]),
                "category_id": category["id"],
                "area": len(rows),
                "bbox": box,
                "iscrowd": category["isthing"],
            }
        )
    return segments


def _text_of(caption: Caption, threshold: float) -> str | None:
    """The words, if there are any and they are likely enough."""
    likely = math.exp(caption.log_prob / (len(caption.token_ids) + 1))
    return caption.text if caption.text.strip() and likely >= threshold else None


def _finish(
    staging: Path,
    out: Path,
    options: LabelOptions,
    info: Mapping[str, Any],
    tasks: Sequence[str],
    ids: _Categories,
    source: Source,
) -> LabelSummary:
    """Make the annotation files of what was found, and put everything in its place."""
    lines = sorted(_lines(staging), key=lambda line: line["number"])
    good = [line for line in lines if "error" not in line]
    failed = tuple((line["name"], line["error"]) for line in lines if "error" in line)
    if not good:
        (staging / _LINES).unlink()
        raise UsageError(f"{source.name}: none of its {len(failed)} images can be read ({failed[0][1]})")
    paths = dict(enumerate(source.files, start=1))
    shutil.rmtree(staging / "images", ignore_errors=True)
    (staging / "images").mkdir()
    for line in good:
        place = staging / "images" / line["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        if options.copy:
            shutil.copy2(paths[line["number"]], place)
        else:
            place.symlink_to(paths[line["number"]].resolve())
    shared = {
        "info": info,
        "licenses": [{"id": 1, "name": info["labelled_by"]["licence"], "url": ""}],
        "images": [
            {"id": line["number"], "file_name": line["name"], "height": line["size"][0], "width": line["size"][1]}
            for line in good
        ],
    }
    objects = [{"image_id": line["number"], **one} for line in good for one in line.get("objects", ())]
    captions = [
        {"image_id": line["number"], "caption": line["caption"]} for line in good if line.get("caption") is not None
    ]
    segments = [
        {"image_id": line["number"], "file_name": f"{line['number']:012d}.png", "segments_info": line["segments"]}
        for line in good
        if "segments" in line
    ]
    if "boxes" in tasks:
        annotations = _numbered(objects)
        write_json(staging / "instances.json", {**shared, "annotations": annotations, "categories": ids.things()})
    if "caption" in tasks:
        write_json(staging / "captions.json", {**shared, "annotations": _numbered(captions)})
    if "semantic" in tasks:
        write_json(staging / "panoptic.json", {**shared, "annotations": segments, "categories": ids.both()})
    else:
        shutil.rmtree(staging / "panoptic")
    move_split(staging, out, options.split)
    doubtful = sum(one["iscrowd"] for one in objects)
    return LabelSummary(
        out,
        options.split,
        len(good),
        failed,
        objects=len(objects) - doubtful if "boxes" in tasks else None,
        doubtful=doubtful if "boxes" in tasks else None,
        maps=len(segments) if "semantic" in tasks else None,
        captions=len(captions) if "caption" in tasks else None,
    )


def _numbered(annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **one} for number, one in enumerate(annotations, start=1)]
