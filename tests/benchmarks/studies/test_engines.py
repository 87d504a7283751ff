"""The benchmark of engines, on a small input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies import engines

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not there on this platform")


def test_every_precision_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert engines.main(["--sizes", "n", "--input-size", "64x96", "--out", str(out)]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    rows = {row["precision"]: row for row in report["rows"]}
    assert list(rows) == list(engines.KINDS)
    assert [set(row["layers"]) for row in rows.values()] == [{"fp32"}, {"fp16"}, {"int8", "fp16"}]
    assert rows["fp16"]["engine_bytes"] < rows["fp32"]["engine_bytes"]
    assert (report["state"], report["targets"]) == ("built only, not run on a device", ["sm_86"])
    assert out.with_suffix(".md").read_text() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "x"], "sizes are some of n, s, m, l"),
        (["--input-size", "65x96"], "65"),
        (["--target", "sm_12"], "cannot build for sm_12"),
    ],
)
def test_misuse_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        engines.main([*arguments, "--out", str(tmp_path / "report")])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
