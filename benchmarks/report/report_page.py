"""A latency report as a page of Markdown, section by section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ...runtime.bundle.json_files import readable_json
from ...runtime.files import write_atomically
from .percentiles import RULE, Summary, summarize
from .report import JSON_FILE, SCHEMA_VERSION, Report
from .report_text import (
    TOO_FEW,
    interval_text,
    markdown_table,
    median_text,
    megabytes,
    milliseconds,
    ms_text,
    percentile_text,
    size_text,
    value_text,
)

MARKDOWN_FILE = "report.md"
MEANINGS = {
    "decode": "reading the image file from disk and decoding it to BGR, turned upright",
    "preprocess": "letterbox to the input size, scaling, order of channels",
    "network": "the vision graph: image to raw heads and caption memory, copies in and out included",
    "boxes": "threshold, box decoding, NMS, back to pixels of the image",
    "masks": "prototypes times coefficients inside each box, at the image's resolution",
    "semantic": "upsampling to the image's resolution and argmax",
    "caption": "the whole search with the caption decoder",
    "caption_first_token": "part of caption: first decoder run with its choice",
    "caption_per_token": "part of caption: mean of every later decoder run with its choice",
}
OBJECT_BUCKETS = ((0, 0), (1, 4), (5, 9), (10, 49), (50, 99), (100, None))


def save(report: Report, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write `report.json` and `report.md` to `folder`, each whole or not at all; their paths."""
    paths = Path(folder) / JSON_FILE, Path(folder) / MARKDOWN_FILE
    write_atomically(paths[0], readable_json(report.to_json()) + "\n")
    write_atomically(paths[1], page(report))
    return paths


def page(report: Report) -> str:
    """The whole report for people."""
    parts = [f"# {report.title()}", _headline(report)]
    warnings = report.warnings()
    if warnings:
        parts.append("**Beware:**\n\n" + "\n".join(f"- {text}" for text in warnings))
    parts.append("## Where the time goes\n\n" + markdown_table(report.stage_table()))
    parts.append(_meanings(report.stages))
    parts.append("## End to end\n\n" + _end_to_end_table(report) + "\n\n" + RULE)
    if any(run.objects is not None for run in report.measurement.runs):
        parts.append("## By number of objects\n\n" + object_table(report))
    parts.append("## Accuracy of the same bundle\n\n" + _accuracy_text(report))
    parts.append("## Cold costs, memory and size\n\n" + _cost_table(report))
    parts.append("## Protocol\n\n" + _protocol_table(report))
    parts.append("## Machine\n\n" + _machine_table(report))
    parts.append("## State of the machine\n\n" + _state_table(report))
    parts.append("## Identity\n\n" + _identity_table(report))
    parts.append(f"Raw samples, warm-up included: `{JSON_FILE}` (schema {SCHEMA_VERSION}).\n")
    return "\n\n".join(parts)


def _headline(report: Report) -> str:
    whole = report.end_to_end
    cpu = report.machine["cpu"]
    figures = [f"median {ms_text(whole.median)} ms"]
    for share, label in ((0.9, "p90"), (0.99, "p99")):
        figures.append(f"{label} {percentile_text(whole.percentiles[share])}")
    kind = ""
    if report.is_cpu_only:
        kind = "This was measured on a CPU; it says nothing about a GPU or an accelerator. "
    threads = report.protocol["threads"]
    return (
        f"From the path of an image file to its result: {', '.join(figures)} in {whole.count} runs, "
        f"{1000 / whole.mean:.2f} images a second one after the other, on {cpu['model']} "
        f"with {threads} thread{'s' if threads != 1 else ''}. {kind}"
        f"Tasks: {', '.join(report.protocol['tasks'])}; "
        f"input {size_text(report.protocol['input_size'])} (height x width)."
    )


def _end_to_end_table(report: Report) -> str:
    whole = report.end_to_end
    rows = [["figure", "ms", "95 % interval"]]
    rows.append(["runs", str(whole.count), ""])
    rows.append(["minimum", ms_text(whole.minimum), ""])
    rows.append(["mean", ms_text(whole.mean), ""])
    labels = {0.5: "median", 0.9: "p90", 0.95: "p95", 0.99: "p99", 0.999: "p99.9"}
    for share, label in labels.items():
        rows.append([label, percentile_text(whole.percentiles[share]), interval_text(whole.percentiles[share])])
    jitter = whole.jitter
    rows.append(["maximum", ms_text(whole.maximum), ""])
    rows.append(["jitter (p99 - median)", TOO_FEW if jitter is None else ms_text(jitter), ""])
    spread = report.spread.deviation
    rows.append(["spread on the same image", TOO_FEW if spread is None else f"{spread:.1%}", ""])
    return markdown_table(rows)


def object_table(report: Report) -> str:
    names = [name for name in ("boxes", "masks", "caption") if name in report.stages]
    rows = [["objects", "runs", *(f"{name} median ms" for name in names), "end to end median ms"]]
    for low, high in OBJECT_BUCKETS:
        inside = [
            run
            for run in report.measurement.runs
            if run.objects is not None and run.objects >= low and (high is None or run.objects <= high)
        ]
        label = f"{low}" if low == high else f"{low} and more" if high is None else f"{low} to {high}"
        stages = [summarize([run.stages_ms[name] for run in inside if name in run.stages_ms]) for name in names]
        totals = summarize([run.end_to_end_ms for run in inside])
        rows.append([label, str(len(inside)), *(median_text(x) for x in stages), median_text(totals)])
    return markdown_table(rows)


def _accuracy_text(report: Report) -> str:
    if report.accuracy is None:
        return "Not measured: no data set was given."
    found = report.accuracy
    return (
        f"On {found['data']}, split {found['split']}, {found['scores']['images']} images, through the "
        f"same graphs and threads; boxes from a score of {found['score_threshold']:g} on, as average "
        f"precision wants it (timed with {report.protocol['score_threshold']:g})."
        f"\n\n```\n{found['table']}\n```"
    )


def _cost_table(report: Report) -> str:
    cold, memory = report.cold, report.memory
    imports = ", importing the backend's package included" if cold["first_load_imports_backend"] else ""
    rows = [["what", "value"]]
    rows.append(["open the bundle (every digest checked)", milliseconds(cold["bundle_open_ms"])])
    rows.append([f"load the graphs, first time{imports}", milliseconds(cold["first_load_ms"])])
    rows.append(["load the graphs again", milliseconds(cold["load_ms"])])
    rows.append(["first inference after loading", milliseconds(cold["first_inference_ms"])])
    peak = megabytes(memory["peak_rss_bytes"])
    rows.append(["peak memory of the process (RSS), before scoring", peak])
    rows += [[f"{name} on disk", megabytes(size)] for name, size in memory["graph_bytes"].items()]
    rows.append(["bundle on disk, without bundle.json", megabytes(memory["bundle_bytes"])])
    return markdown_table(rows) + "\n\nThe file cache of the system may have held the bundle already."


def _protocol_table(report: Report) -> str:
    protocol, measured = report.protocol, report.measurement
    rule = protocol["warmup"]
    sizes = sorted({picture.size for picture in measured.pictures})
    shown = f"{size_text(sizes[0])} to {size_text(sizes[-1])}" if len(sizes) > 1 else size_text(sizes[0])
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
    return markdown_table(rows)


def _machine_table(report: Report) -> str:
    machine = report.machine
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
    rows.append(["CPU features", value_text(features) or "none of interest"])
    rows.append(["memory", megabytes(machine["memory_bytes"])])
    rows.append(["accelerator", str(machine["accelerator"])])
    virtual = machine["is_virtual_machine"]
    rows.append(["virtual machine", {True: "yes", False: "no"}.get(virtual, str(virtual))])
    rows += [[name, str(machine[name])] for name in ("container", "os", "kernel")]
    rows += [["L4T", str(machine["l4t"])], ["JetPack", str(machine["jetpack"])]]
    rows.append(["power mode (nvpmodel)", str(machine["nvpmodel"])])
    rows += [[name, str(version)] for name, version in machine["versions"].items()]
    return markdown_table(rows)


def _state_table(report: Report) -> str:
    states = {"before": report.protocol["state_before"], **report.measurement.states}
    rows = [["", *states]]
    for label, key in (
        ("time", "time"),
        ("CPU clock, MHz", "cpu_mhz"),
        ("governor", "governor"),
        ("temperature, Celsius", "temperature_celsius"),
        ("load average, 1 min", "load_average_1min"),
        ("cores used by others, share", "cpu_busy_share"),
    ):
        rows.append([label, *(value_text(state.get(key, "-")) for state in states.values())])
    return markdown_table(rows)


def _identity_table(report: Report) -> str:
    identity = report.identity
    rows = [["what", "value"], ["bundle", str(identity["bundle"])]]
    rows.append(["SHA-256 of bundle.json", f"`{identity['bundle_sha256']}`"])
    rows += [[f"SHA-256 of {name}", f"`{digest}`"] for name, digest in identity["files_sha256"].items()]
    rows.append(["backend, precision", f"{identity['backend']}, {identity['precision']}"])
    rows.append(["yolor-edge", f"{report.machine['versions']['yolor-edge']}, commit {identity['commit']}"])
    rows.append(["command", f"`{identity['command']}`"])
    rows.append(["date", str(identity["date"])])
    return markdown_table(rows)


def _meanings(stages: Mapping[str, Summary]) -> str:
    lines = [f"- {name.replace('_', ' ')}: {text}." for name, text in MEANINGS.items() if name in stages]
    lines.append("- end to end: the whole call, timed from outside; the stages are timed inside it.")
    return "\n".join(lines)
