"""How long work tells of itself: in lines of text, or as a count of what is done."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one line of progress."""

Count = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is."""
