"""What OpenCV's account of itself is read as."""

from __future__ import annotations

import cv2
import pytest
from yolor_edge.runtime.environment.opencv_build import build_from_text, opencv_build

JETPACK = """
  GUI: 
    GTK+:                        YES (ver 3.24.33)
      GThread :                  YES (ver 2.72.4)
    VTK support:                 NO

  Video I/O:
    DC1394:                      YES (2.2.6)
    FFMPEG:                      NO
      avcodec:                   NO
    GStreamer:                   YES (1.20.3)
"""
WHEEL = """
  GUI:                           QT5
    QT:                          YES (ver 5.15.16 )
  Video I/O:
    FFMPEG:                      YES
    GStreamer:                   NO
"""
NONE = """
  GUI: 
    QT:                          NO
    GTK+:                        NO
    VTK support:                 NO

  Video I/O:
"""


@pytest.mark.parametrize(
    ("text", "windows", "has_ffmpeg", "has_gstreamer"),
    [(JETPACK, "GTK+", False, True), (WHEEL, "QT5", True, False), (NONE, None, False, False), ("", None, False, False)],
)
def test_builds(text: str, windows: str | None, has_ffmpeg: bool, has_gstreamer: bool) -> None:
    build = build_from_text("4.8.0", text)
    assert (build.windows, build.has_ffmpeg, build.has_gstreamer) == (windows, has_ffmpeg, has_gstreamer)
    assert build.title == "4.8.0 (of the system)"


def test_this_one() -> None:
    build = opencv_build()
    assert build.version == cv2.__version__
    assert build.has_ffmpeg == ("FFMPEG:                      YES" in cv2.getBuildInformation())
