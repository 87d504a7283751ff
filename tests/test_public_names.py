"""The public names of each stage: there, imported lazily, and the same for people, type checkers and `import *`."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("benchmarks", "evaluation", "export", "runtime", "train")


@pytest.mark.parametrize("stage", STAGES)
def test_every_public_name_is_there(stage: str) -> None:
    package = importlib.import_module(f"yolor_edge.{stage}")
    assert package.__all__ == dir(package)
    for name in dir(package):
        assert getattr(package, name) is not None
        assert not isinstance(getattr(package, name), type(sys)), f"{name} is a module"
    with pytest.raises(AttributeError, match=f"module 'yolor_edge.{stage}' has no attribute 'nothing'; it has "):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("stage", STAGES)
def test_type_checkers_see_the_same_names(stage: str) -> None:
    tree = ast.parse((ROOT / stage / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(seen) == dir(importlib.import_module(f"yolor_edge.{stage}"))


def test_importing_every_stage_imports_next_to_nothing() -> None:
    code = (
        "import sys\n"
        f"import {', '.join(f'yolor_edge.{stage}' for stage in STAGES)}\n"
        "print(sorted({'numpy', 'torch', 'cv2', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_package_imports_from_the_root_of_the_clone() -> None:
    code = "import yolor_edge.runtime, yolor_edge.train; print(yolor_edge.runtime.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "load\n", done.stderr


def test_a_package_that_is_missing_is_one_line_with_the_cure() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import yolor_edge.train\n"
        "try:\n"
        "    yolor_edge.train.fit\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("yolor_edge.train.fit needs the package torch; install it: pip install "), done.stderr
