"""The vision part on the GPU, without a GPU: see tests/pretended/checks/check_device_vision.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from yolor_edge.runtime.cuda import installed_bindings

from ...pretended import gpu


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_answers_are_those_of_the_cpu(pretended_driver: Path, binding: str) -> None:
    if binding not in (*installed_bindings(), "pycuda"):
        pytest.skip(f"{binding} is not installed")
    gpu.check(pretended_driver, "check_device_vision.py", binding)
