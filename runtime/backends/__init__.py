"""Backends by name; the package a backend needs is imported only when that backend is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ..bundle import Bundle
from ..errors import BackendMissingError, UsageError
from .base import Graph


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend lives and what it reads.

    Attributes:
        module: Imported when the backend is asked for; has `open_graph(path, threads)`.
        extra: What to install for it.
        int8_dialect: Of `bundle.INT8_DIALECTS`, the one it runs fast.
    """

    module: str
    extra: str
    int8_dialect: str


BACKENDS = {
    "onnxruntime": BackendEntry(".onnxruntime_backend", "onnxruntime", "u8s8"),
    "openvino": BackendEntry(".openvino_backend", "openvino", "s8s8"),
}


class _BackendModule(Protocol):
    def open_graph(self, path: Path, threads: int | None) -> Graph: ...


def graph_files(bundle: Bundle, backend: str = "onnxruntime", precision: str = "fp32") -> dict[str, Path]:
    """The files that `backend` runs in `precision` ("auto" is what the bundle recommends for it), by part.

    Raises:
        UsageError: If the backend is unknown or the bundle lacks the precision.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; the backends are {', '.join(BACKENDS)}")
    return bundle.graph_files(bundle.choose_precision(precision, backend), BACKENDS[backend].int8_dialect)


def open_graphs(
    bundle: Bundle,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
    parts: Collection[str] | None = None,
) -> dict[str, Graph]:
    """Open every part of a bundle, or some.

    Args:
        bundle: What to open.
        backend: A name from `BACKENDS`.
        precision: Of the graphs.
        threads: CPU threads a graph may use; None for as many as this process may run on.
        parts: Those to open; None for all.

    Returns:
        The graphs by part: "vision", and "caption_prefill" and "caption_step" where there is a caption.

    Raises:
        UsageError: If the backend or the thread count makes no sense, or the bundle lacks the precision.
        BackendError: If the backend's package is not installed, or it refuses a graph.
    """
    files = graph_files(bundle, backend, precision)
    entry = BACKENDS[backend]
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    try:
        module = cast(_BackendModule, importlib.import_module(entry.module, __name__))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise BackendMissingError(
            f'backend "{backend}" needs the package {error.name}; '
            f'install the "{entry.extra}" extra: pip install "yolor-edge[{entry.extra}]"'
        ) from error
    graphs: dict[str, Graph] = {}
    try:
        for part, path in files.items():
            if parts is not None and part not in parts:
                continue
            graphs[part] = module.open_graph(path, threads)
    except BaseException:
        for graph in graphs.values():
            graph.close()
        raise
    return graphs
