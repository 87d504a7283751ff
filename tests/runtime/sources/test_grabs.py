"""When frames were captured: clocks of live sources, places in videos, and times that the caller knows."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.runtime import Frame
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.sources import sources
from yolor_edge.runtime.sources.capture import CameraOptions, RawFrames
from yolor_edge.runtime.sources.grabs import grab
from yolor_edge.runtime.sources.sources import open_source

from ..fake_model import FakeModel
from ..fake_model import picture as numbered
from .cameras import FakeCamera, picture


class GrabbingCamera(FakeCamera):
    """Like OpenCV's: grab waits for the frame, retrieve decodes it, which takes its time here."""

    def __init__(self, stamp_ms: float = 0.0, backend: str = "V4L2"):
        super().__init__()
        self._stamp_ms, self._backend = stamp_ms, backend
        self.grabbed_ns: list[int] = []

    def get(self, propId: int) -> float:
        return self._stamp_ms if propId == cv2.CAP_PROP_POS_MSEC else super().get(propId)

    def getBackendName(self) -> str:
        return self._backend

    def grab(self) -> bool:
        self._frame = super().read()
        self.grabbed_ns.append(time.monotonic_ns())
        return self._frame[0]

    def retrieve(self) -> tuple[bool, Any]:
        time.sleep(0.02)
        return self._frame


def test_a_live_frame_has_the_moment_of_its_grab_on_two_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = GrabbingCamera()
    monkeypatch.setattr(sources, "open_capture", lambda *_: camera)
    before = time.monotonic_ns()
    frames = [frame for frame in open_source(0, CameraOptions(reconnect_seconds=0)) if frame.image is not None]
    for frame, grabbed, following in zip(frames, camera.grabbed_ns, camera.grabbed_ns[1:], strict=False):
        assert frame.captured_ns is not None and frame.captured_unix_ns is not None
        assert before <= grabbed <= frame.captured_ns < following - 15_000_000  # not after it was decoded
        ago_ns = time.monotonic_ns() - frame.captured_ns
        assert abs(time.time_ns() - ago_ns - frame.captured_unix_ns) < 1_000_000_000
        assert frame.position_s is None


@pytest.mark.parametrize(
    ("stamp_ago_ms", "backend", "is_taken"),
    [(40.0, "V4L2", True), (40.0, "FFMPEG", False), (5000.0, "V4L2", False), (-1e6, "V4L2", False)],
)
def test_the_drivers_own_stamp_is_taken_where_it_is_of_this_clock(
    stamp_ago_ms: float, backend: str, is_taken: bool
) -> None:
    before_ns = time.monotonic_ns()
    stamp_ms = before_ns / 1e6 - stamp_ago_ms
    found = grab(GrabbingCamera(stamp_ms, backend))
    assert found is not None
    assert (abs(found.captured_ns - stamp_ms * 1e6) < 1000) is is_taken
    if not is_taken:
        assert found.captured_ns >= before_ns
    unix_now_ns = time.time_ns() - (time.monotonic_ns() - found.captured_ns)
    assert abs(found.captured_unix_ns - unix_now_ns) < 1_000_000_000


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG")])
def test_a_frame_of_a_video_has_its_place_in_it(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 12.0, (96, 64))
    for _ in range(5):
        writer.write(picture())
    writer.release()
    frames = list(open_source(path))
    assert [frame.position_s for frame in frames] == [pytest.approx(i / 12, abs=1e-3) for i in range(5)]
    assert {(frame.captured_ns, frame.captured_unix_ns) for frame in frames} == {(None, None)}


def test_a_video_without_times_counts_its_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.avi").touch()
    for stamps in ([0.0] * 3, [float("nan")] * 3, [0.0, 40.0, 20.0]):
        left = list(stamps)

        class Timeless(FakeCamera):
            def get(self, propId: int) -> float:
                return left.pop(0) if propId == cv2.CAP_PROP_POS_MSEC and left else 0.0  # noqa: B023

        monkeypatch.setattr(sources, "open_capture", lambda *_: Timeless())
        positions = [frame.position_s for frame in open_source(tmp_path / "a.avi")]
        assert positions == [0.0, 0.04, 0.08]


def test_bare_frames_have_the_moment_they_came_and_pictures_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "open_capture", lambda *_: RawFrames(io.BytesIO(bytes(24)), (2, 4)))
    before = time.monotonic_ns()
    (frame,) = open_source("-")
    assert frame.captured_ns is not None and before <= frame.captured_ns <= time.monotonic_ns()
    write_image(tmp_path / "a.png", picture())
    (frame,) = open_source(tmp_path / "a.png")
    assert (frame.captured_ns, frame.captured_unix_ns, frame.position_s) == (None, None, None)


def test_times_of_the_caller_come_back_with_the_answers() -> None:
    stamps = [1_700_000_000_123_456_789 + i for i in range(3)]
    frames = [Frame("left", numbered(i), captured_unix_ns=stamp) for i, stamp in enumerate(stamps)]
    answers = list(FakeModel().model.stream(iter(frames)))
    assert [answer.captured_unix_ns for answer in answers] == stamps
    assert [(answer.captured_ns, answer.position_s) for answer in answers] == [(None, None)] * 3
    assert [answer.frame.index for answer in answers] == [0, 1, 2]
    (answer,) = FakeModel().model.stream([Frame("left", np.zeros((4, 4, 3), np.uint8), index=7, captured_ns=5)])
    assert (answer.frame.index, answer.captured_ns) == (7, 5)
