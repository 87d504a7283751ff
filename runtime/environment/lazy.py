"""Public names of a package imported when they are first asked for, so that importing the package costs little."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(
    package: str, names: Mapping[str, Sequence[str]], *extras: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Its `__name__`.
        names: Public names by the module that has them, relative to the package, such as ".model".
        extras: Of this project that bring what the modules import. A `PackageError` says in one line what is missing.
    """
    places = {name: module for module, group in names.items() for name in group}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(places))}")
        try:
            value = getattr(import_module(places[name], package), name)
        except ModuleNotFoundError as error:
            from ..errors import PackageError
            from .install import lacking_packages
            from .packages import package_of_module

            module = (error.name or "").partition(".")[0]
            if package_of_module(module) is None:
                raise

            raise PackageError(lacking_packages(f"{package}.{name}", module, extras)) from error
        setattr(sys.modules[package], name, value)  # found without this function the next time
        return value

    return get, lambda: sorted(places)
