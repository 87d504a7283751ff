"""Backends by name; the package a backend needs is imported only when that backend is asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ..arguments import nearest
from ..bundle.bundle import Bundle
from ..bundle.engines import graph_kind
from ..environment.cores import usable_cores
from ..environment.install import package_hint, version_of
from ..environment.packages import PACKAGES
from ..errors import BackendError, BackendMissingError, UsageError
from .base import Graph


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend lives and what it reads.

    Attributes:
        module: Imported when the backend is asked for; has `open_graph(path, threads)`, or for one that runs engines
            `open_parts(bundle, parts, precision, flavour)`.
        package: Imported by it, by its name in `environment.packages`.
        int8_dialect: Of `bundle.INT8_DIALECTS`, the one it runs fast.
        flavour: Of the engines it runs, "tensorrt" or "tensorrt-rtx"; empty for one that reads graphs as they are.
        needs_gpu: Whether it runs on a GPU, and on nothing else.
    """

    module: str
    package: str
    int8_dialect: str
    flavour: str = ""
    needs_gpu: bool = False

    @property
    def imports(self) -> str:
        """The module that its package is imported as."""
        return PACKAGES[self.package].module if self.package in PACKAGES else self.package


# More than this on fewer cores wait for each other so long that a run seems to hang.
MOST_THREADS = 64

BACKENDS = {
    "onnxruntime": BackendEntry(".onnxruntime_backend", "onnxruntime", "u8s8"),
    "openvino": BackendEntry(".openvino_backend", "openvino", "openvino"),
    "onnxruntime-cuda": BackendEntry(".onnxruntime_cuda_backend", "onnxruntime-gpu", "s8s8", needs_gpu=True),
    "tensorrt": BackendEntry(".tensorrt.backend", "tensorrt", "s8s8", "tensorrt", needs_gpu=True),
    "tensorrt-rtx": BackendEntry(".tensorrt.backend", "tensorrt-rtx", "s8s8", "tensorrt-rtx", needs_gpu=True),
}


class GraphModule(Protocol):
    """A backend that reads graphs as they are."""

    def open_graph(self, path: Path, threads: int | None) -> Graph: ...


class EngineModule(Protocol):
    """A backend that runs engines."""

    def open_parts(
        self, bundle: Bundle, parts: Collection[str], precision: str, flavour: str
    ) -> Mapping[str, Graph]: ...


def graph_files(bundle: Bundle, backend: str = "onnxruntime", precision: str = "fp32") -> dict[str, Path]:
    """The files that `backend` runs, or its engines are built from, in `precision`, by part.

    Args:
        bundle: Where they are.
        backend: A name from `BACKENDS`.
        precision: One of `bundle.PRECISIONS`.

    Raises:
        UsageError: If the backend is unknown or the bundle lacks the precision.
    """
    entry = backend_entry(backend)
    if entry.flavour:
        return {part: bundle.path / bundle.graphs[part][graph_kind(bundle, part, precision)] for part in bundle.graphs}
    return bundle.graph_files(precision, entry.int8_dialect)


def backend_version(backend: str) -> str:
    """The version of what a backend runs on, as installed here; empty where it is not."""
    entry = backend_entry(backend)
    loaded = sys.modules.get(entry.imports) if entry.flavour else None  # one of a system's may come without metadata
    return str(getattr(loaded, "__version__", "")) or version_of(entry.package)


def backend_name(backend: str) -> str:
    """A backend's name as it is listed: "tensorrt_rtx", as its package is imported, names "tensorrt-rtx" too."""
    dashed = backend.replace("_", "-")
    return dashed if dashed in BACKENDS else backend


def backend_entry(backend: str) -> BackendEntry:
    """A backend by name.

    Raises:
        UsageError: If it is unknown.
    """
    if backend not in BACKENDS:
        raise UsageError(
            f"unknown backend {backend!r}{nearest(backend, BACKENDS)}; the backends are {', '.join(BACKENDS)}",
            argument="backend",
        )
    return BACKENDS[backend]


def check_threads(threads: int | None) -> None:
    """Refuse a number of CPU threads that makes no sense.

    Raises:
        UsageError: If it does not.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"<threads> must be at least 1, got {threads}", argument="threads")
    most = max(MOST_THREADS, usable_cores())
    if threads is not None and threads > most:
        raise UsageError(
            f"<threads> must be at most {most}, got {threads}; this process may run on {usable_cores()} cores",
            argument="threads",
        )


def backend_of_flavour(flavour: str) -> str:
    """The name of the backend that runs the engines of a flavour, "tensorrt" or "tensorrt-rtx"."""
    return next(name for name, entry in BACKENDS.items() if entry.flavour == flavour)


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
        BackendError: If the backend's package is not installed, or it refuses a graph, or there is no GPU for one that
            needs it.
        EngineMismatchError: If the backend runs engines, and the one that fits here is not built.
    """
    files = graph_files(bundle, backend, precision)
    entry = backend_entry(backend)
    check_threads(threads)
    module = backend_module(backend)
    if entry.flavour:
        wanted = [part for part in files if parts is None or part in parts]
        return dict(cast(EngineModule, module).open_parts(bundle, wanted, precision, entry.flavour))
    graphs: dict[str, Graph] = {}
    try:
        for part, path in files.items():
            if parts is not None and part not in parts:
                continue
            graphs[part] = cast(GraphModule, module).open_graph(path, threads)
    except BaseException:
        for graph in graphs.values():
            graph.close()
        raise
    return graphs


def backend_module(backend: str) -> GraphModule | EngineModule:
    """The module of a backend, imported now.

    Raises:
        BackendMissingError: If its package is not installed.
        BackendError: If that does not load.
    """
    entry = backend_entry(backend)
    try:
        # numpy prints a traceback for a package that was built for another numpy; the error says it in one line.
        with contextlib.redirect_stderr(io.StringIO()):
            return cast("GraphModule | EngineModule", importlib.import_module(entry.module, __package__))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise BackendMissingError(
            f'backend "{backend}" needs the package {error.name}; {package_hint(entry.package)}'
        ) from error
    except (ImportError, OSError) as error:
        raise BackendError(
            f'backend "{backend}": its package is installed but does not load ({str(error).partition(chr(10))[0]}); '
            "install it again, or see yolor-edge doctor"
        ) from error
