"""Where two precisions of one network part: every stage of both on reference inputs, and the first one too far away.

Noise is the root mean square of the difference relative to that of the signal; in decibels it is the signal-to-noise
ratio (SQNR) by which quantisation is usually judged. It adds up along the network, so beside what has gathered at a
layer stands what the layer adds itself, measured by running it on the other graph's values. Layers that add most are
the ones to keep in float.

Where a graph chooses cells by their logits (TopK, ArgMax), B is given the choice of A: two that are as good change
places by the least noise, and what is made of another cell cannot be compared.

On a CPU, ONNX Runtime computes fp16 graphs in fp32 and rounds only what is fetched. So a value beyond the range of fp16
is infinite in the layer that gives it and does not reach those behind: it fails its stage wherever in it it stands.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.backends.base import Array
from ...runtime.backends.registry import check_threads
from ...runtime.bundle.bundle import GRAPH_KINDS, Bundle
from ...runtime.errors import BundleError, UsageError
from ...runtime.images.preprocess import PreprocessRule, preprocess
from ...runtime.progress import Count
from ...runtime.verification.golden import GOLDEN_FOLDER, read_golden
from ..onnx_graphs.choices import choices_of, chosen, with_choices_given, with_choices_shown
from .dissect import GIVEN, Anatomy, Layer, expose, isolate

# The noise that a stage may have, by the coarser of the two precisions. Rounding of fp32 leaves 1e-6, that of fp16
# 1e-3, and int8 some 0.02 to 0.06 where nothing is wrong.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}
_LEGEND = (
    "worst  largest difference, relative to the largest magnitude in A",
    "noise  root mean square of the difference, relative to that of A; SQNR is the same in decibels",
    "own    what the worst of its layers adds by itself, given the values of A",
)
# No noise, and noise beyond measure (a NaN), as numbers that JSON can hold.
_LEAST, _MOST = 1e-12, 1e6


@dataclass(frozen=True)
class Difference:
    """How far a tensor of B is from that of A.

    Attributes:
        range_a, range_b: Least and largest value.
        worst: Largest difference relative to the largest magnitude in A.
        noise: Root mean square of the difference relative to that of A.
    """

    range_a: tuple[float, float]
    range_b: tuple[float, float]
    worst: float
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in decibels."""
        return decibels(self.noise)


@dataclass(frozen=True)
class StageDifference:
    """A stage and its exit that differs most.

    Attributes:
        stage: Its name.
        layers: How many it has.
        difference: Of what the next stages read.
        own_noise: The largest that one of its layers adds.
        passed: Whether the noise is within the tolerance, and every layer gives numbers.
    """

    stage: str
    layers: int
    difference: Difference
    own_noise: float
    passed: bool


@dataclass(frozen=True)
class LayerDifference:
    """A layer of the first stage that is over the tolerance.

    Attributes:
        layer: Its name.
        noise: Gathered at its output.
        own_noise: What it adds itself.
        keep_float: Whether it is on the list of layers to keep in float.
    """

    layer: str
    noise: float
    own_noise: float
    keep_float: bool


@dataclass(frozen=True)
class Diff:
    """Two graphs, stage by stage.

    Attributes:
        a, b: What was compared.
        tolerance: Noise that a stage may have.
        images: How many reference inputs were run.
        stages: In the order of the network.
        first: The first stage over the tolerance; None if there is none.
        layers: Of the first stage.
        missing: Layers that only one of the two has.
    """

    a: str
    b: str
    tolerance: float
    images: int
    stages: tuple[StageDifference, ...]
    first: str | None
    layers: tuple[LayerDifference, ...]
    missing: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.first is None

    @property
    def keep_float(self) -> tuple[str, ...]:
        """Layers of the first stage to keep in float, in its order."""
        return tuple(layer.layer for layer in self.layers if layer.keep_float)

    def keep_float_text(self) -> str:
        """The list as `export --keep-float` reads it: one name a line."""
        return "".join(f"{name}\n" for name in self.keep_float)

    def table(self) -> str:
        """A line a stage; then the first over the tolerance layer by layer, and the list."""
        rows = [("stage", "layers", "range in A", "range in B", "worst", "noise", "SQNR", "own", "")]
        for one in self.stages:
            d = one.difference
            figures = (_range(d.range_a), _range(d.range_b), f"{d.worst:.1e}", f"{d.noise:.1e}")
            ratios = (f"{d.sqnr_db:.1f} dB", f"{decibels(one.own_noise):.1f} dB", "ok" if one.passed else "OVER")
            rows.append((one.stage, str(one.layers), *figures, *ratios))
        lines = [f"A: {self.a}", f"B: {self.b}", f"{self.images} reference inputs", "", *_aligned(rows, "<>>>>>>><")]
        if self.missing:
            lines.append(f"only in one of the two: {', '.join(self.missing)}")
        lines += ["", *_LEGEND]
        allowed = f"allowed is noise {self.tolerance:g}, {decibels(self.tolerance):.1f} dB"
        if self.first is None:
            return "\n".join([*lines, "", f"every stage is within the tolerance ({allowed})"])
        lines += ["", f"first over the tolerance: {self.first} ({allowed}); its layers:", ""]
        rows = [("layer", "SQNR", "own", "")]
        rows += [
            (
                one.layer,
                f"{decibels(one.noise):.1f} dB",
                f"{decibels(one.own_noise):.1f} dB",
                "keep in float" if one.keep_float else "",
            )
            for one in self.layers
        ]
        return "\n".join([*lines, *_aligned(rows, "<>><")])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "keep_float": list(self.keep_float)}


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    tolerance: float | None = None,
    threads: int | None = None,
    progress: Count | None = None,
) -> Diff:
    """Compare two graphs of one network on the reference inputs of the first.

    Args:
        a, b: Bundles, or "BUNDLE:PRECISION"; without a precision its fp32 graph. For int8 the dialect may be named as
            in `bundle.GRAPH_KINDS`; else it is the one that ONNX Runtime runs, if the bundle holds it.
        tolerance: Noise that a stage may have; by default by the coarser of the two precisions, see `TOLERANCES`.
        threads: CPU threads; None for as many as this process may run on.
        progress: Called with how many reference inputs are done, and of how many.

    Returns:
        The differences stage by stage.

    Raises:
        BundleError: If a bundle cannot be opened, or the first holds no reference inputs.
        UsageError: If a precision is not there, the two are no graphs of one network, or the tolerance is no number
            above 0.
        BackendError: If ONNX Runtime cannot run one.
    """
    graph_a, graph_b = _open_graph(a), _open_graph(b)
    limit = _checked_tolerance(tolerance, graph_a.kind, graph_b.kind)
    check_threads(threads)
    if not graph_a.golden:
        raise BundleError(f"{graph_a.folder}: holds no reference inputs to compare on; export it again")
    return diff_graphs(graph_a, graph_b, limit, threads, progress)


def diff_graphs(
    graph_a: VisionGraph,
    graph_b: VisionGraph,
    limit: float,
    threads: int | None = None,
    progress: Count | None = None,
) -> Diff:
    """Compare two graphs of one network, of a bundle or of one in the making; see `diff`.

    Args:
        graph_a, graph_b: What to compare; the first one's reference inputs are used.
        limit: Noise that a stage may have.
        threads: CPU threads; None for as many as this process may run on.
        progress: Called with how many reference inputs are done, and of how many.
    """
    body_a, body_b = Anatomy(graph_a.model), Anatomy(graph_b.model)
    layers, missing = _common_layers(graph_a.label, graph_b.label, body_a, body_b)
    exits = {stage: [name for name in names if name in body_b.tensors] for stage, names in body_a.exits(layers).items()}
    stages = list(dict.fromkeys(layer.stage for layer in layers))
    seen = {stage: exits.get(stage) or [x.tensor for x in layers if x.stage == stage] for stage in stages}
    gathered, own = _measure(graph_a, body_a, body_b, layers, seen, threads, progress)

    def worst_exit(stage: str) -> Difference:
        return max((gathered[name] for name in seen[stage]), key=lambda difference: difference.noise)

    def is_within(stage: str) -> bool:
        inside = (gathered[layer.tensor].noise for layer in layers if layer.stage == stage)
        return worst_exit(stage).noise <= limit and max(inside) < _MOST

    found = tuple(
        StageDifference(
            stage,
            sum(layer.stage == stage for layer in layers),
            worst_exit(stage),
            max(own[layer.tensor].noise for layer in layers if layer.stage == stage),
            is_within(stage),
        )
        for stage in stages
    )
    first = _first_over(found, layers, body_a)
    chosen = [layer for layer in layers if layer.stage == first]
    before = {earlier.tensor for layer in chosen for earlier in body_a.inputs_of(layer, layers)}
    before -= {layer.tensor for layer in chosen}
    arrived = max((gathered[tensor].noise for tensor in before), default=0.0)
    own_noise = {layer.name: own[layer.tensor].noise for layer in chosen}
    kept = _kept_in_float(own_noise, math.sqrt(max(0.0, limit**2 - arrived**2)))
    return Diff(
        graph_a.label,
        graph_b.label,
        limit,
        len(graph_a.golden),
        found,
        first,
        tuple(LayerDifference(x.name, gathered[x.tensor].noise, own[x.tensor].noise, x.name in kept) for x in chosen),
        missing,
    )


def decibels(noise: float) -> float:
    """Noise relative to the signal as a signal-to-noise ratio."""
    return -20 * math.log10(max(noise, _LEAST))


@dataclass(frozen=True)
class VisionGraph:
    """A vision graph of a bundle, or of a folder that becomes one.

    Attributes:
        label: As the user may name it.
        kind: One of `GRAPH_KINDS`.
        folder: That it lies in, with reference inputs.
        rule: How images become the graph's input.
        model: What it is.
    """

    label: str
    kind: str
    folder: Path
    rule: PreprocessRule
    model: onnx.ModelProto

    @property
    def golden(self) -> list[Path]:
        return sorted((self.folder / GOLDEN_FOLDER).glob("[!.]*"))


def _open_graph(name: str | os.PathLike[str]) -> VisionGraph:
    text = os.fspath(name)
    folder, _, precision = text.rpartition(":")
    if not folder or precision not in ("int8", *GRAPH_KINDS) or Path(text).is_dir():
        if folder and not Path(text).exists() and Path(folder).is_dir():
            raise UsageError(f'{text}: unknown precision "{precision}"; known are int8, {", ".join(GRAPH_KINDS)}')
        folder, precision = text, "fp32"
    bundle = Bundle.open(folder)
    held = bundle.graphs["vision"]
    kind = precision
    if precision == "int8":
        kind = next((kind for kind in ("int8-u8s8", "int8-openvino", "int8-s8s8") if kind in held), "int8-u8s8")
    if kind not in held:
        raise UsageError(f"{folder}: has no {precision} graph, it holds {', '.join(held)}")
    try:
        model = onnx.load(bundle.path / held[kind])
    except Exception as error:  # protobuf's own errors have no common class
        raise BundleError(f"{bundle.path / held[kind]}: is not an ONNX graph ({type(error).__name__})") from None
    return VisionGraph(f"{folder}:{kind}", kind, bundle.path, bundle.spec.preprocess, model)


def _checked_tolerance(tolerance: float | None, *kinds: str) -> float:
    if tolerance is None:
        return max(TOLERANCES[kind.partition("-")[0]] for kind in kinds)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"<tolerance> must be a number above 0, got {tolerance}", argument="tolerance")
    return tolerance


def _common_layers(label_a: str, label_b: str, a: Anatomy, b: Anatomy) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers of both, and the names of those that only one has.

    Raises:
        UsageError: If they are not two graphs of one network.
    """
    takes_a, takes_b = ({value.name: _shape(value) for value in body.model.graph.input} for body in (a, b))
    if takes_a.keys() != takes_b.keys() or not all(_fit(takes_a[name], takes_b[name]) for name in takes_a):
        raise UsageError(f"{label_a} takes {_words(takes_a)}, {label_b} takes {_words(takes_b)}: not one network")
    ours, theirs = ({layer.name: layer for layer in body.layers} for body in (a, b))
    common = []
    for layer in ours.values():
        if layer.name in theirs:
            shared = next((name for name in (layer.tensor, layer.product) if name in b.tensors), None)
            if shared is not None:
                common.append(replace(layer, tensor=shared))
    if not common:
        raise UsageError(
            f"{label_a} and {label_b} have no layer in common: diff compares two precisions of one network, as one "
            "export writes them"
        )
    for layer in common:
        shape_a, shape_b = (_shape(body.tensors[layer.tensor]) for body in (a, b))
        if shape_a and shape_b and not _fit(shape_a, shape_b):
            raise UsageError(
                f"{label_a} and {label_b} are not of one network: {layer.name} gives {_axes(shape_a)} and "
                f"{_axes(shape_b)}"
            )
    names = {layer.name for layer in common}
    return common, tuple(name for name in dict.fromkeys((*ours, *theirs)) if name not in names)


def _measure(
    graph_a: VisionGraph,
    body_a: Anatomy,
    body_b: Anatomy,
    layers: Sequence[Layer],
    seen: Mapping[str, Sequence[str]],
    threads: int | None,
    progress: Count | None,
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Differences of layers and exits as they gather, and of layers on the other graph's values, by tensor."""
    files = graph_a.golden
    batches = [_shape(value)[0] for body in (body_a, body_b) for value in body.model.graph.input]
    batch = max(1, *batches)  # -1 where it is free
    tensors = list(dict.fromkeys([*(layer.tensor for layer in layers), *(n for names in seen.values() for n in names)]))
    gathered = {name: _Sums() for name in tensors}
    own = {layer.tensor: _Sums() for layer in layers}
    choices = _common_choices(body_a.model, body_b.model)
    whole_a = expose(Anatomy(with_choices_shown(body_a.model)), tensors, threads)
    whole_b = expose(Anatomy(with_choices_given(body_b.model, choices)), tensors, threads)
    pieces = isolate(body_b, layers, threads)
    try:
        for done, file in enumerate(files, 1):
            image, _ = read_golden(file)
            pixels, _ = preprocess(image, graph_a.rule)
            feed = {"images": np.repeat(pixels[np.newaxis], batch, axis=0)}
            values = whole_a.run(feed, [*tensors, *choices])
            found = whole_b.run({**feed, **chosen(values, choices)}, tensors)
            for tensor, sums in gathered.items():
                sums.add(values[tensor], found[tensor])
            given = {**feed, **{f"{tensor}{GIVEN}": value for tensor, value in values.items()}}
            with np.errstate(over="ignore"):  # beyond the range of fp16 is infinite, which is what B would have seen
                parts = {n: given[n].astype(i.dtype, copy=False) for n, i in pieces.inputs.items()}
            found = pieces.run(parts)
            for tensor, sums in own.items():
                sums.add(values[tensor], found[tensor])
            if progress is not None:
                progress("comparing", done, len(files))
    finally:
        for session in (whole_a, whole_b, pieces):
            session.close()
    return {n: s.difference() for n, s in gathered.items()}, {n: s.difference() for n, s in own.items()}


def _common_choices(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """What both graphs choose alike: B goes on from the choice of A, since another one is no noise."""
    ours, theirs = choices_of(a), choices_of(b)
    return [name for name in ours if name in theirs and _fit(_shape(ours[name]), _shape(theirs[name]))]


class _Sums:
    """A difference gathered over images."""

    def __init__(self) -> None:
        self._squares = np.zeros(2)
        self._largest = np.zeros(2)
        self._ranges: list[NDArray[np.float64]] = []

    def add(self, a: Array, b: Array) -> None:
        a, b = a.astype(np.float32, copy=False), b.astype(np.float32, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = b - a
            self._squares += [float(np.square(x, dtype=np.float64).sum()) for x in (apart, a)]
            self._largest = np.maximum(self._largest, [float(np.abs(x).max(initial=0)) for x in (apart, a)])
        self._ranges.append(np.array([[x.min(initial=np.inf), x.max(initial=-np.inf)] for x in (a, b)], np.float64))

    def difference(self) -> Difference:
        ranges = np.array(self._ranges)
        low, high = _finite(ranges[:, :, 0].min(axis=0)), _finite(ranges[:, :, 1].max(axis=0))
        return Difference(
            (low[0], high[0]),
            (low[1], high[1]),
            _ratio(*self._largest),
            _ratio(*np.sqrt(self._squares)),
        )


def _ratio(part: float, whole: float) -> float:
    """A number from 0 to `_MOST`, whatever comes in."""
    if part == 0:
        return 0.0
    ratio = part / whole if whole > 0 else _MOST
    return float(min(ratio, _MOST)) if math.isfinite(ratio) else _MOST


def _finite(values: NDArray[np.float64]) -> list[float]:
    limit = float(np.finfo(np.float32).max)
    return [float(value) for value in np.nan_to_num(values, nan=limit, posinf=limit, neginf=-limit)]


def _first_over(stages: Sequence[StageDifference], layers: Sequence[Layer], body: Anatomy) -> str | None:
    """The first stage over the tolerance of those that get nothing from another one that is."""
    over = [one.stage for one in stages if not one.passed]
    before: dict[str, set[str]] = {one.stage: set() for one in stages}
    for layer in layers:
        before[layer.stage] |= {earlier.stage for earlier in body.inputs_of(layer, layers)} - {layer.stage}

    def inherits(stage: str) -> bool:
        pending, known = [stage], {stage}
        while pending:
            for earlier in before[pending.pop()] - known:
                if earlier in over:
                    return True
                known.add(earlier)
                pending.append(earlier)
        return False

    return next((stage for stage in over if not inherits(stage)), over[0] if over else None)


def _kept_in_float(own: Mapping[str, float], allowed: float) -> set[str]:
    """The fewest layers without which what the others add stays within what is allowed; at least one.

    Noise of independent origin adds up in squares.

    Args:
        own: What each layer adds.
        allowed: What they may add together: the tolerance less what has arrived at the stage.
    """
    left = sorted(own, key=lambda name: own[name], reverse=True)
    kept: set[str] = set()
    while left and (not kept or math.hypot(*(own[name] for name in left)) > allowed):
        kept.add(left.pop(0))
    return kept


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Its axes, -1 where free."""
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim)


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(x == y or -1 in (x, y) for x, y in zip(a, b, strict=True))


def _axes(shape: tuple[int, ...]) -> str:
    return f"({', '.join('?' if axis < 0 else str(axis) for axis in shape)})"


def _words(inputs: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {_axes(shape)}" for name, shape in inputs.items())


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3g} .. {bounds[1]:.3g}"


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    lines = []
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
