"""Arguments of the wrong type, refused in one line where they are given, rather than by whatever meets them first."""

from __future__ import annotations

import numbers
import os
from collections.abc import Collection, Mapping

from .errors import UsageError


def described(value: object) -> str:
    """A value as a message shows it, short, with its type."""
    text = repr(value) if isinstance(value, str | bytes | numbers.Number | None) else ""
    return f"{text[:40]} ({type(value).__name__})" if text else type(value).__name__


def nearest(name: str, known: Collection[str]) -> str:
    """ ", perhaps 'dog'": the known name that one which is not known was most likely meant to be; "" for none."""
    import difflib  # here, since it is needed for messages alone

    found = [one for one in known if one.lower() == name.lower()] or difflib.get_close_matches(name, known, 1)
    return f", perhaps {found[0]!r}" if found else ""


def check_number(name: str, value: object, or_none: bool = False) -> None:
    """Refuse anything but a real number.

    Raises:
        UsageError: Saying what it is instead.
    """
    if (value is None and or_none) or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        return
    raise UsageError(f"<{name}> must be a number{' or None' if or_none else ''}, got {described(value)}", argument=name)


def check_count(name: str, value: object, or_none: bool = False) -> None:
    """Refuse anything but a whole number, of any size.

    Raises:
        UsageError: Saying what it is instead.
    """
    if (value is None and or_none) or (isinstance(value, numbers.Integral) and not isinstance(value, bool)):
        return
    raise UsageError(
        f"<{name}> must be a whole number{' or None' if or_none else ''}, got {described(value)}", argument=name
    )


def check_flag(name: str, value: object, or_none: bool = False) -> None:
    """Refuse anything but True and False.

    Raises:
        UsageError: Saying what it is instead.
    """
    if not (isinstance(value, bool) or (value is None and or_none)):
        raise UsageError(
            f"<{name}> must be True or False{' or None' if or_none else ''}, got {described(value)}", argument=name
        )


def check_text(name: str, value: object, or_none: bool = False) -> None:
    """Refuse anything but text.

    Raises:
        UsageError: Saying what it is instead.
    """
    if not (isinstance(value, str) or (value is None and or_none)):
        raise UsageError(f"<{name}> must be text{' or None' if or_none else ''}, got {described(value)}", argument=name)


def check_path(name: str, value: object) -> None:
    """Refuse anything but text and paths.

    Raises:
        UsageError: Saying what it is instead.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"<{name}> must be a path, got {described(value)}", argument=name)


def check_names(name: str, value: object) -> None:
    """Refuse anything but None, one name, or a collection of names.

    Raises:
        UsageError: Saying what it is instead.
    """
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Collection) or isinstance(value, bytes | Mapping):
        raise UsageError(f"<{name}> must be a collection of names, got {described(value)}", argument=name)
    for one in value:
        if not isinstance(one, str):
            raise UsageError(f"<{name}> must be a collection of names, got one with {described(one)}", argument=name)
