"""Prints constraints for pip that hold what the runtime needs at the oldest releases that pyproject.toml allows.

python scripts/lowest.py opencv onnxruntime > constraints      "numpy>=1.21.5" becomes "numpy==1.21.*"
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(extras: list[str]) -> list[str]:
    """One constraint for each requirement of the runtime and of these extras."""
    text = PROJECT.read_text(encoding="utf-8")
    lines = re.findall(rf"^(?:dependencies|{'|'.join(map(re.escape, extras))}) = \[(.*?)\]$", text, re.M | re.S)
    found = re.findall(r'"([\w-]+)>=(\d+\.\d+)[^"]*"', "\n".join(lines))
    # Of several bounds of one package the highest counts.
    bounds = dict(sorted(found, key=lambda one: (one[0], [int(number) for number in one[1].split(".")])))
    return [f"{name}=={release}.*" for name, release in bounds.items()]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
