"""An accuracy budget: the fewest layers kept in float for which int8 loses no task more than allowed.

Layers are ranked by measurement: with that layer alone in int8, how much noise reaches each head. Then real scores
decide. The search tries the ranking's first 0, 1, 2, 4, ... layers in float until every task is within the budget and
bisects back to the least number that is; every try scores the whole graph on the whole evaluation split.
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
from ...runtime.progress import Say
from ..onnx_graphs.choices import choices_of, chosen, with_choices_given, with_choices_shown
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.probe import open_model
from .to_int8 import Quantized, kept_convolutions, quantize

# The one number by which each task is judged, and which heads carry it, of those that a graph has.
_BOXES = (*SCORE_HEADS.values(), *BOX_HEADS.values())
METRICS: dict[str, tuple[str, ...]] = {
    "box AP": _BOXES,
    "mask AP": (*_BOXES, "mask_coefficients", "prototypes"),
    "mIoU": ("semantic_logits",),
    "CIDEr": ("caption_memory",),
}

ScoreGraph = Callable[[onnx.ModelProto], Mapping[str, float]]
"""Scores of a vision graph by the names of `METRICS`, as far as the data set has truth for them."""


@dataclass(frozen=True)
class LayerReport:
    """One convolution in the table that a bundle keeps.

    Attributes:
        layer: Its name.
        flops_share: Of all convolutions' FLOPs.
        noise: For each head, the energy of the error that this layer alone brings in int8, relative to the head's own.
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
        max_drop: What was allowed, absolute.
        reference: Scores in fp32.
        scores: Scores in int8.
        kept: Layers put into float to meet the budget, beside those that always are.
        int8_flops_share: Share of the convolutions' FLOPs that run in int8.
        tries: (layers in float, scores) of every try, in order.
        layers: The table.
    """

    dialect: str
    max_drop: float | None
    reference: Mapping[str, float]
    scores: Mapping[str, float]
    kept: tuple[str, ...]
    int8_flops_share: float
    tries: tuple[tuple[int, Mapping[str, float]], ...] = ()
    layers: tuple[LayerReport, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def drops(self) -> dict[str, float]:
        """How much each score lost; negative where it gained."""
        return {name: self.reference[name] - self.scores[name] for name in self.scores}

    def table(self) -> str:
        """Scores side by side, then the layers in float that are not predictions."""
        lines = [f"int8-{self.dialect}: {self.int8_flops_share:.1%} of the convolutions' FLOPs in int8"]
        for name, lost in self.drops().items():
            lines.append(f"  {name:<8} {self.reference[name]:.4f} -> {self.scores[name]:.4f}  ({_signed(-lost)})")
        kept = [layer for layer in self.layers if layer.precision == "float" and layer.why != PREDICTION]
        lines += [f"  float: {layer.layer} ({layer.why})" for layer in kept]
        return "\n".join(lines)


PREDICTION = "gives a prediction"


def meet_budget(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    dialect: str,
    inputs: Sequence[NDArray[np.float32]],
    score: ScoreGraph | None,
    reference: Mapping[str, float],
    max_drop: float,
    keep_float: Collection[str] = (),
    progress: Say | None = None,
    finish: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> tuple[Quantized, BudgetReport]:
    """Quantise a vision graph so that no score drops by more than `max_drop`.

    Args:
        model: The fp32 graph.
        ranges: From `calibrate`.
        dialect: "s8s8" or "u8s8".
        inputs: A few calibration images as the network's input, to measure the layers' noise on.
        score: Scores a graph; None to quantise without a budget, and without measuring the layers.
        reference: Scores of the fp32 graph.
        max_drop: Largest drop of any score, absolute.
        keep_float: Layers to keep in float in any case.
        progress: Called with one line per step.
        finish: What becomes of a quantised graph before it is scored and given back, such as fp16 around its int8.

    Raises:
        AccuracyError: If not even the search's last try, half of all layers in float, meets the budget.
    """
    say = progress or (lambda line: None)
    noise: dict[str, dict[str, float]] = {}
    if score:
        say(f"int8-{dialect}: measuring what every layer alone costs ...")
        noise = layer_noise(model, ranges, dialect, inputs, keep_float)
    tries: dict[int, tuple[Quantized, Mapping[str, float]]] = {}
    ranking: list[str] = sorted(noise, key=lambda name: -sum(noise[name].values()))

    def attempt(count: int) -> bool:
        if count not in tries:
            quantized = quantize(model, ranges, dialect, [*keep_float, *ranking[:count]])
            if finish is not None:
                quantized = replace(quantized, model=finish(quantized.model))
            if score:
                say(f"int8-{dialect}: scoring with {count} layers in float ...")
            scores = score(quantized.model) if score else {}
            tries[count] = (quantized, scores)
            if scores:
                lost = ", ".join(f"{name} {_signed(scores[name] - reference[name])}" for name in scores)
                say(f"int8-{dialect}: {count} layers in float: {lost}")
        return all(reference[name] - value <= max_drop for name, value in tries[count][1].items())

    count = 0
    if not attempt(0):
        # Rank by the heads of the tasks that failed: what disturbs the others is no concern.
        failed = [name for name, value in tries[0][1].items() if reference[name] - value > max_drop]
        heads = {head for name in failed for head in METRICS[name]}
        ranking.sort(key=lambda name: -sum(share for head, share in noise[name].items() if head in heads))
        most = len(ranking) // 2
        passed = next((k for k in _doubling(most) if attempt(k)), None)
        if passed is None:
            last = tries[most][1]
            worst = max(last, key=lambda name: reference[name] - last[name])
            raise AccuracyError(
                f"int8-{dialect} misses the budget even with {most} of {len(ranking)} layers in float: {worst} drops "
                f"by {reference[worst] - last[worst]:.4f}, allowed {max_drop:g}; allow more with "
                "<max_drop>, calibrate on more images, or try another <method>",
                argument=("max_drop", "method"),
            )
        below, count = passed // 2, passed
        while count - below > 1:
            middle = (below + count) // 2
            below, count = (below, middle) if attempt(middle) else (middle, count)
    quantized, scores = tries[count]
    report = BudgetReport(
        dialect=dialect,
        max_drop=max_drop if score else None,
        reference=dict(reference) if score else {},
        scores=dict(scores),
        kept=tuple(ranking[:count]),
        int8_flops_share=0.0,
        tries=tuple((k, dict(found)) for k, (_, found) in tries.items()),
    )
    return quantized, _with_layers(report, model, quantized, noise, keep_float)


def layer_noise(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    dialect: str,
    inputs: Sequence[NDArray[np.float32]],
    keep_float: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """For every layer that may run in int8, the relative noise energy at each head with that layer alone in int8."""
    view = GraphView(model)
    kept = kept_convolutions(view, keep_float)
    names = [conv.name for conv in view.convolutions()]
    model = _with_all_cells(model)
    choices = list(choices_of(model))
    exact = open_model(with_choices_shown(model))
    expected = [exact.run({"images": image}) for image in inputs]
    exact.close()
    # What another choice of cells changes in the memory of captions is no noise of a layer.
    model = with_choices_given(model, choices)
    found: dict[str, dict[str, float]] = {}
    for name in names:
        if name in kept:
            continue
        alone = quantize(model, ranges, dialect, [other for other in names if other != name])
        if not alone.int8:
            continue
        graph = open_model(alone.model)
        errors: dict[str, float] = {}
        for image, truth in zip(inputs, expected, strict=True):
            for head, value in graph.run({"images": image, **chosen(truth, choices)}).items():
                if value.dtype != np.float32:  # chosen cells or a finished map have no noise, they are right or wrong
                    continue
                energy = float(np.square(truth[head]).sum()) or 1.0
                lost = float(np.square(value - truth[head]).sum()) / energy
                errors[head] = errors.get(head, 0.0) + lost / len(inputs)
        graph.close()
        found[name] = errors
    return found


def _with_all_cells(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that gives all cells where `model` gives the best ones: their order is no matter of noise."""
    if all(value.name != "cells" for value in model.graph.output):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    chosen = {node.output[0]: node for node in whole.graph.node if node.op_type == "GatherElements"}
    for value in whole.graph.output:
        if value.name in chosen:
            node = chosen[value.name]
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
            value.type.tensor_type.ClearField("shape")
    return whole


def convolution_flops(model: onnx.ModelProto) -> dict[str, int]:
    """FLOPs (twice the multiply-accumulates) of every convolution for one image."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    view = GraphView(model)
    found = {}
    for conv in view.convolutions():
        kernel = view.weights[conv.input[1]].dims
        height, width = shapes[conv.output[0]][2:]
        found[conv.name] = 2 * int(np.prod(kernel)) * height * width
    return found


def _doubling(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    counts = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [*counts, most]


def _with_layers(
    report: BudgetReport,
    model: onnx.ModelProto,
    quantized: Quantized,
    noise: Mapping[str, Mapping[str, float]],
    keep_float: Collection[str],
) -> BudgetReport:
    view = GraphView(model)
    flops = convolution_flops(model)
    total = sum(flops.values())
    asked = kept_convolutions(view, keep_float) - view.head_outputs if keep_float else set()
    layers = []
    for name, own in flops.items():
        if name in quantized.int8:
            why = ""
        elif name in view.head_outputs:
            why = PREDICTION
        elif name in report.kept:
            why = f"its noise ranks {report.kept.index(name) + 1} of {len(noise)} for the scores that dropped"
        elif name in asked:
            why = "asked for"
        else:
            why = "reads the image, whose lowest bit symmetric int8 cannot hold"
        precision = "int8" if name in quantized.int8 else "float"
        layers.append(LayerReport(name, round(own / total, 6), _rounded(noise.get(name, {})), precision, why))
    share = sum(flops[name] for name in quantized.int8) / total
    return replace(report, layers=tuple(layers), int8_flops_share=share)


def _signed(value: float) -> str:
    """Four digits with the sign; what rounds to nothing has none, "0.0000"."""
    text = f"{value:+.4f}"
    return text if text.strip("+-0.") else "0.0000"


def _rounded(noise: Mapping[str, float]) -> dict[str, float]:
    return {head: float(f"{value:.3g}") for head, value in noise.items()}
