"""An OpenCV that is missing or broken in the ways it is on users' machines: one line, and the command that cures it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from yolor_edge.runtime.environment import opencv
from yolor_edge.runtime.environment.install import install_command

INSTALL = install_command("opencv")
CODE = """
import importlib.metadata, sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "bare":  # as for the system's own, of which pip knows nothing
    def version(name): raise importlib.metadata.PackageNotFoundError(name)
    importlib.metadata.version = version
from yolor_edge.runtime import YolorEdgeError, read_image
try:
    read_image(sys.argv[3])
except YolorEdgeError as error:
    print(error)
"""
PICTURE = Path(__file__).resolve().parents[3] / "demo" / "images" / "scene-1.jpg"


def said(site: Path, distributions: str = "bare") -> str:
    command = [sys.executable, "-W", "error", "-c", CODE, str(site), distributions, str(PICTURE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return line


def broken(site: Path, code: str) -> Path:
    (site / "cv2.py").write_text(code)
    return site


def test_one_that_is_missing(tmp_path: Path) -> None:
    line = said(broken(tmp_path, "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')"))
    assert line.startswith("OpenCV (cv2) is missing; ")
    assert line.endswith(f"install it: {INSTALL}")


def test_one_of_the_system_that_the_environment_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.so").touch()
    monkeypatch.setattr(opencv, "_SYSTEM_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "prefix", "/home/me/env")
    assert opencv._cure_of_missing() == (
        f"to use the system's ({tmp_path}/cv2.so): python3 -m venv --system-site-packages /home/me/env; "
        f"or install it: {INSTALL}"
    )
    monkeypatch.setattr(sys, "base_prefix", "/opt/another/python")  # for which the system's is not
    assert opencv._cure_of_missing() == f"install it: {INSTALL}"


def test_one_of_which_a_folder_was_left(tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").touch()
    assert said(tmp_path).startswith("OpenCV (cv2) is an empty folder, ")


def test_one_of_the_system_built_for_another_numpy(tmp_path: Path) -> None:
    noise = "import sys\nsys.stderr.write('A module that was compiled using NumPy 1.x cannot be run in NumPy 2')\n"
    line = said(broken(tmp_path, f"{noise}raise ImportError('numpy.core.multiarray failed to import')"))
    assert line.startswith("OpenCV (cv2) was built for another numpy than ")
    assert line.endswith('; install that numpy: pip install "numpy>=1.22,<2"')


def test_one_with_windows_on_a_machine_without(tmp_path: Path) -> None:
    try:
        importlib.metadata.version("opencv-python-headless")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("this OpenCV is no wheel")
    reason = "libGL.so.1: cannot open shared object file: No such file or directory"
    assert said(broken(tmp_path, f"raise ImportError({reason!r})"), "wheel") == (
        f"OpenCV (cv2) is installed but does not load ({reason}); replace it: pip uninstall -y opencv-python-headless "
        f"&& {INSTALL}"
    )
    assert "apt install --reinstall python3-opencv" in said(tmp_path)


def test_a_command_and_doctor_say_the_same(tmp_path: Path) -> None:
    broken(tmp_path, "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    code = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom yolor_edge.main import main\nsys.exit(main(sys.argv[2:]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    for words in (
        ["scenes", str(tmp_path / "scenes"), "--count", "1", "--seed", "1"],
        ["train", "--data", "x", "--out", str(tmp_path / "y")],
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("yolor-edge: OpenCV (cv2) is missing; ") and done.stderr.count("\n") == 1
    done = subprocess.run([*command, "doctor"], capture_output=True, text=True, timeout=60)
    assert "problem  OpenCV" in done.stdout and "OpenCV (cv2) is missing; " in done.stdout
    assert "could not be looked at" not in done.stdout
