"""The words of a mirrored picture."""

from __future__ import annotations

import re

# Alone, and in leftmost, right-hand, rightwards and the like; not in bright or upright.
_SIDES = re.compile(r"\b(left|right)(?=(?:most|wards?|ies|y|hand(?:ed)?|side)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def mirrored_words(caption: str) -> str:
    """The caption with "left" and "right" in each other's place, in the case they were written in."""
    return _SIDES.sub(_swapped, caption)


def _swapped(found: re.Match[str]) -> str:
    word = found.group()
    other = _OTHER[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
