"""Cameras and streams to test with: made of Python, or served over HTTP from a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..tiny_bundle import coloured_patch

PATCH = (16, 32, 48, 64)


def picture() -> NDArray[np.uint8]:
    return coloured_patch((64, 96), PATCH)


class FakeCamera:
    """Gives its frames and then none, or ends in an exception; may be asked for properties like OpenCV's captures.

    Args:
        frames: What it gives.
        ends_by: Raised after the last frame.
        modes: Its sizes (height, width) and rates by FOURCC, the first is what it begins with.
        pause: Seconds from one frame to the next, time enough for a tiny network to answer.
    """

    def __init__(
        self,
        frames: Sequence[Any] | None = None,
        ends_by: type[BaseException] | None = None,
        modes: dict[str, tuple[int, int, float]] | None = None,
        pause: float = 0.0,
    ):
        self._frames = list(frames if frames is not None else [picture()] * 3)
        self._ends_by = ends_by
        self._modes = {cv2.VideoWriter.fourcc(*name): mode for name, mode in (modes or {}).items()}
        self._format = next(iter(self._modes), 0)
        self._pause = pause
        self._has_given = False
        self.is_released = False

    def isOpened(self) -> bool:
        return True

    def get(self, propId: int) -> float:
        height, width, fps = self._modes.get(self._format, (0, 0, 0.0))
        known = {cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FPS: fps}
        return float({**known, cv2.CAP_PROP_FOURCC: self._format}.get(propId, 0))

    def set(self, propId: int, value: float) -> bool:
        if propId == cv2.CAP_PROP_FOURCC:
            self._format = int(value)
        return True

    def read(self) -> tuple[bool, Any]:
        if self._has_given:
            time.sleep(self._pause)
        self._has_given = True
        if self._frames:
            return True, self._frames.pop(0)
        if self._ends_by is not None:
            raise self._ends_by
        return False, None

    def release(self) -> None:
        self.is_released = True


class MjpegServer:
    """An HTTP camera: /x.mjpg gives frames for as long as `frames` says, then hangs up; anything else is a 404."""

    def __init__(self, frames: int):
        self.frames = frames
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                server.requests += 1
                if not self.path.startswith("/x.mjpg"):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                jpeg = cv2.imencode(".jpg", picture())[1].tobytes()
                with contextlib.suppress(OSError):
                    for _ in range(server.frames):
                        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                        self.wfile.write(part + jpeg + b"\r\n")
                        time.sleep(0.01)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://operator:s3cret@127.0.0.1:{self._server.server_port}/x.mjpg?token=s3cret"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def mjpeg_server(frames: int = 8) -> Iterator[MjpegServer]:
    server = MjpegServer(frames)
    try:
        yield server
    finally:
        server.close()
