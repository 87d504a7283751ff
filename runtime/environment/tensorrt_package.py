"""The two packages of TensorRT: which are installed, how each is imported, and what they say when something fails."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import BackendError, BackendMissingError
from .install import package_hint

if TYPE_CHECKING:
    import tensorrt  # as its stubs describe it


@dataclass(frozen=True)
class FlavourEntry:
    """A package that builds engines and runs them.

    Attributes:
        package: As it is imported.
        devices: What it is for, for people.
    """

    package: str
    devices: str


FLAVOURS = {
    "tensorrt": FlavourEntry("tensorrt", "Jetson (comes with JetPack) and any NVIDIA GPU, built on that very device"),
    "tensorrt-rtx": FlavourEntry("tensorrt_rtx", "desktop and laptop RTX GPUs, built on any Linux x86-64 machine"),
}


def installed_flavours() -> tuple[str, ...]:
    """The flavours whose package is there. Type stubs leave a folder without code, which does not count."""
    found = {name: importlib.util.find_spec(entry.package) for name, entry in FLAVOURS.items()}
    return tuple(name for name, spec in found.items() if spec is not None and spec.origin is not None)


def import_flavour(flavour: str) -> ModuleType:
    """The package of a flavour.

    Args:
        flavour: One of `FLAVOURS`.

    Raises:
        BackendMissingError: If it is not installed.
        BackendError: If it does not load.
    """
    entry = FLAVOURS[flavour]
    if flavour not in installed_flavours():
        raise BackendMissingError(
            f"engines of {flavour} need the package {entry.package}, for {entry.devices}; {package_hint(entry.package)}"
        )
    try:
        return importlib.import_module(entry.package)
    except (ImportError, OSError) as error:
        raise BackendError(
            f"the package {flavour} is installed but does not load ({one_line(error)}); "
            "install it again, or the CUDA libraries it looks for"
        ) from error


class Complaints:
    """What TensorRT said was wrong; its threads may all say something."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Note one."""
        with self._lock:
            self._said.append(one_line(text))

    def take(self) -> str:
        """The first since the last time, which the others follow from."""
        with self._lock:
            said, self._said = self._said, []
        return said[0] if said else "it gives no reason"


def logger(module: ModuleType, complaints: Complaints) -> tensorrt.ILogger:
    """A logger for `module` that keeps errors in `complaints` and prints nothing."""
    trt = as_stubs_say(module)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                complaints.add(msg)

    return Logger()


def as_stubs_say(module: object):
    """`module`, of which a type checker believes that it is `tensorrt`, so that every call is checked."""
    if TYPE_CHECKING:
        return tensorrt
    return module


def one_line(what: object, most: int = 400) -> str:
    """Its text on one line, cut where it is very long."""
    text = " ".join(str(what).split())
    return text if len(text) <= most else f"{text[:most]}..."
