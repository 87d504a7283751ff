"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..environment.install import package_hint
from ..errors import BackendError
from .base import Array, TensorInfo, checked_feed
from .onnxruntime_backend import _first_line, _info

PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCudaGraph:
    """An ONNX file in a session whose every node runs on the GPU. Threads may share it.

    ONNX Runtime by itself goes on with the CPU where its CUDA provider does not load, or for nodes it lacks; both are
    errors here. Only shapes, where a graph computes with them, are always computed on the CPU.

    Args:
        path: The ONNX file.
        device_index: Among the GPUs that this process sees.

    Raises:
        BackendError: If the installed ONNX Runtime has no CUDA provider, it does not start, or it refuses the file.
    """

    def __init__(self, path: Path, device_index: int = 0):
        if PROVIDER not in onnxruntime.get_available_providers():
            raise BackendError(
                f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider, and this backend runs on "
                f"nothing else; onnxruntime-gpu takes the place of onnxruntime (pip uninstall onnxruntime first): "
                f"{package_hint('onnxruntime-gpu')}; yolor-edge doctor says what this machine has"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, not logged
        is_strict = not _computes_shapes(path)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(is_strict)))
        # The same arithmetic as on the CPU: TF32 would leave products of float32 with ten bits.
        provider = (PROVIDER, {"device_id": str(device_index), "use_tf32": "0"})
        try:
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])
        except Exception as error:  # ONNX Runtime has no common class for what it raises
            raise BackendError(
                f"{path}: ONNX Runtime cannot run all of it on the GPU ({_first_line(error)})"
            ) from error
        active = session.get_providers()
        if not active or active[0] != PROVIDER:
            instead = ", ".join(active) or "nothing"
            raise BackendError(
                f"{path}: ONNX Runtime did not start its CUDA provider and would run on {instead}; its CUDA and "
                "cuDNN libraries are missing or of another version, see its CUDA requirements"
            )
        self.path = path
        self._device_index = device_index
        self._session: onnxruntime.InferenceSession | None = session
        self.inputs: Mapping[str, TensorInfo] = {x.name: _info(x) for x in session.get_inputs()}
        self.outputs: Mapping[str, TensorInfo] = {x.name: _info(x) for x in session.get_outputs()}

    @property
    def facts(self) -> Mapping[str, str]:
        """What a report should say."""
        return {"device": f"GPU {self._device_index}", "provider": PROVIDER}

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the wanted outputs by name; see `Graph.run`. Others stay on the device."""
        if self._session is None:
            raise BackendError(f"{self.path.name}: the graph is closed")
        names = checked_feed(self.path.name, self.inputs, self.outputs, feed, wanted)
        binding: Any = self._session.io_binding()
        try:
            for name, array in feed.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in self.outputs:  # memory for their shapes, which may be free, is found by the session
                place = ("cpu", 0) if name in names else ("cuda", self._device_index)
                binding.bind_output(name, *place)
            self._session.run_with_iobinding(binding)
            answers = dict(zip(self.outputs, binding.get_outputs(), strict=True))
            return {name: answers[name].numpy() for name in names}
        except Exception as error:
            raise BackendError(f"{self.path.name}: ONNX Runtime failed ({_first_line(error)})") from error

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_graph(path: Path, threads: int | None) -> OnnxRuntimeCudaGraph:
    """Open one ONNX file on the first GPU; `threads` is of no matter there."""
    return OnnxRuntimeCudaGraph(path)


def _computes_shapes(path: Path) -> bool:
    """Whether a graph has nodes of the type "Shape", as a field of the file's protocol buffer (4, of five bytes)."""
    return b"\x22\x05Shape" in path.read_bytes()
