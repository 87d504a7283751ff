"""What a build takes of a machine, and the words for where it is not there."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path

import pytest
from yolor_edge.export.engines import build_needs
from yolor_edge.export.engines.build_needs import (
    check_room,
    free_disk_bytes,
    free_memory_mib,
    less_memory,
    needs_of,
    no_room,
    workspace_limit_mib,
)
from yolor_edge.runtime.errors import EngineBuildError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "vision.fp16.onnx"
    file.write_bytes(bytes(5_000_000))
    return file


def with_free(monkeypatch: pytest.MonkeyPatch, disk: int, memory: int | None) -> None:
    monkeypatch.setattr(build_needs.shutil, "disk_usage", lambda path: Usage(disk, 0, disk))
    monkeypatch.setattr(build_needs, "free_memory_mib", lambda: memory)


def test_needs_grow_with_the_graph_and_depend_on_the_builder(graph: Path) -> None:
    rtx, full = needs_of("tensorrt-rtx", graph), needs_of("tensorrt", graph)
    assert rtx.memory_mib < full.memory_mib
    assert rtx.least_disk_bytes == 5_000_000 < rtx.disk_bytes
    graph.write_bytes(bytes(50_000_000))
    assert needs_of("tensorrt-rtx", graph).memory_mib > rtx.memory_mib + 50


def test_what_is_taken_and_what_is_free_is_one_line(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 3_000_000_000, 2048)
    needs = needs_of("tensorrt-rtx", graph)
    assert check_room(needs, graph.parent / "engines", graph.name, False, None) == [
        "building takes about 309 MiB of memory and 17.0 MB of disk; free are 2048 MiB and 3.0 GB"
    ]
    with_free(monkeypatch, 30_000_000, None)
    (line,) = check_room(needs, graph.parent, graph.name, False, None)
    assert line.endswith("; free are 30.0 MB")


def test_too_little_memory_is_a_warning_with_the_cure(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 3_000_000_000, 100)
    _, warning = check_room(needs_of("tensorrt-rtx", graph), graph.parent, graph.name, False, None)
    assert warning == (
        "warning: 100 MiB of memory are free, so the system may end the builder; if it does, build in "
        "low-memory mode, and with a workspace of 128 MiB if that is not enough"
    )


def test_a_disk_that_cannot_hold_the_engine_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 4_000_000, 2048)
    folder = graph.parent / "engines"
    message = (
        f"{folder}: the engine of vision.fp16.onnx takes at least 5.0 MB and 4.0 MB are free on this disk; make room, "
        "such as by removing engines of other targets, or copy the bundle to another disk"
    )
    with pytest.raises(EngineBuildError, match=f"^{re.escape(message)}$"):
        check_room(needs_of("tensorrt-rtx", graph), folder, graph.name, False, None)
    assert "takes 9 MB and 1.5 GB are free" in no_room(folder, graph.name, "9 MB", 1_500_000_000)


@pytest.mark.parametrize(
    ("low_memory", "workspace", "limit", "cure"),
    [
        (False, None, None, "build in low-memory mode, and with a workspace of 128 MiB if that is not enough"),
        (False, 64, 64, "build in low-memory mode, and with a workspace of 32 MiB if that is not enough"),
        (True, None, 256, "build with a workspace of 128 MiB, or end what else holds memory or add swap"),
        (True, 64, 64, "build with a workspace of 32 MiB, or end what else holds memory or add swap"),
        (True, 20, 20, "end what else holds memory or add swap"),
    ],
)
def test_the_cure_is_the_next_smaller_build(
    low_memory: bool, workspace: int | None, limit: int | None, cure: str
) -> None:
    assert workspace_limit_mib(low_memory, workspace) == limit
    assert less_memory(low_memory, workspace) == cure


def test_what_is_free_here(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path / "not" / "there") == pytest.approx(free_disk_bytes(tmp_path), rel=0.1)
    memory = free_memory_mib()
    assert memory is None or 0 < memory < 1 << 24
