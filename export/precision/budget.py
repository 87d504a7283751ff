"""An accuracy budget: as few FLOPs in float as keep every task from losing more than it may.

Real scores decide. Where they miss the budget, the ranges of other calibration methods are scored first; then layers
are measured, each alone in int8 (`sensitivity`), and `search` says which sets of them in float are worth a scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.bundle.spec import BOX_HEADS, SCORE_HEADS
from ...runtime.errors import AccuracyError
from ...runtime.progress import Count, Say
from ..onnx_graphs.graph_view import GraphView
from .score_noise import ImageScores, MaxDrop, Verdict, agreement_json, allowed_drops
from .search import Costs, Layers, Search
from .sensitivity import convolution_flops, layer_noise
from .to_int8 import Quantized, kept_convolutions, quantize

# The one number by which each task is judged, and which heads carry it, of those that a graph has.
_BOXES = (*SCORE_HEADS.values(), *BOX_HEADS.values())
METRICS: dict[str, tuple[str, ...]] = {
    "box AP": _BOXES,
    "mask AP": (*_BOXES, "mask_coefficients", "prototypes"),
    "mIoU": ("semantic_logits",),
    "CIDEr": ("caption_memory",),
}
MOST_SCORINGS = 8
PREDICTION = "gives a prediction"
# Branches and stages move as one unless they are a large part of the network.
_LARGEST_GROUP = 0.25

Ranges = Mapping[str, tuple[float, float]]
ScoreGraph = Callable[[onnx.ModelProto], Mapping[str, float]]
"""Scores of a vision graph by the names of `METRICS`, as far as the data set has truth for them. Where they are
`ImageScores`, the budget is held against their noise."""


@dataclass(frozen=True)
class LayerReport:
    """One convolution in the table that a bundle keeps.

    Attributes:
        layer: Its name.
        flops_share: Of all convolutions' FLOPs.
        noise: For each head, the mean square of the error that this layer alone brings in int8, at cells that hold
            objects, relative to the head's variance.
        precision: "int8" or "float".
        why: Why it is in float; empty for int8.
    """

    layer: str
    flops_share: float
    noise: Mapping[str, float]
    precision: str
    why: str


@dataclass(frozen=True)
class BudgetReport:
    """What a search found.

    Attributes:
        dialect: Of the graph.
        max_drop: What each score may lose, absolute; None where nothing was scored.
        reference: Scores in fp32.
        scores: Scores in int8.
        verdicts: For each score, whether its drop is within what is allowed, as far as the images tell.
        agreement: How far the answers are those of fp32 at the thresholds that the model ships with, and by words.
        scored_on: The backends that were scored, see `runtime.backends.scored`.
        kept: Layers put into float to meet the budget, beside those that always are.
        ranges: The calibration method that was taken.
        int8_flops_share: Share of the convolutions' FLOPs that run in int8.
        tries: Of every scoring, in order: the calibration method, how many layers were in float, and the scores.
        layers: The table.
    """

    dialect: str
    max_drop: Mapping[str, float] | None
    reference: Mapping[str, float]
    scores: Mapping[str, float]
    kept: tuple[str, ...]
    int8_flops_share: float
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    scored_on: tuple[Mapping[str, str], ...] = ()
    ranges: str = ""
    tries: tuple[tuple[str, int, Mapping[str, float]], ...] = ()
    layers: tuple[LayerReport, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """Scores side by side, then the layers in float that are not predictions."""
        lines = [f"int8-{self.dialect}: {self.int8_flops_share:.1%} of the convolutions' FLOPs in int8"]
        lines += score_lines(self.reference, self.scores, self.verdicts, self.agreement)
        kept = [layer for layer in self.layers if layer.precision == "float" and layer.why != PREDICTION]
        lines += [f"  float: {layer.layer} ({layer.why})" for layer in kept]
        return "\n".join(lines)


def score_lines(
    reference: Mapping[str, float],
    scores: Mapping[str, float],
    verdicts: Mapping[str, Verdict],
    agreement: Mapping[str, Any],
) -> list[str]:
    """A line for each score beside fp32's, then how far the answers agree."""
    lines = []
    for name, score in scores.items():
        verdict = f"  {verdicts[name]}" if name in verdicts else ""
        gained = score - reference[name]
        lines.append(f"  {name:<8} {reference[name]:.4f} -> {score:.4f}  ({_signed(gained)}){verdict}")
    return lines + [f"  {line}" for line in _agreement_lines(agreement)]


def _agreement_lines(known: Mapping[str, Any]) -> list[str]:
    lines = []
    if "kept" in known:
        shares = [f"{name} {known[name]:.4f}" for name in ("precision", "recall") if name in known]
        against = f"; against those {', '.join(shares)}" if shares else ""
        lines.append(
            f"at the model's thresholds {known['kept']} detections are kept, {known['kept_in_fp32']} in fp32{against}"
        )
    if "tokens" in known:
        lines.append(f"captions: {known['captions']:.1%} are the same, {known['tokens']:.1%} of their words are")
    return lines


def meet_budget(
    model: onnx.ModelProto,
    ranges: Ranges | Mapping[str, Ranges],
    dialect: str,
    inputs: Sequence[NDArray[np.float32]],
    score: ScoreGraph | None,
    reference: Mapping[str, float],
    max_drop: MaxDrop,
    keep_float: Collection[str] = (),
    progress: Say | None = None,
    finish: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    count: Count | None = None,
    most_scorings: int = MOST_SCORINGS,
) -> tuple[Quantized, BudgetReport]:
    """Quantise a vision graph so that no score drops by more than `max_drop`.

    Args:
        model: The fp32 graph.
        ranges: From `calibrate`; or several, by method. Of those with which the budget is met the first are taken,
            else those with which it is missed by the least.
        dialect: Of `INT8_DIALECTS`.
        inputs: A few calibration images as the network's input, to measure the layers' noise on.
        score: Scores a graph; None to quantise without a budget, and without measuring the layers.
        reference: Scores of the fp32 graph.
        max_drop: Largest drop of any score, absolute, or of the score of each task by its name.
        keep_float: Layers to keep in float in any case.
        progress: Called with one line per step.
        finish: What becomes of a quantised graph before it is scored and given back, such as fp16 around its int8.
        count: Called with images done and in all while the layers are measured.
        most_scorings: Most graphs that are scored.

    Returns:
        The graph and the report. Where the images cannot tell whether the budget is met, the graph nearest to it.

    Raises:
        AccuracyError: If no graph that was scored meets the budget, and the images can tell.
    """
    say = progress or (lambda line: None)
    methods: dict[str, Ranges] = dict(ranges) if _by_method(ranges) else {"": ranges}  # type: ignore[arg-type]
    first = next(iter(methods))
    if score is None:
        quantized = _finished(quantize(model, methods[first], dialect, keep_float), finish)
        report = BudgetReport(dialect, None, {}, {}, (), 0.0, ranges=first)
        return quantized, _with_layers(report, model, quantized, {}, keep_float)
    allowed = allowed_drops(max_drop)
    tries: dict[tuple[str, Layers], tuple[Quantized, Mapping[str, float]]] = {}

    def scored(method: str, in_float: Layers) -> dict[str, float]:
        """What a graph uses up of each allowance."""
        if (method, in_float) not in tries:
            quantized = _finished(quantize(model, methods[method], dialect, [*keep_float, *sorted(in_float)]), finish)
            named = f"{len(in_float)} layers in float" + (f", ranges by {method}" if len(methods) > 1 else "")
            say(f"int8-{dialect}: scoring with {named} ...")
            scores = score(quantized.model)
            tries[method, in_float] = (quantized, scores)
            lost = ", ".join(f"{name} {_signed(scores[name] - reference[name])}" for name in scores)
            say(f"int8-{dialect}: {named}: {lost}")
        scores = tries[method, in_float][1]
        return {name: _used(reference[name] - scores[name], allowed[name]) for name in scores}

    start = _start(model, dialect, keep_float)
    method, in_float = first, start
    by_head: dict[str, dict[str, float]] = {}
    noise: dict[str, dict[str, float]] = {}
    if _most(scored(first, start)) > 1:
        passing = (name for name in methods if _most(scored(name, start)) <= 1)
        method = next(passing, None) or min(methods, key=lambda name: _most(scored(name, start)))
    if _most(scored(method, start)) > 1:
        say(f"int8-{dialect}: measuring what every layer alone costs ...")
        by_head = layer_noise(model, methods[method], dialect, inputs, keep_float, count)
        noise = _by_score(by_head, reference)
        shares = _shares(model)
        search = Search(
            Costs(noise, shares, groups_of(noise, shares)),
            lambda layers: scored(method, layers),
            most=most_scorings + 1 - len(tries),
            start=start,
        )
        found = search.run()
        in_float = search.nearest() if found is None else found
    elif start and _most(scored(method, frozenset())) <= 1:
        in_float = frozenset()
    quantized, scores = tries[method, in_float]
    verdicts, agreement = judged(reference, scores, allowed)
    beyond = beyond_budget(reference, scores, allowed, verdicts)
    if beyond:
        worst = max(beyond, key=lambda name: reference[name] - scores[name])
        raise AccuracyError(
            f"int8-{dialect} misses the budget even with {len(in_float)} of {len(noise)} layers in float: {worst} "
            f"drops by {reference[worst] - scores[worst]:.4f}, allowed {allowed[worst]:g}; allow more with "
            "<max_drop>, calibrate on more images, or try another <method>",
            argument=("max_drop", "method"),
        )
    report = BudgetReport(
        dialect=dialect,
        max_drop={name: allowed[name] for name in scores},
        reference=dict(reference),
        scores=dict(scores),
        kept=tuple(sorted(in_float, key=lambda name: -sum(noise.get(name, {}).values()))),
        int8_flops_share=0.0,
        verdicts=verdicts,
        agreement=agreement,
        ranges=method,
        tries=tuple((name, len(layers), dict(values)) for (name, layers), (_, values) in tries.items()),
    )
    return quantized, _with_layers(report, model, quantized, by_head, keep_float)


def _start(model: onnx.ModelProto, dialect: str, keep_float: Collection[str]) -> Layers:
    """What begins in float: the stem, whose rounding reaches every head. But in u8s8 it always is."""
    if dialect != "u8s8":
        return frozenset()
    view = GraphView(model)
    kept = kept_convolutions(view, keep_float)
    return frozenset(conv.name for conv in view.convolutions() if view.reads_image(conv) and conv.name not in kept)


def groups_of(layers: Collection[str], flops: Mapping[str, float]) -> list[Layers]:
    """Branches and stages: layers whose names begin alike, up to a dot."""
    groups: dict[str, set[str]] = {}
    for layer in layers:
        parts = layer.split(".")
        for end in range(1, len(parts)):
            groups.setdefault(".".join(parts[:end]), set()).add(layer)
    found = {frozenset(members) for members in groups.values() if len(members) > 1}
    return [group for group in found if sum(flops[layer] for layer in group) <= _LARGEST_GROUP]


def _by_method(ranges: Ranges | Mapping[str, Ranges]) -> bool:
    return isinstance(next(iter(ranges.values()), None), Mapping)


def _finished(quantized: Quantized, finish: Callable[[onnx.ModelProto], onnx.ModelProto] | None) -> Quantized:
    return quantized if finish is None else replace(quantized, model=finish(quantized.model))


def _most(used: Mapping[str, float]) -> float:
    return max(used.values(), default=0.0)


def _used(drop: float, allowed: float) -> float:
    """The part of an allowance that a drop uses up."""
    if allowed > 0:
        return drop / allowed
    return 2.0 + drop if drop > 0 else 0.0


def _by_score(by_head: Mapping[str, Mapping[str, float]], scores: Collection[str]) -> dict[str, dict[str, float]]:
    """For each layer, the noise that it brings to the heads of each score."""
    return {
        layer: {name: sum(noise.get(head, 0.0) for head in METRICS[name]) for name in scores}
        for layer, noise in by_head.items()
    }


def _shares(model: onnx.ModelProto) -> dict[str, float]:
    flops = convolution_flops(model)
    total = sum(flops.values())
    return {name: own / total for name, own in flops.items()}


def beyond_budget(
    reference: Mapping[str, float],
    scores: Mapping[str, float],
    allowed: Mapping[str, float],
    verdicts: Mapping[str, Verdict],
) -> list[str]:
    """The scores that drop by more than they may, as far as the images can tell."""
    missed = [name for name in scores if _used(reference[name] - scores[name], allowed[name]) > 1]
    return [name for name in missed if name not in verdicts or verdicts[name].answer == "beyond"]


def judged(
    reference: Mapping[str, float], scores: Mapping[str, float], allowed: Mapping[str, float]
) -> tuple[dict[str, Verdict], dict[str, Any]]:
    """What the images tell of each drop, and how far the answers agree; nothing of scores without their images."""
    if not (isinstance(reference, ImageScores) and isinstance(scores, ImageScores)):
        return {}, {}
    verdicts = {name: reference.verdict(name, scores, allowed[name]) for name in scores}
    return verdicts, agreement_json(reference.agreement(scores))


def _with_layers(
    report: BudgetReport,
    model: onnx.ModelProto,
    quantized: Quantized,
    noise: Mapping[str, Mapping[str, float]],
    keep_float: Collection[str],
) -> BudgetReport:
    view = GraphView(model)
    asked = kept_convolutions(view, keep_float) - view.head_outputs if keep_float else set()
    layers = []
    shares = _shares(model)
    for name, share in shares.items():
        if name in quantized.int8:
            why = ""
        elif name in view.head_outputs:
            why = PREDICTION
        elif name in report.kept:
            why = f"the budget needs it in float, {report.kept.index(name) + 1} of {len(report.kept)} by noise"
        elif name in asked:
            why = "asked for"
        elif report.dialect == "s8s8":
            why = "reads the image, whose lowest bit symmetric int8 cannot hold"
        else:
            why = "reads the image, on which OpenVINO is no faster in int8"
        precision = "int8" if name in quantized.int8 else "float"
        rounded = {head: float(f"{value:.3g}") for head, value in noise.get(name, {}).items()}
        layers.append(LayerReport(name, round(share, 6), rounded, precision, why))
    return replace(report, layers=tuple(layers), int8_flops_share=sum(shares[name] for name in quantized.int8))


def _signed(value: float) -> str:
    """Four digits with the sign; what rounds to nothing has none, "0.0000"."""
    text = f"{value:+.4f}"
    return text if text.strip("+-0.") else "0.0000"
