"""Writes docs/settings.md: every setting of `yolor-edge train --set`, from the docstring of `TrainConfig`.

python scripts/settings.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from yolor_edge.train.config import TrainConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_HEAD = """# Settings of training

`yolor-edge train --set NAME=VALUE` changes one of these; `--set` can be repeated. `--epochs E` is short
for `--set epochs=E`. What a run was trained with stands in its `run.json` and in its checkpoint. This page is
written by `scripts/settings.py`.

| name | default | meaning |
| --- | --- | --- |
"""


def meanings() -> dict[str, str]:
    """What the docstring says of each field, in the order of the fields.

    Raises:
        ValueError: If it does not say it of exactly these fields.
    """
    text = inspect.cleandoc(TrainConfig.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n {4}(?=[a-z_0-9, ]+: )", "\n" + text):
        names, separator, meaning = entry.strip().partition(": ")
        if separator:
            found.update({name.strip(): " ".join(meaning.split()) for name in names.split(",")})
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    if sorted(found) != sorted(fields):
        different = ", ".join(sorted(set(found) ^ set(fields)))
        raise ValueError(f"the docstring of TrainConfig and its fields differ in {different}")
    return {name: found[name] for name in fields}


def page() -> str:
    """The whole page."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return _HEAD + "".join(f"| `{name}` | `{defaults[name]}` | {text} |\n" for name, text in meanings().items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
