"""A package like `tensorrt`, of any version and on any machine, that notes what it is told; not a test itself."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

PLAN = b"a plan"
CAPABILITIES = ("NONE", "CURRENT", "SM75", "SM86", "SM120")


class FakeTensorrt:
    """The package: what it was told is in `told`, in order.

    Args:
        version: Of the package.
        inputs: Of every network it parses: name to shape.
        outputs: Of every network it parses.
        parser_errors: (message, node, operator); parsing fails if there is any.
        errors: What the builder logs; it gives no engine then.
        without_gpu: Its builder cannot start.
        levels: Hardware compatibility levels that the version knows.
        foreign_cache: It refuses the first timing cache it is given.
    """

    def __init__(
        self,
        version: str,
        inputs: dict[str, tuple[int, ...]] | None = None,
        outputs: Sequence[str] = ("answer",),
        parser_errors: Sequence[tuple[str, str, str]] = (),
        errors: Sequence[str] = (),
        without_gpu: bool = False,
        levels: Sequence[str] = ("NONE", "AMPERE_PLUS"),
        foreign_cache: bool = False,
    ):
        self.__version__ = version
        self.told: list[tuple[Any, ...]] = []
        inputs = {"images": (-1, 3, 8, 8)} if inputs is None else inputs
        tell = self.told.append

        class ILogger:
            ERROR = 1

        class IProgressMonitor:
            pass

        class Tensor:
            def __init__(self, name: str, shape: tuple[int, ...] = ()):
                self.name, self.shape = name, shape

        class Network:
            num_inputs, num_outputs = len(inputs), len(outputs)

            def get_input(self, i: int) -> Tensor:
                return Tensor(*list(inputs.items())[i])

            def get_output(self, i: int) -> Tensor:
                return Tensor(outputs[i])

        class ParserError:
            def __init__(self, message: str, node: str, operator: str):
                self.desc, self.node_name, self.node_operator = lambda: message, lambda: node, lambda: operator

        class OnnxParser:
            num_errors = len(parser_errors)

            def __init__(self, network: Network, log: Any):
                pass

            def parse_from_file(self, path: str) -> bool:
                return not parser_errors

            def get_error(self, i: int) -> ParserError:
                return ParserError(*parser_errors[i])

        class Profile:
            def set_shape(self, name: str, *shapes: Sequence[int]) -> None:
                tell(("set_shape", name, *(tuple(shape) for shape in shapes)))

        class TimingCache:
            def serialize(self) -> bytes:
                return b"measured"

        class Config:
            def __init__(self) -> None:
                self.caches = 0

            def __setattr__(self, name: str, value: Any) -> None:
                super().__setattr__(name, value)
                if name not in ("caches", "progress_monitor"):
                    tell((name, value))

            def set_memory_pool_limit(self, pool: Any, size: int) -> None:
                tell(("set_memory_pool_limit", pool.name, size))

            def set_flag(self, flag: Any) -> None:
                tell(("set_flag", flag.name))

            def clear_flag(self, flag: Any) -> None:
                tell(("clear_flag", flag.name))

            def set_compute_capability(self, capability: Any, i: int) -> None:
                tell(("set_compute_capability", capability.name, i))

            def add_optimization_profile(self, profile: Profile) -> int:
                tell(("add_optimization_profile",))
                return 0

            def create_timing_cache(self, content: bytes) -> TimingCache:
                tell(("create_timing_cache", content))
                return TimingCache()

            def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
                assert not ignore_mismatch
                self.caches += 1
                return not (foreign_cache and self.caches == 1)

            def get_timing_cache(self) -> TimingCache:
                return TimingCache()

        class Builder:
            def __init__(self, log: Any):
                self.log = log
                if without_gpu:
                    raise TypeError("pybind11::init(): factory function returned nullptr")

            def create_network(self, flags: int) -> Network:
                tell(("create_network", flags))
                return Network()

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: Network, config: Any) -> bytes | None:
                monitor = config.progress_monitor
                monitor.phase_start("Building engine", None, 2)
                assert monitor.step_complete("Building engine", 0)
                monitor.phase_finish("Building engine")
                for error in errors:
                    self.log.log(1, error)
                self.log.log(2, "a warning is no error")
                return None if errors else PLAN

        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.Builder, self.OnnxParser, self.Dims = Builder, OnnxParser, tuple
        self.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED"])
        self.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
        self.BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "ERROR_ON_TIMING_CACHE_MISS", "DISABLE_COMPILATION_CACHE"])
        self.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", list(levels))
        if version.startswith("10."):  # later ones know no other networks
            self.NetworkDefinitionCreationFlag = enum.IntEnum(
                "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
            )
        if version.startswith("1."):
            self.ComputeCapability = enum.Enum("ComputeCapability", list(CAPABILITIES))

    def words(self) -> list[str]:
        """The names of what it was told, in order."""
        return [str(told[0]) for told in self.told]
