from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies.training_loader import WORKERS, main, repeat
from yolor_edge.evaluation.dataset.coco import CocoDataset


def test_a_data_set_is_repeated_with_all_its_truth(scenes: Path, tmp_path: Path) -> None:
    repeat(scenes, "train", 19, tmp_path / "many")
    once, many = CocoDataset.open(scenes), CocoDataset.open(tmp_path / "many")
    assert len(many) == 19
    assert many.tasks == once.tasks
    for index in (0, 8, 18):
        one, other = once[index % 8], many[index]
        assert (one.boxes == other.boxes).all()
        assert one.captions == other.captions
        assert (once.read(one) == many.read(other)).all()
        assert (one.semantic_map() == other.semantic_map()).all()


def test_every_cache_is_timed_and_the_processes_are_weighed(scenes: Path, tmp_path: Path) -> None:
    command = [str(scenes), "--split", "train", "--images", "12", "--input-size", "64", "--rounds", "2", "--out"]
    assert main([*command, str(tmp_path / "found")]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    rows = {(row["cache"], row["mosaic"]): row for row in report["speed"]}
    assert set(rows) == {(cache, mosaic) for cache in ("off", "ram", "disk") for mosaic in ("default", "always")}
    assert all(len(row["samples_ms"]) == 2 and row["images_per_second_and_core"] > 0 for row in rows.values())
    assert [row["truths"] for row in report["memory"]] == ["not looked at", "Python's objects", "packed"]
    assert all(len(row["own_mb"]) == WORKERS and min(row["own_mb"]) >= 0 for row in report["memory"])
    assert "| ram | always | 12 |" in (tmp_path / "found.md").read_text()


def test_data_that_cannot_be_opened_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "found")]) != 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "nowhere" in errors[0]
    assert not list(tmp_path.glob("found*"))
