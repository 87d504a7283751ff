"""The kernels on 64-bit ARM, emulated: compiled without a warning, and the same answers to the bit as here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ("make", "g++", "aarch64-linux-gnu-g++", "qemu-aarch64")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_emulated_arm_gives_the_same_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "aarch64", f"BUILD={tmp_path}", "CXXFLAGS=-O1"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    answers = [(tmp_path / machine / "kernels.answers").read_bytes() for machine in ("native", "aarch64")]
    assert len(answers[0]) > 1 << 20
    assert answers[0] == answers[1]
    # Once for an old processor, once for one with the dot product instructions.
    assert re.findall(r"decoder: (neon\w*), the best here", done.stdout) == ["neon", "neondot"]
    assert done.stdout.count("compared to the bit: all agree") == 2
