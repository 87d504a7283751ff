"""The runtime stays light, checked in fresh interpreters: no torch, and no backend or OpenCV before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.runtime.bundle.bundle import Bundle

STAGES = ("train", "export", "benchmarks")


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_runtime_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from yolor_edge.runtime import Model, load\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'safetensors', 'pycocotools', 'tensorrt', 'pycuda'}\n"
        "print(sorted(heavy & set(sys.modules)), 'cv2' in sys.modules)"
    )
    assert run_python(code) == "[] False"


def test_importing_the_runtime_loads_few_modules() -> None:
    """What it adds to Python and numpy: its own files and a handful of the standard library's."""
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "from yolor_edge.runtime import Model, load\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    added = set(ast.literal_eval(run_python(code)))
    assert "yolor_edge" in added
    outside = {name for name in added - set(sys.stdlib_module_names) if not name.startswith("_")}
    assert outside == {"numpy", "yolor_edge"}


def test_importing_every_file_of_the_runtime_needs_no_other_stage(tiny_bundle: Bundle) -> None:
    code = (
        "import importlib, pkgutil, sys, yolor_edge.runtime as runtime\n"
        "for module in pkgutil.iter_modules(runtime.__path__, 'yolor_edge.runtime.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print([m for m in sys.modules if m.startswith({tuple('yolor_edge.' + s for s in STAGES)})])\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code) == "[]\nFalse"


def test_loading_and_predicting_leaves_torch_and_opencv_out(tiny_bundle: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.full((50, 70, 3), 114, np.uint8))
    code = (
        "import sys, numpy\n"
        "from yolor_edge.runtime import load\n"
        "with load(sys.argv[1], threads=1) as model:\n"
        "    result = model.predict(numpy.load(sys.argv[2]))\n"
        "print(result.semantic_map.shape, [name in sys.modules for name in ('torch', 'cv2', 'onnxruntime')])"
    )
    assert run_python(code, str(tiny_bundle.path), str(tmp_path / "image.npy")) == "(50, 70) [False, False, True]"


@pytest.mark.parametrize(("backend", "least"), [("onnxruntime", "1.18"), ("openvino", "2025.4")])
def test_a_missing_backend_package_is_named_with_what_installs_it(
    tiny_bundle: Bundle, backend: str, least: str
) -> None:
    code = (
        "import sys\n"
        "sys.modules[sys.argv[2]] = None\n"
        "from yolor_edge.runtime import BackendError, load\n"
        "try:\n"
        "    load(sys.argv[1], sys.argv[2])\n"
        "except BackendError as error:\n"
        "    print(error)"
    )
    assert run_python(code, str(tiny_bundle.path), backend) == (
        f'backend "{backend}" needs the package {backend}; install it: pip install "{backend}>={least}"'
    )


def test_a_backend_package_that_does_not_load_is_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')\n")
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from yolor_edge.runtime import BackendError, load\n"
        "try:\n"
        "    load(sys.argv[1])\n"
        "except BackendError as error:\n"
        "    print(error)"
    )
    assert run_python(code, str(tiny_bundle.path), str(tmp_path)) == (
        'backend "onnxruntime": its package is installed but does not load (libgomp.so.1: cannot open shared object '
        "file); install it again, or see yolor-edge doctor"
    )
