"""Where pictures come from: an image, a folder, a glob, a video file or a camera, as one stream of frames."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, UsageError
from .images import IMAGE_SUFFIXES, quiet_opencv, read_image

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
FALLBACK_FPS = 25.0


@dataclass(frozen=True)
class Frame:
    """One picture of a source, or why it could not be read.

    Attributes:
        name: A file name relative to the source; for a video or a camera, its name.
        image: (h, w, 3) uint8 BGR; None when `error` is set.
        error: One line; None when `image` is set.
        index: Number of the frame from 0 on; 0 for the only picture of an image.
    """

    name: str
    image: NDArray[np.uint8] | None
    error: str | None
    index: int


@dataclass(frozen=True)
class Source:
    """An opened source; iterate over it for its frames.

    Attributes:
        kind: "images" are files of any sizes, "video" and "camera" are frames of one size.
        name: For people and for naming outputs.
        files: The files behind it; empty for a camera.
        root: What names of frames are relative to.
        expected: Frames it says it has; None where nobody knows.
        fps: Frames per second of a video or a camera.
        camera: Index of the camera.
    """

    kind: Literal["images", "video", "camera"]
    name: str
    files: tuple[Path, ...] = ()
    root: Path = Path()
    expected: int | None = None
    fps: float = FALLBACK_FPS
    camera: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        if self.kind == "images":
            return self._images()
        return self._frames()

    def _images(self) -> Iterator[Frame]:
        for index, path in enumerate(self.files):
            name = path.relative_to(self.root).as_posix()
            try:
                yield Frame(name, read_image(path), None, index)
            except ImageError as error:
                yield Frame(name, None, str(error), index)

    def _frames(self) -> Iterator[Frame]:
        capture = _capture(self.files[0] if self.camera is None else self.camera)
        try:
            index = 0
            while True:
                with quiet_opencv():
                    done, image = capture.read()
                if not done or image is None:
                    break
                pixels = np.asarray(image, np.uint8)
                if pixels.ndim == 2:
                    pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
                yield Frame(self.name, pixels, None, index)
                index += 1
        finally:
            capture.release()
        if index == 0:
            yield Frame(self.name, None, f"{self.name}: gave no frame, it is damaged or in use", 0)
        elif self.camera is not None:
            yield Frame(self.name, None, f"{self.name}: stopped giving frames", index)


def open_source(source: str | os.PathLike[str] | int) -> Source:
    """Find out what `source` is and make sure that it can be read at all.

    Args:
        source: An image file, a folder of images (not its sub-folders), a glob pattern, a video file, or the
            index of a camera as a number or digits.

    Raises:
        UsageError: If nothing is there, or nothing in it is a picture.
        ImageError: If a video or camera cannot be opened.
    """
    if isinstance(source, int):
        return _open_camera(source)
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        files = tuple(sorted(x for x in path.iterdir() if x.suffix.lower() in IMAGE_SUFFIXES and x.is_file()))
        if not files:
            raise UsageError(f"{path}: the folder holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return Source("images", str(path), files, path, len(files))
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _open_video(path)
        return Source("images", str(path), (path,), path.parent, 1)
    if text.isdecimal():
        return _open_camera(int(text))
    if glob.has_magic(text):
        return _open_glob(text)
    raise UsageError(f"{text}: no such file or folder; give an image, a folder, a glob, a video or a camera index")


def _open_glob(pattern: str) -> Source:
    found = (Path(name) for name in glob.glob(pattern, recursive=True))
    files = tuple(sorted(x for x in found if x.suffix.lower() in IMAGE_SUFFIXES and x.is_file()))
    if not files:
        raise UsageError(f"{pattern}: matches no picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
    root = Path(os.path.commonpath([x.parent for x in files]))
    return Source("images", pattern, files, root, len(files))


def _open_video(path: Path) -> Source:
    capture = _capture(path)
    try:
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = capture.get(cv2.CAP_PROP_FPS)
    finally:
        capture.release()
    expected = int(frames) if frames > 0 else None
    return Source("video", path.name, (path,), path.parent, expected, _sane_fps(fps))


def _open_camera(index: int) -> Source:
    capture = _capture(index)
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
    finally:
        capture.release()
    return Source("camera", f"camera {index}", fps=_sane_fps(fps), camera=index)


def _capture(what: Path | int) -> cv2.VideoCapture:
    """An opened capture.

    Raises:
        ImageError: If it cannot be opened.
    """
    with quiet_opencv():
        capture = cv2.VideoCapture(what if isinstance(what, int) else os.fspath(what))
    if not capture.isOpened():
        capture.release()
        if isinstance(what, int):
            raise ImageError(f"camera {what}: cannot be opened; is it connected, free and permitted?")
        raise ImageError(f"{what}: cannot be opened as a video; it is damaged or of an unknown format")
    return capture


def _sane_fps(fps: float) -> float:
    return fps if 1 <= fps <= 1000 else FALLBACK_FPS
