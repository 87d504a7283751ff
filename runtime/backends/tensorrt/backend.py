"""Engines of TensorRT, and of TensorRT for RTX, on a GPU.

Which engine runs is decided by its record in the bundle, before anything of it is loaded; there is no other device to
fall back to. Memory for every input and output is allocated once for each optimisation profile that is used. Where a
profile fixes all shapes, the engine's launches are captured into a CUDA graph after the first run; where that fails,
they are launched one by one, which `facts` and a warning tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

from ...bundle.bundle import Bundle
from ...bundle.engines import Engine, build_command, find_engine
from ...cuda import Device, Stream, open_device
from ...cuda.driver import CudaError
from ...environment.tensorrt_package import import_flavour
from ...errors import BackendError, UsageError
from ..base import Array, DeviceTensor, TensorInfo, checked_feed
from ..guards import OneAtATime
from .engine import LoadedEngine
from .execution_context import EngineContext

# The names that free axes have in a bundle are not in an engine.
_FREE = "?"


def open_parts(
    bundle: Bundle, parts: Collection[str], precision: str, flavour: str, device_index: int = 0
) -> dict[str, TensorrtGraph]:
    """The engines of some parts of a bundle, loaded onto one GPU.

    Args:
        bundle: Opened.
        parts: Which.
        precision: Of the graphs that the engines were built from.
        flavour: "tensorrt" or "tensorrt-rtx".
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
                graphs[part] = TensorrtGraph(LoadedEngine(bundle, engine, module, open_device(device_index)))
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
        gpu=None if flavour == "tensorrt-rtx" else device.info.name,
        batch=batches.get(part),
    )


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

    def __init__(self, loaded: LoadedEngine):
        loaded.use()
        self._loaded: LoadedEngine | None = loaded
        self._name = loaded.name
        self.device = loaded.device
        self._at_work = OneAtATime()
        self._contexts: dict[int, EngineContext] = {}
        self._profiles = loaded.profiles()
        infos = {
            name: TensorInfo(name, tuple(_FREE if n == -1 else n for n in info.shape), info.dtype)
            for name, info in loaded.tensors.items()
        }
        self.inputs: Mapping[str, TensorInfo] = {n: info for n, info in infos.items() if loaded.is_input(n)}
        self.outputs: Mapping[str, TensorInfo] = {n: info for n, info in infos.items() if not loaded.is_input(n)}
        try:
            self._stream: Stream = self.device.stream()
            self._context_of(0)  # so that what does not fit into memory is known now
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
        names = checked_feed(self._name, self.inputs, self.outputs, feed, wanted)
        with self._at_work.entered(self._name), loaded.device.current():
            context = self._context_of(self._profile_of({name: array.shape for name, array in feed.items()}))
            context.load(feed, self._stream)
            context.enqueue(self._stream)
            return context.fetch(names, self._stream)

    def host_input(self, name: str, shape: tuple[int, ...]) -> Array:
        """The host's memory that `run` takes this input from without a copy; see `StagedGraph.host_input`."""
        return self._context_of_input(name, shape).host_view(name, shape)

    def input_on_device(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """The memory that `run_on_device` reads this input from if it is to be fastest, for inputs of this shape."""
        return self._context_of_input(name, shape).tensor(name, shape)

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
            context = self._context_of(self._profile_of(shapes))
            context.set_shapes(shapes)
            context.set_addresses({name: tensor.address for name, tensor in feed.items()})
            context.enqueue(stream, may_capture=not captured)
            return {name: context.tensor(name, context.output_shape(name)) for name in self.outputs}

    def close(self) -> None:
        """Free contexts and buffers, and the engine if nobody else uses it."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        with contextlib.suppress(CudaError):  # a device that failed frees nothing any more
            for context in self._contexts.values():
                context.close()
            if hasattr(self, "_stream"):
                self._stream.close()
        self._contexts = {}
        loaded.release()

    def _open(self) -> LoadedEngine:
        if self._loaded is None:
            raise BackendError(f"{self._name}: the graph is closed")
        return self._loaded

    def _context_of_input(self, name: str, shape: tuple[int, ...]) -> EngineContext:
        """The lane that runs when this input has this shape, which has to say so for itself."""
        self._open()
        free = dict.fromkeys(self._profiles[0], shape)
        if name not in self.inputs or (free and name not in free) or len(free) > 1:
            raise UsageError(f"{self._name}: {name!r} is not its only input of free shape")
        return self._context_of(self._profile_of(free))

    def _context_of(self, profile: int) -> EngineContext:
        if profile not in self._contexts:
            self._contexts[profile] = EngineContext(self._open(), profile, self._profiles[profile], self._stream)
        return self._contexts[profile]

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
