"""The pages for robots and programs: their Python is Python, and every field of a JSON line is described, in order."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yolor_edge.runtime as runtime
from yolor_edge.runtime import Frame, PixelLayout
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import load
from yolor_edge.runtime.options import LoadOptions
from yolor_edge.runtime.runner.runner import run

from .runtime.tiny_bundle import coloured_patch, write_tiny_bundle

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_the_python_on_the_page_is_python_and_names_what_there_is() -> None:
    page = (DOCS / "robot.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "yolor_edge.runtime":
                assert {name.name for name in node.names} <= set(runtime.__all__)
    for layout in get_args(PixelLayout):
        assert f'`"{layout}"`' in page
    for field in ("captured_ns", "captured_unix_ns", "position_s"):
        assert f"| `{field}` |" in page
        assert field in Frame.__dataclass_fields__


def described_fields(page: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)


def test_every_field_of_a_line_is_described_in_its_order(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", coloured_patch((64, 96), (16, 32, 48, 64)))
    (tmp_path / "in" / "b.png").touch()
    run(tiny_bundle, tmp_path / "in", tmp_path / "out", load=LoadOptions(threads=1))
    good, bad = (json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    page = (DOCS / "json.md").read_text()
    main, objects, caption = (
        described_fields(part) for part in re.split(r"\*\*(?:Each of `objects`|`caption`)\*\*", page)
    )
    assert_in_order(list(good), main)
    assert_in_order(list(bad), [name for name in main if name in ("source", "index", "error")])
    assert_in_order(list(good["objects"][0]), objects)
    for name in (*good["semantic"][0], *good["timings_ms"], *good["objects"][0]["mask"]):
        assert f"`{name}`" in page
    with load(tiny_bundle, threads=1) as model:
        options = CaptionOptions(n_best=2, budget_ms=0.0)
        found: dict[str, Any] = model.predict(np.zeros((64, 96, 3), np.uint8), caption=options).to_json()["caption"]
    assert_in_order(list(found), caption)


def assert_in_order(found: list[str], described: list[str]) -> None:
    assert found == [name for name in described if name in found]
