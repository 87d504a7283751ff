"""Maps the four stage folders to their import names and builds the native extension; the rest is in pyproject.toml."""

import os
import sys
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

if sys.platform == "win32":
    compile_args = ["/O2"]
else:
    # No -ffast-math, and no contraction to fused multiply-add: results are defined bit by bit and tested that way.
    # Loops begin on 32 bytes: where the caption kernels' short ones happen to lie makes up to 10 % otherwise.
    compile_args = [
        "-O3",
        "-falign-loops=32",
        "-Wall",
        "-Wextra",
        "-fvisibility=hidden",
        "-ffp-contract=off",
        "-pthread",
    ]

ParallelCompile(default=min(4, os.cpu_count() or 1)).install()
STAGES = ("train", "evaluation", "export", "runtime", "benchmarks")
ROOMS = [path.parent.as_posix().replace("/", ".") for stage in STAGES for path in Path(stage).rglob("__init__.py")]
# They measure this repository, and are run from a clone.
ROOMS = [room for room in ROOMS if not room.startswith("benchmarks.studies")]

# Of the GPU's kernels, which are compiled where they are used, unless `make kernels` has compiled them beforehand.
KERNEL_SOURCES = ("csrc/shared/*", "csrc/cuda/*")
# The C interface is a library of its own: `make library`.
NATIVE = sorted(set(glob("runtime/csrc/**/*.cpp", recursive=True)) - set(glob("runtime/csrc/c_api/*")))

setup(
    packages=["yolor_edge", "yolor_edge.commands", *(f"yolor_edge.{room}" for room in sorted(ROOMS))],
    package_dir={"yolor_edge": "cli", **{f"yolor_edge.{stage}": stage for stage in STAGES}},
    package_data={
        "yolor_edge": ["py.typed"],
        "yolor_edge.runtime": ["py.typed", "*.pyi", *KERNEL_SOURCES, "cuda/kernels/kernels.*"],
    },
    include_package_data=False,  # the other kernels' sources are for the source distribution only
    ext_modules=[
        Pybind11Extension(
            "yolor_edge.runtime._native",
            NATIVE,
            depends=sorted(glob("runtime/csrc/**/*.hpp", recursive=True)),
            include_dirs=["runtime/csrc"],
            cxx_std=17,
            extra_compile_args=compile_args,
            extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
        )
    ],
)
