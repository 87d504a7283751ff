"""`yolor-edge demo`: the whole chain on the shipped checkpoint, from export to annotated images and latencies."""

from __future__ import annotations

import os
from pathlib import Path

from .runtime.errors import UsageError
from .runtime.progress import Say

DEMO = "demo"
_RUNS = 100
_MOST_SECONDS = 60.0


def demo(
    out: str | os.PathLike[str] = "demo-out",
    checkpoint: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    say: Say = print,
) -> int:
    """Export a checkpoint, verify the bundle, run it on images, and measure it.

    Args:
        out: Folder to write to; what an earlier demo left there is replaced. Gets `bundle/`, `pictures/` and
            `report/`.
        checkpoint: Folder of a checkpoint; None for the demo's own.
        images: An image, a folder or a glob; None for the demo's own.
        threads: CPU threads; None for as many as this process may run on.
        say: Called with every line there is to print.

    Returns:
        An exit code: 1 if the bundle does not verify or an image could not be read, else 0.

    Raises:
        UsageError: If the demo's files are not there, `out` is a file, or `threads` makes no sense.
        YolorEdgeError: If a step fails.
    """
    from .benchmarks.report.benchmark import bench
    from .export.to_onnx import export_bundle
    from .runtime.backends.registry import check_threads
    from .runtime.options import LoadOptions
    from .runtime.runner.outputs import RunOptions
    from .runtime.runner.runner import RunLines, run
    from .runtime.sources.sources import open_images
    from .runtime.verification.replay import verify

    check_threads(threads)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, expected a folder to write to", argument="out")
    weights = Path(checkpoint) if checkpoint is not None else _shipped("checkpoint")
    pictures = Path(images) if images is not None else _shipped("images")
    source = open_images(pictures)

    say(f"1. Export {weights} to {folder / 'bundle'}")
    bundle = export_bundle(
        weights,
        folder / "bundle",
        images=list(source.files[:3]),
        overwrite=True,
        progress=lambda line: say(f"   {line}"),
    )
    say("2. Verify the bundle: replay its reference inputs")
    verification = verify(bundle, threads=threads)
    if not verification.passed:
        say(_indented(verification.table()))
        return 1
    say(f"   {len(verification.checks)} checks passed; yolor-edge verify {folder / 'bundle'} prints them")
    for warning in verification.warnings:
        say(f"   warning: {warning}")
    say(f"3. Run it on {len(source.files)} images from {pictures}")
    summary = run(
        bundle,
        pictures,
        folder / "pictures",
        RunOptions(force=True),  # the folder is the demo's own
        load=LoadOptions(threads=threads),
        progress=RunLines(lambda line: say(f"   {line}")),
    )
    say("4. Measure it")
    report = bench(
        bundle,
        folder / "report",
        pictures,
        _RUNS,
        load=LoadOptions(threads=threads),
        maximum_seconds=_MOST_SECONDS,
    )
    say(_indented(report.table()))
    say(f"Annotated images and results.jsonl: {summary.out}")
    say(f"Latency report: {folder / 'report' / 'report.md'}")
    return summary.exit_code


def _shipped(name: str) -> Path:
    """A part of the demo: beside the source, or in the current folder."""
    candidates = (Path(__file__).resolve().parents[1] / DEMO / name, Path(DEMO) / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise UsageError(
        f"{candidates[1]}: no such folder; the demo's files are in the repository, not in an installed "
        "package: run it in a clone, or pass <checkpoint> and <images>",
        argument=("checkpoint", "images"),
    )


def _indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())
