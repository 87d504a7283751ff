"""Writes docs/settings.md: every setting of `yolor-edge train --set`, from the docstring of `TrainConfig`.

python scripts/settings.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from yolor_edge.train.config import TrainConfig, meanings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_HEAD = """# Settings of training

`yolor-edge train --set NAME=VALUE` changes one of these; `--set` can be repeated. `--epochs E` is short
for `--set epochs=E`. A TOML file sets any of them too: `yolor-edge train --config FILE.toml`, with a line
`NAME = VALUE` for each; `--set` wins over the file. Every run writes such a file with all of them, `RUN/config.toml`.
This page is written by `scripts/settings.py`.

| name | default | meaning |
| --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return _HEAD + "".join(f"| `{name}` | `{defaults[name]}` | {text} |\n" for name, text in meanings().items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
