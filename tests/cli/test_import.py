"""The command `import`: an official file becomes a checkpoint, or one line says why not and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.main import main


def test_an_official_file_becomes_a_checkpoint(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checkpoint"
    assert main(["import", str(goldens / "yolov7" / "checkpoint.pt"), "--out", str(out), "--licence", "GPL-3.0"]) == 0
    printed = capsys.readouterr().out
    assert "licence of the weights: GPL-3.0" in printed and printed.endswith(f"checkpoint: {out}\n")
    assert json.loads((out / "checkpoint.json").read_text())["provenance"]["licence"] == "GPL-3.0"
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import nowhere.pt --out {out}", "nowhere.pt"),
        ("import {text} --out {out}", "notes.pt"),
        ("import {golden} --out {out} --vocabulary {text}", "leave --vocabulary away"),
        ("import {golden} --out {out} --config yolov7", "--config is for files that hold a state dict alone"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    line: str, message: str, goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "notes.pt", tmp_path / "out"
    text.write_text("a\nb\n")
    words = line.format(text=text, out=out, golden=goldens / "gelan-c" / "checkpoint.pt").split()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()
