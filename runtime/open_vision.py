"""Which vision part belongs to a graph."""

from __future__ import annotations

from .backends.base import DeviceGraph, Graph
from .errors import UsageError
from .host_vision import HostVision
from .slots import Vision
from .spec import ModelSpec

POST_PROCESSING = ("gpu", "cpu")


def open_vision(spec: ModelSpec, graph: Graph, post_processing: str | None = None) -> Vision:
    """A graph between the kernels that prepare its pictures and read its heads.

    Args:
        spec: What the model is.
        graph: Closed with what is returned.
        post_processing: "gpu" for the GPU's kernels, "cpu" for the CPU's; None for the side that the graph runs on.

    Raises:
        UsageError: If "gpu" is asked for and the graph does not run on one that hands out its memory, or there is no
            such choice.
        BackendMissingError: If the GPU's kernels have to be compiled and there is no compiler.
        BackendError: If they do not fit the graph, do not compile, or the device has no memory left.
    """
    if post_processing is not None and post_processing not in POST_PROCESSING:
        raise UsageError(f"post_processing must be one of {', '.join(POST_PROCESSING)}, got {post_processing!r}")
    is_on_device = isinstance(graph, DeviceGraph)
    if post_processing == "gpu" and not is_on_device:
        raise UsageError(f'{spec.name}: post_processing="gpu" needs a graph on a GPU; load with backend="tensorrt"')
    if is_on_device and post_processing != "cpu":
        from .cuda.device_vision import DeviceVision  # what it imports nobody else needs

        return DeviceVision(spec, graph)
    return HostVision(spec, graph)
