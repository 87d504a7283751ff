"""Which vision part belongs to a graph."""

from __future__ import annotations

from ..backends.base import DeviceGraph, Graph
from ..backends.fastest import AUTO
from ..backends.registry import BACKENDS, backend_entry
from ..bundle.spec import ModelSpec
from ..errors import UsageError
from .contexts import Vision
from .host_vision import HostVision

PROCESSING = ("gpu", "cpu")


def check_processing(backend: str, processing: str | None) -> None:
    """Refuse what no graph of a backend can serve, before one is opened.

    Args:
        backend: A name from `BACKENDS`, or "auto", which is for later to tell.
        processing: As for `open_vision`.

    Raises:
        UsageError: If there is no such choice or backend, or the backend's graphs do not hand out the GPU's memory.
    """
    if processing is not None and processing not in PROCESSING:
        raise UsageError(
            f"<processing> must be one of {', '.join(PROCESSING)}, got {processing!r}",
            argument="processing",
        )
    if processing != "gpu" or backend == AUTO or backend_entry(backend).flavour:
        return
    able = ", ".join(name for name, entry in BACKENDS.items() if entry.flavour)
    raise UsageError(
        f'post-processing on the GPU needs a network whose outputs stay there, and backend "{backend}" gives its own '
        f"to the CPU; choose a backend of {able}, or post-processing cpu",
        argument=("processing", "backend"),
    )


def open_vision(spec: ModelSpec, graph: Graph, processing: str | None = None) -> Vision:
    """A graph between the kernels that prepare its images and read its heads.

    Args:
        spec: What the model is.
        graph: Closed with what is returned.
        processing: "gpu" for the GPU's kernels, "cpu" for the CPU's; None for the side that the graph runs on.

    Raises:
        UsageError: If "gpu" is asked for and the graph does not run on one that hands out its memory.
        BackendMissingError: If the GPU's kernels have to be compiled and there is no compiler.
        BackendError: If they do not fit the graph, do not compile, or the device has no memory left.
    """
    is_on_device = isinstance(graph, DeviceGraph)
    if processing == "gpu" and not is_on_device:
        raise UsageError(
            f'{spec.name}: processing="gpu" needs a graph on a GPU; load with backend="tensorrt"',
            argument=("processing", "backend"),
        )
    if is_on_device and processing != "cpu":
        from .device_vision import DeviceVision  # what it imports nobody else needs

        return DeviceVision(spec, graph)
    return HostVision(spec, graph)
