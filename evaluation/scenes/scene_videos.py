"""Sequences of drawn scenes with what is true of their tracks, in the layout of the MOT Challenge.

    OUT/SPLIT/labels.txt                       names of the classes, the first is class 1
    OUT/SPLIT/scene-0001/seqinfo.ini           name, frames, frames per second, size
    OUT/SPLIT/scene-0001/img1/000001.jpg       frames from 1 on
    OUT/SPLIT/scene-0001/gt/gt.txt             frame, track, left, top, width, height, 1, class, visibility

Shapes come in, swing about their way, cover each other, go behind posts that stand in front of all, and leave for
good. Pixels of a box are whole numbers from 0 on; it is that of the whole object as far as it lies in the image, seen
or not, and visibility is the share of the object that is seen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ...runtime.errors import UsageError
from ...runtime.progress import Count
from ..dataset.split_files import write_image
from .scene_captions import COLORS, SHAPES
from .scene_drawing import MovingShape, draw_background, draw_moving_shapes
from .scene_files import JPEG_QUALITY, check_arguments, staging_folder

Camera = Literal["still", "moving"]
_OVERHANG = 0.3  # of the background beyond the image, where the camera moves


@dataclass(frozen=True)
class TrackTruth:
    """What is true of one object in one frame.

    Attributes:
        track: Its number, from 1 on.
        class_id: Index into the shapes that are drawn.
        box: x1, y1, x2, y2 in pixels, inside the image.
        visibility: Share of the object that is seen, from 0 to 1.
    """

    track: int
    class_id: int
    box: tuple[int, int, int, int]
    visibility: float


@dataclass(frozen=True)
class _Way:
    """Where an object is at each frame: from one point to another while it swings."""

    begin: float  # frame
    end: float
    points: np.ndarray  # (2, 2) first and last centre, x, y
    swing: np.ndarray  # (2,) pixels
    waves: np.ndarray  # (2,) over the whole way
    growth: float

    def at(self, frame: float) -> tuple[np.ndarray, float] | None:
        """Its centre and scale; None when it is not there."""
        share = (frame - self.begin) / (self.end - self.begin)
        if not 0 <= share <= 1:
            return None
        straight = self.points[0] + share * (self.points[1] - self.points[0])
        return straight + self.swing * np.sin(2 * np.pi * self.waves * share), 1 + self.growth * (share - 0.5)


def draw_video(
    seed: int,
    index: int,
    frames: int,
    size: tuple[int, int] = (360, 640),
    objects: int = 16,
    camera: Camera = "still",
    shapes: Sequence[str] = SHAPES,
) -> Iterator[tuple[np.ndarray, list[TrackTruth]]]:
    """Draw sequence `index` of the endless series that `seed` names.

    Args:
        seed: At least 0.
        index: At least 0.
        frames: How many.
        size: (height, width) of the images, in pixels.
        objects: That come by in all, at least 1.
        camera: "moving" pans and trembles.
        shapes: Those that its objects are chosen from, some of `SHAPES`.

    Yields:
        Of each frame the image, (H, W, 3) uint8 BGR, and the objects that lie in it, by rising track.
    """
    rng = np.random.default_rng([seed, index, 1])
    unit = min(size[0] / 224, size[1] / 288)
    margin = np.rint(np.array(size) * (_OVERHANG if camera == "moving" else 0)).astype(int)
    world = size[0] + int(margin[0]), size[1] + int(margin[1])
    background = draw_background(rng, world)
    classes = rng.integers(len(shapes), size=objects)
    colors = rng.integers(len(COLORS), size=objects)
    sides = rng.uniform(22, 62, objects) * unit
    turns = rng.uniform(0, 2 * math.pi, objects)
    ways = [_way(rng, frames, world, float(side)) for side in sides]
    posts = [_post(rng, world) for _ in range(2)]
    view = _views(rng, frames, margin)
    grain = rng.uniform(1.0, 3.0)
    for frame in range(frames):
        top, left = (int(x) for x in view[frame])
        canvas = background[top : top + size[0], left : left + size[1]].copy()
        there = []
        for number in range(objects):  # in the order of depth, hindmost first
            place = ways[number].at(frame)
            if place is not None:
                (x, y), scale = place
                shape, color = shapes[int(classes[number])], COLORS[int(colors[number])]
                centre = (float(x) - left, float(y) - top)
                moving = MovingShape(number, shape, color, centre, float(sides[number]) * scale, float(turns[number]))
                there.append(moving)
        drawn = draw_moving_shapes(canvas, there, [seed, index], unit)
        for x, width, shade in posts:
            first, last = np.clip([x - left, x - left + width], 0, size[1])
            canvas[:, first:last] = np.float32(shade)
            drawn.owners[:, first:last] = 0
        noise = np.random.default_rng([seed, index, 2, frame]).standard_normal(canvas.shape, dtype=np.float32)
        image = np.clip(np.rint(canvas + noise * np.float32(grain)), 0, 255).astype(np.uint8)[..., ::-1]
        seen = np.bincount(drawn.owners.ravel(), minlength=len(there) + 1)[1:]
        truths = []
        for i, moving in enumerate(there):
            x1, y1, x2, y2 = drawn.boxes[i]
            if x2 > x1 and y2 > y1:
                visibility = min(1.0, float(seen[i]) / max(1, drawn.areas[i]))
                truths.append(TrackTruth(moving.number + 1, int(classes[moving.number]), (x1, y1, x2, y2), visibility))
        yield np.ascontiguousarray(image), truths


def _way(rng: np.random.Generator, frames: int, world: tuple[int, int], side: float) -> _Way:
    """From beyond one side of the image to beyond another one; some are there from the beginning, some stay."""
    height, width = world
    duration = float(rng.uniform(60, 220))
    begin = float(rng.uniform(-0.7 * duration, max(1.0, frames - 30)))
    reach = side + 4
    borders = [
        np.array([-reach, rng.uniform(0.1, 0.9) * height]),
        np.array([width + reach, rng.uniform(0.1, 0.9) * height]),
        np.array([rng.uniform(0.1, 0.9) * width, -reach]),
        np.array([rng.uniform(0.1, 0.9) * width, height + reach]),
    ]
    weights = np.array([0.4, 0.4, 0.1, 0.1])
    first, last = rng.choice(4, 2, replace=False, p=weights)
    points = np.stack([borders[first], borders[last]])
    return _Way(
        begin,
        begin + duration,
        points,
        rng.uniform(0, 0.06, 2) * min(height, width),
        rng.uniform(1, 3, 2),
        float(rng.uniform(-0.4, 0.4)),
    )


def _post(rng: np.random.Generator, world: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """Left edge, width and RGB of a post from the lower edge of the image to the upper."""
    width = int(rng.uniform(0.025, 0.06) * world[1])
    return int(rng.uniform(0.1, 0.9) * world[1]), width, rng.uniform(50, 120) * np.array([1.0, 0.95, 0.9])


def _views(rng: np.random.Generator, frames: int, margin: np.ndarray) -> np.ndarray:
    """(frames, 2) int: row and column of the background where the image begins."""
    time = np.arange(frames)[:, None]
    waves = rng.uniform(60, 140, 2)
    swing = 0.5 + 0.42 * np.sin(2 * np.pi * (time / waves + rng.random(2)))
    trembling = rng.normal(0, 0.02, (frames, 2))
    return np.rint(np.clip(swing + trembling, 0, 1) * margin).astype(int)


def write_videos(
    out: Path | str,
    count: int,
    seed: int,
    split: str = "train",
    size: tuple[int, int] = (360, 640),
    progress: Count | None = None,
    shapes: Sequence[str] | None = None,
    *,
    frames: int = 150,
    fps: float = 25.0,
    objects: int = 16,
    camera: Camera = "still",
) -> Path:
    """Draw sequences and write them in the layout of the MOT Challenge; the split appears whole or not at all.

    The same arguments give the same files, byte for byte.

    Args:
        out: Folder of the data set; made if missing. Other splits in it stay as they are.
        count: How many sequences, at least 1.
        seed: Names the series of sequences, at least 0.
        split: Name of the folder with the sequences.
        size: (height, width) of every image, each 64 to 2048.
        progress: Called with (frames done, frames in all) after each.
        shapes: The shapes that are drawn, which are the classes then; all of `SHAPES` by default.
        frames: Of each sequence, at least 1.
        fps: Frames per second that the sequences say they have.
        objects: That come by in each sequence, at least 1.
        camera: "still", or "moving", which pans and trembles.

    Returns:
        `out` as a path.

    Raises:
        UsageError: If an argument is out of range, or `out` is a file or has this split already.
    """
    out = Path(out)
    check_arguments(out, count, seed, split, size, shapes)
    for name, value in (("frames", frames), ("objects", objects)):
        if not 1 <= value <= 100_000:
            raise UsageError(f"<{name}> must be from 1 to 100000, got {value}", argument=name)
    if not 0 < fps <= 1000:
        raise UsageError(f"<fps> must be above 0, at most 1000, got {fps}", argument="fps")
    if camera not in ("still", "moving"):
        raise UsageError(f"<camera> must be still or moving, got {camera!r}", argument="camera")
    known = SHAPES if shapes is None else tuple(shape for shape in SHAPES if shape in shapes)
    with staging_folder(out, split) as staging:
        for index in range(count):
            folder = staging / "images" / f"scene-{index + 1:04d}"
            (folder / "img1").mkdir(parents=True)
            (folder / "gt").mkdir()
            lines = []
            for frame, (image, truths) in enumerate(
                draw_video(seed, index, frames, size, objects, camera, known), start=1
            ):
                write_image(folder / "img1" / f"{frame:06d}.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                lines += [_line(frame, truth) for truth in truths]
                if progress is not None:
                    progress("drawing", index * frames + frame, count * frames)
            (folder / "gt" / "gt.txt").write_text("".join(lines), encoding="utf-8")
            (folder / "seqinfo.ini").write_text(
                f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={fps:g}\nseqLength={frames}\n"
                f"imWidth={size[1]}\nimHeight={size[0]}\nimExt=.jpg\n",
                encoding="utf-8",
            )
        (staging / "images" / "labels.txt").write_text("".join(f"{name}\n" for name in known), encoding="utf-8")
        os.replace(staging / "images", out / split)
    return out


def _line(frame: int, truth: TrackTruth) -> str:
    x1, y1, x2, y2 = truth.box
    return f"{frame},{truth.track},{x1},{y1},{x2 - x1},{y2 - y1},1,{truth.class_id + 1},{truth.visibility:.3f}\n"
