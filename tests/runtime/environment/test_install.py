"""What to type to get what an extra needs."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from yolor_edge.runtime.environment import install
from yolor_edge.runtime.environment.install import install_command, lacking_packages, missing_of, requirements_of

LISTED = [
    "numpy>=1.24",
    'torch>=2.4; extra == "train"',
    'pycocotools>=2.0.7; extra == "train"',
    'torch>=2.6; extra == "export"',
    'onnx>=1.16; extra == "export"',
    'onnxruntime>=1.18; extra == "export"',
    'tensorrt-rtx-cu13>=1.7; extra == "tensorrt-rtx"',
    'cuda-bindings>=12.6; extra == "cuda"',
    'nvidia-nvrtc>=12.8; (sys_platform == "linux" and platform_machine == "x86_64") and extra == "cuda"',
    'old-one>=1; python_version < "3.9" and extra == "cuda"',
    'plain; extra == "plain"',
]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: LISTED)
    monkeypatch.setattr(install.sys, "platform", "linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")


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
    assert install_command("cuda") == 'pip install "cuda-bindings>=12.6" "nvidia-nvrtc>=12.8"'
    assert install_command("plain") == "pip install plain"
    assert requirements_of("train", "export") == ("torch>=2.6", "pycocotools>=2.0.7", "onnx>=1.16", "onnxruntime>=1.18")
    monkeypatch.setattr(install.platform, "machine", lambda: "aarch64")
    assert install_command("cuda") == 'pip install "cuda-bindings>=12.6"'


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
    assert missing_of("export") == ("torch>=2.6", "onnx>=1.16", "onnxruntime>=1.18")
    assert lacking_packages("demo", "onnx", ("train", "export")) == (
        "demo needs the packages onnx, torch, pycocotools and onnxruntime; install them: "
        'pip install "onnx>=1.16" "torch>=2.6" "pycocotools>=2.0.7" "onnxruntime>=1.18"'
    )
    installed.update({"torch": "2.9", "onnxruntime-gpu": "1.20"})  # the other ONNX Runtime is as good
    assert missing_of("export") == ("onnx>=1.16",)
    assert lacking_packages("evaluate", "pycocotools", ()) == (
        'evaluate needs the package pycocotools; install it: pip install "pycocotools>=2.0.7"'
    )


def test_no_message_asks_for_the_package_by_its_name() -> None:
    root = Path(__file__).resolve().parents[3]
    for folder in ("train", "export", "runtime", "benchmarks", "yolor_edge"):
        for file in (root / folder).rglob("*.py"):
            if file.name != "install.py":
                assert "yolor-edge[" not in file.read_text(encoding="utf-8"), file
