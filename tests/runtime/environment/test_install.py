"""What to type to get what an extra needs."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import pytest
from yolor_edge.runtime.environment import install
from yolor_edge.runtime.environment.install import (
    cuda_extra,
    install_command,
    lacking_packages,
    package_command,
    package_hint,
    package_version,
    release_of,
    requirements_of,
)
from yolor_edge.runtime.environment.packages import PACKAGES

LISTED = [
    "numpy>=1.24",
    'torch>=2.4; extra == "train"',
    'pycocotools>=2.0.7; extra == "train"',
    'torch>=2.6; extra == "export"',
    'onnx>=1.16; extra == "export"',
    'onnxruntime>=1.18; extra == "export"',
    'tensorrt-rtx-cu13>=1.7; extra == "tensorrt-rtx"',
    'cuda-bindings<13,>=12.8; extra == "cuda12"',
    'nvidia-nvrtc>=12.8; (sys_platform == "linux" and platform_machine == "x86_64") and extra == "cuda12"',
    'old-one>=1; python_version < "3.9" and extra == "cuda12"',
    'cuda-bindings<14,>=13.0; extra == "cuda13"',
    'onnxruntime-gpu>=1.18; platform_machine != "aarch64" and extra == "onnxruntime-gpu"',
    'onnxruntime-gpu>=1.31; platform_machine == "aarch64" and extra == "onnxruntime-gpu"',
    'plain; extra == "plain"',
]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: LISTED)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.12")
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "10", "12"))
    monkeypatch.setattr(install, "driver_cuda", lambda: None)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; to be changed by a test."""
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.mark.usefixtures("listed")
def test_an_extra_becomes_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("tensorrt-rtx") == 'pip install "tensorrt-rtx-cu13>=1.7"'
    assert install_command("tensorrt_rtx") == install_command("tensorrt-rtx")
    assert install_command("cuda12") == 'pip install "cuda-bindings>=12.8,<13" "nvidia-nvrtc>=12.8"'
    assert install_command("plain") == "pip install plain"
    assert requirements_of("train", "export") == ("torch>=2.6", "pycocotools>=2.0.7", "onnx>=1.16", "onnxruntime>=1.18")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert install_command("cuda12") == 'pip install "cuda-bindings>=12.8,<13"'


@pytest.mark.usefixtures("listed")
def test_a_package_without_a_wheel_for_this_machine_is_no_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_hint("onnxruntime-gpu") == 'install it: pip install "onnxruntime-gpu>=1.18"'
    assert package_hint("tensorrt-rtx") == 'install it: pip install "tensorrt-rtx-cu13>=1.7"'
    assert package_hint("pycuda") == "there is no wheel of pycuda for x86_64 and Python 3.10"  # source only
    assert package_hint("of-a-stranger") == "install it: pip install of-a-stranger"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert package_command("onnxruntime-gpu") == ""
    assert package_hint("onnxruntime-gpu") == "there is no wheel of onnxruntime-gpu for aarch64 and Python 3.10"
    assert package_command("tensorrt-rtx") == ""
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "12", "3"))
    assert package_command("onnxruntime-gpu") == 'pip install "onnxruntime-gpu>=1.31"'


@pytest.mark.usefixtures("listed")
def test_the_driver_chooses_among_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, bounds in ((None, ">=12.8,<13"), ((12, 6), ">=12.8,<13"), ((13, 2), ">=13.0,<14")):
        monkeypatch.setattr(install, "driver_cuda", lambda cuda=cuda: cuda)
        assert f'"cuda-bindings{bounds}"' in package_command("cuda-python")
    assert cuda_extra() == "cuda13"


def test_every_package_is_what_its_extra_brings() -> None:
    for package in PACKAGES.values():
        for extra in package.extras:
            assert package.distributions[0] in {install.name_of(one) for one in requirements_of(extra)}, package.name


def test_versions_are_compared_by_their_numbers() -> None:
    assert release_of("12.9.4") > release_of("12.9") > release_of("2.10rc1")
    assert release_of("unknown") == ()


def test_the_version_of_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "DISTRIBUTION", "no-such-distribution")
    assert package_version() == "unknown"


def test_without_metadata_a_clone_is_installed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert install_command("openvino") == 'pip install ".[openvino]" in a clone of yolor-edge'
    assert lacking_packages("demo", "torch", ("export",)) == (
        "demo needs the package torch; install it: pip install torch"
    )


@pytest.mark.usefixtures("listed")
def test_all_that_is_missing_is_named_at_once(installed: dict[str, str]) -> None:
    assert lacking_packages("demo", "onnx", ("train", "export")) == (
        "demo needs the packages onnx, torch, pycocotools and onnxruntime; install them: "
        'pip install "onnx>=1.16" "torch>=2.6" "pycocotools>=2.0.7" "onnxruntime>=1.18"'
    )
    installed.update({"torch": "2.9", "onnxruntime-gpu": "1.20"})  # the other ONNX Runtime is as good
    assert lacking_packages("export", "onnx", ("export",)) == (
        'export needs the package onnx; install it: pip install "onnx>=1.16"'
    )
    assert lacking_packages("evaluate", "pycocotools", ()) == (
        'evaluate needs the package pycocotools; install it: pip install "pycocotools>=2.0.7"'
    )


def test_no_message_asks_for_the_package_by_its_name() -> None:
    root = Path(__file__).resolve().parents[3]
    for folder in ("train", "export", "runtime", "benchmarks", "evaluation", "cli"):
        for file in (root / folder).rglob("*.py"):
            if file.name != "install.py":
                assert "yolor-edge[" not in file.read_text(encoding="utf-8"), file
