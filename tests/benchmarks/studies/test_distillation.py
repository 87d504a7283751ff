"""What the study of distillation makes of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies.distillation import compare, main


def run(**scores: float) -> dict[str, dict[str, float]]:
    return {"scores": scores}


def test_mean_spread_and_gain_by_seed() -> None:
    answer = compare(
        {
            "teacher": run(box_ap=0.9),
            "alone-0": run(box_ap=0.5),
            "taught-0": run(box_ap=0.6),
            "alone-1": run(box_ap=0.7),
            "taught-1": run(box_ap=0.7),
            "alone-2": run(box_ap=0.1),  # whose partner is not there yet
        }
    )
    assert answer["box_ap"]["alone"] == {"mean": 0.6, "spread": 0.1414}
    assert answer["box_ap"]["taught"]["mean"] == 0.65
    assert answer["box_ap"]["gains_by_seed"] == [0.1, 0.0]
    assert answer["box_ap"]["teacher"] == 0.9
    assert compare({"teacher": run(box_ap=0.9)}) == {}


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d.json"
    plan = {
        "images": 4,
        "val_images": 2,
        "height": 64,
        "width": 96,
        "teacher_epochs": 1,
        "epochs": 1,
        "score_every": 1,
        "settings": [],
    }
    runs = {name: run(box_ap=0.5) for name in ("teacher", "alone-0", "taught-0")}
    out.write_text(json.dumps({"plan": plan, "runs": runs, "answer": compare(runs)}))
    line = [str(tmp_path / "work"), "--out", str(out), "--seeds", "1", "--images", "4", "--val-images", "2"]
    line += ["--height", "64", "--width", "96", "--teacher-epochs", "1", "--score-every", "1", "--epochs"]
    main([*line, "1"])
    assert capsys.readouterr().out.count("done before") == 3
    assert not (tmp_path / "work").exists()
    with pytest.raises(SystemExit):
        main([*line, "2"])
    assert "was made by another plan" in capsys.readouterr().err
