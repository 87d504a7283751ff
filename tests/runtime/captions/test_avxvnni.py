"""The caption kernels for AVX-VNNI, which desktop processors have and servers mostly lack."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from yolor_edge.runtime import _native

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@needs("objdump")
def test_the_extension_holds_both_codings_of_the_instruction() -> None:
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _native.__file__], capture_output=True, text=True, check=True
    ).stdout
    narrow = re.findall(r"(\{vex\} )?vpdpbusd +[^\n]*%ymm\d+,%ymm\d+,%ymm\d+", listing)
    # As many of one as of the other: they are compiled from the same lines.
    codings = narrow.count("{vex} "), narrow.count("")
    assert codings[0] == codings[1] > 50


@pytest.mark.slow
@needs("make", "g++")
@pytest.mark.skipif("avx2" not in _native.decoder_kernels(), reason="needs a processor with AVX2")
def test_emulated_they_give_the_same_answers(tmp_path: Path) -> None:
    test = tmp_path / "native" / "test-decoder"
    done = subprocess.run(
        ["make", str(test), f"BUILD={tmp_path}", "CXXFLAGS=-O1"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # It compares the answers of all kernels, and says where two differ.
    done = subprocess.run([test, "write", tmp_path / "answers"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"decoder: avxvnni(?:, (\d+) instructions of it emulated)?", done.stdout)
    assert found is not None
    assert ("avxvnni" in _native.decoder_kernels()) != (found[1] is not None and int(found[1]) > 100_000)
