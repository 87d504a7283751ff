"""The study of quantisers, on a network that was never trained and without NNCF."""

from __future__ import annotations

import pytest
from yolor_edge.benchmarks.studies import quantisers

from ...export.exported import Exported


def test_every_quantiser_that_is_there_is_compared_at_every_head(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisers, "find_spec", lambda name: None)
    pictures = exported.data / "train"
    rows = quantisers.measure(exported.bundle, pictures, pictures, limit=2)
    assert [row["quantiser"] for row in rows] == [
        *(
            f"ours, {dialect}, {method}"
            for dialect in ("s8s8", "u8s8", "openvino")
            for method in ("percentile", "between", "minmax")
        ),
        "ONNX Runtime, u8s8, minmax",
    ]
    for row in rows:
        assert set(row["heads"]) == set(rows[0]["heads"]) >= {"class_logits", "prototypes", "caption_memory"}
        assert all(0 < figure["all"] < 90 for figure in row["heads"].values())
    text = quantisers.report_text({"network": "random", "command": "python", "rows": rows})
    assert len([line for line in text.splitlines() if line.startswith("| ours")]) == 9
