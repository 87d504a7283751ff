"""`--build-if-missing`: the one place where a command that runs a bundle may build engines."""

from __future__ import annotations

import argparse
from pathlib import Path

from .runtime.errors import UsageError
from .runtime.progress import Say


def build_as_asked(arguments: argparse.Namespace, say: Say) -> None:
    """Build the engines that the command is about to open and that are missing for this device.

    Where nobody said what is to write captions, and it was never measured on this device, the engines of the caption
    decoder are built too, and it is measured, as `yolor-edge build` does.

    Args:
        arguments: With `command`, `backend`, `precision`, and `bundle` or `model`.
        say: Called with lines of progress.

    Raises:
        UsageError: If the backend runs no engines, or the model is a checkpoint.
        BundleError: If it is no bundle.
        BackendError: If there is no GPU, or something is not installed.
        EngineBuildError: If building fails.
    """
    path = Path(arguments.bundle if hasattr(arguments, "bundle") else arguments.model)
    if _is_checkpoint(path):
        raise UsageError(
            f"{path}: is a checkpoint, which runs in torch without engines; leave out <build_if_missing>, or export a "
            f"bundle: yolor-edge export {path} --out BUNDLE",
            argument="build_if_missing",
        )
    if arguments.backend is None or arguments.precision is None:
        raise UsageError(
            "<build_if_missing> needs to know what for: give <backend> and <precision> as well",
            argument=("build_if_missing", "backend", "precision"),
        )
    from .benchmarks.report.caption_choice import choose_after_build, is_choice_open
    from .export.engines.to_tensorrt import build_missing
    from .runtime.backends.registry import backend_entry
    from .runtime.backends.tensorrt.missing_engines import build_if_missing
    from .runtime.bundle.bundle import Bundle
    from .runtime.model import needed_parts, with_fastest
    from .runtime.options import LoadOptions

    bundle = Bundle.open(path)
    how = with_fastest(bundle, LoadOptions(arguments.backend, arguments.precision))
    backend, precision = how.backend, how.precision
    decoder = getattr(arguments, "caption_decoder", None)
    own = bundle.spec.caption.beam_size if bundle.spec.caption is not None else 1
    beam = getattr(arguments, "beam_size", None) or own
    is_open = False
    if arguments.command == "verify":
        parts = tuple(bundle.graphs)
    else:
        writes_captions = "caption" in (getattr(arguments, "tasks", None) or ("caption",))
        if decoder is None and writes_captions and backend_entry(backend).flavour:
            is_open = is_choice_open(bundle, backend, precision)
        parts = (
            tuple(bundle.graphs)
            if is_open
            else needed_parts(bundle, LoadOptions(backend, precision, caption_decoder=decoder))
        )
    missing = build_if_missing(bundle, backend, precision, parts, build_missing(say, max(beam, own)))
    if is_open or (missing and decoder is None and len(parts) > 1):
        choose_after_build(bundle, backend, precision, beam, say)


def _is_checkpoint(path: Path) -> bool:
    if (path / "bundle.json").is_file():
        return False
    return any((folder / "checkpoint.json").is_file() for folder in (path, path / "checkpoint"))
