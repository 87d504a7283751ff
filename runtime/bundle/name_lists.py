"""Lists of names in text files, one a line."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError


def read_names(path: str | os.PathLike[str], argument: str) -> tuple[str, ...]:
    """The names of a file in UTF-8, without the empty lines at its end.

    Args:
        path: The file.
        argument: What it was given as, for messages.

    Raises:
        UsageError: If it cannot be read, or a name is empty.
    """
    lines = read_lines(path, argument)
    while lines and not lines[-1].strip():
        lines.pop()
    names = tuple(line.strip() for line in lines)
    if not names:
        raise UsageError(f"<{argument}> {os.fspath(path)}: holds no name; expected one a line", argument=argument)
    if not all(names):
        number = names.index("") + 1
        raise UsageError(f"<{argument}> {os.fspath(path)}: line {number} is empty; expected one name a line", argument)
    return names


def read_lines(path: str | os.PathLike[str], argument: str) -> list[str]:
    """The lines of a file in UTF-8; the last may end with a line break or not.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise UsageError(
            f"<{argument}> {os.fspath(path)}: cannot be read ({reason}); expected text, one a line", argument=argument
        ) from None
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")
