"""What a command meets at its edges: streams that are ASCII, closed or full; packages that are missing or broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.images.image_files import write_image

from ..runtime.tiny_bundle import write_tiny_bundle

PROGRAM = [sys.executable, "-m", "yolor_edge"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, shared: not to be changed."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "Bilder é"
    folder.mkdir()
    for name in ("写真 é.png", "b.png", "c.png"):
        write_image(folder / name, np.full((40, 60, 3), 90, np.uint8))
    return folder


def program(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    command = [*PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=120, env={**own, **environment}, check=False)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE, {"PYTHONIOENCODING": "utf-8"}])
def test_a_name_that_is_not_ascii_is_printed(
    environment: dict[str, str], tiny_bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    run = ("run", tiny_bundle.path, pictures, "--threads", "1", "--tasks", "boxes")
    done = program(*run, "--jsonl", "-", "--no-pictures", **environment)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    sources = [json.loads(line)["source"] for line in done.stdout.decode("utf-8").splitlines()]
    # In the C locale Python knows the bytes of a file's name, not its letters.
    known = [source.encode("utf-8", "surrogateescape").decode("utf-8") for source in sources]
    assert sorted(known) == sorted(path.name for path in pictures.iterdir())

    out = tmp_path / "Ausgabe é"
    done = program(*run, "--out", out, "--json", **environment)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["done"] == 3
    assert sorted(path.name for path in out.iterdir()) == [
        *sorted(os.listdir(pictures))[:2],
        "results.jsonl",
        "写真 é.png",
    ]

    done = program("doctor", tiny_bundle.path, **environment)
    assert done.stderr == b""
    assert done.stdout
    done = program("verify", tmp_path / "nirgendwo é", **environment)
    assert (done.returncode, done.stderr.count(b"\n"), b"Traceback" in done.stderr) == (2, 1, False)


def test_a_file_name_that_is_no_utf_8_is_written_and_printed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "a.png", np.full((40, 60, 3), 90, np.uint8))
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "a.png").rename(folder / name)
    run = ("run", tiny_bundle.path, folder, "--threads", "1", "--tasks", "boxes", "--out", tmp_path / "out")
    for words in (run, (*run, "--jsonl", "-", "--no-pictures")):
        done = program(*words)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads(done.stdout)["source"] == name
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text())["source"] == name
    bench = ("bench", tiny_bundle.path, "--images", folder / name, "--out", tmp_path / "report", "--threads", "1")
    done = program(*bench, "--runs", "2", "--warmup-seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&-", 0),  # closed from the beginning: nobody wants to know
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("| true", 1),  # the reader goes away
        ("2>&1 >/dev/null | true", 1),
        (">/dev/full", 1),
    ],
)
def test_a_stream_that_takes_nothing_is_no_traceback(
    redirection: str, code: int, tiny_bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    words = [
        "run",
        tiny_bundle.path,
        *sorted(pictures.iterdir()) * 40,
        "--jsonl",
        "-",
        "--no-pictures",
        "--threads",
        "1",
    ]
    command = f'"$@" {redirection}; echo "rc ${{PIPESTATUS[0]}}" >"{tmp_path}/rc"'
    done = subprocess.run(["bash", "-c", command, "bash", *PROGRAM, *map(str, words)], capture_output=True, timeout=120)
    assert (tmp_path / "rc").read_text() == f"rc {code}\n"
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    if redirection == ">/dev/full":
        last = done.stderr.decode().splitlines()[-1]
        assert last.endswith("the disk is full (No space left on device); free some space and run the command again")


@pytest.mark.parametrize("redirection", ["| true", ">/dev/full"])
def test_help_that_nobody_reads_is_no_traceback(redirection: str) -> None:
    command = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, "bash", *PROGRAM, "run", "--help"], capture_output=True, timeout=60)
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


# What a broken OpenCV does when it is imported, and what must be told of it.
OPENCVS = {
    "libGL": (
        'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")',
        "OpenCV (cv2) is installed but does not load (libGL.so.1: cannot open shared object file: No such file or "
        "directory); replace it: pip uninstall -y opencv-python-headless && pip install",
    ),
    "numpy": (
        "import sys\n"
        'sys.stderr.write("\\nA module that was compiled using NumPy 1.x cannot be run in\\nTraceback (most recent")\n'
        'raise ImportError("numpy.core.multiarray failed to import")',
        f"OpenCV (cv2) was built for another numpy than {np.__version__}; install a newer one: pip install --upgrade",
    ),
    "attribute": (
        'raise AttributeError("_ARRAY_API not found")',
        "OpenCV (cv2) was built for another numpy than",
    ),
    "symbol": (
        'raise ImportError("cv2.abi3.so: undefined symbol: PyFoo")',
        "OpenCV (cv2) is installed but does not load (cv2.abi3.so: undefined symbol: PyFoo); replace it: pip uninstall",
    ),
    "missing": (
        "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')",
        'OpenCV (cv2) is missing; install it: pip install "opencv-python-headless>=',
    ),
    "empty": ("", "OpenCV (cv2) is an empty folder, "),
}
LINES = (
    "run b s",
    "verify b",
    "bench b --out o",
    "evaluate b --data d",
    "export c --out o",
    "build b",
    "diff a b",
    "scenes o --count 1 --seed 1",
    "train --data d --out o",
    "demo --out o",
)


def broken(tmp_path: Path, module: str, code: str) -> dict[str, str]:
    """An environment in which importing `module` runs `code`."""
    folder = tmp_path / "site" / module
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f"{code}\n")
    return {"PYTHONPATH": str(tmp_path / "site")}


@pytest.mark.parametrize("kind", OPENCVS)
def test_a_broken_opencv_is_one_line_with_the_cure(kind: str, tmp_path: Path) -> None:
    code, told = OPENCVS[kind]
    environment = broken(tmp_path, "cv2", code)
    for line in LINES if kind == "libGL" else LINES[:1]:
        done = program(*line.split(), **environment)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1), done.stderr
        assert done.stderr.startswith(b"yolor-edge: ") and told in done.stderr.decode()
    done = program("doctor", "--json", **environment)
    assert (done.returncode, done.stderr) == (1, b"")
    (check,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "OpenCV")
    assert check["state"] == "problem"
    assert "pip install" in check["cure"]
    assert program("run", "--help", **environment).returncode == 0


@pytest.mark.parametrize(
    ("module", "code", "line", "told"),
    [
        (
            *(
                "numpy",
                'raise ImportError("libopenblas.so.0: cannot open shared object file: No such file")',
                "run b s",
            ),
            "numpy does not load: the library libopenblas.so.0 is not there; install that library, or pip install",
        ),
        (
            *("torch", 'raise OSError("libcudart.so.12: cannot open shared object file: No such file")'),
            *(
                "train --data d --out o",
                "torch does not load: the library libcudart.so.12 is not there; install that library, or",
            ),
        ),
        (
            *("pycocotools", 'raise ValueError("numpy.dtype size changed, may indicate binary incompatibility.")'),
            *("train --data d --out o", "pycocotools was built for another numpy than the"),
        ),
        (
            *("onnx", 'raise TypeError("Descriptors cannot be created directly.")', "diff a b"),
            "onnx does not load: Descriptors cannot be created directly.; pip install --upgrade --force-reinstall onnx",
        ),
        (
            *("onnx", "import a_part_of_it", "diff a b"),
            "diff needs the package a_part_of_it; install it: pip install a_part_of_it",
        ),
    ],
)
def test_another_broken_package_is_one_line_too(module: str, code: str, line: str, told: str, tmp_path: Path) -> None:
    if module in ("torch", "pycocotools", "onnx"):
        pytest.importorskip(module)
    done = program(*line.split(), **broken(tmp_path, module, code))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1), done.stderr
    assert told in done.stderr.decode()


def test_a_backend_that_does_not_load_is_one_line(tiny_bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    code = OPENCVS["numpy"][0]
    words = ("run", tiny_bundle.path, pictures, "--out", tmp_path / "out")
    done = program(*words, **broken(tmp_path, "onnxruntime", code))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1), done.stderr
    assert 'backend "onnxruntime": its package is installed but does not load' in done.stderr.decode()
    assert not (tmp_path / "out").exists()
