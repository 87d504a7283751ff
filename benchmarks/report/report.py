"""A latency report: everything that was measured as JSON, and the same for people as Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.bundle.json_files import read_json
from ...runtime.errors import UsageError
from .measure import DETAILS, STAGES, MeasuredImage, Measurement, Run
from .percentiles import NOISY_SPREAD, RULE, SLOW_FACTOR, Spread, Summary, needed_samples, spread_of, summarize
from .report_text import TOO_FEW, aligned, listed, percentile_text

SCHEMA_VERSION = 1
KIND = "yolor-edge latency report"
JSON_FILE = "report.json"

IDLE_SHARE = 0.1


@dataclass(frozen=True)
class Report:
    """One bundle measured on one machine. All mappings hold JSON values only.

    Attributes:
        identity: Digests, backend, precision, command, date.
        machine: Hardware, system, versions; what could not be read is "unknown".
        protocol: How it was measured.
        cold: What happens once: opening, loading, first inference.
        memory: Sizes of files and of the process.
        measurement: Raw samples.
        accuracy: Scores of the same bundle, or None if none were asked for.
    """

    identity: Mapping[str, Any]
    machine: Mapping[str, Any]
    protocol: Mapping[str, Any]
    cold: Mapping[str, Any]
    memory: Mapping[str, Any]
    measurement: Measurement
    accuracy: Mapping[str, Any] | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a `report.json`, or the folder that holds one.

        Raises:
            UsageError: If it is no latency report, or of another schema version.
        """
        file = Path(path) / JSON_FILE if Path(path).is_dir() else Path(path)
        data = read_json(file, "a latency report", UsageError, "expected one written by yolor-edge bench")
        try:
            if data["kind"] != KIND:
                raise KeyError("kind")
            if data["schema_version"] != SCHEMA_VERSION:
                raise UsageError(
                    f"{file}: has schema {data['schema_version']}, this version reads {SCHEMA_VERSION}; measure again"
                )
            fields = ("identity", "machine", "protocol", "cold", "memory", "accuracy")
            measurement = _measurement_from_json(data["measurement"])
            return cls(**{name: data[name] for name in fields}, measurement=measurement)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{file}: is not a latency report ({error!r}); expected one written by yolor-edge bench"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values: raw samples, and for readers what is computed from them."""
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "backend": self.identity["backend"],
            "is_cpu_only": self.is_cpu_only,
            "identity": dict(self.identity),
            "machine": dict(self.machine),
            "protocol": dict(self.protocol),
            "cold": dict(self.cold),
            "memory": dict(self.memory),
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "summary": {
                "rule": RULE,
                "end_to_end_ms": _summary_json(self.end_to_end),
                "stages_ms": {name: _summary_json(value) for name, value in self.stages.items()},
                "warnings": self.warnings(),
            },
            "measurement": _measurement_to_json(self.measurement),
        }

    @property
    def is_cpu_only(self) -> bool:
        return str(self.identity["backend"]).endswith("-cpu")

    @property
    def end_to_end(self) -> Summary:
        found = summarize([run.end_to_end_ms for run in self.measurement.runs])
        if found is None:
            raise UsageError("the report holds no run that counts")
        return found

    @property
    def stages(self) -> dict[str, Summary]:
        """The figures of every stage that ran, in the order they run."""
        found = {name: summarize(self.measurement.samples(name)) for name in (*STAGES, *DETAILS)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def spread(self) -> Spread:
        """How steady runs on the same image were."""
        runs = self.measurement.runs
        return spread_of([run.end_to_end_ms for run in runs], [run.picture for run in runs])

    def warnings(self) -> list[str]:
        """Why the figures should not be trusted as they stand; empty if nothing speaks against them."""
        measured, spread = self.measurement, self.spread
        found = []
        if spread.deviation is None:
            found.append(
                "too few runs of the same image to judge how steady they were (3 of an image, 10 in "
                "all); take more runs or fewer images"
            )
        elif spread.is_noisy:
            found.append(
                f"noisy: runs on the same image spread by {spread.deviation:.0%} either way, "
                f"more than {NOISY_SPREAD:.0%}; repeat on an idle machine"
            )
        if spread.slow_runs:
            moments = [f"{measured.runs[i].started_s:.1f} s" for i in spread.slow_runs]
            found.append(
                f"{len(spread.slow_runs)} of {spread.runs} runs took more than {SLOW_FACTOR} times the "
                f"median of their image, at {listed(moments)} after the beginning"
            )
        if not measured.is_steady:
            found.append("the warm-up ended before the model had become steady")
        if len(measured.runs) < needed_samples(0.99):
            found.append(f"{len(measured.runs)} runs are too few for p99, which needs {needed_samples(0.99)}")
        if "not_scored" in self.identity:
            found.append(self.identity["not_scored"])
        busy = self.protocol["state_before"]["cpu_busy_share"]
        if isinstance(busy, int | float) and busy > IDLE_SHARE:
            found.append(f"the machine was not idle: others used {busy:.0%} of its cores before the measurement")
        return found

    def title(self) -> str:
        where = "CPU only" if self.is_cpu_only else "accelerated"
        identity = self.identity
        return f"Latency of {identity['name']}: {where} ({identity['backend']}, {identity['precision']})"

    def stage_table(self) -> list[list[str]]:
        """Rows of text, headings first: stage, runs, median, p90 and p99 in milliseconds, share of all."""
        runs = self.measurement.runs
        stages = self.stages
        whole = self.end_to_end
        sums = summarize([run.stage_sum_ms for run in runs])
        rest = summarize([run.end_to_end_ms - run.stage_sum_ms for run in runs])
        mean_total = whole.mean
        rows = [["stage", "runs", "median ms", "p90 ms", "p99 ms", "mean share"]]
        for name in STAGES:
            if name in stages:
                rows.append(_stage_row(name, stages[name], mean_total))
        for name in DETAILS:
            if name in stages:
                rows.append(_stage_row(f"  {name.replace('_', ' ')}", stages[name], None))
        if sums is not None and rest is not None:
            rows.append(_stage_row("sum of stages", sums, mean_total))
            rows.append(_stage_row("end to end", whole, mean_total))
            rows.append(_stage_row("end to end less sum", rest, mean_total))
        return rows

    def table(self) -> str:
        """The stages and what to beware of, aligned for a terminal."""
        lines = [self.title(), "", *aligned(self.stage_table())]
        if self.accuracy is not None:
            lines += ["", str(self.accuracy["table"])]
        lines += [f"warning: {text}" for text in self.warnings()]
        return "\n".join(lines)


def _measurement_to_json(measured: Measurement) -> dict[str, Any]:
    return {
        "pictures": [
            {"name": picture.name, "size": list(picture.size), "bytes": picture.bytes} for picture in measured.pictures
        ],
        "is_steady": measured.is_steady,
        "states": measured.states,
        "warmup": _runs_to_json(measured.warmup),
        "runs": _runs_to_json(measured.runs),
    }


def _measurement_from_json(data: Mapping[str, Any]) -> Measurement:
    return Measurement(
        pictures=tuple(
            MeasuredImage(str(one["name"]), (int(one["size"][0]), int(one["size"][1])), int(one["bytes"]))
            for one in data["pictures"]
        ),
        warmup=_runs_from_json(data["warmup"]),
        runs=_runs_from_json(data["runs"]),
        is_steady=bool(data["is_steady"]),
        states=dict(data["states"]),
    )


def _runs_to_json(runs: Sequence[Run]) -> dict[str, Any]:
    """Column by column, null where a run has no such value."""
    return {
        "picture": [run.picture for run in runs],
        "started_s": [round(run.started_s, 4) for run in runs],
        "end_to_end_ms": [round(run.end_to_end_ms, 4) for run in runs],
        "objects": [run.objects for run in runs],
        "caption_tokens": [run.caption_tokens for run in runs],
        "stages_ms": {
            name: [round(run.stages_ms[name], 4) if name in run.stages_ms else None for run in runs]
            for name in (*STAGES, *DETAILS)
            if any(name in run.stages_ms for run in runs)
        },
    }


def _runs_from_json(data: Mapping[str, Any]) -> tuple[Run, ...]:
    names = ("picture", "started_s", "end_to_end_ms", "objects", "caption_tokens")
    columns = zip(*(data[name] for name in names), strict=True)
    runs = []
    for i, (picture, started, took, objects, tokens) in enumerate(columns):
        stages = {name: values[i] for name, values in data["stages_ms"].items() if values[i] is not None}
        runs.append(Run(picture, started, took, stages, objects, tokens))
    return tuple(runs)


def _summary_json(summary: Summary) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "count": summary.count,
        "minimum": round(summary.minimum, 4),
        "mean": round(summary.mean, 4),
        "maximum": round(summary.maximum, 4),
    }
    for share, found in summary.percentiles.items():
        label = "median" if share == 0.5 else f"p{100 * share:g}"
        figures[label] = TOO_FEW if found.value is None else round(found.value, 4)
        if found.value is not None:
            ends = (found.low, found.high)
            figures[f"{label}_interval"] = [None if x is None else round(x, 4) for x in ends]
    return figures


def _stage_row(name: str, summary: Summary, mean_total: float | None) -> list[str]:
    share = "" if mean_total is None else f"{summary.mean / mean_total:.1%}"
    figures = [percentile_text(summary.percentiles[p]) for p in (0.5, 0.9, 0.99)]
    return [name, str(summary.count), *figures, share]
