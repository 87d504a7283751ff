"""`yolor-edge train` as torchrun starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


def test_a_mistake_is_told_by_one_process(scenes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "yolor_edge", "train", "--data", str(scenes), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--set", "batch_size=1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1  # torchrun's own
    told = [line for line in done.stderr.splitlines() if line.startswith("yolor-edge:")]
    assert len(told) == 1, done.stderr
    assert "--set batch_size must be at least the number of processes, which is 2, got 1" in told[0]
    assert "exitcode  : 2" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
