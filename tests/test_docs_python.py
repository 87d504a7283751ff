"""The page of the Python API: its blocks run, in order, and its table has every drawing option with its default."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.drawing import DrawOptions
from yolor_edge.runtime.images.image_files import read_image, write_image

from .runtime.tiny_bundle import coloured_patch, write_tiny_bundle

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()


def test_the_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bundle(tmp_path / "bundles" / "mine")
    write_image(tmp_path / "street.jpg", coloured_patch((120, 160), (20, 30, 90, 100), "red"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 9
    space: dict[str, Any] = {}
    for block in blocks:
        if "import supervision" in block:
            try:
                import supervision  # noqa: F401
            except ImportError:
                continue
        exec(compile(block, "docs/python.md", "exec"), space)
    printed = capsys.readouterr().out
    assert printed.startswith("{0: 'red', 1: 'green', 2: 'blue'}\nResult(160x120 pixels, ")
    assert len(space["result"]) > 0
    assert len(space["best"]) == 3
    assert len(space["some"]) == 2
    assert len(space["reds"]) == len(space["result"]) == len(space["entries"])
    assert read_image(tmp_path / "drawing.png").shape == read_image(tmp_path / "again.png").shape == (120, 160, 3)
    assert read_image(tmp_path / "report.jpg").shape[1] == 2 * 640 + 6


def test_the_table_has_every_option_with_its_default() -> None:
    described: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", PAGE, re.MULTILINE):
        found = re.findall(r"`(\w+)`", names)
        values = defaults.split(", ")
        described.update(zip(found, values * len(found) if len(values) == 1 else values, strict=True))
    assert described == {one.name: str(one.default) for one in fields(DrawOptions)}
