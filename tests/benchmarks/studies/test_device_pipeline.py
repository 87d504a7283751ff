"""The benchmark of the GPU's pipeline: refused in one line without a GPU, and run on a pretended one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from yolor_edge.benchmarks.studies import device_pipeline
from yolor_edge.runtime.cuda import installed_bindings
from yolor_edge.runtime.environment.cuda_device import cuda_device

from ...pretended import gpu
from ...runtime.tiny_bundle import write_tiny_bundle


@pytest.mark.skipif(cuda_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not installed_bindings():
        pytest.skip("no binding is installed")
    cv2 = pytest.importorskip("cv2")
    write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    code = device_pipeline.main([str(tmp_path / "tiny"), "--images", str(tmp_path / "pictures")])
    told = capsys.readouterr().err
    assert code == 1
    assert told.startswith("error: there is no GPU 0 here")
    assert told.count("\n") == 1


def test_without_pictures_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    assert device_pipeline.main([str(tmp_path / "tiny"), "--images", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == "error: there are no images to measure on\n"


def test_it_measures_and_finds_no_difference(pretended_driver: Path) -> None:
    if not installed_bindings():
        pytest.skip("no binding is installed")
    gpu.check(pretended_driver, "check_device_benchmark.py", installed_bindings()[0])
