"""An engine of TensorRT, or of TensorRT for RTX, loaded onto a GPU: shared by all who run it, freed with the last."""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...bundle.bundle import Bundle
from ...bundle.engines import Engine
from ...cuda import Device
from ...environment.tensorrt_package import Complaints, as_stubs_say, logger, one_line
from ...errors import BackendError
from ...files import write_atomically
from ..base import TensorInfo

if TYPE_CHECKING:
    import tensorrt  # as its stubs describe it

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
# How an engine's work gets to the GPU, for a report.
NOT_YET = "not captured yet"


class Launching(Protocol):
    """Something that puts an engine to work, and tells how.

    Attributes:
        launching: In words.
    """

    launching: str

    @property
    def has_run(self) -> bool:
        """Whether it was ever put to work."""
        ...


class LoadedEngine:
    """A deserialised engine on a GPU, shared by a graph and its clones; freed with the last of them.

    Raises:
        BackendError: If it does not load; the device is closed then.
    """

    def __init__(self, bundle: Bundle, engine: Engine, module: ModuleType, device: Device):
        self.bundle, self.engine, self.module, self.device = bundle, engine, module, device
        self.is_rtx = engine.record.flavour == "tensorrt-rtx"
        self.name = engine.path.name
        self.complaints = Complaints()
        self._users = 0
        self._lock = threading.Lock()
        self._contexts: weakref.WeakSet[Launching] = weakref.WeakSet()
        self._caches: Any = None
        self._cached_bytes = 0
        try:
            trt = as_stubs_say(module)
            with device.current():
                # Both live as long as the engine, which refers to them.
                self._logger = logger(module, self.complaints)
                self._runtime = self._made(trt.Runtime, self._logger)
                self.plan: tensorrt.ICudaEngine = self._made(self._runtime.deserialize_cuda_engine, engine.read())
            self._config = self._rtx_config() if self.is_rtx else None
            self.tensors = self._tensors()
        except BaseException:
            self._forget()
            raise

    @property
    def facts(self) -> dict[str, str]:
        """What a report should say of it: its name, the device, and how its work gets there."""
        with self._lock:
            contexts = list(self._contexts)
        states = [context.launching for context in contexts if context.has_run] or [
            context.launching for context in contexts
        ]
        counts = Counter(sorted(states))
        told = ", ".join(
            counts if len(counts) < 2 else (f"{n} of {len(states)} {state}" for state, n in counts.items())
        )
        return {
            "engine": self.name,
            "device": self.device.info.name,
            "binding": self.device.binding,
            "cuda_graph": told or NOT_YET,
        }

    def add(self, context: Launching) -> None:
        """Let the facts tell of a lane as long as it is there."""
        with self._lock:
            self._contexts.add(context)

    def use(self) -> None:
        """One more user."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One less; the last frees it."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        if self._caches is not None:
            self._save_runtime_cache()
        self._forget()

    def context(self) -> tensorrt.IExecutionContext:
        """A new execution context.

        Raises:
            BackendError: If there is no memory for it.
        """
        with self.device.current():
            if self._config is not None:
                context: Any = cast(Any, self.plan).create_execution_context(self._config)  # not in tensorrt's stubs
            else:
                context = self.plan.create_execution_context()
            if context is None:
                raise self.failure("cannot make an execution context")
        return context

    def failure(self, what: str) -> BackendError:
        """An error in TensorRT's own words, with the free memory where that is the matter."""
        reason = self.complaints.take()
        said = reason.lower().replace(" ", "").replace("_", "")
        if "outofmemory" in said:
            free, total = self.device.memory()
            reason += (
                f"; {free >> 20} of {total >> 20} MiB of {self.device.info.name} are free, end other programs that use "
                "the GPU or build with a smaller batch"
            )
        elif "cudadriver" in said:
            reason += "; the driver is too old for this TensorRT, update it"
        return BackendError(f"{self.name}: TensorRT {what} ({reason})")

    def _made(self, make: Any, *arguments: Any) -> Any:
        """What a call of TensorRT's makes.

        Raises:
            BackendError: If it makes nothing.
        """
        try:
            made = make(*arguments)
        except (TypeError, RuntimeError) as error:  # pybind's words for a null pointer
            self.complaints.add(one_line(error))
            made = None
        if made is None:
            raise self.failure(f"{self.module.__version__} cannot load it")
        return made

    def _rtx_config(self) -> Any:
        """What TensorRT for RTX, which compiles kernels for the GPU as it loads an engine, is told at run time."""
        rtx = cast(Any, self.module)
        config = cast(Any, self.plan).create_runtime_config()
        config.cuda_graph_strategy = rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._caches = config.create_runtime_cache()
        with contextlib.suppress(OSError):  # there is none yet
            content = self._runtime_cache_file.read_bytes()
            # One of another driver or GPU is refused, and made anew.
            self._cached_bytes = len(content) if self._caches.deserialize(content) else 0
        config.set_runtime_cache(self._caches)
        return config

    @property
    def _runtime_cache_file(self) -> Path:
        gpu = "".join(c if c.isalnum() else "-" for c in self.device.info.name)
        return self.engine.path.with_suffix(f".{gpu}.kernels")

    def _save_runtime_cache(self) -> None:
        """Keep what was compiled, so that it loads at once the next time."""
        try:
            content = bytes(self._caches.serialize())
            if len(content) > self._cached_bytes:
                write_atomically(self._runtime_cache_file, content)
        except OSError as error:
            warnings.warn(f"{self.name}: the kernels compiled for it are not kept ({error})", stacklevel=2)

    def _tensors(self) -> dict[str, TensorInfo]:
        """All inputs and outputs by name, as the engine has them: -1 where an axis is free.

        Raises:
            BackendError: If it has one that is not for arrays in the device's memory.
        """
        trt, found = as_stubs_say(self.module), {}
        for i in range(self.plan.num_io_tensors):
            name = self.plan.get_tensor_name(i)
            kind = self.plan.get_tensor_dtype(name).name
            if kind not in _DTYPES or self.plan.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise BackendError(f"{self.name}: its {name!r} is {kind.lower()} or not in the GPU's memory")
            shape = tuple(int(n) for n in self.plan.get_tensor_shape(name))
            found[name] = TensorInfo(name, shape, _DTYPES[kind])
        return found

    def is_input(self, name: str) -> bool:
        """Whether a tensor goes in."""
        return self.plan.get_tensor_mode(name) == as_stubs_say(self.module).TensorIOMode.INPUT

    def profiles(self) -> list[dict[str, tuple[tuple[int, ...], ...]]]:
        """(smallest, usual, largest) shape of every input that has a free axis, by profile."""
        free = [name for name, info in self.tensors.items() if -1 in info.shape and self.is_input(name)]
        return [
            {
                name: tuple(tuple(int(n) for n in shape) for shape in self.plan.get_tensor_profile_shape(name, profile))
                for name in free
            }
            for profile in range(max(1, self.plan.num_optimization_profiles))
        ]

    def _forget(self) -> None:
        """Free everything, in the order that TensorRT wants."""
        with contextlib.suppress(BackendError), self.device.current():
            for name in ("plan", "_config", "_caches", "_runtime"):
                self.__dict__.pop(name, None)
        self.device.close()
