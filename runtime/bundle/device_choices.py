"""What was measured to be best on one device for one bundle: kept with the engines, which are for that device too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..environment.cuda_device import cuda_device
from ..errors import BundleError
from ..files import write_atomically
from .bundle import Bundle
from .engines import ENGINES_FOLDER
from .json_files import JsonReader, read_json, readable_json

_FILE = "caption-decoders.choices"
_VERSION = 1


@dataclass(frozen=True)
class CaptionChoice:
    """Which decoder writes captions fastest beside a backend, on one device.

    Attributes:
        backend: Of the vision part.
        precision: Of its graphs.
        device: Name of the GPU.
        decoder: The fastest, one of `model.CAPTION_DECODERS`.
        measured_ms: Median time of a caption, by decoder.
        beam_size: It was measured with.
        bundle_sha256: Digest of the bundle.
    """

    backend: str
    precision: str
    device: str
    decoder: str
    measured_ms: Mapping[str, float]
    beam_size: int
    bundle_sha256: str


def write_choice(bundle: Bundle, choice: CaptionChoice) -> Path:
    """Keep a choice beside the bundle's engines, in place of one for the same; returns the file."""
    path = bundle.path / ENGINES_FOLDER / _FILE
    kept = [c for c in _read(path) if (c.backend, c.precision, c.device) != _subject(choice)]
    content = {"choices_version": _VERSION, "captions": [asdict(c) for c in (*kept, choice)]}
    write_atomically(path, readable_json(content) + "\n")
    return path


def chosen_caption_decoder(bundle: Bundle, backend: str, precision: str) -> str | None:
    """The decoder that was fastest for this very bundle on the GPU of this machine; None if that was not measured."""
    device = cuda_device()
    if device is None:
        return None
    for choice in _read(bundle.path / ENGINES_FOLDER / _FILE):
        if _subject(choice) == (backend, precision, device.name) and choice.bundle_sha256 == bundle.digest:
            return choice.decoder
    return None


def _subject(choice: CaptionChoice) -> tuple[str, str, str]:
    return choice.backend, choice.precision, choice.device


def _read(path: Path) -> list[CaptionChoice]:
    """The choices in a file; none if it is not there, or is nothing of this version: they are only a cache."""
    try:
        data = read_json(path, "a file of choices", BundleError, "measure again")
    except BundleError:
        return []
    if data.get("choices_version") != _VERSION:
        return []
    reader = JsonReader(data, "choices")
    found = []
    for entry in reader.get("captions", list, []):
        if not isinstance(entry, dict):
            continue
        one = JsonReader(entry, "choice")
        choice = CaptionChoice(
            *(one.get(name, str, "") for name in ("backend", "precision", "device", "decoder")),
            measured_ms=one.get("measured_ms", dict, {}),
            beam_size=one.get("beam_size", int, 0),
            bundle_sha256=one.get("bundle_sha256", str, ""),
        )
        if not one.complaints:
            found.append(choice)
    return found
