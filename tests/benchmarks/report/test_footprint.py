"""What the runtime weighs: memory, modules and bytes, within what is promised; times are reported, never asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from yolor_edge.benchmarks.report import footprint

PROMISED_MEMORY = 60_000_000
PROMISED_WHEEL = 2_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_importing_the_runtime_takes_little_memory() -> None:
    cost = footprint.import_cost("numpy", "yolor_edge.runtime.model", rounds=3)
    assert 0 < cost["private_bytes"] <= cost["memory_bytes"] < PROMISED_MEMORY / 2
    assert 10 < cost["modules"] < 120
    assert len(cost["ms"]) == 3 and min(cost["ms"]) <= cost["median_ms"] <= max(cost["ms"])


def test_the_package_is_small() -> None:
    files = footprint.package_files()
    names = {path.name for path in files}
    assert {"__init__.py", "model.py", "_native.pyi", "main.py", "footprint.py", "py.typed"} <= names
    assert sum(path.suffix == ".so" for path in files) == 1
    assert not {path.suffix for path in files} & {".cpp", ".hpp", ".h"}
    assert 100_000 < footprint.packed_bytes(files) < PROMISED_WHEEL


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "footprint.json"
    footprint.main(["--rounds", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    assert list(report["imports"]) == ["numpy", "runtime", "opencv"]
    assert report["package"]["extension_bytes"] < report["package"]["installed_bytes"]
    assert report["command"] == f"python -m yolor_edge.benchmarks.report.footprint --rounds 1 --out {out}"
    printed = capsys.readouterr().out
    assert "| runtime, after numpy |" in printed and "MB packed" in printed
