"""The comparison of the native caption decoder's instruction sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies.caption_decoder import main
from yolor_edge.runtime import _native


@pytest.mark.slow
def test_instruction_sets_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOR_EDGE_SIMD", "avx2")
    out = tmp_path / "kernels.json"
    kernels = ["portable", _native.decoder_kernels()[-1]]
    chosen = ["--kernels", *kernels, "--sizes", "demo", "--beams", "2", "--tokens", "4", "--rounds", "1"]
    for more in ([], ["--append"]):
        main([*chosen, "--out", str(out), *more])
    report = json.loads(out.read_text())
    assert len(report["command"]) == 2
    assert report["limits"] == {"YOLOR_EDGE_SIMD": "avx2"}
    assert [(row["decoder"], row["precision"], row["beam_size"]) for row in report["kernels"]] == [
        ("demo", "fp32", 2),
        ("demo", "int8", 2),
    ]
    for row in report["kernels"]:
        assert list(row["median_ms"]) == list(dict.fromkeys(kernels))
        assert all(row["least_ms"][one] <= row["median_ms"][one] for one in kernels)
