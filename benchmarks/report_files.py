"""The two files of a benchmark: every figure as JSON, and a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.bundle import readable_json
from ..runtime.files import write_atomically


def write_both(out: str, report: Mapping[str, Any], text: str) -> None:
    """Write OUT.json and OUT.md, and print the latter."""
    write_atomically(Path(f"{out}.json"), readable_json(report) + "\n")
    write_atomically(Path(f"{out}.md"), text)
    print(text, end="")
