"""Engines that are not there yet: which of them this device wants, and having them built by whoever can.

Nothing here builds, and nothing builds unless it was asked to: the builder is passed in, such as
`yolor_edge.export.engines.to_tensorrt.build_missing`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from ...bundle.bundle import Bundle
from ...errors import EngineMismatchError, UsageError
from ..registry import BACKENDS, backend_entry


class EngineBuilder(Protocol):
    """Builds engines into the cache of a bundle."""

    def __call__(
        self, bundle: Bundle, precision: str, flavour: str, parts: Sequence[str], compute_capability: str
    ) -> object:
        """Build them.

        Args:
            bundle: Where to.
            precision: One of `bundle.PRECISIONS`.
            flavour: "tensorrt" or "tensorrt-rtx".
            parts: Of the bundle, those whose engine is missing.
            compute_capability: Of the device here, such as "sm_87".
        """
        ...


def build_if_missing(
    bundle: Bundle, backend: str, precision: str, parts: Collection[str], build: EngineBuilder
) -> tuple[str, ...]:
    """Have the engines built that a backend needs here and that are not in the bundle's cache.

    Args:
        bundle: Opened.
        backend: One that runs engines.
        precision: Of the graphs; "auto" is what the bundle recommends.
        parts: Those that will be opened.
        build: Called once, if anything is missing.

    Returns:
        The parts that were missing.

    Raises:
        UsageError: If the backend is unknown or runs no engines.
        BackendError: If there is no GPU, or a package that is needed is not installed.
        EngineBuildError: If building fails.
    """
    entry = backend_entry(backend)
    if not entry.flavour:
        those = ", ".join(name for name, entry in BACKENDS.items() if entry.flavour)
        raise UsageError(
            f'backend "{backend}" runs the bundle\'s graphs as they are and needs no engines; building those that are '
            f"missing is for {those}"
        )
    from ...cuda import open_device
    from ...environment.tensorrt_package import import_flavour
    from .backend import find_part

    module = import_flavour(entry.flavour)
    missing = []
    with open_device() as device:
        for part in parts:
            try:
                find_part(bundle, part, precision, entry.flavour, module, device)
            except EngineMismatchError:
                missing.append(part)
        compute_capability = device.info.compute_capability
    if missing:
        build(bundle, precision, entry.flavour, missing, compute_capability)
    return tuple(missing)
