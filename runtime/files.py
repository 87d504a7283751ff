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


class LineFile:
    """Lines of text that reach a file, a device or a pipe one by one and whole, so that whoever looks finds only such.

    Nothing is made or replaced before the first line. A file that is appended to goes on behind its last whole line:
    half of one is what a killed writer leaves.

    Args:
        path: Where to.
        append: Go on behind what a file holds; else it is replaced, by the first line.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self._path, self._append = Path(path), append
        self._descriptor: int | None = None
        self._is_ours = False  # a regular file that nobody else writes

    def write(self, line: str) -> None:
        """Write a line, its end included.

        Raises:
            OSError: If the disk refuses; of this line nothing is left then.
        """
        data = line.encode("utf-8", "backslashreplace")
        if self._descriptor is None:
            self._descriptor = self._opened()
        is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        before = os.lseek(self._descriptor, 0, os.SEEK_CUR) if is_file else 0
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            if is_file and self._is_ours:
                os.ftruncate(self._descriptor, before)
            raise

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> int:
        place, self._is_ours = _behind_links(self._path)
        if not self._is_ours:
            return _open_through(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if self._append and place.exists():
            descriptor = os.open(place, os.O_RDWR)
            end = _end_of_lines(descriptor)
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            return descriptor
        with replacing_file(place) as temporary:
            return os.open(temporary, os.O_WRONLY)


def _end_of_lines(descriptor: int) -> int:
    """Bytes of a file up to the end of its last whole line."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


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
