"""The soak and the benchmark of streams, on a few frames of the tiny bundle."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from yolor_edge.benchmarks.studies import soak, streams
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import UsageError


def test_a_few_hundred_frames(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "UNREADABLE_EVERY", 100)
    out = tmp_path / "soak.json"
    # What a process holds moves by some MiB however steady it is: so few frames do not judge it.
    arguments = [str(tiny_bundle.path), "--frames", "300", "--caption-every", "scene-change", "--allowed-mib", "64"]
    before = threading.active_count()
    assert soak.main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["frames"] == 300
    assert report["objects"] > 0
    assert report["threads_left"] == 0
    assert len(report["looks"]) == 100
    assert max(look["threads"] for look in report["looks"]) == before + 3  # two workers and the reader
    assert report["statistics"]["failed"] == 3
    assert report["statistics"]["answered"] == 297
    assert report["python_blocks_early"] > 0
    assert report["python_blocks_late"] > 0
    if soak.bytes_in_use() is not None:
        assert report["malloc_bytes_early"] > 1e6
        assert report["malloc_bytes_late"] > 1e6
    assert report["asked"]["caption_every"] == "scene-change"
    assert "--frames 300" in report["command"]


def test_growth_is_found() -> None:
    looks = [{"frame": float(i), "resident_bytes": 1e8 + 1000.0 * i} for i in range(100)]
    found = soak.judge(looks)
    assert found["growth_bytes"] == 80_000
    assert found["growth_bytes_per_frame"] == 1000
    with pytest.raises(UsageError, match="9 looks at the memory say nothing"):
        soak.judge(looks[:9])


def test_growing_memory_fails_the_soak(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter(range(10**6))
    monkeypatch.setattr(soak, "resident_bytes", lambda: next(held) * 2**20)
    assert soak.main([str(tiny_bundle.path), "--frames", "100"]) == 1


def test_streams_beside_predict(tiny_bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "streams.json"
    streams.main([str(tiny_bundle.path), str(pictures), "--rounds", "2", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["way"] for row in rows] == [
        "predict",
        "stream, 1 in flight",
        "stream, 2 in flight",
        "stream, 2 in flight, a caption every 5",
    ]
    assert rows[0]["gain"] == 1
    assert all(row["frames_per_second"] > 0 and row["total_ms"] > 0 and row["latency_ms"] > 0 for row in rows)
