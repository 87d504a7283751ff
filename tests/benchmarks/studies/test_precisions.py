"""The benchmark of precisions, on a small input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies import precisions

pytest.importorskip("torch")


def test_every_precision_has_a_row_beside_fp32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    arguments = ["--sizes", "n", "--input-size", "64x96", "--runs", "2", "--out", str(out)]
    assert precisions.main(arguments) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    rows = {(row["precision"], row["backend"]): row for row in report["rows"]}
    assert {("fp32", "onnxruntime"), ("int8-u8s8", "onnxruntime"), ("int8-s8s8", "onnxruntime")} <= set(rows)
    assert rows["fp32", "onnxruntime"]["times_as_fast_as_fp32_onnxruntime"] == 1
    assert all(len(row["samples_ms"]) == 2 + precisions.WARMUP for row in rows.values())
    assert rows["int8-u8s8", "onnxruntime"]["graph_bytes"] < 0.5 * rows["fp32", "onnxruntime"]["graph_bytes"]
    assert out.with_suffix(".md").read_text() == capsys.readouterr().out
    assert "--runs 2" in report["command"]


@pytest.mark.parametrize("arguments", [["--sizes", "x"], ["--input-size", "65x96"], ["--runs", "0"]])
def test_misuse_is_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        precisions.main([*arguments, "--out", str(tmp_path / "report")])
    assert leaving.value.code == 2
    assert not list(tmp_path.iterdir())
