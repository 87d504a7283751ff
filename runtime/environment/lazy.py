"""Public names of a package imported when they are first asked for, so that importing the package costs little."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Its `__name__`.
        names: Public names by the module that has them, relative to the package, such as ".model".
    """
    places = {name: module for module, group in names.items() for name in group}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(places))}")
        value = getattr(import_module(places[name], package), name)
        setattr(sys.modules[package], name, value)  # found without this function the next time
        return value

    return get, lambda: sorted(places)
