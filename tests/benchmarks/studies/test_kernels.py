"""The comparison of kernels: its inputs, its reckoning and its table; the timing itself is not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.benchmarks.studies import kernel_inputs, kernels
from yolor_edge.benchmarks.studies import kernel_peers as peers


@pytest.fixture(scope="module")
def heads() -> kernel_inputs.Heads:
    return kernel_inputs.draw_heads(4, 50, 687)


def test_heads_hold_the_candidates_asked_for(heads: kernel_inputs.Heads) -> None:
    assert np.count_nonzero(heads.class_logits > np.log(0.25 / 0.75)) == 687
    assert len(kernels.decode(heads, 0.25)[1]) == 64
    weak = kernel_inputs.with_weak_candidates(heads, 1, 19454)
    assert np.count_nonzero(weak.class_logits > np.log(0.001 / 0.999)) == 19454
    assert len(kernels.decode(weak, 0.001)[1]) == 300


@pytest.mark.parametrize("candidates", [687, 4000])  # beyond 3000 the peer suppresses in numpy
def test_the_peer_of_opencv_finds_the_same_boxes(heads: kernel_inputs.Heads, candidates: int) -> None:
    score = 0.25 if candidates == 687 else 0.001
    chosen = heads if candidates == 687 else kernel_inputs.with_weak_candidates(heads, 2, candidates)
    ours = kernels.decode(chosen, score)
    theirs, cells = peers.boxes_opencv(chosen, score, kernels.IOU, 300)
    assert len(kernels._matched(ours, theirs)) == len(ours[1]) == len(theirs[1])
    masks = peers.masks_opencv(chosen, theirs, cells, kernels.INPUT, (0, 160, 0, 160))
    text = kernels._same_masks(ours, kernels.make_masks(chosen, ours, kernels.INPUT).full(), theirs, masks)
    assert text.startswith("mask IoU 1.0000 median")


def test_a_report_names_the_best_peer_and_who_is_absent() -> None:
    row = kernels.Row(
        "adding", {"ours": lambda: 1}, {"slow": lambda: sum(range(20000)), "fast": lambda: 2}, 0.5, "same"
    )
    row.measure(2)
    summary = row.summary()
    assert summary["best_peer"] == "fast"
    assert summary["calls"] == {"ours": 6, "slow": 6, "fast": 6}
    assert summary["ratio"] == summary["median_ms"]["ours"] / summary["median_ms"]["fast"]
    report = {
        "machine": {"cpu": {"model": "a processor"}},
        "simd_level": "portable",
        "rows": [summary],
        "curves": [{"objects": 3, "median_ms": {"boxes": 0.25}}, {"picture": [4, 5], "median_ms": {"letterbox": 1.0}}],
        "absent_peers": ["torch"],
    }
    text = kernels.report_text(json.loads(json.dumps(report)))
    assert "| adding | " in text
    assert "| 3 objects | boxes 0.25 |" in text
    assert "| 5 x 4 | letterbox 1 |" in text
    assert "- adding: same" in text
    assert "Not installed, so left out: torch." in text


def test_a_peer_that_finds_others_is_not_measured(heads: kernel_inputs.Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = peers.boxes_opencv

    def one_less(*arguments: Any) -> Any:
        found, cells = honest(*arguments)
        return tuple(part[1:] for part in found), cells[1:]

    monkeypatch.setattr(peers, "boxes_opencv", one_less)
    monkeypatch.setattr(peers.EdgeFirst, "open", lambda: None)
    with pytest.raises(ValueError, match="687: the same detections are asked of everybody, but opencv: 63 detections"):
        kernels.detection_rows(heads, 0.25, "687", {"boxes": 1.0}, is_same_asked=True)
    assert len(kernels.detection_rows(heads, 0.25, "687", {"boxes": 1.0})) == 1


def test_frames_of_every_kind_are_the_same(heads: kernel_inputs.Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.EdgeFirst, "open", lambda: None)
    _, reused, new = kernels.detection_rows(heads, 0.25, "687", {"boxes": 1.0, "frames": 1.0, "own frames": 1.0})
    expected = new.ours["ours"]()
    for _ in range(2):
        np.testing.assert_array_equal(new.ours["ours"](), expected)
        np.testing.assert_array_equal(new.ours["ours, the first time"](), expected)
        np.testing.assert_array_equal(reused.ours["ours"](), expected)
        np.testing.assert_array_equal(reused.ours["ours, as bits"](), np.packbits(expected, axis=2))
        np.testing.assert_array_equal(reused.peers["opencv + numpy"](), new.peers["opencv + numpy"]())


def test_a_sweep_measures_our_kernels_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points = [
        {"objects": 1, "median_ms": {"boxes": 0.5}},
        {"picture": [4, 5], "median_ms": {"letterbox": 1.0}},
    ]
    monkeypatch.setattr(kernels, "curves", lambda rounds: points)
    assert kernels.main(["--sweep", "--rounds", "1", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "kernels.json").read_text())
    assert (report["rows"], report["curves"]) == ([], points)
    assert "| 1 objects | boxes 0.5 |" in (tmp_path / "kernels.md").read_text()
    assert "letterbox" in (tmp_path / "kernels.svg").read_text()


def test_an_absent_package_is_none() -> None:
    assert peers.optional("no_such_package_anywhere") is None
