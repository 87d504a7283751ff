"""Keeping what is not made for it from two threads at once, from a fork of the process, and from being freed in use."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator

from ..errors import BackendError, UsageError


class OneAtATime:
    """Lets one thread in; whoever comes meanwhile is told so, instead of corrupting what is at work.

    For whatever holds the state of one call, such as an execution context of a device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def entered(self, what: str) -> Iterator[None]:
        """Hold it for the block.

        Args:
            what: Named in the complaint.

        Raises:
            UsageError: If a call is at work in it already.
        """
        if not self._lock.acquire(blocking=False):
            raise UsageError(f"{what}: at work in another thread; give every thread its own with model.clone()")
        try:
            yield
        finally:
            self._lock.release()


class HomeProcess:
    """Remembers the process that something was made in. The threads of inference libraries do not come into a fork.

    A call of theirs in a forked process may wait for those threads forever, and so may freeing what they worked for:
    there it is kept as it is until the process ends.

    Args:
        name: Of what was made.
        held: Kept in a fork, never freed.
    """

    def __init__(self, name: str, held: object):
        self._name = name
        self._held = held
        self._pid = os.getpid()
        _homes.add(self)

    @property
    def is_here(self) -> bool:
        """Whether this still is that process."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Refuse another process.

        Raises:
            UsageError: If this is a fork of the one that it was made in.
        """
        if not self.is_here:
            raise UsageError(
                f"{self._name}: was loaded in process {self._pid} and does not work in its fork {os.getpid()}; "
                "load the model in the worker itself, or start workers by spawn"
            )

    def keep(self) -> None:
        """Let what is held live for ever."""
        import ctypes  # only in a fork

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._held))


_homes: weakref.WeakSet[HomeProcess] = weakref.WeakSet()


def _keep_all() -> None:
    for home in list(_homes):
        home.keep()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)


class Shared:
    """Counts who uses something, and frees it when the last has let go; nobody ever waits.

    Args:
        name: Of what is shared.
        free: Called once, by whoever lets go last.
    """

    def __init__(self, name: str, free: Callable[[], None]):
        self._name = name
        self._free = free
        self._holders = 0
        self._is_freed = False
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Use it until `let_go`.

        Raises:
            BackendError: If it is freed.
        """
        with self._lock:
            if self._is_freed:
                raise BackendError(f"{self._name}: the model is closed")
            self._holders += 1

    def release(self) -> None:
        """Stop using it, and free it if nobody else does."""
        with self._lock:
            self._holders -= 1
            if self._holders > 0 or self._is_freed:
                return
            self._is_freed = True
        self._free()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use it for the block.

        Raises:
            BackendError: If it is freed.
        """
        self.acquire()
        try:
            yield
        finally:
            self.release()
