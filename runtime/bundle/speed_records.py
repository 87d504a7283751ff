"""How fast a bundle's vision graph was measured to be here, by backend and precision: kept beside the engines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BundleError
from ..files import write_atomically
from .bundle import Bundle
from .engines import ENGINES_FOLDER
from .json_files import JsonReader, read_json, readable_json

_FILE = "speeds.choices"
_VERSION = 1


@dataclass(frozen=True)
class Speed:
    """The time of one vision graph on one machine.

    Attributes:
        backend: What ran it.
        precision: Of the graph.
        version: Of the backend.
        machine: Processor or GPU.
        threads: CPU threads; 0 on a GPU.
        ms: Median milliseconds of a run for one batch; 0 where it does not run here.
        day: When, as "2026-11-30".
        bundle_sha256: Digest of the bundle.
    """

    backend: str
    precision: str
    version: str
    machine: str
    threads: int
    ms: float
    day: str
    bundle_sha256: str

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


def read_speeds(bundle: Bundle) -> list[Speed]:
    """What was measured for this very bundle; nothing where the file is not there or of another version."""
    digest = bundle.digest
    return [speed for speed in _read(bundle.path / ENGINES_FOLDER / _FILE) if speed.bundle_sha256 == digest]


def write_speeds(bundle: Bundle, speeds: Iterable[Speed]) -> Path:
    """Keep measurements, in place of those of the same graphs on the same machine; returns the file."""
    path = bundle.path / ENGINES_FOLDER / _FILE
    new = list(speeds)
    subjects = {_subject(speed) for speed in new}
    kept = [speed for speed in read_speeds(bundle) if _subject(speed) not in subjects]
    content = {"choices_version": _VERSION, "speeds": [asdict(speed) for speed in (*kept, *new)]}
    write_atomically(path, readable_json(content) + "\n")
    return path


def _subject(speed: Speed) -> tuple[str, str, str, int]:
    return speed.backend, speed.precision, speed.machine, speed.threads


def _read(path: Path) -> list[Speed]:
    """As for the choices of captions: it is only a cache."""
    try:
        data = read_json(path, "a file of speeds", BundleError, "measure again")
    except BundleError:
        return []
    if data.get("choices_version") != _VERSION:
        return []
    found = []
    for entry in JsonReader(data, "speeds").get("speeds", list, []):
        one = JsonReader(entry if isinstance(entry, dict) else {}, "speed")
        texts = {
            name: one.get(name, str, "")
            for name in ("backend", "precision", "version", "machine", "day", "bundle_sha256")
        }
        speed = Speed(**texts, threads=one.get("threads", int, 0), ms=one.get("ms", float, 0.0))
        if not one.complaints:
            found.append(speed)
    return found
