from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.benchmarks.studies.overhead import BARE, main
from yolor_edge.runtime.bundle.bundle import Bundle


def test_every_set_of_tasks_stands_beside_the_bare_call(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    command = [str(tiny_bundle.path), "--images", str(tmp_path / "a.png"), "--rounds", "3", "--out"]
    assert main([*command, str(tmp_path / "found")]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names == [
        BARE,
        "boxes",
        "boxes + masks",
        "boxes + masks + semantic",
        "boxes + masks + semantic + caption",
    ]
    assert all(len(row["samples_ms"]) == 3 for row in report["rows"])
    assert report["rows"][0]["over_the_bare_call"] == 1
    assert "tiny_bundle" not in report["command"] and str(tiny_bundle.path) in report["command"]
    assert (tmp_path / "found.md").read_text() == capsys.readouterr().out


def test_what_cannot_be_measured_is_told_in_one_line(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    out = ["--out", str(tmp_path / "found")]
    assert main([str(tiny_bundle.path), "--images", str(tmp_path / "bad.png"), *out]) == 2
    assert main([str(tmp_path / "nowhere"), "--images", str(tmp_path), *out]) != 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "holds no image that can be read" in errors[0]
    assert not list(tmp_path.glob("found*"))
