"""The CUDA kernels run on the CPU: their own sources over tests/native/cuda_emulator.hpp."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.runtime.cuda.kernels.launches import Launch

ROOT = Path(__file__).resolve().parents[3]
FLAGS = (
    "-std=c++17",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-clobbered",
    "-ffp-contract=off",
)


def build(folder: Path) -> Path:
    """The shared library, built into `folder`; skips the test where there is no C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = folder / "cuda_emulated.so"
    source = ROOT / "tests" / "native" / "cuda_emulated.cpp"
    command = [
        compiler,
        *FLAGS,
        "-fvisibility=hidden",
        "-fPIC",
        "-shared",
        f"-I{ROOT / 'runtime' / 'csrc'}",
        "-o",
        str(library),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return library


class Emulator:
    """Runs launches on memory of the host.

    Args:
        library: From `build`.
    """

    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))
        self._half_of = self.library.half_of
        self._half_of.argtypes, self._half_of.restype = [ctypes.c_float], ctypes.c_uint16
        self._float_of = self.library.float_of
        self._float_of.argtypes, self._float_of.restype = [ctypes.c_uint16], ctypes.c_float

    def run(self, *launches: Launch) -> None:
        """One after the other."""
        for launch in launches:
            self.call(launch.name, launch.grid, launch.block, [launch.parameters])

    def call(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[ctypes.Structure]) -> None:
        """A kernel by name; its one structure must be of the size that the kernel takes."""
        (argument,) = arguments
        assert ctypes.c_uint.in_dll(self.library, f"{name}_sizes").value == ctypes.sizeof(argument), name
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        self.library[name](pointers, (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), 0)

    def set_order(self, seed: int) -> None:
        """Run threads and blocks in another order."""
        self.library.set_order(seed)

    def half_of(self, value: float) -> int:
        """The bits of the nearest float16, as the kernels round."""
        return self._half_of(value)

    def float_of(self, half: int) -> float:
        """The float32 of a float16's bits."""
        return self._float_of(half)


def address(array: np.ndarray) -> int:
    """Of a contiguous array's first byte."""
    assert array.flags.c_contiguous
    return array.ctypes.data
