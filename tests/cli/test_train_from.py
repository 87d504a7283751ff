"""`yolor-edge train --from`, and more epochs for a run that is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["--set", "batch_size=8", "--set", "workers=0", "--threads", "1"]
PARTS = ["--freeze", "backbone,neck"]


def test_from_a_run_with_frozen_parts_and_then_more_epochs(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), tmp_path / "second"
    boxes = ["train", "--data", str(scenes), "--tasks", "boxes", "--epochs", "1", *QUICK]
    assert main([*boxes, "--input-size", "64x96", "--out", first]) == 0
    capsys.readouterr()
    assert main([*boxes, "--from", first, *PARTS, "--out", str(second)]) == 0
    said = capsys.readouterr()
    assert said.out == f"checkpoint: {second / 'checkpoint'}\n"
    assert f"\nfrom {first}:\ntensors        kept  by name   remade    added  dropped\nbackbone " in said.err
    run = json.loads((second / "run.json").read_text(encoding="utf-8"))
    assert run["start"]["frozen"] == ["backbone", "neck"]
    assert run["network"]["input_size"] == [64, 96]
    assert main(["train", "--resume", str(second), "--epochs", "2"]) == 0
    assert "resuming after epoch 1 of 2" in capsys.readouterr().err
    assert len((second / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--from", "{}/nothing"], "nothing: no such folder; expected a checkpoint or a run"),
        (["--from", "{}/nothing.pt"], "nothing.pt: no such file; expected a .pt file"),
        (["--from", "{}/bundle"], "bundle: is a bundle; expected the checkpoint or the run"),
        (["--from", "{}"], "is not a checkpoint (no checkpoint.json in it)"),
        (PARTS, "--freeze belongs to a training from other weights; give --from too"),
        (["--vocabulary", "v.txt"], "--vocabulary belongs to a training from other weights; give --from too"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}", encoding="utf-8")
    out = tmp_path / "run"
    arguments = ["train", "--data", str(scenes), "--out", str(out), *(word.format(tmp_path) for word in more)]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not out.exists()
