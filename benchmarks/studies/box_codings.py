"""Boxes from the same objects in every coding of boxes and scores, in one process, one call after the other in turn.

    python -m yolor_edge.benchmarks.studies.box_codings

Heads say the same in each coding, so the detections are the same too, which is asked before anything is timed. What
counts is the processor time of the process, on one thread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime import _native
from ...runtime.bundle.spec import BOX_HEADS, SCORE_HEADS
from ...runtime.files import write_atomically
from ..report.machine import describe_machine, describe_state
from ..report.report_files import output_folder
from .kernel_inputs import BINS, STRIDES, Heads, cell_grid, draw_heads, with_weak_candidates
from .kernels import INPUT, IOU, Row


def coded(heads: Heads, box_coding: str, score_coding: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The score head (80, 8400) and the box head (64 or 4, 8400) in a coding."""
    scores = heads.class_logits.copy()  # memory of its own: what several share would stay in the cache
    if score_coding == "probabilities":
        scores = (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)
    if box_coding == "dfl":
        return scores, heads.box_bins.copy()
    weights = np.exp(heads.box_bins.astype(np.float64).reshape(4, BINS, -1))
    distances = (weights * np.arange(BINS)[:, None]).sum(1) / weights.sum(1)
    if box_coding == "ltrb":
        return scores, distances.astype(np.float32)
    centres, strides = cell_grid()
    middle = np.concatenate([centres.T, centres.T])
    sides = np.concatenate([-distances[:2], distances[2:]]) * strides
    return scores, (middle + sides).astype(np.float32)


def decode(heads: tuple[NDArray[Any], NDArray[Any]], box_coding: Any, score_coding: Any, score: float) -> Any:
    """Boxes, scores, class ids and columns."""
    count = heads[0].shape[1] if box_coding == "xyxy" else None
    rules = {"box_coding": box_coding, "score_coding": score_coding, "box_count": count}
    return _native.decode_boxes(*heads, STRIDES, INPUT, score, IOU, 300, **rules)


def row(name: str, heads: Heads, score: float) -> Row:
    """One kind of heads in every coding.

    Raises:
        ValueError: If the detections differ.
    """
    works: dict[str, Any] = {}
    expected = decode(coded(heads, "dfl", "logits"), "dfl", "logits", score)
    for box_coding in BOX_HEADS:
        for score_coding in SCORE_HEADS:
            taken = coded(heads, box_coding, score_coding)
            found = decode(taken, box_coding, score_coding, score)
            if not np.array_equal(found[3], expected[3]) or np.abs(found[0] - expected[0]).max(initial=0) > 0.01:
                raise ValueError(f"{name}: {box_coding} and {score_coding} give other detections")
            works[f"{box_coding}, {score_coding}"] = lambda taken=taken, one=box_coding, other=score_coding: decode(
                taken, one, other, score
            )
    return Row(name, works, {}, 1.0, f"{len(expected[1])} detections, the same")


def run(rounds: int) -> dict[str, Any]:
    """Measure everything; a report as JSON has it."""
    heads = draw_heads(4, 50, 687)
    rows = [
        row("687 candidates above 0.25", heads, 0.25),
        row("19,454 candidates above 0.001", with_weak_candidates(heads, 1, 19454), 0.001),
    ]
    state = describe_state()
    for one in rows:
        one.measure(rounds)
    return {
        "machine": describe_machine(),
        "state": {"before": state, "after": describe_state()},
        "simd_level": _native.simd_level(),
        "rows": [one.summary() for one in rows],
    }


def report_text(report: dict[str, Any]) -> str:
    """The table, in Markdown."""
    names = [*report["rows"][0]["median_ms"]]
    lines = [f"| work | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for one in report["rows"]:
        cells = [f"{one['median_ms'][name]:.3g} ({one['minimum_ms'][name]:.3g})" for name in names]
        lines.append(f"| {one['work']} | {' | '.join(cells)} |")
    return "Median (minimum) in milliseconds of processor time, one thread.\n\n" + "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure and write box-codings.json."""
    parser = argparse.ArgumentParser(description="Time the boxes of every coding of the heads.")
    parser.add_argument("--out", type=output_folder, default=Path("."), help="folder for box-codings.json")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of three calls each")
    options = parser.parse_args(arguments)
    report = run(options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "box-codings.json", json.dumps(report, indent=1) + "\n")
    print(report_text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
