"""What was read from files once, remembered while the files stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...runtime.environment.cores import usable_cores
from ...runtime.files import write_atomically
from ...runtime.progress import Count

_VERSION = 1


def cache_folder() -> Path:
    """Where it is remembered: yolor-edge/datasets in XDG_CACHE_HOME or else in the home's .cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    return Path(base) / "yolor-edge" / "datasets"


class FileMemory:
    """Facts about the files of one data set, by path, size and time of change.

    Args:
        root: Of the data set.
        kind: Of the facts; each has a file of its own.
    """

    def __init__(self, root: Path, kind: str) -> None:
        place = os.path.realpath(root)
        digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:24]
        self._file = cache_folder() / f"{digest}.{kind}.json"
        self._head = {"version": _VERSION, "root": place.encode("utf-8", "backslashreplace").decode()}
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            document = json.loads(self._file.read_bytes())
            if {name: document.get(name) for name in self._head} == self._head:
                self._known = {str(name): value for name, value in document["files"].items() if len(value) == 3}

    def of(
        self, paths: Iterable[Path], read: Callable[[Path], Any], what: str = "", progress: Count | None = None
    ) -> Mapping[Path, Any]:
        """What `read` says of each file, from memory where the file is as it was; others are read by threads.

        Args:
            paths: Of the files.
            read: From a path to what JSON can hold; must not raise.
            what: Is being done, for `progress`.
            progress: Called with the files read and those to be read.
        """
        found: dict[Path, Any] = {}
        unread: list[tuple[Path, list[int]]] = []
        for path in dict.fromkeys(paths):
            stamp = _stamp(path)
            known = self._known.get(os.fspath(path))
            if known is not None and stamp and known[:2] == stamp:
                found[path] = known[2]
            else:
                unread.append((path, stamp))
        if not unread:
            return found
        with ThreadPoolExecutor(usable_cores()) as threads:
            for done, (path, stamp), value in zip(
                range(1, len(unread) + 1), unread, threads.map(lambda one: read(one[0]), unread), strict=True
            ):
                found[path] = value
                if stamp:
                    self._known[os.fspath(path)] = [*stamp, value]
                if progress is not None:
                    progress(what, done, len(unread))
        self._save()
        return found

    def _save(self) -> None:
        with contextlib.suppress(OSError, UnicodeError):  # A memory that cannot be kept is none; the work was done.
            write_atomically(self._file, json.dumps({**self._head, "files": self._known}))


def _stamp(path: Path) -> list[int]:
    """Size and time of change; empty for a file that is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns]
