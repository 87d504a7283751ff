"""Two latency reports beside each other: what differs between them, and which differences are more than noise.

The interval of a ratio comes from a block bootstrap: whole stretches of consecutive runs are drawn again, since
neighbouring runs share what the machine was doing, and every stretch covers all images, since a run's time depends on
its image. Source: Kuensch, The jackknife and the bootstrap for general stationary observations, 1989.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import UsageError
from .measure import DETAILS, STAGES, Measurement
from .report import IDLE_SHARE, Report

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_BLOCKS = 10
END_TO_END = "end to end"

# What has to be alike for two figures to mean the same: fields of the protocol.
SAME_PROTOCOL = (
    "scenario",
    "batch",
    "tasks",
    "input_size",
    "timed",
    "transfers",
    "score_threshold",
    "iou_threshold",
    "max_detections",
)
# What may be compared, or explains a difference; it is told.
TOLD_PROTOCOL = ("threads", "caption_beam_size", "caption_decoder", "caption_budget_ms")
TOLD_IDENTITY = ("name", "backend", "precision", "bundle_sha256", "commit")
TOLD_STATE = ("governor",)
# Of the machine, what is not worth a line: it changes between any two runs or follows from another field.
_UNTOLD_MACHINE = ("features",)


@dataclass(frozen=True)
class Ratio:
    """How a figure of B compares with that of A.

    Attributes:
        name: A stage, or "end to end".
        a_ms, b_ms: Medians in milliseconds.
        value: Median of B over that of A, the geometric mean over all pairs; not a number where A took no time.
        low, high: Ends of its 95 % interval; None where there are too few runs for one.
    """

    name: str
    a_ms: float
    b_ms: float
    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" where the interval leaves 1 out, "no difference" where it does not."""
        if self.low is None or self.high is None:
            return "too few runs"
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference"


@dataclass(frozen=True)
class Comparison:
    """Reports B beside reports A.

    Attributes:
        a, b: The reports, in the order they were measured; the same number of each.
        ratios: End to end first, then the stages that both have.
        differences: Field, its value in A, its value in B, of what may explain the ratios.
        cautions: Why the ratios should not be trusted as they stand; empty if nothing speaks against them.
    """

    a: tuple[Report, ...]
    b: tuple[Report, ...]
    ratios: tuple[Ratio, ...]
    differences: tuple[tuple[str, str, str], ...]
    cautions: tuple[str, ...]

    @property
    def end_to_end(self) -> Ratio:
        return self.ratios[0]

    def is_slower_by(self, percent: float) -> bool:
        """Whether B certainly takes more than `percent` more time end to end than A."""
        low = self.end_to_end.low
        return low is not None and low > 1 + percent / 100

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "a": [{"title": report.title(), "date": report.identity["date"]} for report in self.a],
            "b": [{"title": report.title(), "date": report.identity["date"]} for report in self.b],
            "confidence": CONFIDENCE,
            "stages": {
                ratio.name: {
                    "a_median_ms": round(ratio.a_ms, 4),
                    "b_median_ms": round(ratio.b_ms, 4),
                    "ratio": round(ratio.value, 4) if math.isfinite(ratio.value) else None,
                    "interval": None if ratio.low is None else [round(ratio.low, 4), _rounded(ratio.high)],
                    "verdict": ratio.verdict,
                }
                for ratio in self.ratios
            },
            "scores": {name: {"a": a, "b": b} for name, a, b in _scores(self.a[0], self.b[0])},
            "differences": {field: {"a": a, "b": b} for field, a, b in self.differences},
            "cautions": list(self.cautions),
        }

    def table(self) -> str:
        """All of it, aligned for a terminal."""
        lines = [
            f"{letter}  {report.title()}, {report.identity['date']}"
            for pair in zip(self.a, self.b, strict=True)
            for letter, report in zip("AB", pair, strict=True)
        ]
        lines.append("")
        rows = [["stage", "A ms", "B ms", "B / A", "95 % interval", "B is"]]
        for ratio in self.ratios:
            interval = "-" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
            value = "-" if not math.isfinite(ratio.value) else f"{ratio.value:.3f}"
            name = f"  {ratio.name.replace('_', ' ')}" if ratio.name in DETAILS else ratio.name
            rows.append([name, f"{ratio.a_ms:.4g}", f"{ratio.b_ms:.4g}", value, interval, ratio.verdict])
        lines += _columns(rows)
        scores = _scores(self.a[0], self.b[0])
        if scores:
            rows = [["score", "A", "B", "B - A"]]
            rows += [[name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"] for name, a, b in scores]
            lines += ["", *_columns(rows)]
        if self.differences:
            lines += ["", "what differs", *_columns([["", "A", "B"], *map(list, self.differences)])[1:]]
        lines += ["", *(f"warning: {text}" for text in self.cautions)]
        return "\n".join(lines).rstrip()


def compare(reports: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare reports of `yolor-edge bench`, files or the folders that hold them.

    Args:
        reports: A, B, or in turn A, B, A, B and so on. With one pair the interval covers what varied within each run;
            with more it covers what varied from one run to the next as well.

    Raises:
        UsageError: If one is no report, their number is odd, or they were not measured in the same way: other tasks,
            thresholds, input size, scenario or images. Every such field is named.
    """
    if len(reports) < 2 or len(reports) % 2:
        raise UsageError(
            f"expected reports in pairs, A B or A B A B and so on, got {len(reports)}; name as many of A as of B"
        )
    opened = [Report.load(path) for path in reports]
    for other in opened[1:]:
        _require_alike(opened[0], other)
    a, b = tuple(opened[::2]), tuple(opened[1::2])
    return Comparison(a, b, tuple(_ratios(a, b)), tuple(_differences(a[0], b[0])), tuple(_cautions(a, b)))


def ratio_interval(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], block: int, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of median(b) / median(a), the geometric mean over the pairs.

    Args:
        pairs: (N,) samples of A and of B, each in the order they were taken.
        block: Consecutive samples drawn together, those of a round over all images.

    Returns:
        None where a side of a pair has fewer than ten blocks, or a drawn ratio is no finite number.
    """
    if min(len(samples) // block for pair in pairs for samples in pair) < LEAST_BLOCKS:
        return None
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log([_drawn_medians(b, block, rng) / _drawn_medians(a, block, rng) for a, b in pairs])
        chosen = rng.integers(0, len(pairs), (len(pairs), RESAMPLES))
        means = np.exp(ratios[chosen, np.arange(RESAMPLES)].mean(axis=0))
    if not np.isfinite(means).all():
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _drawn_medians(samples: NDArray[np.float64], block: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(RESAMPLES,) medians of as many samples, drawn in stretches of `block` that may begin anywhere."""
    blocks = math.ceil(len(samples) / block)
    starts = rng.integers(0, len(samples), (RESAMPLES, blocks, 1))
    drawn = (starts + np.arange(block)) % len(samples)
    return np.median(samples[drawn.reshape(RESAMPLES, -1)], axis=1)


def _ratios(a: Sequence[Report], b: Sequence[Report]) -> list[Ratio]:
    found = []
    for name in (END_TO_END, *STAGES, *DETAILS):
        pairs = [(_samples(x.measurement, name), _samples(y.measurement, name)) for x, y in zip(a, b, strict=True)]
        if any(not len(samples) for pair in pairs for samples in pair):
            continue
        medians = np.array([[np.median(samples) for samples in pair] for pair in pairs])
        low, high = ratio_interval(pairs, len(a[0].measurement.pictures)) or (None, None)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.exp(np.log(medians[:, 1] / medians[:, 0]).mean()))
        middle_a, middle_b = (float(x) for x in np.median(medians, axis=0))
        found.append(Ratio(name, middle_a, middle_b, value, low, high))
    return found


def _samples(measured: Measurement, name: str) -> NDArray[np.float64]:
    if name == END_TO_END:
        return np.array([run.end_to_end_ms for run in measured.runs])
    return np.array(measured.samples(name))


def _require_alike(a: Report, b: Report) -> None:
    wrong = [
        f"{name} ({_shown(a.protocol.get(name))} v {_shown(b.protocol.get(name))})"
        for name in SAME_PROTOCOL
        if a.protocol.get(name) != b.protocol.get(name)
    ]
    pictures = [[(picture.name, picture.size) for picture in report.measurement.pictures] for report in (a, b)]
    if pictures[0] != pictures[1]:
        wrong.append(f"images ({len(pictures[0])} v {len(pictures[1])} of other names or sizes)")
    if wrong:
        raise UsageError(
            f"the reports were not measured in the same way and cannot be compared: {', '.join(wrong)}; measure both "
            "with the same options and images"
        )


def _differences(a: Report, b: Report) -> list[tuple[str, str, str]]:
    found: list[tuple[str, Any, Any]] = []
    found += [(name, a.identity.get(name), b.identity.get(name)) for name in TOLD_IDENTITY]
    found += [(name, a.protocol.get(name), b.protocol.get(name)) for name in TOLD_PROTOCOL]
    machines = [dict(_flat(report.machine)) for report in (a, b)]
    for name in dict.fromkeys((*machines[0], *machines[1])):
        if name.rpartition(".")[2] not in _UNTOLD_MACHINE:
            found.append((f"machine {name}", machines[0].get(name), machines[1].get(name)))
    for name in TOLD_STATE:
        found.append((f"state {name}", a.protocol["state_before"].get(name), b.protocol["state_before"].get(name)))
    for name, told in (("graphs on disk", _graph_size), ("peak memory (RSS)", _peak_memory)):
        found.append((name, told(a), told(b)))
    return [(name, _shown(x), _shown(y)) for name, x, y in found if x != y]


def _cautions(a: Sequence[Report], b: Sequence[Report]) -> list[str]:
    found = []
    if len(a) == 1:
        found.append("the interval covers what varied within each run, not from one run to the next: compare A B A B")
    for letter, reports in (("A", a), ("B", b)):
        for report in reports:
            spread, busy = report.spread, report.protocol["state_before"]["cpu_busy_share"]
            when = f"{letter} of {report.identity['date']}"
            if spread.deviation is not None and spread.is_noisy:
                found.append(f"{when}: runs on the same image spread by {spread.deviation:.0%}")
            if isinstance(busy, int | float) and busy > IDLE_SHARE:
                found.append(f"{when}: others used {busy:.0%} of the machine's cores before it")
    if a[0].is_cpu_only != b[0].is_cpu_only:
        found.append("one side was measured on a CPU, the other on an accelerator")
    return found


def _scores(a: Report, b: Report) -> list[tuple[str, float, float]]:
    """Name, A, B of every score that both reports hold, of the same data."""
    if a.accuracy is None or b.accuracy is None:
        return []
    if any(a.accuracy.get(name) != b.accuracy.get(name) for name in ("data", "split")):
        return []
    flat = [dict(_flat(report.accuracy["scores"])) for report in (a, b)]  # type: ignore[index]  # checked above
    return [
        (name, float(value), float(flat[1][name]))
        for name, value in flat[0].items()
        if isinstance(value, float) and isinstance(flat[1].get(name), float)
    ]


def _graph_size(report: Report) -> str:
    return f"{sum(report.memory['graph_bytes'].values()) / 1e6:.1f} MB"


def _peak_memory(report: Report) -> str:
    return f"{report.memory['peak_rss_bytes'] / 2**20:.0f} MiB"


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "not told"
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)
    text = str(value)
    return text[:12] if len(text) in (40, 64) and all(letter in "0123456789abcdef" for letter in text) else text


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right but for the last where it holds words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
