"""Writing that leaves either the whole new file or what was there before, and digests of what lies on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of the bytes of `path`."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name of `path`, on failure it is removed.

    The suffix of `path` is kept, because image and video writers choose their format by it.

    Raises:
        UsageError: If `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        temporary.chmod(0o644)  # some writers make files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path` so that a reader sees the old file or the new one, never a part."""
    # Half of a file name that is no UTF-8 is written as an escape, which JSON reads back.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replacing_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def check_can_be_written(path: Path) -> None:
    """Look, before the work whose result it is for, whether something can be written there; nothing is.

    Raises:
        UsageError: If what `path` would be made in is no folder, or may not be written to.
    """
    place = Path(path)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() and place != path:
        raise UsageError(f"{path}: cannot be written, {place} is no folder; choose another place")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{path}: cannot be written, {place} does not permit it; choose another place")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `path`; on success it takes the place of `path`, on failure it is removed.

    The caller decides beforehand whether an existing `path` may go: this function replaces it without asking.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        os.chmod(temporary, 0o755)
        yield temporary
        if path.exists():
            previous = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, previous)
            os.replace(temporary, path)
            shutil.rmtree(previous)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
