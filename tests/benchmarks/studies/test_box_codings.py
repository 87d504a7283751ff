"""The study of codings: its inputs say the same in each, and its report is written; the timing is not judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.benchmarks.studies import box_codings
from yolor_edge.benchmarks.studies.kernel_inputs import draw_heads


def test_it_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert box_codings.main(["--out", str(tmp_path), "--rounds", "1"]) == 0
    report = json.loads((tmp_path / "box-codings.json").read_text())
    assert [len(row["median_ms"]) for row in report["rows"]] == [6, 6]
    assert "| 687 candidates above 0.25 |" in capsys.readouterr().out


def test_detections_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = box_codings.coded
    monkeypatch.setattr(
        box_codings, "coded", lambda h, b, s: (coded(h, b, s)[0], coded(h, b, s)[1] + np.float32(b == "xyxy"))
    )
    with pytest.raises(ValueError, match="xyxy and logits give other detections"):
        box_codings.row("some", draw_heads(0, 5, 40), 0.25)
