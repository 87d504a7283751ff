"""What commands print: results on stdout, as text or JSON, and progress on stderr."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .parsing import PROGRAM
from .processes import is_told_by_another

if TYPE_CHECKING:
    from .runtime.bundle.bundle import Bundle

_ESCAPE = "yolor_edge.escape"


def prepare_streams() -> None:
    """Make stdout and stderr fit to be printed to, whatever they are.

    A character that the encoding of stdout lacks is written as `\\uXXXX`, which JSON reads as that character. A stream
    that is closed is replaced by the null device.
    """
    codecs.register_error(_ESCAPE, _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=_ESCAPE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return json.dumps(text)[1:-1], error.end


def flush() -> bool:
    """Whether what was printed reached its reader; a stream whose reader has gone is replaced by the null device.

    Raises:
        OSError: If it cannot be written for another reason, such as a full disk.
    """
    arrived = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # What is left in the buffer would be tried again, and complained about, when the interpreter ends.
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise
            arrived = False
    return arrived


def complain(what: object, code: int) -> int:
    """Say in one line on stderr what is wrong, unless another process of a training does; returns the exit code."""
    if is_told_by_another():
        return code
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")  # over an unfinished line of progress
        print(f"{PROGRAM}: {' '.join(str(what).split())}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        flush()
    return code


def print_result(arguments: argparse.Namespace, content: dict[str, Any], text: str) -> None:
    """Print a result: as JSON if `--json` was given, else as text."""
    print(json.dumps(content, indent=2, ensure_ascii=False) if arguments.json else text, flush=True)


def print_bundle(bundle: Bundle) -> int:
    """Print where a bundle was written, and what was asked for and is not in it; returns the exit code."""
    print(f"bundle: {bundle.path}", flush=True)
    if not bundle.failed:
        return 0
    reasons = "; ".join(f"{precision}: {reason}" for precision, reason in bundle.failed.items())
    return complain(f"{bundle.path} is without {' and '.join(bundle.failed)}, which did not pass. {reasons}", 1)


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def count(what: str, done: int, total: int) -> None:
    """Print how much of something is done: one line rewritten on a terminal, ten lines in a file."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r\x1b[K{what} {done}/{total}{end}")
        sys.stderr.flush()
    elif done == total or 10 * done // total != 10 * (done - 1) // total:
        say(f"{what} {done}/{total}")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """In the block nothing is printed: numpy writes a traceback of its own for a package built for another numpy."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
