"""Writing that leaves either the whole new file or what was there before, and digests of what lies on disk.

A link stays a link: what it leads to is what changes. What is no regular file, such as a device, a pipe or /dev/stdout,
is opened and written; nothing ever takes its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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

    The suffix of `path` is kept, because image and video writers choose their format by it. A new file gets the
    permissions that any new file gets, one that was there keeps its own. What is no regular file is written in the end,
    from a temporary file elsewhere.

    Raises:
        UsageError: If `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected the name of a file to write")
    place, is_file = _behind_links(path)
    if not is_file:
        import tempfile  # here, since it takes a while to import and is seldom needed

        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, path.name)
            yield temporary
            with temporary.open("rb") as content, open(_open_through(place), "wb") as stream:
                shutil.copyfileobj(content, stream)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    old = place.stat() if place.exists() else None
    temporary = place.with_name(f".{path.stem[:40]}.{os.urandom(8).hex()}.part{path.suffix}")
    mode = 0o666 if old is None else old.st_mode & 0o777 | 0o600
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        like = old or temporary.stat()  # set in the end too: some writers put a file of their own there
        yield temporary
        _set_permissions(temporary, like)
        os.replace(temporary, place)
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


@contextlib.contextmanager
def writing_lines(path: Path) -> Iterator[TextIO]:
    """Yield a stream for lines of text: a file has them all at the end, anything else gets them as they come."""
    place, is_file = _behind_links(Path(path))
    if is_file:
        with (
            replacing_file(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            yield stream
    else:
        with open(_open_through(place), "w", encoding="utf-8", errors="backslashreplace", buffering=1) as stream:
            yield stream


def check_can_be_written(path: Path) -> None:
    """Look, before the work whose result it is for, whether something can be written there; nothing is.

    Raises:
        UsageError: If what `path` would be made in is no folder, or may not be written to.
    """
    target, _ = _behind_links(Path(path))
    place = target
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() and place != target:
        raise UsageError(f"{path}: cannot be written, {place} is no folder; choose another place")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{path}: cannot be written, {place} does not permit it; choose another place")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `path`; on success it takes the place of `path`, on failure it is removed.

    The caller decides beforehand whether an existing `path` may go: this function replaces it without asking.

    Raises:
        UsageError: If `path` is something else than a folder.
    """
    place = Path(os.path.realpath(path))
    if os.path.lexists(place) and not place.is_dir():
        raise UsageError(f"{path}: is a file, expected a folder to write to")
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(place.stat().st_mode) | 0o700 if place.exists() else 0o777
    hidden = f".{place.name[:40]}.{os.urandom(8).hex()}"
    temporary, previous = place.with_name(f"{hidden}.part"), place.with_name(f"{hidden}.old")
    temporary.mkdir(mode)
    try:
        yield temporary
        if place.exists():
            _set_permissions(temporary, place.stat())
            os.replace(place, previous)
            os.replace(temporary, place)
            shutil.rmtree(previous)
        else:
            os.replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _behind_links(path: Path) -> tuple[Path, bool]:
    """What writing to `path` changes, links followed, and whether that is a regular file, one to be made included.

    In /proc lies what some process has open, which may go on writing there: no file to be replaced, whatever it is.
    """
    while True:
        if f"{os.path.realpath(path.parent)}/".startswith("/proc/"):
            return path, False
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return path, False
        except (FileNotFoundError, NotADirectoryError):
            pass  # it is to be made, or what it leads to is
        if not path.is_symlink():
            return path, True
        path = path.parent / path.readlink()


def _open_through(place: Path) -> int:
    """A descriptor to write to what is no file to be replaced: nothing is made or cut short."""
    if place.name.isdecimal() and os.path.samefile(place.parent, "/proc/self/fd"):
        return os.dup(int(place.name))  # goes on where this process is, as /dev/stdout is to be understood
    return os.open(place, os.O_WRONLY | (os.O_APPEND if place.is_file() else 0))


def _set_permissions(path: Path, like: os.stat_result) -> None:
    """Give `path` the permissions that something else has, and its owner where the system lets us."""
    with contextlib.suppress(OSError):
        os.chown(path, like.st_uid, like.st_gid)
    path.chmod(stat.S_IMODE(like.st_mode) if stat.S_ISDIR(like.st_mode) else like.st_mode & 0o777)
