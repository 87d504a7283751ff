"""Every official network at full width through the whole chain: import, export, verify, engines; random weights.

    python -m yolor_edge.benchmarks.studies.imported_networks --out benchmarks/results/imported-networks

Needs the manifests of the official state dicts (names and shapes, no weights). Parameters and FLOPs stand beside the
published ones. Writes OUT.json and OUT.md after each network, and goes on where it was left: what OUT.json holds is not
done again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...export.engines.to_tensorrt import build_engines
from ...export.precision.precisions import PrecisionOptions
from ...export.to_onnx import export_bundle
from ...runtime.bundle.bundle import Bundle
from ...runtime.errors import YolorEdgeError
from ...runtime.verification.replay import verify
from ...train.checkpoint import write_checkpoint
from ...train.network.layers_fold import layers_cost
from ..report.machine import describe_machine, source_commit
from ..report.report_files import output_stem, write_both
from .full_size_networks import PUBLISHED, full_size_network, lively

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "demo" / "images"
MANIFESTS = ROOT.parent / "shared" / "goldens" / "manifests"
PRECISIONS = ("fp32", "fp16", "int8")


def study(manifest: Path, folder: Path, target: str) -> dict[str, Any]:
    """The row of one network; what failed is said under `error`, with what was done before it."""
    imported = full_size_network(manifest, seed=7)
    cost = layers_cost(imported.config)
    name = manifest.name.partition(".")[0]
    row: dict[str, Any] = {
        "name": name,
        "tasks": list(imported.config.tasks),
        "input_size": list(cost.input_size),
        "parameters": cost.parameters,
        "flops": cost.flops,
        "folded_parameters": cost.folded_parameters,
        "folded_flops": cost.folded_flops,
        "published": PUBLISHED.get(name),
        "verified": {},
        "engines": {},
    }
    try:
        checkpoint = write_checkpoint(folder / "checkpoint", lively(imported.network()), {"weights": "random"})
        started = time.perf_counter()
        bundle = export_bundle(
            checkpoint,
            folder / "bundle",
            precisions=PrecisionOptions(("fp16", "int8"), calibration=IMAGES),
            progress=lambda line: print(f"  {line}", flush=True),
        )
        row["export_seconds"] = round(time.perf_counter() - started, 1)
        row["folded_by"] = bundle.parity["folded_float64"]
        _verify_and_build(bundle, row, target)
    except YolorEdgeError as error:
        row["error"] = str(error)
    return row


def _verify_and_build(bundle: Bundle, row: dict[str, Any], target: str) -> None:
    for precision in PRECISIONS:
        found = verify(bundle, "onnxruntime", precision)
        row["verified"][precision] = {
            "passed": found.passed,
            "failures": [f"{c.stage}: {c.measured}" for c in found.failures],
        }
    for precision in ("fp16", "int8"):
        started = time.perf_counter()
        built = build_engines(bundle, precision, [target], flavour="tensorrt-rtx")
        row["engines"][precision] = {
            "seconds": round(time.perf_counter() - started, 1),
            "bytes": sum(one.engine.path.stat().st_size for one in built),
        }


def report_text(report: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the command that made them."""
    lines = [
        "# Official networks at full width, random weights",
        "",
        f"`{report['command']}`",
        "",
        f"Verified in ONNX Runtime; engines of TensorRT for RTX for {report['target']}, built and not run.",
        "",
        "| network | input | parameters M, folded | published | FLOPs G, folded | published | verified | engines MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        published = row["published"] or ("", "")
        verified = [precision for precision, found in row["verified"].items() if found["passed"]]
        engines = [f"{precision} {one['bytes'] / 1e6:.1f}" for precision, one in row["engines"].items()]
        cells = [
            row["name"],
            "x".join(map(str, row["input_size"])),
            f"{row['folded_parameters'] / 1e6:.1f}",
            f"{published[0]}",
            f"{row['folded_flops'] / 1e9:.1f}",
            f"{published[1]}",
            ", ".join(verified) or "-",
            ", ".join(engines) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if "error" in row:
            lines += ["", f"{row['name']}: {row['error']}", ""]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put every official network through the chain, with random weights.")
    parser.add_argument("--manifests", type=Path, default=MANIFESTS, metavar="DIR", help=f"default: {MANIFESTS}")
    parser.add_argument("--only", default="", help="names of manifests, separated by commas (default: all)")
    parser.add_argument("--target", default="sm_86", help="compute capability of the engines (default: sm_86)")
    parser.add_argument("--out", type=output_stem, required=True, help="what to write, without .json and .md")
    given = parser.parse_args(arguments)
    files = {file.name.partition(".")[0]: file for file in sorted(given.manifests.glob("*.json.xz"))}
    chosen = [name for name in given.only.split(",") if name] or sorted(
        files, key=lambda name: files[name].stat().st_size
    )
    unknown = [name for name in chosen if name not in files]
    if unknown or not files:
        parser.error(f"{given.manifests}: holds no manifest {', '.join(unknown) or '*.json.xz'}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    before = Path(f"{given.out}.json")
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if before.is_file() else []
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": f"python -m yolor_edge.benchmarks.studies.imported_networks --out {given.out}",
        "commit": source_commit(),
        "machine": describe_machine(),
        "target": given.target,
        "rows": rows,
    }
    done = {row["name"] for row in rows if "error" not in row}
    for name in chosen:
        if name in done:
            continue
        print(name, flush=True)
        with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
            row = study(files[name], Path(folder), given.target)
        report["rows"] = sorted([*(r for r in report["rows"] if r["name"] != name), row], key=lambda r: r["name"])
        write_both(given.out, report, report_text(report))
        print(f"{name}: {row.get('error', 'done')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
