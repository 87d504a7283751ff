"""Where a benchmark writes is known to be possible before it measures."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from yolor_edge.benchmarks.report import footprint
from yolor_edge.benchmarks.report.report_files import output_file, output_folder, output_stem
from yolor_edge.benchmarks.studies import device_pipeline, precisions


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    assert output_file(str(tmp_path / "old.json")).read_text() == "old"
    assert output_stem(f"{tmp_path}/new") == f"{tmp_path}/new"
    assert output_folder(f"{tmp_path}/deep/er") == tmp_path / "deep" / "er"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "er", "old.json"]


@pytest.mark.parametrize("check", [output_file, output_stem, output_folder])
def test_a_place_that_cannot_is_told(check: object, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert callable(check)
    with pytest.raises(argparse.ArgumentTypeError, match=r"cannot be written \(.*\); choose another place"):
        check(f"{tmp_path}/file/report")
    with pytest.raises(argparse.ArgumentTypeError, match=r"cannot be written \(File name too long\); choose"):
        check(f"{tmp_path}/{'x' * 300}")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder, expected the name of a file to write"):
        output_file(str(tmp_path))


@pytest.mark.parametrize(
    ("main", "given"),
    [
        (device_pipeline.main, ["bundle", "--images", "pictures"]),
        (footprint.main, []),
        (precisions.main, []),
    ],
)
def test_a_benchmark_says_so_before_it_begins(
    main: object, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert callable(main)
    with pytest.raises(SystemExit) as left:
        main([*given, "--out", f"{tmp_path}/file/report.json"])
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: argument --out: " in last and "choose another place" in last
