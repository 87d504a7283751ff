"""The page about tracking: its blocks run, in order, and its table has every option with its default."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import pytest
from yolor_edge.runtime import TrackerOptions
from yolor_edge.runtime.images.image_files import write_image

from .runtime.tiny_bundle import coloured_patch, write_tiny_bundle

PAGE = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text()


def test_the_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_bundle(tmp_path / "bundles" / "mine")
    write_image(tmp_path / "street.jpg", coloured_patch((120, 160), (20, 30, 90, 100), "red"))
    writer = cv2.VideoWriter(str(tmp_path / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 120))
    for i in range(6):
        writer.write(coloured_patch((120, 160), (8 * i, 40, 8 * i + 40, 120), "red"))
    writer.release()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    space: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/tracking.md", "exec"), space)
    assert sum(space["counter"].counts()["gate"]["in"].values()) > 0
    assert max(space["ids"]) >= 1
    assert max(space["result"].track_ids) >= 1


def test_the_table_has_every_option_with_its_default() -> None:
    described = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert described == {one.name: str(one.default) for one in fields(TrackerOptions)}
