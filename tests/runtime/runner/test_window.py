"""The window: refused in one line where there can be none, and what its keys do, with windows made of Python."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.runtime.environment import display as display_module
from yolor_edge.runtime.environment.display import display_complaint
from yolor_edge.runtime.environment.opencv_build import OpencvBuild
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.runner import window
from yolor_edge.runtime.runner.window import Window, check_window

DRAWING = np.zeros((20, 30, 3), np.uint8)


class Screen:
    """OpenCV's windows; `keys` are pressed one after the other, -1 is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *keys: int):
        self.keys = list(keys)
        self.shown = 0
        self.is_closed = False
        self.destroyed: list[str] = []
        monkeypatch.setattr(window, "opencv_build", lambda: OpencvBuild("4.8.0", (), "GTK+", True, True))
        monkeypatch.setattr(window, "display_complaint", lambda: "")
        for name in ("namedWindow", "resizeWindow"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", self._show)
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 0.0 if self.is_closed else 1.0)
        monkeypatch.setattr(cv2, "destroyWindow", self.destroyed.append)

    def _show(self, title: str, drawing: Any) -> None:
        self.shown += 1


def test_an_opencv_without_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = OpencvBuild("5.0.0", ("opencv-python-headless",), None, True, False)
    monkeypatch.setattr(window, "opencv_build", lambda: build)
    with pytest.raises(UsageError) as raised:
        check_window()
    assert "OpenCV 5.0.0 (opencv-python-headless) has none" in str(raised.value)
    assert "pip uninstall -y opencv-python-headless && pip install opencv-python" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_machine_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Screen(monkeypatch)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(window, "display_complaint", lambda: "nothing answers at DISPLAY=:9")
    with pytest.raises(UsageError, match="a window needs a display, and nothing answers at DISPLAY=:9; run"):
        Window("a")


def test_displays_that_answer_and_that_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display_module, "_X_SOCKETS", str(tmp_path))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert display_complaint() == "neither DISPLAY nor WAYLAND_DISPLAY is set"
    monkeypatch.setenv("DISPLAY", ":7.0")
    assert display_complaint() == "nothing answers at DISPLAY=:7.0"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "X7"))
        server.listen()
        assert display_complaint() == ""
    monkeypatch.setenv("DISPLAY", "/private/tmp/launch/org.xquartz:0")
    assert display_complaint() == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1] - 6000
        monkeypatch.setenv("DISPLAY", f"127.0.0.1:{number}")
        if number >= 0:
            assert display_complaint() == ""
    if number >= 0:
        assert display_complaint() == f"nothing answers at DISPLAY=127.0.0.1:{number}"
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert display_complaint() == ""


def test_frames_are_shown_until_q(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, -1, ord("x"), ord("q"))
    with Window("stream") as shown:
        assert [shown.show(DRAWING) for _ in range(3)] == [True, True, False]
    assert screen.shown == 3
    assert screen.destroyed == ["stream"]


def test_pictures_wait_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, -1, -1, -1, ord(" "), -1, 27)
    with Window("pictures", waits=True) as shown:
        assert shown.show(DRAWING)
        assert len(screen.keys) == 2
        assert not shown.show(DRAWING)


def test_a_closed_window_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    with Window("stream", waits=True) as shown:
        screen.is_closed = True
        assert not shown.show(DRAWING)
    assert screen.destroyed == []


def test_a_display_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        error = cv2.error("OpenCV(4.8.0) window_gtk.cpp:635: error: (-2) Can't initialize GTK backend")
        error.err = "Can't initialize\nGTK backend"  # OpenCV's own errors have it
        raise error

    Screen(monkeypatch)
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(UsageError, match=r"the display refuses a window \(Can't initialize GTK backend\)"):
        Window("a").show(DRAWING)
