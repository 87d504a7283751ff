"""The TensorRT backend: in full on a pretended GPU, and the real TensorRT for RTX as far as it goes without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from yolor_edge.runtime import load
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.cuda import installed_bindings
from yolor_edge.runtime.environment.cuda_device import cuda_device
from yolor_edge.runtime.environment.tensorrt_package import installed_flavours
from yolor_edge.runtime.errors import BackendError, BackendMissingError

from ...pretended import gpu
from ..tiny_bundle import write_tiny_bundle


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_on_a_pretended_gpu(pretended_driver: Path, binding: str) -> None:
    if binding not in (*installed_bindings(), "pycuda"):
        pytest.skip(f"{binding} is not installed")
    gpu.check(pretended_driver, "check_tensorrt.py", binding)


def test_a_flavour_that_is_not_installed_names_its_extra(tiny_bundle: Bundle) -> None:
    if "tensorrt" in installed_flavours():
        pytest.skip("tensorrt is installed")
    with pytest.raises(
        BackendMissingError, match=r'need the package tensorrt, for Jetson .*pip install "tensorrt>=10\.3"'
    ):
        load(tiny_bundle, "tensorrt")


@pytest.mark.skipif("tensorrt-rtx" not in installed_flavours(), reason="TensorRT for RTX is not installed")
@pytest.mark.skipif(cuda_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_nothing_falls_back(tiny_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"there is no GPU 0 here|needs PyCUDA or cuda-python") as error:
        load(tiny_bundle, "tensorrt-rtx")
    assert "\n" not in str(error.value)


@pytest.mark.skipif("tensorrt-rtx" not in installed_flavours(), reason="TensorRT for RTX is not installed")
def test_a_real_engine_on_a_driver_that_cannot_run_it_is_one_line(pretended_driver: Path, tmp_path: Path) -> None:
    if "cuda-python" not in installed_bindings():
        pytest.skip("cuda-python is not installed")
    pytest.importorskip("onnx")
    from yolor_edge.export.engines.to_tensorrt import build_engines

    bundle = write_tiny_bundle(tmp_path / "tiny", ("boxes",))
    build_engines(bundle, "fp32", ("sm_86",), flavour="tensorrt-rtx")
    code = (
        "import sys\n"
        "from yolor_edge.runtime import BackendError, load\n"
        "try:\n"
        "    load(sys.argv[1], 'tensorrt-rtx')\n"
        "except BackendError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.path)],
        env={**os.environ, "LD_LIBRARY_PATH": str(pretended_driver)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = done.stdout.splitlines()
    assert "cannot load it (IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime" in line
    assert line.startswith("vision.fp32.tensorrt-rtx-") and "the driver is too old for this TensorRT" in line
