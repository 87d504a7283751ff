"""The study of tracking: what is found follows what is true, and trackers are asked in turns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.benchmarks.studies import tracking
from yolor_edge.evaluation.scenes.scene_videos import TrackTruth


def test_hidden_objects_are_not_found_and_half_hidden_ones_are_weak() -> None:
    rng = np.random.default_rng(0)
    truths = [TrackTruth(1, 3, (100, 100, 160, 160), 1.0), TrackTruth(2, 5, (300, 100, 360, 160), 0.3)]
    hidden = TrackTruth(3, 6, (500, 100, 560, 160), 0.05)
    scores: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(200):
        boxes, found, class_ids = tracking.found_in([*truths, hidden], rng)
        assert (np.diff(found) <= 0).all()
        overlaps = tracking._overlaps(np.array([truth.box for truth in (*truths, hidden)], float), boxes.astype(float))
        for row, truth in enumerate(truths if len(boxes) else ()):
            best = int(overlaps[row].argmax())
            if overlaps[row, best] > 0.5 and class_ids[best] == truth.class_id:
                scores[truth.track].append(float(found[best]))
    assert len(scores[1]) > len(scores[2]) > 60
    assert np.median(scores[1]) > 0.75 > 0.5 > np.median(scores[2])


def test_ids_and_truths_are_numbered_for_trackeval() -> None:
    footage = tracking.drawn_sequence(1, 0, 3, 3, "still")
    ids, times = tracking.followed(footage, {"ours": tracking.ours})
    assert [len(each) for each in ids["ours"]] == [len(boxes) for boxes in footage.boxes]
    assert all(clock > 0 and core >= 0 for clock, core in times["ours"])
    data = tracking._for_trackeval(footage, ids["ours"])
    assert data["num_timesteps"] == 3
    for true, own, overlaps in zip(data["gt_ids"], data["tracker_ids"], data["similarity_scores"], strict=True):
        assert overlaps.shape == (len(true), len(own))
    used = np.unique(np.concatenate(data["tracker_ids"]))
    assert used.tolist() == list(range(data["num_tracker_ids"]))


def test_the_command_writes_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tracking.json"
    tracking.main(["--still", "0", "--moving", "0", "--crowd", "5", "--out", str(out)])
    report = json.loads(out.read_text())
    crowd = [row for row in report["rows"] if row["camera"] == "crowd of 5"]
    assert {"yolor-edge", "yolor-edge, per class"} <= {row["tracker"] for row in crowd}
    assert all(row["median_ms"] > 0 for row in crowd)
    assert "crowd of 5" in capsys.readouterr().out
