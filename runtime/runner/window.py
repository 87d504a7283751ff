"""A window that shows drawings, where OpenCV has windows and the machine a display."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment.display import display_complaint
from ..environment.opencv_build import opencv_build
from ..errors import UnavailableError
from ..images.image_files import quiet_opencv

_QUIT_KEYS = (ord("q"), 27)  # and Esc


def check_window() -> None:
    """Refuse a window that cannot be had, before anything else is begun.

    Raises:
        NotHereError: If this OpenCV has no windows, or there is no display.
    """
    build = opencv_build()
    if build.windows is None:
        packages = " ".join(build.distributions) or "this one"
        raise UnavailableError(
            f"a window needs an OpenCV with windows, and OpenCV {build.title} has none; use the system's "
            f"python3-opencv, or pip uninstall -y {packages} && pip install opencv-python; or leave out <show> and "
            "look at what is written",
            argument="show",
        )
    # Asked for here, because a toolkit without a display ends the process instead of raising.
    if platform.system() == "Linux" and (complaint := display_complaint()):
        raise UnavailableError(
            f"a window needs a display, and {complaint}; run this on the machine's own desktop or through ssh -X, or "
            "leave out <show> and look at what is written",
            argument="show",
        )


class Window:
    """One window; a context manager that closes it.

    Args:
        title: Its title.
        waits: Wait for a key after each drawing, as for single images.

    Raises:
        NotHereError: If it cannot be opened.
    """

    def __init__(self, title: str, waits: bool = False):
        self._title = title
        self._waits = waits
        self._is_open = False
        check_window()

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_open:
            import cv2

            cv2.destroyWindow(self._title)

    def show(self, drawing: NDArray[np.uint8]) -> bool:
        """Show (h, w, 3) uint8 BGR; False if the user wants no more: q, Esc, or the window is closed.

        Raises:
            NotHereError: If the display refuses.
        """
        import cv2  # here, since doctor asks this file about the display where there is no OpenCV

        try:
            with quiet_opencv():
                if not self._is_open:
                    cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    cv2.resizeWindow(self._title, drawing.shape[1], drawing.shape[0])
                    self._is_open = True
                cv2.imshow(self._title, drawing)
                key = cv2.waitKey(1)
                while self._waits and key == -1 and self._is_visible():
                    key = cv2.waitKey(50)
                if not self._is_visible():
                    self._is_open = False
                    return False
        except cv2.error as error:
            reason: Any = getattr(error, "err", None) or error
            raise UnavailableError(f"the display refuses a window ({' '.join(str(reason).split())})") from error
        return key & 0xFF not in _QUIT_KEYS

    def _is_visible(self) -> bool:
        import cv2

        return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
