"""The benchmark of the GPU's pipeline, on a pretended GPU: its figures mean nothing there, its comparisons do."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.benchmarks.studies import device_pipeline

from ...runtime.tiny_bundle import write_tiny_bundle
from ..engines import add_engine


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_pipeline, "LAUNCHES", 2)
    add_engine(write_tiny_bundle(tmp_path / "tiny"))
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        image = np.random.default_rng(seed).integers(0, 256, (40, 60 + seed, 3), np.uint8)
        image[5:25, 10:40] = (0, 0, 255)
        cv2.imwrite(str(tmp_path / "pictures" / f"{seed}.png"), image)
    out = tmp_path / "report.json"
    given = [str(tmp_path / "tiny"), "--images", str(tmp_path / "pictures"), "--precision", "fp32", "--out", str(out)]
    code = device_pipeline.main([*given, "--runs", "4", "--warmup", "1"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "All answers are equal to the CPU's, bit for bit." in printed
    report = json.loads(out.read_text())
    assert report["command"].startswith("python -m yolor_edge.benchmarks.studies.device_pipeline ")
    assert report["differences"] == []
    assert report["device"]["name"] == "Pretended GPU"
    assert set(report["stages"]) == {"letterbox", "network", "boxes", "masks", "semantic"}
    assert all(times["gpu_median_ms"] > 0 for times in report["stages"].values())
    assert {name for name, times in report["stages"].items() if times["cpu_median_ms"] is None} == {"network"}
    assert {len(samples) for samples in report["samples_ms"].values()} == {4}
    assert report["ratio"] == report["median_ms"]["end_to_end"] / report["median_ms"]["engine"]
    assert report["memory"]["used_bytes"] > 0


def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.zeros((2, 4), np.float32)
    same = {"boxes": boxes, "scores": boxes[0], "class_ids": boxes[0], "semantic_map": np.zeros((3, 3), np.uint8)}
    other = {**same, "boxes": boxes + 1, "semantic_map": np.zeros((3, 4), np.uint8)}
    assert device_pipeline._differences(same, same) == []
    assert device_pipeline._differences(same, other) == [
        "boxes differs in 8 of 8 values",
        "semantic_map has shape (3, 3) on the GPU, (3, 4) on the CPU",
    ]
