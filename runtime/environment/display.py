"""Whether this Linux machine has a display to show windows on."""

from __future__ import annotations

import contextlib
import os
import re
import socket

_X_SOCKETS = "/tmp/.X11-unix"


def display_complaint() -> str:
    """Why no window can be shown on this Linux machine; empty if one can."""
    if os.environ.get("WAYLAND_DISPLAY"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    found = re.fullmatch(r"(?:unix)?(?P<host>[^/]*):(?P<number>\d+)(?:\.\d+)?", display)
    if found is None or _answers(found["host"], int(found["number"])):  # what is not understood is let through
        return ""
    return f"nothing answers at DISPLAY={display}"


def _answers(host: str, number: int) -> bool:
    """Whether an X server listens there."""
    if host:
        try:
            socket.create_connection((host, 6000 + number), timeout=2).close()
        except OSError:
            return False
        return True
    name = f"{_X_SOCKETS}/X{number}"
    for address in (name, f"\0{name}"):  # the file, and the name without one that Linux has beside it
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(address)
            return True
    return False
