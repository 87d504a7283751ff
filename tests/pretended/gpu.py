"""Running checks in a process of its own that sees a pretended GPU: see `tests/native/fake_libcuda.cpp`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..runtime.cuda.emulated import build as build_kernels

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "native" / "fake_libcuda.cpp"
KERNELS = "kernels.image"  # in the driver's folder


def build_driver(folder: Path) -> Path:
    """Compile the pretended driver, and the kernels for it, into a folder: what LD_LIBRARY_PATH has to begin with."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C++ compiler")
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1"), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    (folder / KERNELS).write_bytes(b"host module " + os.fsencode(build_kernels(folder)))
    return folder


def environment(driver: Path, binding: str = "cuda-python", **more: str) -> dict[str, str]:
    """Of a process that sees the pretended GPU, and TensorRT in both flavours, through one binding."""
    packages = [str(FOLDER / "packages")]
    if binding == "pycuda":
        packages.append(str(FOLDER / "pycuda_package"))
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([str(driver), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep),
        "PYTHONPATH": os.pathsep.join([*packages, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PRETENDED_BINDING": binding,
        "YOLOR_EDGE_CUDA_KERNELS": str(driver / KERNELS),
        **more,
    }


def check(driver: Path, file: str, binding: str = "cuda-python", **more: str) -> None:
    """Run one file of `tests/pretended/checks`, with every test in it."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / "checks" / file)]
    done = subprocess.run(
        command, env=environment(driver, binding, **more), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def run(driver: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `yolor-edge` there."""
    code = "import sys; from yolor_edge.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *command],
        env=environment(driver, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )
