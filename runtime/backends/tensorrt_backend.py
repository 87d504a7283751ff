"""Engines of TensorRT, and of TensorRT for RTX, on a GPU.

Which engine runs is decided by its record in the bundle, before anything of it is loaded; there is no other device to
fall back to. Memory for every input and output is allocated once for each optimisation profile that is used. Where a
profile fixes all shapes, the engine's launches are captured into a CUDA graph after the first run; where that fails,
they are launched one by one, which `facts` and a warning tell.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..bundle import Bundle
from ..cuda import CapturedGraph, Device, DeviceBuffer, HostArray, Stream, open_device
from ..cuda.driver import OUT_OF_MEMORY, CudaError
from ..engines import Engine, build_command, find_engine
from ..errors import BackendError, UsageError
from ..files import write_atomically
from ..guards import OneAtATime
from ..tensorrt_package import Complaints, as_stubs_say, import_flavour, logger, one_line
from .base import Array, DeviceTensor, TensorInfo, feed_complaints

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
# The names that free axes have in a bundle are not in an engine.
_FREE = "?"
# How an engine's work gets to the GPU, for a report.
_CAPTURED, _NOT_YET, _FREE_SHAPES = "captured", "not captured yet", "not captured: shapes are free"
_BY_ITSELF = "captured by TensorRT for RTX itself"


def open_parts(
    bundle: Bundle, parts: Collection[str], precision: str, flavour: str, device_index: int = 0
) -> dict[str, TensorrtGraph]:
    """The engines of some parts of a bundle, loaded onto one GPU.

    Args:
        bundle: Opened.
        parts: Which.
        precision: Of the graphs that the engines were built from.
        flavour: "tensorrt" or "tensorrt_rtx".
        device_index: Among the GPUs that this process sees.

    Raises:
        BackendMissingError: If the flavour's package, or one that reaches the GPU, is not installed.
        BackendError: If there is no GPU, its memory is too small, or an engine does not load.
        EngineMismatchError: If there is no engine for this bundle and GPU; with the command that builds it.
    """
    module = import_flavour(flavour)
    graphs: dict[str, TensorrtGraph] = {}
    with open_device(device_index) as device:  # open all the while, so that its context is made once
        # All are found before one is loaded.
        engines = {part: find_part(bundle, part, precision, flavour, module, device) for part in parts}
        try:
            for part, engine in engines.items():
                graphs[part] = TensorrtGraph(_Loaded(bundle, engine, module, open_device(device_index)))
        except BaseException:
            for graph in graphs.values():
                graph.close()
            raise
    return graphs


def find_part(bundle: Bundle, part: str, precision: str, flavour: str, module: ModuleType, device: Device) -> Engine:
    """The engine that fits this GPU and this version of the package.

    Raises:
        EngineMismatchError: If there is none.
    """
    # Where the graph fixes the batch, every engine of it has that one.
    batches = {} if bundle.spec.graph.batch else {"vision": 1}
    return find_engine(
        *(bundle, part, precision, flavour, str(module.__version__), device.info.compute_capability),
        gpu=None if flavour == "tensorrt_rtx" else device.info.name,
        batch=batches.get(part),
    )


class _Loaded:
    """A deserialised engine on a GPU, shared by a graph and its clones; freed with the last of them.

    Raises:
        BackendError: If it does not load; the device is closed then.
    """

    def __init__(self, bundle: Bundle, engine: Engine, module: ModuleType, device: Device):
        self.bundle, self.engine, self.module, self.device = bundle, engine, module, device
        self.is_rtx = engine.record.flavour == "tensorrt_rtx"
        self.name = engine.path.name
        self.complaints = Complaints()
        self._users = 0
        self._lock = threading.Lock()
        self._lanes: weakref.WeakSet[_Lane] = weakref.WeakSet()
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
            lanes = list(self._lanes)
        states = [lane.launching for lane in lanes if lane.has_run] or [lane.launching for lane in lanes]
        counts = Counter(sorted(states))
        told = ", ".join(
            counts if len(counts) < 2 else (f"{n} of {len(states)} {state}" for state, n in counts.items())
        )
        return {
            "engine": self.name,
            "device": self.device.info.name,
            "binding": self.device.binding,
            "cuda_graph": told or _NOT_YET,
        }

    def add(self, lane: _Lane) -> None:
        """Let the facts tell of a lane as long as it is there."""
        with self._lock:
            self._lanes.add(lane)

    def use(self) -> None:
        """One more user."""
        with self._lock:
            self._users += 1

    def let_go(self) -> None:
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


class TensorrtGraph:
    """An engine, ready to run on a GPU. One thread at a time: others take a `clone`, which shares the engine.

    It takes the batches that it was built for. Its outputs have the types that its graph gives them.

    Args:
        loaded: The engine.

    Attributes:
        device: Where it runs.
        inputs, outputs: As for every graph.

    Raises:
        BackendError: If the device has no memory for it.
    """

    def __init__(self, loaded: _Loaded):
        loaded.use()
        self._loaded: _Loaded | None = loaded
        self._name = loaded.name
        self.device = loaded.device
        self._at_work = OneAtATime()
        self._lanes: dict[int, _Lane] = {}
        self._profiles = loaded.profiles()
        infos = {
            name: TensorInfo(name, tuple(_FREE if n == -1 else n for n in info.shape), info.dtype)
            for name, info in loaded.tensors.items()
        }
        self.inputs: Mapping[str, TensorInfo] = {n: info for n, info in infos.items() if loaded.is_input(n)}
        self.outputs: Mapping[str, TensorInfo] = {n: info for n, info in infos.items() if not loaded.is_input(n)}
        try:
            self._stream: Stream = self.device.stream()
            self._lane(0)  # so that what does not fit into memory is known now
        except BaseException:
            self.close()
            raise

    @property
    def facts(self) -> Mapping[str, str]:
        """What a report should say: engine, device, whether its launches are captured."""
        return {} if self._loaded is None else self._loaded.facts

    def clone(self) -> TensorrtGraph:
        """Another execution context with stream and buffers of its own, on the same engine.

        Raises:
            BackendError: If the device has no memory for it, or the graph is closed.
        """
        return TensorrtGraph(self._open())

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the wanted outputs by name; see `Graph.run`. Others stay on the device.

        Raises:
            UsageError: Also if a batch is not one that the engine was built for, or another thread is at work in it.
            CudaError: If the device fails.
        """
        loaded = self._open()
        complaints = feed_complaints(self.inputs, feed)
        names = list(self.outputs) if wanted is None else list(wanted)
        complaints += [f"there is no output {name!r}" for name in names if name not in self.outputs]
        if complaints:
            raise UsageError(f"{self._name}: {'; '.join(complaints)}")
        with self._at_work.entered(self._name), loaded.device.current():
            lane = self._lane(self._profile_of({name: array.shape for name, array in feed.items()}))
            lane.load(feed, self._stream)
            lane.enqueue(self._stream)
            return lane.fetch(names, self._stream)

    def host_input(self, name: str, shape: tuple[int, ...]) -> Array:
        """The host's memory that `run` takes this input from without a copy; see `StagedGraph.host_input`."""
        return self._lane_of_input(name, shape).host_view(name, shape)

    def input_on_device(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """The memory that `run_on_device` reads this input from if it is to be fastest, for inputs of this shape."""
        return self._lane_of_input(name, shape).tensor(name, shape)

    def run_on_device(
        self, stream: Stream, feed: Mapping[str, DeviceTensor], captured: bool = False
    ) -> dict[str, DeviceTensor]:
        """Run once in `stream`, on inputs that are on the device; see `DeviceGraph.run_on_device`."""
        loaded = self._open()
        complaints = [f"input {name!r} is missing" for name in self.inputs if name not in feed]
        complaints += [
            f"input {name!r} must be {self.inputs[name].dtype}, got {tensor.dtype}"
            for name, tensor in feed.items()
            if name in self.inputs and tensor.dtype != self.inputs[name].dtype
        ]
        if complaints:
            raise UsageError(f"{self._name}: {'; '.join(complaints)}")
        shapes = {name: tensor.shape for name, tensor in feed.items()}
        with self._at_work.entered(self._name), loaded.device.current():
            lane = self._lane(self._profile_of(shapes))
            lane.set_shapes(shapes)
            lane.set_addresses({name: tensor.address for name, tensor in feed.items()})
            lane.enqueue(stream, may_capture=not captured)
            return {name: lane.tensor(name, lane.output_shape(name)) for name in self.outputs}

    def close(self) -> None:
        """Free contexts and buffers, and the engine if nobody else uses it."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        with contextlib.suppress(CudaError):  # a device that failed frees nothing any more
            for lane in self._lanes.values():
                lane.close()
            if hasattr(self, "_stream"):
                self._stream.close()
        self._lanes = {}
        loaded.let_go()

    def _open(self) -> _Loaded:
        if self._loaded is None:
            raise BackendError(f"{self._name}: the graph is closed")
        return self._loaded

    def _lane_of_input(self, name: str, shape: tuple[int, ...]) -> _Lane:
        """The lane that runs when this input has this shape, which has to say so for itself."""
        self._open()
        free = dict.fromkeys(self._profiles[0], shape)
        if name not in self.inputs or (free and name not in free) or len(free) > 1:
            raise UsageError(f"{self._name}: {name!r} is not its only input of free shape")
        return self._lane(self._profile_of(free))

    def _lane(self, profile: int) -> _Lane:
        if profile not in self._lanes:
            self._lanes[profile] = _Lane(self._open(), profile, self._profiles[profile], self._stream)
        return self._lanes[profile]

    def _profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first profile that takes inputs of these shapes.

        Raises:
            UsageError: If none does, with the command that builds an engine with one.
        """
        for number, profile in enumerate(self._profiles):
            spans = ((shapes[name], low, high) for name, (low, _, high) in profile.items())
            if all(
                len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
                for shape, low, high in spans
            ):
                return number
        raise UsageError(f"{self._name}: {self._misfit(shapes)}")

    def _misfit(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        loaded = self._open()
        record, bundle = loaded.engine.record, loaded.bundle
        given = ", ".join(f"{name} {shapes[name]}" for name in self._profiles[0])
        batch = int(next(iter(shapes[name] for name in self._profiles[0]))[0])
        takes = ", ".join(str(n) for n in record.batches)
        targets = record.targets if loaded.is_rtx else ()
        if record.part == "caption_step":
            command = build_command(bundle.path, record.precision, record.flavour, targets, beam=max(batch, 1))
            return f"was built for at most {takes} sentences, got {given}; build with: {command}"
        batches = sorted({*record.batches, max(batch, 1)})
        command = build_command(bundle.path, record.precision, record.flavour, targets, batches)
        return f"was built for batches of {takes}, got {given}; build with: {command}"


class _Lane:
    """One profile of an engine at work: an execution context, the memory of its tensors, and its captured launches.

    Attributes:
        launching: How its work gets to the GPU, in words.
    """

    def __init__(
        self,
        loaded: _Loaded,
        profile: int,
        shapes: Mapping[str, tuple[tuple[int, ...], ...]],
        stream: Stream,
    ):
        self._loaded = loaded
        self._device = loaded.device
        self._is_fixed = all(low == high for low, _, high in shapes.values())
        self._memory: dict[str, DeviceBuffer | HostArray] = {}
        self._staging: dict[str, HostArray] = {}
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        self._captured: CapturedGraph | None = None
        self._captured_at: dict[str, int] = {}
        self._runs = 0
        self._cannot_capture = loaded.is_rtx or not self._is_fixed
        self.launching = _BY_ITSELF if loaded.is_rtx else _NOT_YET if self._is_fixed else _FREE_SHAPES
        self._context: tensorrt.IExecutionContext | None = loaded.context()
        try:
            with self._device.current():
                # Only an engine's first context has the first profile by itself.
                if shapes and self._running.active_optimization_profile != profile:
                    if not self._running.set_optimization_profile_async(profile, stream.number):
                        raise loaded.failure(f"refuses its profile {profile}")
                    stream.synchronize()
                self.set_shapes({name: largest for name, (_, _, largest) in shapes.items()})
                self._allocate()
        except BaseException:
            self.close()
            raise
        loaded.add(self)

    @property
    def has_run(self) -> bool:
        """Whether it was ever put to work."""
        return self._runs > 0

    @property
    def _running(self) -> tensorrt.IExecutionContext:
        assert self._context is not None
        return self._context

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Tell the shapes of inputs.

        Raises:
            BackendError: If TensorRT refuses one.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) == tuple(shape):
                continue
            if -1 in self._loaded.tensors[name].shape and not self._running.set_input_shape(name, tuple(shape)):
                raise self._loaded.failure(f"refuses {name!r} of shape {tuple(shape)}")
            self._shapes[name] = tuple(shape)

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Of an output, for the inputs as they were told."""
        shape = self._output_shapes.get(name)
        if shape is None:
            shape = tuple(int(n) for n in self._running.get_tensor_shape(name))
            if self._is_fixed:
                self._output_shapes[name] = shape
        return shape

    def tensor(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """A tensor in this lane's own memory."""
        return DeviceTensor(self._memory[name].address, shape, self._loaded.tensors[name].dtype)

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Tell where inputs lie.

        Raises:
            BackendError: If TensorRT refuses one.
        """
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self._running.set_tensor_address(name, address):
                    raise self._loaded.failure(f"refuses the memory of {name!r}")
                self._addresses[name] = address

    def load(self, feed: Mapping[str, Array], stream: Stream) -> None:
        """Bring inputs into their memory."""
        self.set_shapes({name: array.shape for name, array in feed.items()})
        self.set_addresses({name: self._memory[name].address for name in feed})
        for name, array in feed.items():
            target = self.host_view(name, array.shape)
            if array.ctypes.data != target.ctypes.data:  # else it was written there already
                np.copyto(target, array)
            memory = self._memory[name]
            if isinstance(memory, DeviceBuffer):
                self._device.to_device(memory, target, stream)

    def enqueue(self, stream: Stream, may_capture: bool = True) -> None:
        """Put the engine's work into a stream.

        Raises:
            BackendError: If TensorRT or the device refuses it.
        """
        if self._captured is not None and self._captured_at == self._addresses and may_capture:
            self._captured.launch(stream)
            return
        # The first run does what is done once only, and allocates. What then runs twice at one place stays there.
        if may_capture and not self._cannot_capture and self._runs > 0 and self._captured is None:
            self._capture(stream)
            if self._captured is not None:
                self._captured.launch(stream)
                return
        if not self._running.execute_async_v3(stream.number):
            raise self._loaded.failure("cannot run it")
        self._runs += 1

    def fetch(self, names: Sequence[str], stream: Stream) -> dict[str, Array]:
        """Wait, and copy outputs out.

        Raises:
            CudaError: If the device failed.
        """
        views = {name: self.host_view(name, self.output_shape(name)) for name in names}
        for name, view in views.items():
            memory = self._memory[name]
            if isinstance(memory, DeviceBuffer):
                self._device.to_host(view, memory, stream)
        stream.synchronize()
        return {name: view.copy() for name, view in views.items()}

    def close(self) -> None:
        """Free all of it."""
        for owned in (self._captured, *self._memory.values(), *self._staging.values()):
            if owned is not None:
                owned.close()
        with contextlib.suppress(BackendError), self._device.current():
            self._context = None

    def _capture(self, stream: Stream) -> None:
        context = self._running

        def launches() -> None:
            if not context.execute_async_v3(stream.number):
                raise self._loaded.failure("cannot be captured")

        try:
            self._captured = self._device.capture(stream, launches)
        except BackendError as error:
            if isinstance(error, CudaError) and error.code == OUT_OF_MEMORY:
                raise
            self._cannot_capture = True
            self.launching = f"not captured: {one_line(error)}"
            warnings.warn(
                f"{self._loaded.name}: runs without a CUDA graph, with more time for every launch ({one_line(error)})",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self._captured_at = dict(self._addresses)
            self.launching = _CAPTURED

    def _allocate(self) -> None:
        """Memory for every tensor at its largest, in which it is staged on the host too, but for GPUs that share it."""
        for name, info in self._loaded.tensors.items():
            shape = self._shapes.get(name) or self.output_shape(name)
            if -1 in shape:
                raise BackendError(f"{self._loaded.name}: the shape of its {name!r} is not known before it runs")
            purpose = f"{name} of {self._loaded.name}"
            if self._device.info.is_integrated:
                self._memory[name] = self._device.mapped(shape, info.dtype, purpose)
            else:
                nbytes = max(1, math.prod(shape) * np.dtype(info.dtype).itemsize)
                self._memory[name] = self._device.allocate(nbytes, purpose)
                self._staging[name] = self._device.pinned(shape, info.dtype, purpose)
        self.set_addresses({name: memory.address for name, memory in self._memory.items()})

    def host_view(self, name: str, shape: tuple[int, ...]) -> Array:
        """The front of what the host sees of a tensor, in this shape."""
        memory = self._memory[name]
        whole = memory if isinstance(memory, HostArray) else self._staging[name]
        return whole.array.reshape(-1)[: math.prod(shape)].reshape(shape)
