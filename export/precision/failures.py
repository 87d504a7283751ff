"""A precision that did not pass: the bundle goes without it, and whoever wanted it learns what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from ...runtime.bundle.spec import ModelSpec
from ...runtime.files import write_atomically
from ...runtime.progress import Say
from ..parity.stage_diff import TOLERANCES, VisionGraph, diff_graphs

_TOLD_LAYERS = 4


def tell_failure(
    folder: Path,
    spec: ModelSpec,
    kind: str,
    reason: str,
    models: Mapping[str, onnx.ModelProto],
    keep: bool,
    say: Say,
) -> None:
    """Say why a precision is left out, and which layers to keep in float so that it may pass the next time.

    Args:
        folder: Of the bundle in the making, with its fp32 graphs and reference inputs.
        spec: What the model is.
        kind: Of the graphs that failed, one of `bundle.GRAPH_KINDS`.
        reason: Why, without a full stop.
        models: Those graphs by part.
        keep: Write them to `folder` as PART.KIND.failed.onnx, and the list of layers as keep-float.KIND.txt.
        say: Called with a line each.
    """
    say(f"{kind} is left out: {reason}")
    rule = spec.preprocess
    exact = VisionGraph("fp32", "fp32", folder, rule, onnx.load(folder / "vision.fp32.onnx"))
    failed = VisionGraph(kind, kind, folder, rule, models["vision"])
    found = diff_graphs(exact, failed, TOLERANCES[kind.partition("-")[0]])
    if found.first is None:
        say(f"  no stage of {kind} is further from fp32 than usual, so no layer stands out")
    else:
        layers = found.keep_float
        more = f" and {len(layers) - _TOLD_LAYERS} more" if len(layers) > _TOLD_LAYERS else ""
        say(f"  first over the usual noise: {found.first}; to keep in float: {', '.join(layers[:_TOLD_LAYERS])}{more}")
    if not keep:
        return
    for part, model in models.items():
        onnx.save(model, folder / f"{part}.{kind}.failed.onnx")
    write_atomically(folder / f"keep-float.{kind}.txt", found.keep_float_text())
    say(f"  kept aside: {', '.join(f'{part}.{kind}.failed.onnx' for part in models)}, keep-float.{kind}.txt")
