"""`yolor-edge evaluate`: what it prints, what it writes, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.main import main

from ..export.exported import Exported

pytestmark = pytest.mark.usefixtures("one_thread")


def evaluate(exported: Exported, *options: str) -> int:
    data = ["--data", str(exported.data), "--beam-size", "1", "--limit", "3"]
    return main(["evaluate", str(exported.checkpoint.path), *data, *options])


def test_tables_files_and_drawings(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--by-class", "--boundary-ignore", "2", "--batch", "2", "--device", "cpu", "--resamples", "20"]
    folders = ["--save-predictions", str(tmp_path / "p"), "--draw-worst", str(tmp_path / "w"), "--worst", "2"]
    assert evaluate(exported, *options, *folders) == 0
    printed = capsys.readouterr().out
    scores, classes = printed.split("\n\n")
    assert "mIoU off borders" in scores
    assert "PQ of things" in scores
    assert " to " in scores.splitlines()[0]
    assert classes.split()[:9] == ["class", "box", "AP", "box", "AR", "mask", "AP", "mask", "AR"]
    assert len(list((tmp_path / "p" / "panoptic").iterdir())) == 3
    assert sorted(path.name for path in (tmp_path / "p").glob("*.json")) == [
        "bbox.json",
        "captions.json",
        "panoptic.json",
        "segm.json",
    ]
    assert len(list((tmp_path / "w").iterdir())) == 2


def test_json_has_intervals(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(exported, "--json", "--resamples", "10") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    main_scores = {"box_ap", "mask_ap", "miou", "pq"}
    captions = {f"{name}{end}" for name in ("bleu4", "cider", "rouge_l") for end in ("", "_ptb")}
    assert set(scores["intervals"]) == main_scores | captions
    low, high = scores["intervals"]["miou"]
    assert low <= scores["miou"] <= high
    assert evaluate(exported, "--json", "--resamples", "0") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["intervals"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--device gpu", "device 'gpu' is not known"),
        ("--resamples -1", "--resamples must be at least 0, got -1"),
        ("--boundary-ignore -2", "--boundary-ignore must be at least 0, got -2"),
        ("--worst 0 --draw-worst {full}/new", "--worst must be at least 1, got 0"),
        ("--worst 3", "--worst says how many images --draw-worst DIR draws"),
        ("--save-predictions {full}", "full: exists already; name a new folder as --save-predictions"),
        ("--draw-worst {full}/file", "file: exists already; name a new folder as --draw-worst"),
    ],
)
def test_bad_input_is_one_line(
    exported: Exported, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    capsys.readouterr()
    assert evaluate(exported, *options.format(full=tmp_path / "full").split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_bundle_has_its_own_device(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(exported.bundle.path), "--data", str(exported.data), "--device", "cpu", "--batch", "4"]
    assert main(line) == 2
    assert "--device, --batch is for a checkpoint, choose --backend" in capsys.readouterr().err
