"""Where a graph was scored, and what is said where it runs elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.backends import scored
from yolor_edge.runtime.backends.scored import scored_on, unscored
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.environment import machine

HERE = {"backend": "onnxruntime", "version": "1.32.0", "cpu": "AVX-512 with VNNI"}


def with_scores(bundle: Bundle, kind: str, *records: Any) -> Bundle:
    return replace(bundle, accuracy={kind: {"scores": {"mIoU": 0.5}, "scored_on": list(records)}})


def test_a_graph_that_was_scored_here_needs_no_word(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "cpu_kind", lambda: "AVX-512 with VNNI")
    bundle = with_scores(tiny_bundle, "int8-u8s8", HERE)
    assert unscored(bundle, "onnxruntime", "int8") == ""
    assert unscored(tiny_bundle, "onnxruntime", "fp32") == ""
    assert {*scored_on("onnxruntime")} == {*HERE} and scored_on("onnxruntime")["cpu"] == "AVX-512 with VNNI"


def test_another_backend_another_cpu_and_no_scores_at_all(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "cpu_kind", lambda: "AVX2 without VNNI")
    cure = f"; yolor-edge evaluate {tiny_bundle.path} --data DATA --backend"
    bundle = with_scores(tiny_bundle, "int8-s8s8", HERE)
    where = "onnxruntime 1.32.0 (AVX-512 with VNNI)"
    assert unscored(bundle, "tensorrt", "int8") == (
        f"int8-s8s8 was scored in {where}, not in tensorrt{cure} tensorrt --precision int8 scores it here"
    )
    never = "was never scored, its bundle was made without a data set"
    assert unscored(bundle, "onnxruntime", "int8").startswith(f"int8 {never}{cure} onnxruntime")
    bundle = with_scores(tiny_bundle, "int8-u8s8", HERE)
    found = unscored(bundle, "onnxruntime", "int8")
    assert found.startswith(f"int8-u8s8 was scored in {where}, and this CPU has no VNNI (AVX2 without VNNI): ")
    both = with_scores(tiny_bundle, "int8-u8s8", HERE, {**HERE, "cpu": "AVX2 without VNNI"})
    assert unscored(both, "onnxruntime", "int8") == ""


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", "sse2 avx2", "AVX2 without VNNI"),
        ("x86_64", "sse2 avx2 avx_vnni", "AVX2 with VNNI"),
        ("x86_64", "avx2 avx512f", "AVX-512 without VNNI"),
        ("x86_64", "avx2 avx512f avx512_vnni", "AVX-512 with VNNI"),
        ("aarch64", "asimd", "aarch64"),
    ],
)
def test_kinds_of_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, flags: str, expected: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"model name : Test CPU\nflags : {flags}\n")
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    assert machine.cpu_kind(tmp_path) == expected
