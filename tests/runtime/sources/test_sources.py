"""Sources: files, cameras, streams, pipelines and raw pixels; lost ones, and secrets that nobody may see."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.runtime.environment.opencv_build import OpencvBuild
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.sources import addresses, capture, sources
from yolor_edge.runtime.sources.capture import CameraOptions, RawFrames, bgr, open_capture, whole_pipeline
from yolor_edge.runtime.sources.sources import Source, open_images, open_source

from .cameras import FakeCamera, mjpeg_server, picture

NO_WAIT = CameraOptions(reconnect_seconds=0)


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Let these come out of `open_capture` one after the other; an exception is raised instead."""

    def give(*captures: Any) -> list[Any]:
        left = list(captures)

        def opened(address: Any, options: CameraOptions | None = None) -> Any:
            one = left.pop(0) if left else ImageError("cannot be opened")
            if isinstance(one, Exception):
                raise one
            return one

        monkeypatch.setattr(sources, "open_capture", opened)
        monkeypatch.setattr(sources, "_SECONDS_BETWEEN_TRIES", 0.01)
        return left

    return give


# Cameras.


def test_a_camera_stays_open_from_the_first_look(cameras: Callable[..., list[Any]]) -> None:
    camera = FakeCamera()
    cameras(camera)
    source = open_source("3", NO_WAIT)
    assert (source.kind, source.name, source.camera, source.file_stem) == ("camera", "camera 3", 3, "camera-3")
    assert source.is_live
    assert not source.is_file
    assert source.fps == 25
    frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert frames[-1].error == "camera 3: stopped giving frames"
    assert camera.is_released


def test_a_lost_camera_comes_back(cameras: Callable[..., list[Any]]) -> None:
    cameras(FakeCamera(), ImageError("in use"), FakeCamera([]), FakeCamera())
    said: list[str] = []
    source = open_source(0, CameraOptions(reconnect_seconds=0.5), said.append)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(7))
    assert all(frame.image is not None for frame in frames[:6])
    assert frames[6].error == "camera 0: stopped giving frames and did not come back within 0.5 s"
    assert said == [
        "camera 0: lost, trying to reach it again for 0.5 s",
        "camera 0: back after 0 s",
        "camera 0: lost, trying to reach it again for 0.5 s",
    ]


def test_a_camera_that_gives_nothing_is_not_waited_for(cameras: Callable[..., list[Any]]) -> None:
    cameras(FakeCamera([]))
    (frame,) = open_source(0)
    assert frame.error == "camera 0: gave no frame, it is damaged or in use"


def test_stopping_ends_the_wait_for_a_lost_camera(cameras: Callable[..., list[Any]]) -> None:
    cameras(FakeCamera())
    source = open_source(0, CameraOptions(reconnect_seconds=3600), lambda line: source.stop())
    assert [frame.index for frame in source] == [0, 1, 2]


def test_a_frame_of_another_size_is_a_frame_of_its_own(cameras: Callable[..., list[Any]]) -> None:
    grey, alpha = np.zeros((48, 64), np.uint8), np.zeros((32, 32, 4), np.uint8)
    cameras(FakeCamera([picture(), grey, alpha]))
    shapes = [frame.image.shape for frame in open_source(0, NO_WAIT) if frame.image is not None]
    assert shapes == [(64, 96, 3), (48, 64, 3), (32, 32, 3)]
    assert bgr(np.zeros((4, 5, 1), np.uint8)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("modes", "granted"),
    [
        ({"YUYV": (720, 1280, 10), "MJPG": (720, 1280, 30)}, (720, 1280, 30)),
        ({"YUYV": (720, 1280, 30), "MJPG": (720, 1280, 60)}, (720, 1280, 30)),
        ({"YUYV": (480, 640, 30), "MJPG": (720, 1280, 30)}, (720, 1280, 30)),
        ({"YUYV": (480, 640, 30), "MJPG": (480, 640, 15)}, (480, 640, 30)),
        ({"YUYV": (480, 640, 10)}, (480, 640, 10)),
    ],
)
def test_compressed_frames_where_they_are_larger_or_faster(
    modes: dict[str, tuple[int, int, float]], granted: tuple[int, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCamera(modes=modes))
    camera = open_capture(0, CameraOptions((720, 1280)))
    properties = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FPS)
    assert tuple(camera.get(which) for which in properties) == granted


def test_another_size_than_wanted_is_said(cameras: Callable[..., list[Any]]) -> None:
    cameras(FakeCamera(modes={"YUYV": (480, 640, 30)}))
    said: list[str] = []
    open_source("0", CameraOptions((720, 1280)), said.append)
    assert said == ["camera 0: gives 640x480, the nearest to 1280x720 that it has"]


@pytest.mark.parametrize("index", [-1, 10_000, 1 << 40, "10000", "99999999999", "9" * 5000])
def test_an_index_that_no_camera_has(index: int | str) -> None:
    with pytest.raises(UsageError, match=r"camera -?\d{1,40}: cameras are numbered from 0 to 9999; yolor-edge doctor"):
        open_source(index)


@pytest.mark.parametrize("text", ["", "  "])
def test_a_source_without_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="the source is empty; give an image, a folder, a glob, a video"):
        open_source(text)


def test_what_is_there_and_holds_no_picture() -> None:
    with pytest.raises(UsageError, match="/dev/null: is neither a file nor a folder nor a camera; give an image"):
        open_source("/dev/null")


def test_a_name_that_no_file_has() -> None:
    with pytest.raises(UsageError, match=r"'a\\x00b': no file has such a name; give an image"):
        open_source("a\0b")


def test_a_device_is_its_camera(
    cameras: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "by-id").symlink_to("/dev/null")
    with pytest.raises(UsageError, match="is neither a file nor a folder nor a camera"):
        open_source(tmp_path / "by-id")  # a device, but no camera
    real = Path.resolve
    monkeypatch.setattr(
        Path, "resolve", lambda self, strict=False: Path("/dev/video7") if self.name == "by-id" else real(self)
    )
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat("/dev/null"))
    monkeypatch.setattr(os.path, "isfile", lambda _: False)
    cameras(FakeCamera())
    assert open_source(tmp_path / "by-id").camera == 7


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ImageError, match="/dev/video987: no such camera; yolor-edge doctor lists"):
        open_source("/dev/video987")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CameraOptions((0, 640)), "the size of a camera must be from 1x1 to 16384x16384, got 640x0"),
        (CameraOptions(fps=0), "the frames per second of a camera must be from 0 to 1000, got 0"),
        (CameraOptions(fps=float("nan")), "the frames per second of a camera must be"),
        (CameraOptions(reconnect_seconds=-1), "reconnect_seconds must be from 0 to 86400, got -1"),
    ],
)
def test_options_that_make_no_sense(options: CameraOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source("0", options)


# Streams.


def test_a_stream_is_read_lost_and_ended(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SECONDS_BETWEEN_TRIES", 0.02)
    said: list[str] = []
    with mjpeg_server() as server:
        source = open_source(server.url, CameraOptions(reconnect_seconds=0.3), said.append)
        assert (source.kind, source.expected) == ("camera", None)
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 10:  # it came back once
                server.frames = 0
    assert len(frames) > 10
    assert frames[0].image is not None
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[-1].error is not None
    assert frames[-1].error.endswith("stopped giving frames and did not come back within 0.3 s")
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert any("back after" in line for line in said)
    shown = [source.name, source.file_stem, repr(source), frames[0].name, frames[-1].error, *said, *capfd.readouterr()]
    assert "s3cret" not in "".join(shown)
    assert "operator" not in "".join(shown)
    assert source.file_stem.startswith("http-127.0.0.1-")
    assert source.file_stem.endswith("-x.mjpg")


def test_a_stream_that_is_not_there_is_one_line_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    with mjpeg_server() as server, pytest.raises(ImageError) as raised:
        open_source(server.url.replace("x.mjpg", "y"))
    with pytest.raises(ImageError, match=r"rtsp://127\.0\.0\.1:9/a: cannot be opened; is there a stream at") as gone:
        open_source("rtsp://operator:s3cret@127.0.0.1:9/a?password=s3cret")
    messages = str(raised.value) + str(gone.value)
    assert "\n" not in messages
    assert "s3cret" not in "".join((messages, *capfd.readouterr()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:pass@10.0.0.7:554/stream1", "rtsp://10.0.0.7:554/stream1"),
        ("RTSP://user:p@ss/w?rd@host/a", "rtsp://host/a"),
        ("http://host/x.mjpg?user=u&pwd=p#t", "http://host/x.mjpg"),
        ("rtsp:/user:pass@host/a", "rtsp://host/a"),  # as a path makes of it
        ("https://host/", "https://host"),
        ("rtspsrc location=rtsp://u:p@host ! fakesink", "GStreamer pipeline"),
        ("gst:rtspsrc user-pw=p", "GStreamer pipeline"),
        ("folder/mail@home.jpg", "folder/mail@home.jpg"),
    ],
)
def test_what_may_be_shown_of_an_address(text: str, shown: str) -> None:
    assert addresses.shown(text) == shown


def test_names_of_files_from_names_of_streams() -> None:
    assert addresses.file_stem("rtsp://[::1]:554/a b/../c") == "rtsp-1-554-a-b-..-c"
    assert addresses.file_stem("://") == "stream"
    assert len(addresses.file_stem("x" * 300)) == 100


@pytest.mark.parametrize("source", ["rtsp://u:s3cret@host/a", "0", "gst:videotestsrc", "-"])
def test_where_images_are_wanted_no_other_source_is_opened(source: str) -> None:
    with pytest.raises(
        UsageError, match="is a video or a camera; give image files, a folder of them or a glob"
    ) as told:
        open_images(source)
    assert "s3cret" not in str(told.value)
    with pytest.raises(UsageError, match="nowhere: no such file or folder; give image files, a folder") as told:
        open_images("nowhere")
    assert "camera" not in str(told.value)


def test_a_secret_of_an_address_that_is_no_url_does_not_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ftp://host/a: unknown kind of address; known are http://, ") as raised:
        open_source("ftp://u:s3cret@host/a")
    with pytest.raises(UsageError, match="no such file or folder") as as_path:
        open_source(Path("rtsp://u:s3cret@host/a"))
    assert "s3cret" not in str(raised.value) + str(as_path.value)


def test_a_stream_that_knows_its_length_is_a_video(cameras: Callable[..., list[Any]]) -> None:
    class Known(FakeCamera):
        def get(self, propId: int) -> float:
            return {cv2.CAP_PROP_FRAME_COUNT: 3.0, cv2.CAP_PROP_FPS: 30.0}.get(propId, 0.0)

    cameras(Known())
    source = open_source("http://host/clip.mp4")
    assert (source.kind, source.expected, source.fps, source.is_file) == ("video", 3, 30, False)
    assert len(list(source)) == 3


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "opencv_build", lambda: OpencvBuild("4.8.0", (), "GTK+", False, True))
    with pytest.raises(
        UsageError, match=r"rtsp://host: needs an OpenCV with FFMPEG, and OpenCV 4\.8\.0 \(of the system\)"
    ):
        open_source("rtsp://u:p@host/")


# Pipelines.


def test_without_gstreamer_the_error_holds_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "opencv_build", lambda: OpencvBuild("5.0.0", ("opencv-python",), None, True, False))
    for text in ("nvarguscamerasrc ! nvvidconv", "gst:playbin", "videotestsrc ! " * 60 + "fakesink"):
        with pytest.raises(UsageError) as raised:
            open_source(text)
        assert "OpenCV 5.0.0 (opencv-python) has none; use the system's python3-opencv" in str(raised.value)
        assert "fdsink | yolor-edge run BUNDLE - --camera-size 1280x720" in str(raised.value)


def test_a_pipeline_is_opened_with_its_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(capture, "opencv_build", lambda: OpencvBuild("4.8.0", (), None, True, True))
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: opened.append(arguments) or FakeCamera())
    source = open_source("gst:v4l2src device=/dev/video0", NO_WAIT)
    sink = "videoconvert ! video/x-raw,format=BGR ! appsink sync=false drop=true max-buffers=1"
    assert opened == [(f"v4l2src device=/dev/video0 ! {sink}", cv2.CAP_GSTREAMER)]
    assert (source.kind, source.name, source.file_stem) == ("camera", "GStreamer pipeline", "GStreamer-pipeline")
    assert [frame.error is None for frame in source] == [True, True, True, False]
    film = open_source("filesrc location=a.mp4 ! decodebin ! ")
    assert film.kind == "video"
    assert opened[1][0].endswith("decodebin ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false")
    assert whole_pipeline("a ! appsink name=x") == "a ! appsink name=x"


# Standard input.


class Standard:
    def __init__(self, data: bytes):
        self.buffer = io.BytesIO(data)


def test_bare_frames_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    monkeypatch.setattr(sys, "stdin", Standard(frames.tobytes()))
    source = open_source("-", CameraOptions((4, 6), fps=10))
    assert (source.kind, source.is_file, source.fps, source.file_stem) == ("video", False, 10, "standard-input")
    read = list(source)
    assert [frame.error for frame in read] == [None] * 3
    assert np.array_equal(np.stack([frame.image for frame in read if frame.image is not None]), frames)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("rgb", (4, 6, 3)), ("bgra", (4, 6, 4)), ("grey", (4, 6)), ("nv12", (6, 6)), ("yuyv", (4, 6, 2))],
)
def test_bare_frames_in_other_layouts(layout: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    monkeypatch.setattr(sys, "stdin", Standard(frames.tobytes()))
    source = open_source("-", CameraOptions((4, 6), layout=layout))
    assert source.layout == layout
    assert np.array_equal(np.stack([frame.image for frame in source if frame.image is not None]), frames)


def test_layouts_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layout 'rgb' is for raw frames on standard input"):
        open_source(tmp_path, CameraOptions(layout="rgb"))
    with pytest.raises(UsageError, match="frames in nv12 have an even width and height, got 6x5"):
        open_source("-", CameraOptions((5, 6), layout="nv12"))
    with pytest.raises(UsageError, match=r"layout must be one of bgr, .* got 'i420'"):
        open_source("-", CameraOptions((5, 6), layout="i420"))  # type: ignore[arg-type]


def test_standard_input_that_ends_inside_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Standard(bytes(4 * 6 * 3 + 10)))
    first, last = open_source("-", CameraOptions((4, 6)))
    assert first.error is None
    assert (
        last.error
        == "standard input: ends inside a frame, 62 bytes are missing; are the size and layout of its frames right?"
    )


def test_standard_input_that_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Standard(b""))
    (last,) = open_source("-", CameraOptions((4, 6)))
    assert last.error == "standard input: ended before the first frame; pipe raw frames of the size given into it"


def test_standard_input_needs_a_size() -> None:
    with pytest.raises(UsageError, match="give their size as camera_size, such as 1280x720"):
        RawFrames(io.BytesIO(), None)


# Files.


def test_a_file_may_be_called_like_a_pipeline(tmp_path: Path) -> None:
    write_image(tmp_path / "stop ! now.png", picture())
    source = open_source(tmp_path / "stop ! now.png")
    assert (source.kind, source.is_file, source.is_live) == ("images", True, False)
    assert isinstance(source, Source)
