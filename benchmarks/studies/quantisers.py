"""How near int8 comes to fp32 at every head: ours, ONNX Runtime's own quantiser and NNCF, on one network and pictures.

    python -m yolor_edge.benchmarks.studies.quantisers bundles/photos --calibration coco-tiny/train2017 \\
        --pictures coco-tiny/val2017 --out benchmarks/results/quantisers

Every graph runs in ONNX Runtime. Two figures a head, in dB: its energy over the error's, all cells alike; its
variance over the error's mean square at cells that hold objects, by which layers are ranked. Peers that are not
installed are left out (`pip install nncf`); writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...export.onnx_graphs.probe import open_model
from ...export.precision.calibration import CalibrationSet, calibrate, calibration_files
from ...export.precision.sensitivity import HeadNoise
from ...export.precision.to_int8 import quantize
from ...runtime.bundle.bundle import INT8_DIALECTS, Bundle
from ..report.machine import describe_machine, source_commit
from ..report.report_files import output_stem, write_both

SCHEMA_VERSION = 1


def measure(bundle: Bundle, calibration: Path, pictures: Path, limit: int) -> list[dict[str, Any]]:
    """A row for each quantiser: seconds that it took, and the two figures of every head.

    Args:
        bundle: Whose fp32 vision graph is quantised.
        calibration: Pictures to calibrate on.
        pictures: Other pictures, to compare on.
        limit: Most pictures of each.
    """
    model = onnx.load(bundle.graph_files()["vision"])
    rule = bundle.spec.preprocess
    chosen = CalibrationSet(calibration_files(calibration)[:limit], rule)
    inputs = list(CalibrationSet(calibration_files(pictures)[:limit], rule).tensors())
    makers: dict[str, Callable[[], onnx.ModelProto]] = {}
    started = time.perf_counter()
    methods = calibrate(model, chosen).by_method()
    calibrating = time.perf_counter() - started
    for dialect, (method, ranges) in itertools.product(INT8_DIALECTS, methods.items()):
        makers[f"ours, {dialect}, {method}"] = functools.partial(_ours, model, ranges, dialect)
    makers["ONNX Runtime, u8s8, minmax"] = lambda: _by_onnxruntime(model, chosen)
    if find_spec("nncf") is not None:
        makers["NNCF, default"] = lambda: _by_nncf(model, chosen, mixed=False)
        makers["NNCF, mixed (asymmetric activations)"] = lambda: _by_nncf(model, chosen, mixed=True)
    exact = open_model(model, 1)
    answers = [exact.run({"images": image}) for image in inputs]
    exact.close()
    rows = []
    for name, make in makers.items():
        started = time.perf_counter()
        quantised = make()
        seconds = time.perf_counter() - started + (calibrating if name.startswith("ours") else 0)
        graph = open_model(quantised, 1)
        found = [graph.run({"images": image}) for image in inputs]
        graph.close()
        rows.append({"quantiser": name, "seconds": round(seconds, 1), "heads": _figures(answers, found)})
    return rows


def _ours(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], dialect: str) -> onnx.ModelProto:
    return quantize(model, ranges, dialect).model


def _figures(answers: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every head in dB: "all" over all cells, "objects" at cells that hold objects."""
    figures = {}
    for head, value in answers[0].items():
        if value.dtype != np.float32:
            continue
        lost = [np.square(b[head] - a[head]).sum(dtype=np.float64) for a, b in zip(answers, found, strict=True)]
        energy = [np.square(a[head]).sum(dtype=np.float64) for a in answers]
        noise = [HeadNoise(head, a).of(b[head]) for a, b in zip(answers, found, strict=True)]
        figures[head] = {"all": _decibels(sum(lost) / sum(energy)), "objects": _decibels(float(np.mean(noise)))}
    return figures


def _decibels(noise: float) -> float:
    return round(float(-10 * np.log10(max(noise, 1e-12))), 2)


def _by_onnxruntime(model: onnx.ModelProto, pictures: CalibrationSet) -> onnx.ModelProto:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._tensors = pictures.tensors()

        def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            tensor = next(self._tensors, None)
            return None if tensor is None else {"images": tensor}

    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(source, target, Reader(), per_channel=True)
        return onnx.load(target)


def _by_nncf(model: onnx.ModelProto, pictures: CalibrationSet, mixed: bool) -> onnx.ModelProto:
    import nncf  # type: ignore[import-not-found]

    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset(list(pictures.tensors()), lambda tensor: {"images": tensor})
    preset = nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return nncf.quantize(copy, dataset, preset=preset, subset_size=len(pictures))


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    heads = list(report["rows"][0]["heads"])
    lines = [
        f"# int8 beside fp32, dB over all cells / at cells that hold objects: {report['network']}",
        "",
        f"`{report['command']}`",
        "",
        f"| quantiser | {' | '.join(heads)} | s |",
        f"| --- |{' --- |' * (len(heads) + 1)}",
    ]
    for row in report["rows"]:
        cells = [f"{row['heads'][head]['all']:.1f} / {row['heads'][head]['objects']:.1f}" for head in heads]
        lines.append(f"| {row['quantiser']} | {' | '.join(cells)} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare quantisers by the error they bring to every head.")
    parser.add_argument("bundle", help="folder of a bundle")
    parser.add_argument("--calibration", type=Path, required=True, help="pictures to calibrate on")
    parser.add_argument("--pictures", type=Path, required=True, help="other pictures, to compare on")
    parser.add_argument("--limit", type=int, default=20, help="most pictures of each (default: 20)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    if given.limit < 1:
        parser.error(f"--limit must be at least 1, got {given.limit}")
    bundle = Bundle.open(given.bundle)
    report = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(
            ["python", "-m", "yolor_edge.benchmarks.studies.quantisers", *(arguments or sys.argv[1:])]
        ),
        "commit": source_commit(),
        "machine": describe_machine(),
        "network": bundle.spec.name,
        "rows": measure(bundle, given.calibration, given.pictures, given.limit),
    }
    write_both(given.out, report, report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
