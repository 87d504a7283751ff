"""Whether a file is an image or a video, by what is in it: suffixes lie, and some files have none."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ..environment.opencv import name_for_opencv, require_opencv
from ..images.image_files import quiet_opencv

FileKind = Literal["image", "video"]
# Files of JPEG images one after the other begin like a single one.
_MOTION_JPEG = frozenset({".mjpeg", ".mjpg"})
_FRAME_COUNTS_ARE_EXACT = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # of MP4 and QuickTime, from byte 4 on


def kind_of(path: Path) -> FileKind | None:
    """What the decoders at hand take a file for, or what its name promises where it is damaged; None for neither."""
    require_opencv()
    import cv2

    with quiet_opencv(), name_for_opencv(path) as name:
        try:
            is_image = cv2.haveImageReader(name)
        except cv2.error:
            is_image = False
        if is_image and path.suffix.lower() not in _MOTION_JPEG:
            return "image"
        try:
            capture = cv2.VideoCapture(name)
            is_video = capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0
            capture.release()
        except cv2.error:
            is_video = False
    if is_video or is_image:
        return "video" if is_video else "image"
    promised = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return promised if promised == "image" or promised == "video" else None


def images_among(files: Iterable[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The images among files, in order of their paths, and what the others are: "clip.mp4 (a video)"."""
    images: list[Path] = []
    others: list[str] = []
    for file in sorted(files):
        kind = kind_of(file)
        if kind == "image":
            images.append(file)
        else:
            others.append(f"{file.name} (a video)" if kind == "video" else file.name)
    return tuple(images), tuple(others)


def announces_every_frame(path: Path) -> bool:
    """Whether the number of frames that the file announces is counted, not guessed from its length and rate."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] in _FRAME_COUNTS_ARE_EXACT or (head[:4] == b"RIFF" and head[8:] == b"AVI ")
