"""The study of a step: figures that add up, and nothing left of its clocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from yolor_edge.benchmarks.studies.training_step import main
from yolor_edge.train.losses import DenseLoss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_small_measurement(tmp_path: Path) -> None:
    out, loss, backward = tmp_path / "step.json", DenseLoss.__call__, torch.Tensor.backward
    options = "--input-size 64 --batch 1 --objects 3 --rounds 1 --threads 1 --amp off"
    assert main(["--out", str(out), *options.split()]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["command"].endswith(options)
    (row,) = report["rows"]
    assert row["bare_of_step"] == pytest.approx(row["median_ms"]["bare"] / row["median_ms"]["step"], abs=0.01)
    assert set(row["parts_ms"]) == {"forward", "losses", "backward", "optimiser", "average", "rest"}
    assert all(time > 0 for time in row["parts_ms"].values())
    assert DenseLoss.__call__ is loss
    assert torch.Tensor.backward is backward
