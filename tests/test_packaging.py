"""What is packed: a source distribution that builds by itself, and a wheel that holds the package and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("benchmarks", "evaluation", "export", "runtime", "train")
# Everything a build needs, and what MANIFEST.in adds; nothing that was built or made.
SOURCES = (
    *(
        "CHANGELOG.md",
        "LICENSE",
        "MANIFEST.in",
        "Makefile",
        "native.mk",
        "README.md",
        "constraints.txt",
        "pyproject.toml",
        "setup.py",
    ),
    *("examples", "scripts", "cli", "tests", *STAGES),
)


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    pytest.importorskip("setuptools")
    pytest.importorskip("pybind11")
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    run(sys.executable, "-W", "ignore", "-c", code, cwd=copy)
    (archive,) = (copy / "dist").glob("yolor_edge-*.tar.gz")
    out = tmp_path_factory.mktemp("sdist")
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):
            packed.extractall(out, filter="data")
        else:
            packed.extractall(out)
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the source distribution; kernels without optimisation, for speed."""
    out = tmp_path_factory.mktemp("wheel")
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    run(sys.executable, "-W", "ignore", "-c", code, str(out), cwd=sdist, CFLAGS="-O0")
    (file,) = out.glob("yolor_edge-*.whl")
    return file


def test_the_source_distribution_has_all_that_a_build_needs(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    patterns = ["runtime/csrc/cuda/*", "runtime/csrc/**/*.[ch]*", "runtime/csrc/**/*.map"]
    patterns += ["runtime/*.pyi", "runtime/backends/*.py"]
    for pattern in [*patterns, "examples/cpp/*", "tests/native/*.[ch]*", "native.mk"]:
        expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert expected <= names
        assert expected
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith("demo/")]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (packed.read(name).decode() for name in names if name.endswith("/METADATA"))
        (entries,) = (packed.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"yolor_edge"}
    code = [name for name in names if ".dist-info/" not in name]
    compiled = {name for name in code if name.startswith("yolor_edge/runtime/cuda/kernels/kernels.")}
    assert {Path(name).suffix for name in compiled} in (set(), {".fatbin", ".json"})  # by `make kernels`
    suffixes = {Path(name).suffix for name in code if name not in compiled}
    assert suffixes == {".py", ".pyi", ".so", ".typed", ".hpp", ".cu", ".cuh"}
    for stage in STAGES:
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / stage).rglob("*.py")]
        # What measures this repository is run from a clone.
        expected = {f"yolor_edge/{file}" for file in files if not file.startswith("benchmarks/studies/")}
        assert expected == {name for name in code if name.startswith(f"yolor_edge/{stage}/") and name.endswith(".py")}
    # What is compiled where it is used.
    kernels = [*(ROOT / "runtime/csrc/shared").iterdir(), *(ROOT / "runtime/csrc/cuda").iterdir()]
    expected = {f"yolor_edge/{path.relative_to(ROOT).as_posix()}" for path in kernels}
    assert expected == {name for name in code if "/csrc/" in name}
    assert [name for name in code if name.endswith(".so")] == [
        name for name in code if re.fullmatch(r"yolor_edge/runtime/_native\.[\w.-]+\.so", name)
    ]
    assert "yolor-edge = yolor_edge.main:main" in entries
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needed) == ["numpy", "packaging"]
    assert "License-Expression: Apache-2.0" in metadata
    assert wheel.stat().st_size < 4_000_000


@pytest.mark.slow
def test_the_installed_wheel_runs_without_the_source(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    code = (
        "import sys, yolor_edge, yolor_edge.runtime as runtime\n"
        "from yolor_edge.main import main\n"
        "print(yolor_edge.__file__)\n"
        "print(runtime.read_image.__module__, 'torch' in sys.modules)\n"
        "print(main(['--version']))"
    )
    printed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site")).splitlines()
    assert printed[0] == str(tmp_path / "site" / "yolor_edge" / "__init__.py")
    assert printed[1] == "yolor_edge.runtime.images.image_files False"
    assert printed[-1] == "0"


def test_the_version_is_said_once(sdist: Path) -> None:
    from yolor_edge import __version__

    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == __version__
    assert sdist.name == f"yolor_edge-{__version__}"
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    for folder in ("cli", *STAGES):
        for file in (ROOT / folder).rglob("*.py"):
            assert f'"{__version__}"' not in file.read_text(encoding="utf-8"), file


# Imports every public name of every stage, as far as its packages are installed, and says where from.
IMPORT_ALL = """
import importlib, sys
import yolor_edge
print(yolor_edge.__file__, yolor_edge.__version__)
for stage in sys.argv[1:]:
    module = importlib.import_module(f"yolor_edge.{stage}")
    for name in getattr(module, "__all__", ()):
        try:
            getattr(module, name)
        except ModuleNotFoundError as error:
            if error.name.startswith("yolor_edge"):
                raise
            print("left out:", stage, name, error.name, file=sys.stderr)
"""


def test_every_public_name_is_imported_from_the_root_of_the_clone_and_from_elsewhere(tmp_path: Path) -> None:
    here = {run(sys.executable, "-c", IMPORT_ALL, *STAGES, cwd=folder) for folder in (ROOT, tmp_path)}
    assert len(here) == 1  # nothing in the root is taken for the package


@pytest.mark.slow
def test_every_public_name_is_imported_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    for folder in (ROOT, tmp_path):
        printed = run(sys.executable, "-c", IMPORT_ALL, *STAGES, cwd=folder, PYTHONPATH=str(tmp_path / "site"))
        assert printed.startswith(str(tmp_path / "site" / "yolor_edge"))


def test_no_stray_file_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    strays = (".orig", ".rej", ".bak", ".swp", ".tmp", ".pyc", ".so", ".o", ".a", ".whl", ".log", ".fatbin", ".engine")
    assert not [name for name in tracked if name.endswith((*strays, "~"))]
    # What commands write, which belongs into benchmarks/results, docs or nowhere.
    at_the_root = {name for name in tracked if "/" not in name and not name.startswith(".")}
    assert at_the_root <= {name for name in SOURCES if (ROOT / name).is_file()}
    tops = {name.partition("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    assert tops == {"benchmarks", "cli", "demo", "docs", "evaluation", "examples", "export", "runtime", "scripts"} | {
        *("tests", "train"),
    }


def test_the_setup_script_tells_what_is_missing_in_one_line(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make-venv.sh"

    def complaint(python: str, **environment: str) -> str:
        command = ["sh", str(script), str(tmp_path / "venv"), python, "dev"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
        assert done.returncode == 1
        assert done.stderr.startswith("make: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "venv").exists()
        return done.stderr

    def fake_python(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    assert "install python3 (Debian, Ubuntu: apt install python3)" in complaint("no-such-python")
    old = fake_python('case "$1" in --version) echo Python 3.8.10;; *) exit 1;; esac')
    assert "Python 3.8.10 is too old, 3.10 is needed; name another one: make PYTHON=python3.12" in complaint(old)
    bare = fake_python(f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac')
    assert "cannot make virtual environments; install its venv" in complaint(bare)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    path = str(tmp_path / "bin")
    assert "there is no C++ compiler; install one" in complaint(sys.executable, PATH=path, CXX="")
