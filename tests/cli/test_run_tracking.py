"""`yolor-edge run` with tracking: ids and counts from the command line, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import Bundle

from ..runtime.tiny_bundle import coloured_patch, write_tiny_bundle


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A red patch that goes down."""
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (96, 64))
    for i in range(7):
        writer.write(coloured_patch((64, 96), (4 * i, 32, 4 * i + 24, 64), "red"))
    writer.release()
    return path


def test_lines_and_zones_are_counted(
    tiny_bundle: Bundle, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["run", str(tiny_bundle.path), str(video), "--out", str(out), "--no-pictures", "--tasks", "boxes"]
    regions = ["--line", "gate=0,26,96,26", "--line", "0,60,96,60", "--zone", "0,0,96,0,96,20,0,20"]
    assert main([*command, *regions, "--anchor", "centre", "--track-options", "lost_seconds=1"]) == 0
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert list(lines[-1]) == ["counts"]
    assert list(lines[-1]["counts"]) == ["gate", "line 2", "zone 1"]
    assert lines[-1]["counts"]["gate"]["in"]["red"] > 0
    assert any("track_id" in found for line in lines[:-1] for found in line["objects"])
    said = capsys.readouterr().out
    assert f"; gate: {lines[-1]['counts']['gate']['in']['red']} in, 0 out; " in said


def test_mistakes_are_one_line(
    tiny_bundle: Bundle, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(tiny_bundle.path), str(video), "--out", str(tmp_path / "out")]
    for options, message in (
        (["--line", "0,0,10"], "--line: line must be x1,y1,x2,y2 or NAME=x1,y1,x2,y2, got '0,0,10'"),
        (["--zone", "0,0,10,10"], "--zone: zone must be at least three points around an area, got 0,0,10,10"),
        (["--track-options", "lost=3"], "--track-options: there is no option 'lost' of tracking"),
        (["--track-options", "high_score=7"], "--track-options: high_score must be from 0 to 1, got 7.0"),
        (["--line", "a=0,0,9,9", "--zone", "a=0,0,9,0,9,9"], "two lines or zones are called 'a'"),
        (["--track", "--tasks", "caption"], "--track needs boxes"),
        (["--line", "0,0,9,9", "--tasks", "caption"], "needs boxes"),
    ):
        assert main([*command, *options]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
