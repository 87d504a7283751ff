"""One builder over `tensorrt` (10.3 to 11) and `tensorrt-rtx`: whatever differs between them is in this file.

Precision is in the graph: every network is strongly typed and no precision flag is ever set, so one ONNX file gives the
same arithmetic in every version. What differs:

- TensorRT 10 makes a network strongly typed by a flag; TensorRT 11 and TensorRT for RTX know no other networks.
- TensorRT builds on the device that will run the engine, or for GPUs like it; TensorRT for RTX builds for any of the
  compute capabilities it names, several in one engine, on a machine that may have no GPU.
- TensorRT times kernels and can keep the times in a cache; TensorRT for RTX times nothing.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...runtime.bundle.engines import is_compute_capability
from ...runtime.environment.cuda_device import CudaDevice, cuda_device
from ...runtime.environment.install import package_hint
from ...runtime.environment.tensorrt_package import (
    FLAVOURS,
    as_stubs_say,
    import_flavour,
    installed_flavours,
    one_line,
)
from ...runtime.errors import BackendError, EngineBuildError, UsageError
from ...runtime.progress import Count
from .build_needs import less_memory, workspace_limit_mib

if TYPE_CHECKING:
    import tensorrt  # as its stubs describe it

# What a graph asks for beyond its fixed inputs: (smallest, usual, largest) per axis, None where the graph fixes it.
Ranges = Mapping[str, Sequence[tuple[int, int, int] | None]]
# name of the phase, steps done, steps there are

# How TensorRT for RTX tells of a layer that multiplies matrices or convolves, with the type of what goes in.
_LAYER_LINE = re.compile(r"LayerType: (?:correlation|deconv|gemm|runtime_fusion), Inputs: \[ \{[^}]*?Datatype: (\w+)")
# How the parser warns that it takes unsigned values for signed ones, which gives other answers.
_UNSIGNED_WARNING = "Defaulting to INT8"
# How TensorRT tells of memory of the GPU that a kernel asked for and did not get.
_REFUSED_MIB = re.compile(r"Tactic Device request: (\d+)MB Available: (\d+)MB")
_REFUSED_BYTES = re.compile(r"Requested amount of GPU memory \((\d+) bytes\)")
# What is said where the workspace is too small. TensorRT for RTX tells a size too, which is not the one it needs.
_STARVED = ("outofmemory", "out of memory", "no tactics to implement", "could not find any implementation")
_TYPE_NAMES = {"Float": "fp32", "Half": "fp16", "Int8": "int8"}
_OLDEST = (10, 3)
_TURING = "sm_75"


@dataclass(frozen=True)
class BuildJob:
    """One engine to build; JSON values only, since it is handed to a process of its own.

    Attributes:
        graph: The ONNX file.
        outputs: The names its outputs must have.
        targets: From `Toolkit.known_targets`.
        ranges: One per optimisation profile; there is none where every input is fixed.
        workspace_mib: Most scratch memory a kernel may take; None for the builder's own limit.
        low_memory: Try fewer kernels, to need less memory while building.
        exact_float32: Leave TF32 out, whose products have ten bits.
        timing_cache: File of measured kernels, or None.
        frozen: Refuse to measure a kernel that is not in the timing cache.
    """

    graph: str
    outputs: Sequence[str]
    targets: Sequence[str]
    ranges: Sequence[Ranges] = ()
    workspace_mib: int | None = None
    low_memory: bool = False
    exact_float32: bool = False
    timing_cache: str | None = None
    frozen: bool = False


@dataclass(frozen=True)
class Built:
    """What a build gave.

    Attributes:
        plan: The engine, readable as bytes.
        profiles: For each profile the (smallest, usual, largest) shape of every input that has one.
        timing_cache: What was measured, to be kept; None if nothing is.
        layers: How many layers that multiply matrices or convolve take their input in which precision; empty where
            the builder does not tell.
    """

    plan: Any
    profiles: list[dict[str, tuple[tuple[int, ...], ...]]] = field(default_factory=list)
    timing_cache: bytes | None = None
    layers: dict[str, int] = field(default_factory=dict)


def load_toolkit(flavour: str | None = None) -> Toolkit:
    """Import a flavour's package; by default the one that is installed, `tensorrt` before `tensorrt-rtx`.

    Raises:
        UsageError: If there is no such flavour.
        BackendError: If its package is missing, does not load or is too old.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise UsageError(f"unknown flavour {flavour!r}; the flavours are {', '.join(FLAVOURS)}", argument="flavour")
    installed = installed_flavours()
    if flavour is None and installed:
        flavour = installed[0]
    if flavour is None or flavour not in installed:
        missing = f"flavour {flavour!r} needs the package {flavour}" if flavour else "no TensorRT is installed"
        choices = "; ".join(
            f"for {entry.devices}, {package_hint(name)} (flavour {name})"
            for name, entry in FLAVOURS.items()
            if flavour in (None, name)
        )
        others = [name for name in installed if name != flavour]
        instead = f"; or choose <flavour> {others[0]}, which is installed" if others else ""
        raise BackendError(f"{missing}; {choices}{instead}", argument="flavour")
    return Toolkit(flavour, import_flavour(flavour))


class Toolkit:
    """A flavour, loaded.

    Args:
        flavour: One of `FLAVOURS`.
        module: Its package.
        device: The GPU here, if there is one.

    Attributes:
        flavour: As given.
        version: Full version of the package.
        device: As given.

    Raises:
        BackendError: If the package is older than what is supported.
    """

    def __init__(self, flavour: str, module: object, device: CudaDevice | None = None):
        self.flavour = flavour
        self._trt = as_stubs_say(module)
        self.version = str(self._trt.__version__)
        self.device = device if device is not None else cuda_device()
        if not self.is_rtx and self._release < _OLDEST:
            oldest = ".".join(str(n) for n in _OLDEST)
            raise BackendError(
                f"tensorrt {self.version} is too old, {oldest} (JetPack 6.1) or newer is needed; update JetPack"
            )

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.flavour == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether builds measure kernels. TensorRT for RTX compiles them on the user's GPU instead."""
        return not self.is_rtx

    def known_targets(self) -> tuple[str, ...]:
        """What an engine can be built for here."""
        if self.is_rtx:
            names = _members(cast(Any, self._trt).ComputeCapability)  # not in tensorrt's stubs
            return tuple(f"sm_{name.removeprefix('SM')}" for name in names if name.startswith("SM"))
        here = (self.device.compute_capability,) if self.device else ()
        levels = [name.lower() for name in _members(self._trt.HardwareCompatibilityLevel) if name != "NONE"]
        return (*here, *levels)

    def check_targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The targets an engine is built for: those asked for, without repeats, or by default all that any graph suits.

        By default TensorRT builds for the GPU here, and TensorRT for RTX for all it knows from Ampere on: Turing lacks
        matrix products in float32, so an engine that is for Turing too cannot be built from every graph.

        Raises:
            UsageError: If one is not known to this flavour.
        """
        known = self.known_targets()
        unknown = [target for target in asked if target not in known]
        if unknown:
            hint = ""
            if not self.is_rtx and any(is_compute_capability(target) for target in unknown):
                hint = "; it builds for the GPU of the machine it runs on, so run this there"
            raise UsageError(
                f"{self.flavour} {self.version} cannot build for {', '.join(unknown)}{hint}; "
                f"here its targets are {', '.join(known) or 'none'}",
                argument="targets",
            )
        if self.is_rtx:
            return tuple(t for t in known if (t in asked if asked else t != _TURING))
        if self.device is None:
            raise BackendError(
                f"{self.flavour} {self.version} builds only on a machine with an NVIDIA GPU and its driver; run this "
                "on the device, or choose <flavour> tensorrt-rtx if the target is a desktop RTX GPU",
                argument="flavour",
            )
        levels = [target for target in asked if not is_compute_capability(target)]
        if len(levels) > 1:
            raise UsageError(
                f"{self.flavour} builds for one of {', '.join(levels)} at a time; choose one", argument="targets"
            )
        if levels == ["ampere_plus"]:
            return ("ampere_plus",)
        return (self.device.compute_capability, *levels)

    def build(self, job: BuildJob, report: Count) -> Built:
        """Parse a graph and build its engine; blocks, in C++, until it is done.

        Raises:
            EngineBuildError: If the graph cannot be parsed or built.
        """
        trt = self._trt
        log = _error_log(trt)
        try:
            builder = trt.Builder(log)
        except (TypeError, RuntimeError) as error:  # pybind's words for a null pointer
            reason = log.errors[0] if log.errors else one_line(error)
            raise EngineBuildError(
                f"{self.flavour} {self.version} could not start its builder ({reason}); "
                "is there a GPU, and is its driver new enough?"
            ) from error
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, log)  # the network refers to the parser's weights: it must live as long
        name = Path(job.graph).name
        if not parser.parse_from_file(job.graph):
            raise EngineBuildError(
                f"{name}: {self.flavour} {self.version} cannot read it: {_parser_error(parser, log)}"
            )
        if log.takes_unsigned_for_signed:
            raise EngineBuildError(
                f"{name}: has unsigned int8 values, which {self.flavour} would take for signed ones; "
                "it needs the graph that export writes as int8-s8s8"
            )
        _check_outputs(name, [network.get_output(i).name for i in range(network.num_outputs)], job.outputs)
        config = builder.create_builder_config()
        monitor = _progress_monitor(trt, report)  # held here: the config alone does not keep it
        config.progress_monitor = monitor
        self._set_limits(config, job)
        self._set_targets(config, job.targets)
        profiles = []
        for ranges in job.ranges:
            shapes = _profile_shapes(network, ranges, name)
            if not shapes:
                continue
            profile = builder.create_optimization_profile()
            for tensor, (smallest, usual, largest) in shapes.items():
                profile.set_shape(tensor, trt.Dims(list(smallest)), trt.Dims(list(usual)), trt.Dims(list(largest)))
            if config.add_optimization_profile(profile) < 0:
                raise EngineBuildError(f"{name}: {self.flavour} refuses the shapes {shapes} ({log.first_error})")
            profiles.append(shapes)
        if self.has_timing_cache and job.timing_cache is not None:
            self._use_timing_cache(config, Path(job.timing_cache), job.frozen)
        plan: Any = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineBuildError(f"{name}: {self.flavour} {self.version} cannot build it: {_build_error(log, job)}")
        measured = None
        if self.has_timing_cache and job.timing_cache is not None and not job.frozen:
            measured = bytes(config.get_timing_cache().serialize())
        return Built(plan, profiles, measured, dict(log.layers))

    @property
    def _release(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    def _network_flags(self) -> int:
        if self.is_rtx or self._release >= (11, 0):
            return 0
        return 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def _set_limits(self, config: tensorrt.IBuilderConfig, job: BuildJob) -> None:
        trt = self._trt
        workspace = workspace_limit_mib(job.low_memory, job.workspace_mib)
        if job.low_memory:
            config.builder_optimization_level = 1
            config.max_aux_streams = 0
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
        if job.exact_float32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if job.frozen and self.has_timing_cache:
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
            config.set_flag(trt.BuilderFlag.DISABLE_COMPILATION_CACHE)

    def _set_targets(self, config: tensorrt.IBuilderConfig, targets: Sequence[str]) -> None:
        if self.is_rtx:
            rtx_trt, rtx_config = cast(Any, self._trt), cast(Any, config)  # what follows is not in tensorrt's stubs
            rtx_config.profiling_verbosity = rtx_trt.ProfilingVerbosity.DETAILED  # so that it tells of its layers
            rtx_config.num_compute_capabilities = len(targets)
            for i, target in enumerate(targets):
                capability = getattr(rtx_trt.ComputeCapability, target.replace("sm_", "SM"))
                rtx_config.set_compute_capability(capability, i)
            return
        levels = _members(self._trt.HardwareCompatibilityLevel)
        for target in targets:
            if target.upper() in levels:
                config.hardware_compatibility_level = levels[target.upper()]

    def _use_timing_cache(self, config: tensorrt.IBuilderConfig, file: Path, frozen: bool) -> None:
        content = file.read_bytes() if file.is_file() else b""
        cache = config.create_timing_cache(content)
        if config.set_timing_cache(cache, False):
            return
        if frozen:
            raise EngineBuildError(
                f"{file}: was measured on another device or by another version, so a frozen build cannot use it; "
                "build once without <frozen>",
                argument="frozen",
            )
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _members(enum: Any) -> dict[str, Any]:
    """The members of one of pybind's enums by name."""
    return dict(enum.__members__)


def _error_log(module: object):
    """A logger that keeps errors and counts layers by precision, instead of printing anything."""
    trt = as_stubs_say(module)

    class ErrorLog(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.takes_unsigned_for_signed = False
            self.refused = ""
            self.layers: collections.Counter[str] = collections.Counter()

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(one_line(msg))
            elif _UNSIGNED_WARNING in msg:
                self.takes_unsigned_for_signed = True
            if found := _REFUSED_MIB.search(msg):
                self.refused = f"a kernel asked for {found[1]} MiB of GPU memory and {found[2]} were free"
            elif found := _REFUSED_BYTES.search(msg):
                self.refused = f"{int(found[1]) >> 20} MiB of GPU memory were asked for and not free"
            for kind in _LAYER_LINE.findall(msg):  # all layers come in one message
                self.layers[_TYPE_NAMES.get(kind) or str(kind).lower()] += 1

        @property
        def first_error(self) -> str:
            return self.errors[0] if self.errors else "it gives no reason"

    return ErrorLog()


def _progress_monitor(module: object, report: Count) -> tensorrt.IProgressMonitor:
    """A monitor that reports every step of every phase."""
    trt = as_stubs_say(module)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _parser_error(parser: tensorrt.OnnxParser, log: Any) -> str:
    """The parser's first message, with the node it is about."""
    if parser.num_errors == 0:
        return log.first_error
    error = parser.get_error(0)
    node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
    return f"{node}{one_line(error.desc())}"


def _check_outputs(graph: str, found: Sequence[str], expected: Sequence[str]) -> None:
    if set(found) != set(expected):
        raise EngineBuildError(
            f"{graph}: its outputs are {', '.join(sorted(found)) or 'none'}, expected {', '.join(sorted(expected))}; "
            "export the bundle again"
        )


def _profile_shapes(
    network: tensorrt.INetworkDefinition, ranges: Ranges, graph: str
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The (smallest, usual, largest) shape of every input that has a free axis."""
    shapes = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        fixed = tuple(int(n) for n in tensor.shape)
        if -1 not in fixed:
            continue
        given = ranges.get(tensor.name, ())
        axes = []
        for axis, size in enumerate(fixed):
            span = (given[axis] if axis < len(given) else None) if size == -1 else (size, size, size)
            if span is None:
                raise EngineBuildError(
                    f"{graph}: axis {axis} of its input {tensor.name!r} is free and the bundle does not say what it "
                    "counts; export the bundle again"
                )
            axes.append(span)
        shapes[tensor.name] = tuple(tuple(span[k] for span in axes) for k in range(3))
    return shapes


def _build_error(log: Any, job: BuildJob) -> str:
    reason = log.first_error
    said = " ".join(log.errors).lower()
    if _TURING in job.targets and "(sm75)" in said:
        return f"{reason}; Turing needs fp16 graphs, so leave {_TURING} out of the targets or build in fp16"
    if job.frozen and "timing cache" in said:
        return (
            f"{reason}; a kernel is not in the timing cache, which a frozen build needs; build once that is not frozen"
        )
    if log.refused:
        return f"out of memory, {log.refused}; {less_memory(job.low_memory, job.workspace_mib)}"
    limit = workspace_limit_mib(job.low_memory, job.workspace_mib)
    if limit is not None and any(words in said for words in _STARVED):
        return f"{reason}; a workspace of {limit} MiB may be too small for it, build with one of {2 * limit} MiB"
    if any(words in said for words in _STARVED[:2]):
        return f"out of memory ({reason}); {less_memory(job.low_memory, job.workspace_mib)}"
    return reason
