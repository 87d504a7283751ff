"""Replaying a bundle's reference inputs on this machine, through one backend or through all that run here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..backends.base import Graph
from ..backends.fastest import AUTO, choose_fastest
from ..backends.registry import BACKENDS, backend_entry, backend_name, graph_files, open_graphs
from ..backends.scored import unscored
from ..bundle.bundle import BUNDLE_FILE, INT8_DIALECTS, Bundle
from ..captions.native_captioning import NativeCaptionDecoder
from ..errors import BackendError, BackendMissingError, BundleError, EngineMismatchError, UsageError, YolorEdgeError
from ..model import Model, with_fastest
from ..options import LoadOptions
from ..vision.open_vision import check_processing
from .comparison import (
    NOTHING,
    REPORTED,
    TOGETHER,
    Check,
    ResultTolerances,
    Tolerances,
    captions_check,
    compare,
    compare_captions,
    compare_heads,
    compare_results,
    tolerances_from_json,
)
from .golden import GOLDEN_FOLDER, Answers, answers_of, captions_of, read_golden, unproven, write_golden

__all__ = [
    "GOLDEN_FOLDER",
    "Answers",
    "Check",
    "Replay",
    "Skipped",
    "Tolerances",
    "Verification",
    "answers_of",
    "captions_of",
    "compare",
    "compare_captions",
    "compare_heads",
    "read_golden",
    "verify",
    "verify_everything",
    "write_golden",
]

# Where a system shows its GPU to programs: a desktop's, and a Jetson's.
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")


@dataclass(frozen=True)
class Verification:
    """All comparisons of one bundle on one backend, and what they cannot prove."""

    backend: str
    precision: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def table(self, each: bool = True) -> str:
        """One line a comparison, or a stage's worst over all inputs; then the verdict.

        Args:
            each: Whether to show every input.
        """
        shown = self.checks if each else self._worst()
        rows = [("input", "stage", "measured", "allowed", "")]
        rows += [(c.golden, c.stage, c.measured, c.allowed, _verdict(c)) for c in shown]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        verdict = "verified" if self.passed else f"{len(self.failures)} of {len(self.checks)} checks failed"
        lines += [f"{self.name}: {verdict}", *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join(line.rstrip() for line in lines)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "checks": [asdict(check) for check in self.checks],
            "warnings": list(self.warnings),
            "passed": self.passed,
        }

    def _worst(self) -> list[Check]:
        """For each stage, in order, the check that failed or came closest to it; figures of all inputs at the end."""
        worst: dict[tuple[bool, str], Check] = {}
        for check in self.checks:
            key = (check.golden == TOGETHER, check.stage)
            if key not in worst or (not check.passed, check.used) > (not worst[key].passed, worst[key].used):
                worst[key] = check
        return [worst[key] for key in sorted(worst, key=lambda key: key[0])]


def _verdict(check: Check) -> str:
    if not check.passed:
        return "FAILED"
    if check.measured == NOTHING:
        return "not shown"
    return "" if check.allowed == REPORTED else "ok"


@dataclass(frozen=True)
class Skipped:
    """A stage that was not replayed, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Replay:
    """Every verification of a bundle that this machine can run."""

    verifications: tuple[Verification, ...]
    skipped: tuple[Skipped, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.verifications)

    def table(self, each: bool = False) -> str:
        """A table for each backend and precision, then which of them passed and what was skipped.

        Args:
            each: Whether to show every input, not only the worst of each stage.
        """
        parts = [one.table(each) for one in self.verifications]
        rows = [(one.name, "verified" if one.passed else "FAILED") for one in self.verifications]
        rows += [(one.what, f"not replayed: {one.why}") for one in self.skipped]
        if len(rows) > 1:
            width = max(len(name) for name, _ in rows)
            parts.append("\n".join(f"{name.ljust(width)}  {verdict}" for name, verdict in rows))
        return "\n\n".join(parts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not proven, each sentence once."""
        return tuple(dict.fromkeys(warning for one in self.verifications for warning in one.warnings))

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "warnings": list(self.warnings),
            "verifications": [one.to_json() for one in self.verifications],
            "skipped": [asdict(one) for one in self.skipped],
        }


def verify(
    bundle: Bundle | str | os.PathLike[str],
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
    processing: str | None = None,
) -> Verification:
    """Replay a bundle's reference inputs on this machine and compare every stage.

    Args:
        bundle: A bundle or its folder.
        backend, precision, threads, processing: As for `load`.

    Returns:
        All comparisons; `passed` says whether every one is within the bundle's tolerances.

    Raises:
        BundleError: If the bundle cannot be opened or holds no reference inputs.
        UsageError: If the backend is unknown or cannot have the post-processing asked for, or the bundle lacks the
            precision.
        BackendError: If the backend is not installed or cannot run the graphs.
    """
    check_processing(backend_name(backend), processing)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    files = _golden_files(opened)
    how = with_fastest(opened, LoadOptions(backend, precision, threads))
    backend, precision = how.backend, how.precision
    graph_files(opened, backend, precision)  # says what can be asked for, if this cannot
    tolerances = _tolerances_of(opened, precision)
    graphs = open_graphs(opened, backend, precision, threads)
    native: list[Check] = []
    with Model(opened.spec, graphs, processing=processing) as model:
        answers = dict(_replay(model, graphs["vision"], files))
        if precision == "fp32" and opened.spec.caption is not None and "fp32" in opened.caption_weights:
            decoder = NativeCaptionDecoder(opened.spec.caption, opened.path / opened.caption_weights["fp32"])
            native = _replay_captions(Model(opened.spec, graphs, decoder, processing), files)
    usual = opened.spec.thresholds
    if isinstance(tolerances, ResultTolerances):
        checks = compare_results(answers, tolerances, usual.score)
    else:
        checks = [
            check
            for golden, (expected, found) in answers.items()
            for check in compare(golden, expected, found, tolerances, usual.score, usual.iou, usual.max_detections)
        ]
        captions = captions_check(list(answers.values()), tolerances)
        if captions is not None and tolerances.captions < 1:
            checks.append(captions)
    warnings = unproven(expected for expected, _ in answers.values())
    gap = unscored(opened, backend, precision)
    return Verification(backend, precision, (*checks, *native), (*warnings, gap) if gap else warnings)


def verify_everything(
    bundle: Bundle | str | os.PathLike[str],
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    processing: str | None = None,
) -> Replay:
    """Replay the reference inputs through every backend and precision that this machine can run.

    Args:
        bundle: A bundle or its folder.
        backend: Only this one; None for all that are installed.
        precision: Only this one; None for all that the bundle holds.
        threads: CPU threads; None for as many as this process may run on.
        processing: As for `load`; "gpu" only together with a backend that can have it.

    Returns:
        A verification each, and what was skipped. Graphs that do not load or run are a failed verification.

    Raises:
        BundleError: If the bundle cannot be opened or holds no reference inputs.
        UsageError: If the backend is unknown or cannot have the post-processing asked for, or the precision is not in
            the bundle.
        BackendError: If the backend asked for is not installed, or none is.
    """
    if backend is not None:
        backend = backend_name(backend)
        check_processing(backend, processing)
        if backend != AUTO:
            backend_entry(backend)
    elif processing == "gpu":
        able = " or ".join(name for name, entry in BACKENDS.items() if entry.flavour)
        raise UsageError(
            f"post-processing on the GPU is not for every backend; name one that has it as well: {able}",
            argument=("processing", "backend"),
        )
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if backend == AUTO or (backend is not None and precision is not None):
        precision = precision or AUTO
        return Replay((verify(opened, backend, precision, threads, processing),), ())
    if precision not in (None, AUTO):
        opened.graph_files(precision, _dialect_held(opened))  # says what is there, if this is not
    verifications: list[Verification] = []
    skipped: list[Skipped] = []
    for name in BACKENDS if backend is None else (backend,):
        if backend is None and _needs_gpu(name) and not has_gpu():
            continue  # its engines are listed below
        wanted = precision
        if precision == AUTO and find_spec(BACKENDS[name].imports) is not None:
            wanted = choose_fastest(opened, name, precision, threads).precision
        for kind in opened.precisions if wanted is None else (wanted,):
            what = f"{name} {kind}"
            dialect = BACKENDS[name].int8_dialect
            if kind == "int8" and f"int8-{dialect}" not in opened.graphs["vision"]:
                skipped.append(Skipped(what, f"the bundle holds no int8 graph in the dialect {dialect}"))
                continue
            try:
                verifications.append(verify(opened, name, kind, threads, processing))
            except BackendMissingError as error:
                if backend is not None:
                    raise
                skipped.append(Skipped(name, str(error)))
                break
            except BundleError:
                raise
            except YolorEdgeError as error:
                if _needs_gpu(name) and (backend is None or isinstance(error, EngineMismatchError)):
                    skipped.append(Skipped(what, str(error)))
                elif isinstance(error, BackendError) and not _needs_gpu(name):
                    failure = Check("", "loading and running", str(error), "no error", False)
                    verifications.append(Verification(name, kind, (failure,)))
                else:
                    raise
    why = "no backend runs it here" if has_gpu() else "needs a GPU, and there is none here"
    skipped += [Skipped(engine, why) for engine in _cached_engines(opened, verifications)]
    if not verifications:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in skipped)
        raise BackendError(f"{opened.path}: nothing of it can be replayed here ({reasons})")
    return Replay(tuple(verifications), tuple(skipped))


def has_gpu() -> bool:
    """Whether this system shows programs a GPU of NVIDIA's."""
    return any(Path(device).exists() for device in _GPU_DEVICES)


def _needs_gpu(backend: str) -> bool:
    return BACKENDS[backend].needs_gpu


def _dialect_held(bundle: Bundle) -> str:
    held = bundle.graphs["vision"]
    return next((dialect for dialect in INT8_DIALECTS if f"int8-{dialect}" in held), INT8_DIALECTS[0])


def _cached_engines(bundle: Bundle, verifications: Iterable[Verification]) -> list[str]:
    """The engines of flavours and precisions that were not replayed."""
    replayed = {(one.precision, BACKENDS[one.backend].flavour) for one in verifications}
    return [
        f"engines/{file.name}"
        for file in sorted(bundle.path.glob("engines/[!.]*.engine"))
        if not any(f".{precision}.{flavour}-" in file.name for precision, flavour in replayed if flavour)
    ]


def _golden_files(bundle: Bundle) -> list[Path]:
    names = sorted(name for name in bundle.files if name.startswith(f"{GOLDEN_FOLDER}/"))
    if not names:
        raise BundleError(f"{bundle.path}: holds no reference inputs to replay; export it again")
    return [bundle.path / name for name in names]


def _tolerances_of(bundle: Bundle, precision: str) -> Tolerances | ResultTolerances:
    try:
        values: Mapping[str, float] = bundle.parity.get("tolerances", {}).get(precision, {})
        return tolerances_from_json(precision, values)
    except (AttributeError, TypeError, ValueError):
        raise BundleError(
            f"{bundle.path}: parity.tolerances in {BUNDLE_FILE} must map a precision to numbers by name; "
            "export the bundle again"
        ) from None


def _replay(model: Model, vision: Graph, files: Iterable[Path]) -> Iterator[tuple[str, tuple[Answers, Answers]]]:
    """(name, (what is expected, what is found)) of every golden file."""
    for file in files:
        image, expected = read_golden(file)
        yield file.stem, (expected, answers_of(model, vision, image))


def _replay_captions(model: Model, files: Iterable[Path]) -> list[Check]:
    """The golden captions against those of a model whose decoder is the native one."""
    checks: list[Check] = []
    for file in files:
        image, expected = read_golden(file)
        checks += compare_captions(file.stem, expected.captions, model, image)
    return checks
