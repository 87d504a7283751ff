"""What the OpenCV that is installed can do: windows, FFMPEG, GStreamer. Its wheels differ, and so do systems' own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .opencv import installed_distributions, require_opencv


@dataclass(frozen=True)
class OpencvBuild:
    """One OpenCV.

    Attributes:
        version: Of the library.
        distributions: The packages it came in; empty for a system's own.
        windows: What draws its windows, such as "GTK3" or "QT5"; None where it has none.
        has_ffmpeg: Whether it reads videos and URLs through FFMPEG.
        has_gstreamer: Whether it opens GStreamer pipelines.
    """

    version: str
    distributions: tuple[str, ...]
    windows: str | None
    has_ffmpeg: bool
    has_gstreamer: bool

    @property
    def title(self) -> str:
        """Version and origin, such as "5.0.0 (opencv-python-headless)"."""
        return f"{self.version} ({' and '.join(self.distributions) or 'of the system'})"


def opencv_build() -> OpencvBuild:
    """The OpenCV of this process."""
    require_opencv()
    import cv2  # here, since the runtime is imported without it

    return build_from_text(cv2.__version__, cv2.getBuildInformation(), installed_distributions())


def build_from_text(version: str, information: str, distributions: tuple[str, ...] = ()) -> OpencvBuild:
    """What OpenCV's own account of its build says."""
    return OpencvBuild(
        version,
        distributions,
        _windows(information),
        _entry(information, "FFMPEG").startswith("YES"),
        _entry(information, "GStreamer").startswith("YES"),
    )


def _windows(information: str) -> str | None:
    """The toolkit, from the line GUI or, where that is only a title, from the lines below it."""
    summary = _entry(information, "GUI")
    if summary:
        return None if summary == "NONE" else summary
    found = re.search(r"^ *GUI: *\n((?: +\S.*\n)+)", information, re.MULTILINE)
    for name, state in re.findall(r"^ +([\w +]+?): +(\S+)", found[1] if found else "", re.MULTILINE):
        if state.startswith("YES") and re.match(r"QT|GTK|Win32|Cocoa|Wayland", name, re.IGNORECASE):
            return name
    return None


def _entry(information: str, name: str) -> str:
    found = re.search(rf"^ *{re.escape(name)}: *(\S.*)$", information, re.MULTILINE)
    return found[1].strip() if found else ""
