"""What the study of training choices makes of its runs, and the networks that it compares with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from yolor_edge.benchmarks.studies.training_choices import (
    CHOICES,
    RECIPE,
    TEACHER,
    _other_network,
    compare,
    main,
    table,
)
from yolor_edge.train.network.config import NetworkConfig
from yolor_edge.train.network.network import Network

PLAN = {
    "images": 4,
    "val_images": 2,
    "height": 64,
    "width": 96,
    "epochs": 1,
    "teacher_epochs": 1,
    "score_every": 1,
}


def run(**scores: float) -> dict[str, Any]:
    return {"plan": PLAN, "scores": scores}


def network(kind: str) -> Network:
    torch.manual_seed(0)
    names = ("a", "b", "c")
    config = NetworkConfig("n", ("boxes", "semantic"), names, (1, 2, 3), names, (1, 2, 3), input_size=(64, 96))
    with _other_network(kind):
        return Network(config).eval()


def test_mean_spread_and_gain_by_seed() -> None:
    answer = compare(
        {
            "recipe-0": run(box_ap=0.5, miou=0.5),
            "recipe-1": run(box_ap=0.7, miou=0.5),
            "three-scales-0": run(box_ap=0.6, miou=0.4),
            "three-scales-1": run(box_ap=0.7, miou=0.3),
            "semantic-0": run(miou=0.9),
            "semantic-2": run(miou=0.7),  # whose recipe is not there yet
            "teacher-100": run(box_ap=0.9, miou=0.9),
        }
    )
    assert list(answer) == [RECIPE, "semantic", "three-scales", TEACHER]
    assert answer[RECIPE]["box_ap"] == {"mean": 0.6, "spread": 0.1414, "count": 2}
    assert answer["three-scales"]["box_ap"]["gain"] == {"mean": 0.05, "spread": 0.0707, "count": 2}
    assert answer["three-scales"]["miou"]["gains"] == [-0.1, -0.2]
    assert answer["semantic"]["miou"]["gains"] == [0.4]
    assert "gain" not in answer[TEACHER]["miou"]
    lines = table(answer).splitlines()
    assert lines[0] == "| training | seeds | box AP | mIoU |"
    assert lines[2].endswith("| 2 | 0.600 ± 0.141 | 0.500 ± 0.000 |")
    assert lines[3].endswith("| 2 | - | 0.800 ± 0.141 (+0.400 ± 0.000) |")


def test_the_head_on_three_levels_sees_the_coarse_ones() -> None:
    own, other = network(""), network("three scales")
    assert sum(p.numel() for p in other.semantic_head.parameters()) > sum(
        p.numel() for p in own.semantic_head.parameters()
    )
    images = torch.rand(1, 3, 64, 96)
    maps = []
    for built, kind in ((own, ""), (other, "three scales")):
        for coarsest in (0.0, 1.0):
            with _other_network(kind), torch.no_grad():
                levels = built.features(images)
                levels[3] = levels[3] + coarsest
                maps.append(built.dense(levels)["semantic_logits"])
    assert all(one.shape == (1, 3, 8, 12) for one in maps)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[2], maps[3])


def test_without_implicit_knowledge_nothing_is_added_and_nothing_learned() -> None:
    built = network("explicit only")
    vectors = {name: p for name, p in built.named_parameters() if name.endswith(".vector")}
    assert vectors
    assert not any(p.requires_grad for p in vectors.values())
    assert {float(value) for p in vectors.values() for value in p.flatten()} == {0.0, 1.0}
    assert all(p.requires_grad for name, p in network("").named_parameters() if name.endswith(".vector"))


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, out = tmp_path / "work", tmp_path / "report.json"
    for split in ("train", "val"):
        (work / "scenes" / split).mkdir(parents=True)
    (work / "recipe-0.json").write_text(json.dumps(run(box_ap=0.5)))
    line = [str(work), "--out", str(out), "--only", RECIPE, "--seeds", "0", "--images", "4", "--val-images", "2"]
    line += ["--height", "64", "--width", "96", "--teacher-epochs", "1", "--score-every", "1", "--epochs"]
    main([*line, "1"])
    assert capsys.readouterr().out == "recipe-0: done before\n"
    report = json.loads(out.read_text())
    assert report["answer"][RECIPE]["box_ap"]["mean"] == 0.5
    assert set(report["choices"]) == set(CHOICES)
    assert out.with_suffix(".md").read_text().startswith("| training |")
    with pytest.raises(SystemExit):
        main([*line, "2"])
    assert "was made by another plan" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*line, "1", "--only", "nothing"])
    assert "--only: there is no nothing; the choices are recipe, " in capsys.readouterr().err
