"""A latency report: everything that was measured as JSON, and the same for people as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.bundle import readable_json
from ..runtime.errors import UsageError
from ..runtime.files import write_atomically
from .measure import DETAILS, STAGES, Measurement, Picture, Run
from .percentiles import (
    NOISY_SPREAD,
    RULE,
    SLOW_FACTOR,
    Percentile,
    Spread,
    Summary,
    needed_samples,
    spread_of,
    summarize,
)

SCHEMA_VERSION = 1
KIND = "yolor-edge latency report"
JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
TOO_FEW = "too few samples"

MEANINGS = {
    "decode": "reading the picture file from disk and decoding it to BGR, turned upright",
    "preprocess": "letterbox to the input size, scaling, order of channels",
    "network": "the vision graph: image to raw heads and caption memory, copies in and out included",
    "boxes": "threshold, box decoding, NMS, back to pixels of the picture",
    "masks": "prototypes times coefficients inside each box, at the picture's resolution",
    "semantic": "upsampling to the picture's resolution and argmax",
    "caption": "the whole search with the caption decoder",
    "caption_first_token": "part of caption: first decoder run with its choice",
    "caption_per_token": "part of caption: mean of every later decoder run with its choice",
}
IDLE_SHARE = 0.1
OBJECT_BUCKETS = ((0, 0), (1, 4), (5, 9), (10, 49), (50, 99), (100, None))


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

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `report.json` and `report.md` to `folder`, each whole or not at all; their paths."""
        paths = Path(folder) / JSON_FILE, Path(folder) / MARKDOWN_FILE
        write_atomically(paths[0], readable_json(self.to_json()) + "\n")
        write_atomically(paths[1], self.markdown())
        return paths

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a `report.json`, or the folder that holds one.

        Raises:
            UsageError: If it is no latency report, or of another schema version.
        """
        file = Path(path) / JSON_FILE if Path(path).is_dir() else Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["kind"] != KIND:
                raise KeyError("kind")
            if data["schema_version"] != SCHEMA_VERSION:
                raise UsageError(
                    f"{file}: has schema {data['schema_version']}, this version reads {SCHEMA_VERSION}; measure again"
                )
            fields = ("identity", "machine", "protocol", "cold", "memory", "accuracy")
            measurement = _measurement_from_json(data["measurement"])
            return cls(**{name: data[name] for name in fields}, measurement=measurement)
        except FileNotFoundError:
            raise UsageError(f"{file}: no such file; expected a report written by yolor-edge bench") from None
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
        """How steady runs on the same picture were."""
        runs = self.measurement.runs
        return spread_of([run.end_to_end_ms for run in runs], [run.picture for run in runs])

    def warnings(self) -> list[str]:
        """Why the figures should not be trusted as they stand; empty if nothing speaks against them."""
        measured, spread = self.measurement, self.spread
        found = []
        if spread.deviation is None:
            found.append(
                "too few runs of the same picture to judge how steady they were (3 of a picture, 10 in "
                "all); take more runs or fewer pictures"
            )
        elif spread.is_noisy:
            found.append(
                f"noisy: runs on the same picture spread by {spread.deviation:.0%} either way, "
                f"more than {NOISY_SPREAD:.0%}; repeat on an idle machine"
            )
        if spread.slow_runs:
            moments = [f"{measured.runs[i].started_s:.1f} s" for i in spread.slow_runs]
            found.append(
                f"{len(spread.slow_runs)} of {spread.runs} runs took more than {SLOW_FACTOR} times the "
                f"median of their picture, at {_listed(moments)} after the beginning"
            )
        if not measured.is_steady:
            found.append("the warm-up ended before the model had become steady")
        if len(measured.runs) < needed_samples(0.99):
            found.append(f"{len(measured.runs)} runs are too few for p99, which needs {needed_samples(0.99)}")
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
        lines = [self.title(), "", *_aligned(self.stage_table())]
        if self.accuracy is not None:
            lines += ["", str(self.accuracy["table"])]
        lines += [f"beware: {text}" for text in self.warnings()]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The whole report for people."""
        parts = [f"# {self.title()}", self._headline()]
        warnings = self.warnings()
        if warnings:
            parts.append("**Beware:**\n\n" + "\n".join(f"- {text}" for text in warnings))
        parts.append("## Where the time goes\n\n" + _markdown_table(self.stage_table()))
        parts.append(_meanings(self.stages))
        parts.append("## End to end\n\n" + self._end_to_end_table() + "\n\n" + RULE)
        if any(run.objects is not None for run in self.measurement.runs):
            parts.append("## By number of objects\n\n" + self._object_table())
        parts.append("## Accuracy of the same bundle\n\n" + self._accuracy_text())
        parts.append("## Cold costs, memory and size\n\n" + self._cost_table())
        parts.append("## Protocol\n\n" + self._protocol_table())
        parts.append("## Machine\n\n" + self._machine_table())
        parts.append("## State of the machine\n\n" + self._state_table())
        parts.append("## Identity\n\n" + self._identity_table())
        parts.append(f"Raw samples, warm-up included: `{JSON_FILE}` (schema {SCHEMA_VERSION}).")
        return "\n\n".join(parts) + "\n"

    def _headline(self) -> str:
        whole = self.end_to_end
        cpu = self.machine["cpu"]
        figures = [f"median {_ms(whole.median)} ms"]
        for share, label in ((0.9, "p90"), (0.99, "p99")):
            figures.append(f"{label} {_value(whole.percentiles[share])}")
        kind = ""
        if self.is_cpu_only:
            kind = "This was measured on a CPU; it says nothing about a GPU or an accelerator. "
        threads = self.protocol["threads"]
        return (
            f"From the path of a picture file to its result: {', '.join(figures)} in {whole.count} runs, "
            f"{1000 / whole.mean:.2f} pictures a second one after the other, on {cpu['model']} "
            f"with {threads} thread{'s' if threads != 1 else ''}. {kind}"
            f"Tasks: {', '.join(self.protocol['tasks'])}; "
            f"input {_size(self.protocol['input_size'])} (height x width)."
        )

    def _end_to_end_table(self) -> str:
        whole = self.end_to_end
        rows = [["figure", "ms", "95 % interval"]]
        rows.append(["runs", str(whole.count), ""])
        rows.append(["minimum", _ms(whole.minimum), ""])
        rows.append(["mean", _ms(whole.mean), ""])
        labels = {0.5: "median", 0.9: "p90", 0.95: "p95", 0.99: "p99", 0.999: "p99.9"}
        for share, label in labels.items():
            rows.append([label, _value(whole.percentiles[share]), _interval(whole.percentiles[share])])
        jitter = whole.jitter
        rows.append(["maximum", _ms(whole.maximum), ""])
        rows.append(["jitter (p99 - median)", TOO_FEW if jitter is None else _ms(jitter), ""])
        spread = self.spread.deviation
        rows.append(["spread on the same picture", TOO_FEW if spread is None else f"{spread:.1%}", ""])
        return _markdown_table(rows)

    def _object_table(self) -> str:
        names = [name for name in ("boxes", "masks", "caption") if name in self.stages]
        rows = [["objects", "runs", *(f"{name} median ms" for name in names), "end to end median ms"]]
        for low, high in OBJECT_BUCKETS:
            inside = [
                run
                for run in self.measurement.runs
                if run.objects is not None and run.objects >= low and (high is None or run.objects <= high)
            ]
            label = f"{low}" if low == high else f"{low} and more" if high is None else f"{low} to {high}"
            stages = [summarize([run.stages_ms[name] for run in inside if name in run.stages_ms]) for name in names]
            totals = summarize([run.end_to_end_ms for run in inside])
            rows.append([label, str(len(inside)), *(_median(x) for x in stages), _median(totals)])
        return _markdown_table(rows)

    def _accuracy_text(self) -> str:
        if self.accuracy is None:
            return "Not measured: no data set was given (`--data`)."
        found = self.accuracy
        return (
            f"On {found['data']}, split {found['split']}, {found['scores']['images']} images, through the "
            f"same graphs and threads; boxes from a score of {found['score_threshold']:g} on, as average "
            f"precision wants it (timed with {self.protocol['score_threshold']:g})."
            f"\n\n```\n{found['table']}\n```"
        )

    def _cost_table(self) -> str:
        cold, memory = self.cold, self.memory
        imports = ", importing the backend's package included" if cold["first_load_imports_backend"] else ""
        rows = [["what", "value"]]
        rows.append(["open the bundle (every digest checked)", _milliseconds(cold["bundle_open_ms"])])
        rows.append([f"load the graphs, first time{imports}", _milliseconds(cold["first_load_ms"])])
        rows.append(["load the graphs again", _milliseconds(cold["load_ms"])])
        rows.append(["first inference after loading", _milliseconds(cold["first_inference_ms"])])
        peak = _megabytes(memory["peak_rss_bytes"])
        rows.append(["peak memory of the process (RSS), before scoring", peak])
        rows += [[f"{name} on disk", _megabytes(size)] for name, size in memory["graph_bytes"].items()]
        rows.append(["bundle on disk, without bundle.json", _megabytes(memory["bundle_bytes"])])
        return _markdown_table(rows) + "\n\nThe file cache of the system may have held the bundle already."

    def _protocol_table(self) -> str:
        protocol, measured = self.protocol, self.measurement
        rule = protocol["warmup"]
        sizes = sorted({picture.size for picture in measured.pictures})
        shown = f"{_size(sizes[0])} to {_size(sizes[-1])}" if len(sizes) > 1 else _size(sizes[0])
        origin = protocol["pictures"]
        where = f"{origin['origin']} ({origin['path']}{', ' + origin['split'] if 'split' in origin else ''})"
        rows = [["what", "value"]]
        rows.append(["scenario", f"{protocol['scenario']}; batch {protocol['batch']}"])
        rows.append(["timed", f"{protocol['timed']}; clock {protocol['clock']}"])
        if "post_processing" in protocol:  # older reports do not say
            rows.append(["pre- and post-processing", f"on the {protocol['post_processing'].upper()}"])
        rows.append(["transfers", protocol["transfers"]])
        rows.append(["pictures", f"{len(measured.pictures)}, {shown}, in turn; {where}"])
        rows.append(["threads", str(protocol["threads"])])
        rows.append(
            [
                "warm-up",
                f"{len(measured.warmup)} runs; {rule['rule']}: at least {rule['minimum_seconds']:g} s, "
                f"at most {rule['maximum_seconds']:g} s, medians within {rule['tolerance']:.0%}; "
                f"steady: {'yes' if rule['was_steady'] else 'no'}",
            ]
        )
        first, last = measured.runs[0], measured.runs[-1]
        took = last.started_s - first.started_s + last.end_to_end_ms / 1000
        rows.append(["counted", f"{len(measured.runs)} of {protocol['runs_asked_for']} runs in {took:.1f} s"])
        rows.append(
            [
                "boxes",
                f"score above {protocol['score_threshold']:g}, IoU {protocol['iou_threshold']:g}, "
                f"at most {protocol['max_detections']}",
            ]
        )
        if "caption" in protocol["tasks"]:
            tokens = [run.caption_tokens for run in measured.runs if run.caption_tokens is not None]
            average = sum(tokens) / len(tokens) if tokens else 0.0
            beam = protocol["caption_beam_size"]
            rows.append(
                [
                    "caption",
                    f"{protocol['caption_decoder']} decoder, beam size {beam}; {average:.1f} decoder runs on average",
                ]
            )
        rows.append(["seed", protocol["seed"]])
        return _markdown_table(rows)

    def _machine_table(self) -> str:
        machine = self.machine
        cpu = machine["cpu"]
        features = cpu["features"]
        rows = [["what", "value"]]
        rows.append(["board", str(machine["board"])])
        rows.append(["CPU", f"{cpu['model']}, {cpu['architecture']}"])
        rows.append(
            [
                "cores",
                f"{cpu['physical_cores']} physical, {cpu['logical_cores']} logical, {cpu['usable_cores']} "
                f"usable by this process; quota of the control group: {cpu['quota']}",
            ]
        )
        rows.append(["CPU features", _listed_value(features) or "none of interest"])
        rows.append(["memory", _megabytes(machine["memory_bytes"])])
        rows.append(["accelerator", str(machine["accelerator"])])
        virtual = machine["is_virtual_machine"]
        rows.append(["virtual machine", {True: "yes", False: "no"}.get(virtual, str(virtual))])
        rows += [[name, str(machine[name])] for name in ("container", "os", "kernel")]
        rows += [["L4T", str(machine["l4t"])], ["JetPack", str(machine["jetpack"])]]
        rows.append(["power mode (nvpmodel)", str(machine["nvpmodel"])])
        rows += [[name, str(version)] for name, version in machine["versions"].items()]
        return _markdown_table(rows)

    def _state_table(self) -> str:
        states = {"before": self.protocol["state_before"], **self.measurement.states}
        rows = [["", *states]]
        for label, key in (
            ("time", "time"),
            ("CPU clock, MHz", "cpu_mhz"),
            ("governor", "governor"),
            ("temperature, Celsius", "temperature_celsius"),
            ("load average, 1 min", "load_average_1min"),
            ("cores used by others, share", "cpu_busy_share"),
        ):
            rows.append([label, *(_listed_value(state.get(key, "-")) for state in states.values())])
        return _markdown_table(rows)

    def _identity_table(self) -> str:
        identity = self.identity
        rows = [["what", "value"], ["bundle", str(identity["bundle"])]]
        rows.append(["SHA-256 of bundle.json", f"`{identity['bundle_sha256']}`"])
        rows += [[f"SHA-256 of {name}", f"`{digest}`"] for name, digest in identity["files_sha256"].items()]
        rows.append(["backend, precision", f"{identity['backend']}, {identity['precision']}"])
        rows.append(["yolor-edge", f"{self.machine['versions']['yolor-edge']}, commit {identity['commit']}"])
        rows.append(["command", f"`{identity['command']}`"])
        rows.append(["date", str(identity["date"])])
        return _markdown_table(rows)


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
            Picture(str(one["name"]), (int(one["size"][0]), int(one["size"][1])), int(one["bytes"]))
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
    figures = [_value(summary.percentiles[p]) for p in (0.5, 0.9, 0.99)]
    return [name, str(summary.count), *figures, share]


def _meanings(stages: Mapping[str, Summary]) -> str:
    lines = [f"- {name.replace('_', ' ')}: {text}." for name, text in MEANINGS.items() if name in stages]
    lines.append("- end to end: the whole call, timed from outside; the stages are timed inside it.")
    return "\n".join(lines)


def _value(found: Percentile) -> str:
    return TOO_FEW if found.value is None else _ms(found.value)


def _interval(found: Percentile) -> str:
    if found.value is None:
        return ""
    low = "open" if found.low is None else _ms(found.low)
    high = "open" if found.high is None else _ms(found.high)
    return f"{low} to {high}"


def _median(summary: Summary | None) -> str:
    return "-" if summary is None else _ms(summary.median)


def _ms(value: float) -> str:
    """Three significant digits and never an exponent: 0.0123, 1.23, 12.3, 1234."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:.{digits}f}"


def _milliseconds(value: Any) -> str:
    return f"{_ms(value)} ms" if isinstance(value, int | float) else str(value)


def _megabytes(value: Any) -> str:
    return f"{value / 2**20:.1f} MiB" if isinstance(value, int | float) else str(value)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _listed(items: Sequence[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _listed_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:g}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
