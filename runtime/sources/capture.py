"""What frames are taken from: cameras, streams and pipelines through OpenCV, and raw pixels from standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ..environment.opencv import name_for_opencv, require_opencv
from ..environment.opencv_build import opencv_build
from ..errors import ImageError, UsageError
from ..images.image_files import quiet_opencv
from ..images.preprocess import PixelLayout, shape_of
from .addresses import PIPELINE_PREFIX, is_pipeline, is_url, shown

if TYPE_CHECKING:
    import cv2

STDIN = "-"
FALLBACK_FPS = 25.0
# How long a server may take to answer, and a stream to give its next frame.
_OPEN_MS, _READ_MS = 5000, 5000
# What OpenCV wants at the end of a pipeline; a live one gives its newest frame and lets the others go.
_SINK = " ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false{live}"
_LIVE = " drop=true max-buffers=1"
_NO_GSTREAMER = (
    "a GStreamer pipeline needs an OpenCV with GStreamer, and {title} has none; use the system's python3-opencv (on a "
    "Jetson JetPack's) in a virtual environment with --system-site-packages, or let gst-launch-1.0 hand over the "
    "frames: gst-launch-1.0 -q ... ! videoconvert ! video/x-raw,format=BGR,width=1280,height=720 ! fdsink | "
    "yolor-edge run BUNDLE - --camera-size 1280x720"
)


@dataclass(frozen=True)
class CameraOptions:
    """What is asked of a camera or a stream.

    Attributes:
        size: (height, width) wanted of a camera, which takes the nearest it has; of standard input, the size its frames
            have. None for the camera's own.
        fps: Frames per second wanted of a camera; None for its own.
        reconnect_seconds: How long to try again when a camera or a stream stops; 0 gives up at once.
        layout: Of the frames on standard input, as in `Model.predict`, from which with `size` follows how many bytes
            each has; None for BGR. What else gives frames gives them in BGR.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    reconnect_seconds: float = 10.0
    layout: PixelLayout | None = None

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: Saying what.
        """
        if self.size is not None and not all(1 <= side <= 16384 for side in self.size):
            raise UsageError(
                f"the size of a camera must be from 1x1 to 16384x16384, got {self.size[1]}x{self.size[0]}",
                "camera_size",
            )
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UsageError(
                f"the frames per second of a camera must be from 0 to 1000, got {self.fps:g}", argument="camera_fps"
            )
        if not 0 <= self.reconnect_seconds <= 86400:
            raise UsageError(
                f"<reconnect_seconds> must be from 0 to 86400, got {self.reconnect_seconds:g}",
                argument="reconnect_seconds",
            )
        if self.layout is not None and self.layout not in get_args(PixelLayout):
            raise UsageError(
                f"<layout> must be one of {', '.join(get_args(PixelLayout))}, got {self.layout!r}", argument="layout"
            )
        if self.size is not None and self.layout is not None:
            height, width = self.size
            if (self.layout == "nv12" and height % 2) or (self.layout in ("nv12", "yuyv") and width % 2):
                raise UsageError(f"frames in {self.layout} have an even width and height, got {width}x{height}")


class Capture(Protocol):
    """Gives frames one after the other, as OpenCV's does."""

    def read(self) -> tuple[bool, Any]:
        """Whether there is another frame, and it."""
        ...

    def get(self, propId: int, /) -> float:
        """A property in OpenCV's numbers; 0 for one that is not known."""
        ...

    def release(self) -> None:
        """Let go of what is behind it."""
        ...


def open_capture(address: Path | int | str, options: CameraOptions | None = None) -> Capture:
    """Open whatever gives frames.

    Args:
        address: A video file as a path; the index of a camera; or as text a URL, a pipeline, or "-" for standard input.
        options: What is asked of it.

    Raises:
        UsageError: If this OpenCV cannot open such a thing at all, or standard input is given without a size.
        ImageError: If it cannot be opened.
    """
    require_opencv()
    import cv2  # here and below, since the runtime is imported without it where nothing is to be opened

    options = options or CameraOptions()
    if isinstance(address, int):
        capture = _opened(
            f"camera {address}",
            "is it connected, free and permitted? yolor-edge doctor lists those that are there",
            address,
        )
        _ask_camera(capture, options)
        return capture
    if isinstance(address, Path):
        with name_for_opencv(address) as name:
            return _opened(str(address), "as a video; it is damaged or of an unknown format", name)
    if address == STDIN:
        return RawFrames(sys.stdin.buffer, options.size, options.layout)
    if is_pipeline(address):
        if not opencv_build().has_gstreamer:
            raise UsageError(_NO_GSTREAMER.format(title=f"OpenCV {opencv_build().title}"))
        text = whole_pipeline(address)
        return _opened(shown(address), "try it with gst-launch-1.0, which says why", text, cv2.CAP_GSTREAMER)
    if is_url(address):
        if not opencv_build().has_ffmpeg:
            title = opencv_build().title
            raise UsageError(f"{shown(address)}: needs an OpenCV with FFMPEG, and OpenCV {title} has none")
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        cure = "is there a stream at this host and path, and are user name and password right?"
        return _opened(shown(address), cure, address, cv2.CAP_FFMPEG, limits)
    raise UsageError(f"{address}: is no camera, URL or pipeline")


def whole_pipeline(text: str) -> str:
    """A pipeline that OpenCV can take frames from: with an appsink at its end, if it has none."""
    pipeline = text.removeprefix(PIPELINE_PREFIX).strip()
    if "appsink" in pipeline:
        return pipeline
    return pipeline.rstrip("! ") + _SINK.format(live="" if reads_a_file(text) else _LIVE)


def reads_a_file(pipeline: str) -> bool:
    """Whether a pipeline has an end and may be read as slowly as one likes."""
    return "filesrc" in pipeline


class RawFrames:
    """Frames as bare bytes, row after row, one frame after the other.

    Args:
        stream: Where they come from.
        size: (height, width) of each, in pixels.
        layout: What the bytes mean.

    Raises:
        UsageError: If there is no size.
    """

    def __init__(self, stream: BinaryIO, size: tuple[int, int] | None, layout: PixelLayout | None = None):
        if size is None:
            raise UsageError(
                f"frames from standard input are raw {(layout or 'bgr').upper()} bytes; give their size as "
                "<camera_size>, such as 1280x720",
                argument="camera_size",
            )
        self._stream = stream
        self._shape = shape_of(size, layout or "bgr")
        self.missing_bytes = 0  # of a last frame that is not whole

    def read(self) -> tuple[bool, Any]:
        """The next frame, uint8 of the shape of its layout; False where the stream ends, whole or inside a frame."""
        image = np.empty(self._shape, np.uint8)
        left = image.data.cast("B")
        while left:
            count = self._stream.readinto(left)  # type: ignore[attr-defined]
            if not count:
                self.missing_bytes = len(left) if len(left) < image.size else 0
                return False, None
            left = left[count:]
        return True, image

    def get(self, propId: int, /) -> float:
        """Bare bytes have no properties."""
        return 0.0

    def release(self) -> None:
        """Standard input is not ours to close."""


def _opened(name: str, cure: str, *arguments: Any) -> cv2.VideoCapture:
    import cv2

    try:
        with quiet_opencv():
            capture = cv2.VideoCapture(*arguments)
    except cv2.error as error:
        raise ImageError(f"{name}: cannot be opened; {cure}") from error
    if not capture.isOpened():
        capture.release()
        raise ImageError(f"{name}: cannot be opened{' ' if cure.startswith('as a') else '; '}{cure}")
    return capture


def _ask_camera(capture: cv2.VideoCapture, options: CameraOptions) -> None:
    """Ask for a size and a rate, in compressed frames where bare ones come in fewer pixels or more slowly.

    Over USB 2, 1280x720 comes at 10 bare frames a second and at 30 as JPEG.
    """
    import cv2

    if options.size is None and options.fps is None:
        return
    with quiet_opencv():
        bare = _asked(capture, options)
        wanted_fps = options.fps or 25.0
        has_size = options.size is None or bare[0] == options.size[0] * options.size[1]
        if has_size and bare[1] >= wanted_fps - 1:
            return
        format_before = capture.get(cv2.CAP_PROP_FOURCC)
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if _asked(capture, options) <= bare:
            capture.set(cv2.CAP_PROP_FOURCC, format_before)
            _asked(capture, options)


def _asked(capture: cv2.VideoCapture, options: CameraOptions) -> tuple[float, float]:
    """Pixels of a frame and frames per second that the camera grants."""
    import cv2

    if options.size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size[1])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size[0])
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    height, width = size_of(capture)
    return height * width, capture.get(cv2.CAP_PROP_FPS)


def size_of(capture: Capture) -> tuple[int, int]:
    """(height, width) of its frames; zeros where it does not say."""
    import cv2

    return round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), round(capture.get(cv2.CAP_PROP_FRAME_WIDTH))


def count_of(capture: Capture) -> int | None:
    """How many frames it has; None where it does not know."""
    import cv2

    frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(frames) if frames > 0 else None


def fps_of(capture: Capture) -> float:
    """Frames per second; what is usual, where it does not say or makes no sense."""
    import cv2

    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 1000 else FALLBACK_FPS


def bgr(image: Any) -> NDArray[np.uint8]:
    """A frame as (h, w, 3) uint8 BGR, whether it came in colour, in grey or with an alpha channel."""
    import cv2

    pixels = np.asarray(image, np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[:, :, :3])
