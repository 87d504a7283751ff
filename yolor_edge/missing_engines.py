"""`--build-if-missing`: the one place where a command that runs a bundle may build engines."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .runtime.errors import UsageError


def build_as_asked(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Build the engines that the command is about to open and that are missing for this device.

    Args:
        arguments: With `command`, `backend`, `precision`, and `bundle` or `model`.
        say: Called with lines of progress.

    Raises:
        UsageError: If the backend runs no engines.
        BundleError: If it is no bundle.
        BackendError: If there is no GPU, or something is not installed.
        EngineBuildError: If building fails.
    """
    if arguments.backend is None or arguments.precision is None:
        raise UsageError("--build-if-missing needs to know what for: give --backend and --precision as well")
    from .export.to_tensorrt import build_missing
    from .runtime.bundle import Bundle
    from .runtime.missing_engines import build_if_missing
    from .runtime.model import needed_parts

    bundle = Bundle.open(arguments.bundle if hasattr(arguments, "bundle") else arguments.model)
    if arguments.command == "verify":
        parts = tuple(bundle.graphs)
    else:
        decoder = getattr(arguments, "caption_decoder", None)
        parts = needed_parts(bundle, arguments.backend, arguments.precision, decoder)
    build_if_missing(bundle, arguments.backend, arguments.precision, parts, build_missing(say))
