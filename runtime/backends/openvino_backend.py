"""OpenVINO on the CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino
from openvino.frontend import FrontEndManager

from ..environment.cores import usable_cores
from ..errors import BackendError
from .base import Array, TensorInfo, checked_feed

# Chosen by name: without one, OpenVINO picks a device by itself.
DEVICE = "CPU"


class OpenVinoGraph:
    """An ONNX file compiled for the CPU. Threads may share it: every call at a time has an infer request of its own.

    OpenVINO computes the whole graph whichever outputs are wanted; those not wanted are only not copied out. Graphs in
    int8 are read in a dialect of their own, as they are. Free axes that have to agree, such as the
    beam of a caption step's inputs, are for the caller to keep equal: OpenVINO does not check them, it reads past the
    end.

    Args:
        path: The ONNX file.
        threads: CPU threads; None for as many as this process may run on. OpenVINO takes no more than that.
        inference_precision: What floating-point operations compute in. Left to itself OpenVINO takes bfloat16, with 8
            bits of mantissa, wherever the processor has it, whatever precision the graph was exported in; here it does
            only when asked.

    Raises:
        BackendError: If OpenVINO refuses the file.
    """

    def __init__(self, path: Path, threads: int | None = None, inference_precision: Literal["f32", "bf16"] = "f32"):
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "INFERENCE_PRECISION_HINT": inference_precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Several graphs and the stages between them share the cores; pinned threads would sit on the same ones.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # Not core.read_model: given a damaged file it tries every other format it knows, and they write to stderr.
            frontend = FrontEndManager().load_by_framework("onnx")
            graph = frontend.load(os.fspath(path))
            # The names that the file gives; a tensor of the compiled model may have more.
            inputs = [_name(place) for place in graph.get_inputs()]
            outputs = [_name(place) for place in graph.get_outputs()]
            model = frontend.convert(graph)
            compiled = _core().compile_model(model, DEVICE, settings)
        except Exception as error:  # OpenVINO has no common class for what it raises
            raise BackendError(f"{path}: OpenVINO cannot load it ({_gist(error)})") from error
        self.path = path
        self._compiled: openvino.CompiledModel | None = compiled
        self._idle: list[openvino.InferRequest] = []
        self.inputs: Mapping[str, TensorInfo] = _infos(inputs, compiled.inputs)
        self.outputs: Mapping[str, TensorInfo] = _infos(outputs, compiled.outputs)

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the wanted outputs by name; see `Graph.run`."""
        compiled = self._compiled
        if compiled is None:
            raise BackendError(f"{self.path.name}: the graph is closed")
        # OpenVINO (2026.4) does not refuse a batch of none: it gives the outputs of the run before, or crashes.
        empty = [f"input {name!r} is empty" for name, array in feed.items() if array.ndim and not len(array)]
        names = checked_feed(self.path.name, self.inputs, self.outputs, feed, wanted, empty)
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        places = list(self.outputs)
        try:
            request = self._request(compiled)
            found = request.infer(arrays, share_inputs=True, share_outputs=True)
            answers = {name: np.array(found[places.index(name)]) for name in names}
        except Exception as error:
            raise BackendError(f"{self.path.name}: OpenVINO failed ({_gist(error)})") from error
        self._idle.append(request)
        return answers

    def _request(self, compiled: openvino.CompiledModel) -> openvino.InferRequest:
        """A request that no other thread is using."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        return compiled.create_infer_request()

    def close(self) -> None:
        """Free the compiled model and its requests."""
        self._compiled = None
        self._idle = []


def open_graph(path: Path, threads: int | None) -> OpenVinoGraph:
    """Open one ONNX file; see `OpenVinoGraph`."""
    return OpenVinoGraph(path, threads)


@cache
def _core() -> openvino.Core:
    """What all graphs of this process are compiled by."""
    return openvino.Core()


def _name(place: Any) -> str:
    return place.get_names()[0]


def _infos(names: Sequence[str], ports: Sequence[Any]) -> dict[str, TensorInfo]:
    return {name: _info(name, port) for name, port in zip(names, ports, strict=True)}


def _info(name: str, port: Any) -> TensorInfo:
    shape = tuple(axis.get_length() if axis.is_static else "?" for axis in port.get_partial_shape())
    return TensorInfo(name, shape, str(np.dtype(port.get_element_type().to_dtype())))


def _gist(error: Exception) -> str:
    """The line that says what is wrong: an unknown operation if that is named, else the last of OpenVINO's many."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")] or [type(error).__name__]
    return next((line for line in lines if line.startswith("No conversion rule")), lines[-1])
