"""What doctor says about a bundle: whether it is whole, what it holds, and which of its engines fit here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..backends.fastest import recorded_speeds
from ..backends.scored import unscored
from ..bundle.bundle import BUNDLE_FILE, Bundle
from ..bundle.engines import EngineFit, judge_engines
from ..environment.cuda_device import CudaDevice
from ..errors import BundleError
from .checks import Check

_GROUP = "bundle"


def holds_bundle(path: Path) -> bool:
    """Whether a folder is a bundle, whole or not."""
    return (path / BUNDLE_FILE).is_file()


def bundles_below(path: Path) -> list[Path]:
    """The bundles that lie directly in a folder that is none itself."""
    if holds_bundle(path) or not path.is_dir():
        return []
    try:
        return sorted(found for found in path.iterdir() if holds_bundle(found))
    except OSError:
        return []


def open_for_checks(path: str | os.PathLike[str]) -> tuple[Bundle | None, Check]:
    """The bundle, or None, and the line that says whether it is whole."""
    try:
        bundle = Bundle.open(path)
    except (BundleError, OSError) as error:
        below = bundles_below(Path(path)) if os.fspath(path) else []
        if below:
            text = f"{os.fspath(path)}: is no bundle, but holds {' and '.join(map(str, below[:3]))}"
            return None, Check(_GROUP, "files", "problem", text, f"name {'that' if len(below) == 1 else 'one of them'}")
        return None, Check(_GROUP, "files", "problem", " ".join(str(error).split()))
    spec = bundle.spec
    height, width = spec.input_size
    text = f"{len(bundle.files)} files, all as they were sealed; {spec.name}, {height}x{width}, {', '.join(spec.tasks)}"
    return bundle, Check(_GROUP, "files", "ok", text)


def content_checks(bundle: Bundle, backends: Sequence[str] = ()) -> list[Check]:
    """Its precisions, what writes its captions, what is fastest here, and what was not scored where it would run.

    Args:
        bundle: Opened.
        backends: Names of those that are usable here.
    """
    checks = [Check(_GROUP, "precisions", "ok", ", ".join(bundle.precisions))]
    if "caption" in bundle.spec.tasks:
        weights = ", ".join(bundle.caption_weights)
        if weights:
            checks.append(Check(_GROUP, "captions", "ok", f"native decoder, weights in {weights}"))
        else:
            cure = "export it again for the native decoder, which is faster"
            checks.append(Check(_GROUP, "captions", "missing", "no weights of the native decoder", cure))
    speeds = sorted((speed for speed in recorded_speeds(bundle) if speed.ms), key=lambda speed: speed.ms)
    if speeds:
        for threads in sorted({speed.threads for speed in speeds}):
            same = [speed for speed in speeds if speed.threads == threads]
            text = ", ".join(f"{one.name} {one.ms:.1f} ms" for one in same)
            on = f"with {threads} CPU thread{'s' if threads > 1 else ''}" if threads else f"on {same[0].machine}"
            checks.append(Check(_GROUP, "fastest", "ok", f"{text}; measured {on}, {same[0].day}"))
    elif len(bundle.precisions) > 1 or len(backends) > 1:
        text = "not measured on this machine; the first --precision auto or --backend auto does, in some seconds"
        cure = shlex.join(["yolor-edge", "doctor", str(bundle.path), "--choose"])
        checks.append(Check(_GROUP, "fastest", "none", text, f"or now: {cure}"))
    for precision in bundle.precisions[1:]:
        gaps = [gap.partition("; ") for name in backends if (gap := unscored(bundle, name, precision))]
        cures = {reason: cure for reason, _, cure in reversed(gaps)}
        checks += [Check(_GROUP, f"{precision} scores", "none", reason, cure) for reason, cure in cures.items()]
        if backends and not cures:
            checks.append(Check(_GROUP, f"{precision} scores", "ok", "of all that runs it here"))
    return checks


def engine_checks(
    bundle: Bundle, versions: Mapping[str, str], device: CudaDevice | None, build: str
) -> tuple[list[Check], list[EngineFit]]:
    """A line for each engine of the cache, and those that fit here.

    Args:
        bundle: Opened.
        versions: The full version of each flavour of TensorRT that loads here.
        device: The GPU here, or None.
        build: The command that builds engines for it; empty where none can be built for it here.
    """
    capability, gpu = (None, None) if device is None else (device.compute_capability, device.name)
    judged = judge_engines(bundle, versions, capability, gpu)
    checks = [_engine_check(fit, bundle.path, build) for fit in judged]
    fitting = [fit for fit in judged if not fit.complaints]
    if device is not None and not fitting:
        text = f"none in the cache fits {device.name} ({device.compute_capability})"
        checks.append(Check(_GROUP, "engines", "missing", text, f"build with: {build}" if build else ""))
    elif not judged:
        checks.append(Check(_GROUP, "engines", "none", "not needed without an NVIDIA GPU"))
    return checks, fitting


def _engine_check(fit: EngineFit, bundle: Path, build: str) -> Check:
    name = "engine" if fit.record is None else f"{fit.record.part} {fit.record.precision}"
    file = fit.path.relative_to(bundle).as_posix()
    if fit.is_damaged:
        cure = f"remove it; build with: {build}" if build else "remove it and its .json"
        reason = "; ".join(fit.complaints).replace(f"{bundle}/", "")
        return Check(_GROUP, name, "problem", f"{file}: {reason}", cure)
    if fit.complaints:
        return Check(_GROUP, name, "none", f"{file} does not fit here: {'; '.join(fit.complaints)}")
    return Check(_GROUP, name, "ok", f"{file} fits here")
