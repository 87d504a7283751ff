"""Where images come from: files, folders, globs, videos, cameras, streams and pipelines, as one stream of frames."""

from __future__ import annotations

import glob
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, UsageError
from ..images.image_files import read_image
from ..images.preprocess import PixelLayout
from ..progress import Say
from .addresses import SCHEMES, file_stem, is_pipeline, is_url, scheme_of, shown
from .capture import (
    FALLBACK_FPS,
    STDIN,
    CameraOptions,
    Capture,
    RawFrames,
    count_of,
    fps_of,
    open_capture,
    reads_a_file,
    size_of,
)
from .file_kinds import announces_every_frame, images_among, kind_of
from .grabs import First, Grab, grab

_SECONDS_BETWEEN_TRIES = 1.0
_SOURCES = "an image, a folder, a glob, a video, a camera index, a URL or a GStreamer pipeline"
_IMAGES = "image files, a folder of them or a glob"
_LAST_CAMERA = 9999  # OpenCV's numbers hold the driver in front of the camera, such as 700 + 1


@dataclass(frozen=True, repr=False)
class Frame:
    """One image of a source, or why it could not be read.

    Attributes:
        name: A file name relative to the source; for a video or a camera, its name.
        image: (h, w, 3) uint8 BGR; from standard input, or an iterable of the caller's, in the layout that was named
            for it; None when `error` is set.
        error: One line; None when `image` is set.
        index: Number of the frame from 0 on; 0 for the only image of an image. A stream numbers one below 0.
        captured_ns: Of a live source: when the frame was captured, in nanoseconds of `time.monotonic_ns()`, as near to
            the grab as can be had; it is never set back, and compares with other readings of this machine. None for
            files.
        captured_unix_ns: The same moment in nanoseconds since 1970, as `time.time_ns()` tells it, for pairing with what
            other machines and logs say, such as the stamps of ROS; it jumps when the clock is set. None for files.
        position_s: Of a video file: seconds from its beginning, as the file says, or else `index` divided by the
            frames per second. None for images and live sources.

    Whoever makes frames may fill in times of their own; they are handed over as they are.
    """

    name: str
    image: NDArray[np.uint8] | None
    error: str | None = None
    index: int = -1
    captured_ns: int | None = None
    captured_unix_ns: int | None = None
    position_s: float | None = None

    def __repr__(self) -> str:
        """One line with the shape of the image in its place, and the times that there are."""
        what = f"error={self.error!r}" if self.image is None else f"image of shape {np.shape(self.image)}"
        times = ((name, getattr(self, name)) for name in ("captured_ns", "captured_unix_ns", "position_s"))
        told = "".join(f", {name}={value}" for name, value in times if value is not None)
        return f"Frame({self.name!r}, {self.index}, {what}{told})"


@dataclass(frozen=True)
class Source:
    """An opened source; iterate over it for its frames.

    A camera or a stream that stops is opened again, once a second, for `options.reconnect_seconds`; where that is in
    vain, the last frame is one with an error, and the frames end. Frames keep their numbers over a gap. A stream that
    ends and does not know its length is taken for a lost one, and begins anew. A stream may change the size of its
    frames at any time: each frame is answered for in its own size.

    Attributes:
        kind: "images" are files of any sizes, "video" has an end or waits for its reader, "camera" goes on whether
            frames are taken or not.
        name: For people and for naming outputs; without user names, passwords and tokens.
        files: The files behind it; empty for whatever is no file.
        root: What names of frames are relative to.
        expected: Frames it says it has; None where nobody knows.
        fps: Frames per second of a video or a camera.
        camera: Index of the camera.
        address: The URL or pipeline, secrets included, or "-" for standard input; None for files and cameras.
        options: What is asked of a camera or a stream.
        report: Called with one line when a camera or a stream is lost, and when it is back.
    """

    kind: Literal["images", "video", "camera"]
    name: str
    files: tuple[Path, ...] = ()
    root: Path = Path()
    expected: int | None = None
    fps: float = FALLBACK_FPS
    camera: int | None = None
    address: str | None = field(default=None, repr=False)
    options: CameraOptions = field(default_factory=CameraOptions)
    report: Say | None = field(default=None, repr=False, compare=False)
    _opened: list[Capture] = field(default_factory=list, repr=False, compare=False)
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def is_live(self) -> bool:
        """Whether frames that nobody takes are lost: a slow reader drops them rather than fall behind."""
        return self.kind == "camera"

    @property
    def is_file(self) -> bool:
        """Whether it lies on the disk; whatever does not has to be ended from outside."""
        return self.kind == "images" or (self.address is None and self.camera is None)

    @property
    def layout(self) -> PixelLayout:
        """What the bytes of its frames mean: BGR but for standard input."""
        return (self.options.layout if self.address == STDIN else None) or "bgr"

    @property
    def file_stem(self) -> str:
        """What outputs that are one file for the whole source are called, without a suffix."""
        if self.camera is not None:
            return f"camera-{self.camera}"
        return file_stem(self.name) if self.address is not None else Path(self.name).stem

    def stop(self) -> None:
        """End a wait for a lost camera, from any thread; the frames end soon after."""
        self._stopped.set()

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
        capture: Capture | None = self._opened.pop() if self._opened else self._capture()
        index = 0
        error = None
        clock = _Clock(self)
        back: First | None = None
        try:
            while capture is not None:
                grabbed = grab(capture) if back is None else back.taken()
                back = None
                if grabbed is not None:
                    yield clock.frame(grabbed, index)
                    index += 1
                    continue
                capture.release()
                error = self._end_of(capture, index, clock.last_s)
                is_wanted = self.kind == "camera" and index and not self._stopped.is_set()
                back = self._opened_again() if is_wanted else None
                capture = back.capture if back is not None else None
        finally:
            if capture is not None:
                capture.release()
        if error is not None and not self._stopped.is_set():
            yield Frame(self.name, None, error, index)

    def _end_of(self, capture: Capture, index: int, last_s: float) -> str | None:
        """What is wrong with frames that have ended; None if nothing is."""
        if isinstance(capture, RawFrames) and capture.missing_bytes:
            missing = f"{self.name}: ends inside a frame, {capture.missing_bytes} bytes are missing"
            return f"{missing}; are the size and layout of its frames right?"
        if index == 0 and isinstance(capture, RawFrames):
            return f"{self.name}: ended before the first frame; pipe raw frames of the size given into it"
        if index == 0:
            return f"{self.name}: gave no frame, it is damaged or in use"
        if self.kind != "camera":
            return self._shortfall(index, last_s)
        tried = self.options.reconnect_seconds
        return f"{self.name}: stopped giving frames" + (f" and did not come back within {tried:g} s" if tried else "")

    def _shortfall(self, index: int, last_s: float) -> str | None:
        """What is missing of a video file that ended after `index` frames, the last of them at `last_s`."""
        if self.expected is None or not self.files:
            return None
        if announces_every_frame(self.files[0]):
            missing = self.expected - index
        else:  # the number is a guess from the length; only a length that falls far short tells of something missing
            left_s = self.expected / self.fps - last_s - 1 / self.fps
            missing = round(left_s * self.fps) if left_s > max(0.5, 0.05 * self.expected / self.fps) else 0
        if missing < 2:
            return None
        return (
            f"{self.name}: gave {index} of the {self.expected} frames that it announces; {missing} are missing, it is "
            "cut short or damaged"
        )

    def _opened_again(self) -> First | None:
        """A camera that is back and gives frames, or None when the time for that is over."""
        seconds = self.options.reconnect_seconds
        if not seconds:
            return None
        self._say(f"{self.name}: lost, trying to reach it again for {seconds:g} s")
        lost = time.monotonic()
        while (left := lost + seconds - time.monotonic()) > 0:
            if self._stopped.wait(min(_SECONDS_BETWEEN_TRIES, left)):
                return None
            try:
                capture = self._capture()
            except ImageError:
                continue
            first = First(capture)
            if first.is_there:
                self._say(f"{self.name}: back after {time.monotonic() - lost:.0f} s")
                return first
            capture.release()
        return None

    def _capture(self) -> Capture:
        return open_capture(self.camera if self.camera is not None else self.address or self.files[0], self.options)

    def _say(self, line: str) -> None:
        if self.report is not None:
            self.report(line)


class _Clock:
    """Makes frames of what a source grabs, with the times that mean something for it."""

    def __init__(self, source: Source):
        self._name = source.name
        self._fps = source.fps
        self._is_recorded = source.kind == "video" and source.address != STDIN
        self.last_s = -1.0

    def frame(self, grabbed: Grab, index: int) -> Frame:
        if not self._is_recorded:
            return Frame(self._name, grabbed.image, None, index, grabbed.captured_ns, grabbed.captured_unix_ns)
        position = grabbed.position_ms / 1e3
        if not self.last_s < position < float("inf"):  # some formats have no times, or lose them
            position = index / self._fps if index / self._fps > self.last_s else self.last_s + 1 / self._fps
        self.last_s = position
        return Frame(self._name, grabbed.image, None, index, position_s=position)


def open_source(
    source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str]],
    options: CameraOptions | None = None,
    report: Say | None = None,
) -> Source:
    """Find out what `source` is and make sure that it can be read at all.

    Args:
        source: An image file, a folder of images (not its sub-folders), a glob pattern, a video file; a camera by its
            index (a number or digits) or its device, such as /dev/video0; the URL of a stream or a video; a GStreamer
            pipeline, which has " ! " in it or begins with "gst:"; or "-" for bare frames on standard input. Or several
            files that are images.
        options: What is asked of a camera or a stream; None for its own ways.
        report: Called with one line when a camera or a stream is lost, and when it is back.

    Raises:
        UsageError: If nothing is there, nothing in it is an image, or this OpenCV cannot open such a thing.
        ImageError: If a video, camera or stream cannot be opened.
    """
    options = options or CameraOptions()
    options.check()
    opened = _opened(source, options, report)
    refused = "camera_size" if options.size is not None else "camera_fps" if options.fps is not None else None
    if refused is not None and opened.camera is None and opened.address != STDIN:
        for capture in opened._opened:
            capture.release()
        raise UsageError(
            f"{opened.name}: <{refused}> is for cameras and standard input; files and streams have their own",
            argument=refused,
        )
    return opened


def open_images(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], report: Say | None = None) -> Source:
    """As `open_source`, where images are wanted and no video, camera or stream would do.

    Raises:
        UsageError: If nothing is there, or no image.
    """
    text = str(source) if isinstance(source, str | os.PathLike) else None
    is_address = text is not None and (is_pipeline(text) or is_url(text) or text.isdecimal() or text == STDIN)
    if text is not None and not is_address and not glob.has_magic(text) and not os.path.exists(text):
        raise UsageError(f"{shown(text)}: no such file or folder; give {_IMAGES}")
    found = None if is_address else open_source(source, report=report)
    if found is None or found.kind != "images":
        name = shown(str(source)) if found is None else found.name
        raise UsageError(f"{name}: is a video or a camera; give {_IMAGES}")
    return found


def _opened(
    source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str]],
    options: CameraOptions,
    report: Say | None,
) -> Source:
    if options.layout is not None and source != STDIN:
        raise UsageError(
            f"<layout> {options.layout!r} is for raw frames on standard input (-); files, cameras and addresses give "
            "images in colour by themselves",
            argument="layout",
        )
    if not isinstance(source, str | os.PathLike | int):
        return _open_images(source)
    if isinstance(source, int):
        return _open_camera(source, options, report)
    text = os.fspath(source)
    if not text.strip():
        raise UsageError(f"the source is empty; give {_SOURCES}")
    if "\0" in text:
        raise UsageError(f"{text!r}: no file has such a name; give {_SOURCES}")
    path = Path(text)
    if text == STDIN:
        capture = open_capture(STDIN, options)
        fps = options.fps or FALLBACK_FPS
        return Source("video", "standard input", fps=fps, address=STDIN, options=options, _opened=[capture])
    if os.path.isdir(text):  # unlike Path's, it takes a pipeline that is too long for a name
        return _open_folder(path, report)
    if os.path.isfile(text):
        if kind_of(path) == "video":
            return _open_video(path)
        return Source("images", str(path), (path,), path.parent, 1)
    if is_pipeline(text) or is_url(text):
        return _open_stream(text, options, report)
    if text.isdecimal():
        if len(text) > len(str(_LAST_CAMERA)):
            raise _no_such_camera(text[:40])
        return _open_camera(int(text), options, report)
    device = _camera_device(path)
    if device is not None:
        return _open_camera(device, options, report)
    if glob.has_magic(text):
        return _open_glob(text, report)
    if re.fullmatch(r"/dev/video\d+", text):
        raise ImageError(f"{text}: no such camera; yolor-edge doctor lists those that are there")
    if os.path.exists(text):
        raise UsageError(f"{text}: is neither a file nor a folder nor a camera; give {_SOURCES}")
    raise UsageError(f"{shown(text)}: no such file or folder; give {_SOURCES}")


def _open_images(names: Sequence[str | os.PathLike[str]]) -> Source:
    """Several files, as a shell makes of a pattern without quotes."""
    files = tuple(dict.fromkeys(Path(name) for name in names))
    for file in files:
        if not file.is_file():
            what = "is no file" if file.exists() else "no such file"
            raise UsageError(f"{shown(str(file))}: {what}; several sources at once must be image files")
        if kind_of(file) == "video":
            raise UsageError(f"{file}: is a video; several sources at once must be image files")
    if not files:
        raise UsageError(f"the source is empty; give {_SOURCES}")
    root = Path(os.path.commonpath([file.parent.absolute() for file in files]))
    return Source("images", f"{len(files)} images", tuple(file.absolute() for file in files), root, len(files))


def _open_folder(folder: Path, report: Say | None) -> Source:
    files, others = images_among(x for x in folder.iterdir() if x.is_file() and not x.name.startswith("."))
    if not files:
        raise UsageError(f"{folder}: the folder holds no images{_told(others, '; it holds ')}")
    if others and report is not None:
        report(f"{folder}: left out what is no image:{_told(others)}")
    return Source("images", str(folder), files, folder, len(files))


def _told(names: Sequence[str], before: str = " ") -> str:
    """The first few of some names, and how many more there are; empty for none."""
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return f"{before}{', '.join(names[: 4 if more else 5])}{more}" if names else ""


def _open_glob(pattern: str, report: Say | None) -> Source:
    files, others = images_among(x for name in glob.glob(pattern, recursive=True) if (x := Path(name)).is_file())
    if not files:
        raise UsageError(f"{pattern}: matches no image{_told(others, ', but ')}")
    if others and report is not None:
        report(f"{pattern}: left out what is no image:{_told(others)}")
    root = Path(os.path.commonpath([x.parent for x in files]))
    return Source("images", pattern, files, root, len(files))


def _open_video(path: Path) -> Source:
    capture = open_capture(path)
    try:
        expected, fps = count_of(capture), fps_of(capture)
    finally:
        capture.release()
    return Source("video", path.name, (path,), path.parent, expected, fps)


def _open_camera(index: int, options: CameraOptions, report: Say | None) -> Source:
    """A camera stays open from here on: many need a second to start, and some do not start twice in a row."""
    if not 0 <= index <= _LAST_CAMERA:
        raise _no_such_camera(index)
    capture = open_capture(index, options)
    fps = fps_of(capture)
    name = f"camera {index}"
    if options.size is not None and report is not None:
        granted = size_of(capture)
        if granted != options.size and all(granted):
            wanted = f"{options.size[1]}x{options.size[0]}"
            report(f"{name}: gives {granted[1]}x{granted[0]}, the nearest to {wanted} that it has")
    return Source("camera", name, fps=fps, camera=index, options=options, report=report, _opened=[capture])


def _no_such_camera(index: int | str) -> UsageError:
    return UsageError(
        f"camera {index}: cameras are numbered from 0 to {_LAST_CAMERA}; yolor-edge doctor lists those that are there"
    )


def _open_stream(address: str, options: CameraOptions, report: Say | None) -> Source:
    """A stream or a pipeline; one that knows how many frames it has is a video, whose frames all wait to be taken."""
    if not is_pipeline(address) and scheme_of(address) not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{shown(address)}: unknown kind of address; known are {known}; give a file by its path")
    capture = open_capture(address, options)
    expected = count_of(capture)
    has_end = expected is not None or (is_pipeline(address) and reads_a_file(address))
    return Source(
        "video" if has_end else "camera",
        shown(address),
        expected=expected,
        fps=fps_of(capture),
        address=address,
        options=options,
        report=report,
        _opened=[capture],
    )


def _camera_device(path: Path) -> int | None:
    """The index of the camera that a device, or a link to one such as in /dev/v4l/by-id, stands for."""
    try:
        real = path.resolve(strict=True)
        is_device = stat.S_ISCHR(real.stat().st_mode)
    except OSError:
        return None
    found = re.fullmatch(r"video(\d+)", real.name)
    return int(found[1]) if is_device and found else None
