"""The command `evaluate` takes a checkpoint or a bundle, and says so of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from yolor_edge.main import main

from ..export.exported import Exported


def complaint_of(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line) == 2
    return capsys.readouterr().err


def test_a_path_that_is_neither_checkpoint_nor_bundle(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    data = ["--data", str(exported.data)]
    assert "nowhere: does not exist; expected the folder of a checkpoint or a bundle" in complaint_of(
        ["evaluate", str(tmp_path / "nowhere"), *data], capsys
    )
    for name in ("file", "folder"):
        assert f"{name}: is neither a checkpoint nor a bundle" in complaint_of(
            ["evaluate", str(tmp_path / name), *data], capsys
        )


def test_what_is_for_a_bundle_is_refused_with_a_checkpoint(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(exported.checkpoint.path), "--data", str(exported.data), "--precision", "int8"]
    assert "is a checkpoint, which is scored in torch with float32; --precision is for a bundle" in complaint_of(
        line, capsys
    )
