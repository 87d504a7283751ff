"""docs/settings.md says what the settings of training are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_docstring_says() -> None:
    script = ROOT / "scripts" / "settings.py"
    if not script.is_file() or not (ROOT / "docs").is_dir():
        pytest.skip("the page lies in the repository")
    spec = importlib.util.spec_from_file_location("settings_page", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert all(meaning.endswith((".", ")")) for meaning in module.meanings().values())
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == module.page(), "run python scripts/settings.py"
