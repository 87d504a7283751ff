"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from ..environment.cores import usable_cores
from ..errors import BackendError
from .base import Array, TensorInfo, checked_feed

# Chosen by name, so that a build with other providers never falls back from one device to another unasked.
PROVIDERS = ["CPUExecutionProvider"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OnnxRuntimeGraph:
    """An ONNX file in an inference session. Threads may share it.

    ONNX Runtime computes the whole graph whichever outputs are wanted; those not wanted are only not copied
    out.

    Args:
        path: The ONNX file.
        threads: CPU threads; None for as many as this process may run on.

    Raises:
        BackendError: If ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path, threads: int | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, not logged
        # Idle threads of one graph would otherwise keep spinning on the cores that the next stage needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = _session(path, options)
        except Exception as error:  # ONNX Runtime has no common class for what it raises
            raise BackendError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)})") from error
        self.path = path
        self._session: onnxruntime.InferenceSession | None = session
        self.inputs: Mapping[str, TensorInfo] = {x.name: _info(x) for x in session.get_inputs()}
        self.outputs: Mapping[str, TensorInfo] = {x.name: _info(x) for x in session.get_outputs()}

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the wanted outputs by name; see `Graph.run`."""
        if self._session is None:
            raise BackendError(f"{self.path.name}: the graph is closed")
        names = checked_feed(self.path.name, self.inputs, self.outputs, feed, wanted)
        try:
            answers: Any = self._session.run(names, dict(feed))
        except Exception as error:
            raise BackendError(f"{self.path.name}: ONNX Runtime failed ({_first_line(error)})") from error
        return dict(zip(names, answers, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_graph(path: Path, threads: int | None) -> OnnxRuntimeGraph:
    """Open one ONNX file; see `OnnxRuntimeGraph`."""
    return OnnxRuntimeGraph(path, threads)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a file.

    ONNX Runtime (1.32) folds Q/DQ pairs into operators that take float32 scales, those with float16 scales too, and
    then refuses the graph that it made. Such a graph, meant for TensorRT and OpenVINO, is run pair by pair.
    """
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=PROVIDERS)
    except Exception as error:
        if "float16" not in str(error) or "QLinear" not in str(error):
            raise
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=PROVIDERS)


def _info(argument: Any) -> TensorInfo:
    shape = tuple(axis if isinstance(axis, int) else str(axis or "?") for axis in argument.shape)
    return TensorInfo(argument.name, shape, _DTYPES.get(argument.type) or str(argument.type))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
