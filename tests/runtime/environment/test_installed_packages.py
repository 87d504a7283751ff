"""Optional packages: there, absent, broken in every way a package can be broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from yolor_edge.runtime.environment.installed_packages import Found, Package, look_for

OURS = Package("ours", "ours_yy", ("ours-yy", "ours-yy-gpu"), ("ours",))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def install(site: Path, code: str | None, *distributions: str) -> None:
    for name in distributions:
        folder = site / f"{name.replace('-', '_')}-1.2.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    if code is not None:
        (site / "ours_yy").mkdir()
        (site / "ours_yy" / "__init__.py").write_text(code)


def look(seconds: float = 60) -> Found:
    (found,) = look_for([OURS], seconds)
    return found


def test_one_that_is_not_there(site: Path) -> None:
    found = look()
    assert not found.is_installed
    assert found == Found(OURS)


def test_one_that_loads(site: Path) -> None:
    install(site, "print('noise on loading')\n__version__ = '1.2.4-rest'", "ours-yy")
    found = look()
    assert (found.version, found.error, found.is_installed, found.rivals) == ("1.2.4", None, True, ())
    assert "ours_yy" not in sys.modules


def test_one_of_the_system_without_metadata(site: Path) -> None:
    install(site, "__version__ = '10.3.0'")
    assert look().version == "10.3.0"


def test_one_without_a_version_of_its_own(site: Path) -> None:
    install(site, "", "ours-yy")
    assert look().version == "1.2.3"


def test_stubs_alone_are_not_the_package(site: Path) -> None:
    (site / "ours_yy").mkdir()
    (site / "ours_yy" / "py.typed").touch()
    assert not look().is_installed


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            "raise ImportError('libcudart.so.12: cannot open shared object file')",
            "ImportError: libcudart.so.12: cannot",
        ),
        ("import os; os.abort()", "loading it ends the process with signal 6"),
        ("raise SystemExit(3)", "loading it ends the process with code 3"),
        (None, "ModuleNotFoundError: No module named 'ours_yy'"),
    ],
)
def test_broken_ones(site: Path, code: str | None, error: str) -> None:
    install(site, code, "ours-yy")
    found = look()
    assert found.is_installed
    assert found.version == "1.2.3"
    assert found.error is not None
    assert found.error.startswith(error)


def test_one_that_hangs(site: Path) -> None:
    install(site, "import time; time.sleep(60)", "ours-yy")
    assert look(0.2).error == "did not load within 0.2 s"


def test_two_that_overwrite_each_other(site: Path) -> None:
    install(site, "", "ours-yy", "ours-yy-gpu")
    assert look().rivals == ("ours-yy", "ours-yy-gpu")
