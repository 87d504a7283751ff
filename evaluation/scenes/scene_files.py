"""A data set of drawn scenes in COCO's layout, with all four kinds of truth: boxes, masks, stuff, captions.

It stands in for the COCO that nobody can ship: small enough to draw in a minute, and made so that a caption
is only right if the network looked. What is drawn is in scene_drawing.py, what is said in scene_captions.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ...runtime.errors import UsageError
from ...runtime.progress import Count
from ..dataset.split_files import check_new_split, move_split, write_image, write_json, write_panoptic_png
from .scene_captions import SHAPES
from .scene_drawing import STUFF, Scene, draw_scene, visible_boxes

# Names what a seed stands for: to be raised with every change that alters an image, a mask or a caption.
VERSION = 1

DESCRIPTION = "yolor-edge scenes"

# Ids have gaps, as COCO's do: a reader that takes an id for an index fails here already.
SHAPE_IDS: dict[str, int] = dict(zip(SHAPES, (1, 2, 3, 5, 6, 8, 9, 12), strict=True))
STUFF_IDS: dict[str, int] = dict(zip(STUFF, (101, 102, 104, 105, 107, 120, 121, 123, 126), strict=True))

JPEG_QUALITY = 92


def write_scenes(
    out: Path | str,
    count: int,
    seed: int,
    split: str = "train",
    size: tuple[int, int] = (224, 288),
    progress: Count | None = None,
    shapes: Sequence[str] | None = None,
) -> Path:
    """Draw scenes and write them as one split of a data set in COCO's layout.

    The same arguments give the same files, byte for byte; image i depends on the seed, i, the size and the
    shapes alone, so a longer run begins with the images of a shorter one. The split appears whole, its
    annotations last, or not at all.

    Args:
        out: Folder of the data set; made if missing. Other splits in it stay as they are.
        count: How many images to draw, at least 1.
        seed: Names the series of scenes, at least 0; each split of a data set needs its own.
        split: Name of the folder with the images, and last part of the annotation files' names.
        size: (height, width) of every image, each 64 to 2048.
        progress: Called with (images done, count) after each.
        shapes: The shapes that are drawn, which are the classes then; all of `SHAPES` by default.

    Returns:
        `out` as a path.

    Raises:
        UsageError: If an argument is out of range, `out` is a file or has this split already, or another
            split of `out` was drawn from the same seed.
    """
    out = Path(out)
    check_arguments(out, count, seed, split, size, shapes)
    known = SHAPES if shapes is None else tuple(shape for shape in SHAPES if shape in shapes)
    _check_seed(out, split, seed, size)
    with staging_folder(out, split) as staging:
        _write_split(staging, count, seed, size, progress, known)
        move_split(staging, out, split)
    return out


def check_arguments(
    out: Path, count: int, seed: int, split: str, size: tuple[int, int], shapes: Sequence[str] | None
) -> None:
    """Refuse what no split can be drawn with.

    Raises:
        UsageError: Saying what is out of range, or in the way.
    """
    if count < 1:
        raise UsageError(f"<count> must be at least 1, got {count}", argument="count")
    if seed < 0:
        raise UsageError(f"<seed> must be at least 0, got {seed}", argument="seed")
    if len(size) != 2 or not all(64 <= side <= 2048 for side in size):
        given = " x ".join(str(side) for side in size)
        raise UsageError(f"<size> must be height and width of 64 to 2048 pixels each, got {given}", argument="size")
    if shapes is not None and (not shapes or not set(shapes) <= set(SHAPES)):
        raise UsageError(
            f"<shapes> must be some of {', '.join(SHAPES)}, got {', '.join(shapes) or 'none'}", argument="shapes"
        )
    check_new_split(out, split)


def _check_seed(out: Path, split: str, seed: int, size: tuple[int, int]) -> None:
    for path in sorted((out / "annotations").glob("instances_*.json")):
        try:
            info = json.loads(path.read_text(encoding="utf-8")).get("info", {})
        except (ValueError, AttributeError):
            continue  # not ours, and none of our business
        if info.get("description") == DESCRIPTION and info.get("seed") == seed and info.get("size") == list(size):
            other = path.stem.removeprefix("instances_")
            raise UsageError(
                f'{out}: its split "{other}" was drawn from seed {seed} too, so "{split}" would repeat its '
                "images; give another <seed>",
                argument="seed",
            )


@contextlib.contextmanager
def staging_folder(out: Path, split: str) -> Iterator[Path]:
    """A hidden folder inside `out` that is gone afterwards; `out` itself goes too if nothing came of it."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{split}.", suffix=".part", dir=out))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # only succeeds while empty


def _write_split(
    staging: Path,
    images: int,
    seed: int,
    size: tuple[int, int],
    progress: Count | None,
    shapes: Sequence[str],
) -> None:
    (staging / "images").mkdir()
    (staging / "panoptic").mkdir()
    height, width = size
    entries: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in range(images):
        scene = draw_scene(seed, index, size, shapes)
        image_id = index + 1
        name = f"{image_id:012d}"
        write_image(staging / "images" / f"{name}.jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        objects = _annotations_of(scene, image_id, first_id=len(instances) + 1)
        segment_map, segments = _segments_of(scene, objects)
        write_panoptic_png(staging / "panoptic" / f"{name}.png", segment_map)
        entries.append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
        instances += objects
        for caption in scene.captions:
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": caption})
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
        if progress is not None:
            progress("drawing", index + 1, images)

    info = {"description": DESCRIPTION, "version": VERSION, "seed": seed, "size": [height, width]}
    things = [{"id": SHAPE_IDS[shape], "name": shape, "supercategory": "shape"} for shape in shapes]
    stuff = [
        {"id": STUFF_IDS[name], "name": name, "supercategory": "sky" if name.endswith("sky") else "ground"}
        for name in STUFF
    ]
    both = [
        {**category, "isthing": int(is_thing), "color": _category_color(category["name"])}
        for is_thing, categories in ((True, things), (False, stuff))
        for category in categories
    ]
    shared = {"info": info, "licenses": [], "images": entries}
    write_json(staging / "captions.json", {**shared, "annotations": captions})
    write_json(staging / "panoptic.json", {**shared, "annotations": panoptic, "categories": both})
    write_json(staging / "instances.json", {**shared, "annotations": instances, "categories": things})


def _annotations_of(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO's instance annotations of a scene: visible parts as compressed RLE, boxes as x, y, w, h."""
    boxes, areas = visible_boxes(scene.instance_map, len(scene.shapes))
    annotations = []
    for number, (shape, color) in enumerate(zip(scene.shapes, scene.colors, strict=True)):
        mask = np.asfortranarray(scene.instance_map == number + 1, dtype=np.uint8)
        rle = coco_mask.encode(mask)
        counts = rle["counts"]
        left, top, right, bottom = (float(edge) for edge in boxes[number])
        annotations.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": SHAPE_IDS[shape],
                "segmentation": {
                    "size": [int(side) for side in rle["size"]],
                    "counts": counts if isinstance(counts, str) else counts.decode("ascii"),
                },
                "area": float(areas[number]),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                "attributes": {"shape": shape, "color": color},
            }
        )
    return annotations


def _segments_of(scene: Scene, objects: list[dict[str, Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segment ids of a scene's pixels, (H, W) int32, and COCO's panoptic description of each segment."""
    segment_map = np.zeros(scene.instance_map.shape, np.int32)
    segments: list[dict[str, Any]] = []
    background = scene.instance_map == 0
    for index, name in enumerate(STUFF):
        mask = background & (scene.stuff_map == index)
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        if width == 0:
            continue
        segment_id = _id_from_color(_category_color(name))
        segment_map[mask] = segment_id
        box = [float(left), float(top), float(width), float(height)]
        area = float(np.count_nonzero(mask))
        segments.append({"id": segment_id, "category_id": STUFF_IDS[name], "area": area, "bbox": box, "iscrowd": 0})
    for number, annotation in enumerate(objects):
        # One colour per shape, told apart in its blue by the object's number.
        red, green, _ = _category_color(annotation["attributes"]["shape"])
        segment_id = _id_from_color([red, green, 40 + 25 * number])
        segment_map[scene.instance_map == number + 1] = segment_id
        parts = {key: annotation[key] for key in ("category_id", "area", "bbox", "iscrowd")}
        segments.append({"id": segment_id, **parts})
    return segment_map, segments


def _category_color(name: str) -> list[int]:
    """RGB that stands for a category in the panoptic images."""
    if name in SHAPES:
        rank = SHAPES.index(name)
        return [255 - 24 * rank, 20 + 28 * rank, 40]
    return _STUFF_COLORS[name]


_STUFF_COLORS = {
    "grass": [96, 128, 56],
    "sand": [214, 190, 146],
    "water": [62, 132, 150],
    "snow": [236, 240, 246],
    "pavement": [150, 146, 142],
    "clear sky": [120, 180, 235],
    "cloudy sky": [190, 194, 200],
    "sunset sky": [240, 160, 120],
    "night sky": [24, 28, 60],
}


def _id_from_color(color: list[int]) -> int:
    return color[0] + 256 * color[1] + 65536 * color[2]
