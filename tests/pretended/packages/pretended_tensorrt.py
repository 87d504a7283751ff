"""A TensorRT that computes with ONNX Runtime on the CPU, on the memory and in the streams of the pretended driver.

Its engines are JSON: the graph they were built from and their profiles. It is strict where TensorRT is: shapes and
addresses have to be told, and work is done when its stream comes to it, on what lies at the addresses then.
PRETENDED_TENSORRT makes it fail: "runtime", "deserialise", "context", "memory", "enqueue" or "capture".
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

MAGIC = b"pretended engine "
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool"}
_ELEMENTS = {1: "FLOAT", 10: "HALF", 6: "INT32", 7: "INT64", 2: "UINT8", 9: "BOOL"}
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_OUT_OF_MEMORY = "[defaultAllocator.cpp::allocate::57] Error Code 1: Cuda Runtime (out of memory)"

contexts_living = 0


def _fails(how: str) -> bool:
    return how in os.environ.get("PRETENDED_TENSORRT", "").split(",")


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _has_context() -> bool:
    return _driver().fake_cuda_contexts() > 0


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = _Severity
    ERROR = _Severity.ERROR

    def log(self, severity: _Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


DataType: Any = enum.Enum("DataType", [*_DTYPES])
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "ERROR_ON_TIMING_CACHE_MISS", "DISABLE_COMPILATION_CACHE"])
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
ComputeCapability = enum.Enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM86"])
Dims = tuple


def plan_of(graph: str, profiles: Sequence[dict[str, Any]]) -> bytes:
    """An engine."""
    return MAGIC + json.dumps({"graph": graph, "profiles": list(profiles)}).encode()


class Runtime:
    def __init__(self, logger: ILogger):
        assert _has_context(), "the primary context has to be current"
        if _fails("runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if _fails("deserialise") or not plan.startswith(MAGIC):
            self.logger.log(
                _Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1:\n Version tag does not match"
            )
            self.logger.log(_Severity.ERROR, "and so on")
            return None
        return Engine(self.logger, json.loads(plan[len(MAGIC) :]))


class Engine:
    has_context = False

    def __init__(self, logger: ILogger, content: dict[str, Any]):
        self.logger = logger
        self.profiles = content["profiles"]
        self.session = onnxruntime.InferenceSession(content["graph"], providers=["CPUExecutionProvider"])
        model = onnx.load(content["graph"]).graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self.inputs = [value.name for value in model.input]
        self.outputs = [value.name for value in model.output]
        for value in (*model.input, *model.output):
            kind = value.type.tensor_type
            fixed = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim]
            self.shapes[value.name] = tuple(fixed)
            self.types[value.name] = _ELEMENTS[kind.elem_type]
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self.types[name]]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[profile][name]]

    def create_execution_context(self, config: Any = None) -> Context | None:
        assert _has_context(), "the primary context has to be current"
        if _fails("context"):
            self.logger.log(_Severity.ERROR, _OUT_OF_MEMORY)
            return None
        return Context(self)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()


class RuntimeCache:
    content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return content.startswith(b"kernels")

    def serialize(self) -> bytes:
        return self.content if self.content.startswith(b"kernels") else b"kernels compiled"


class RuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        return True


class Context:
    def __init__(self, engine: Engine):
        global contexts_living
        contexts_living += 1
        self.engine = engine
        # Of an engine's contexts the first has a profile by itself.
        self.active_optimization_profile = -1 if engine.has_context else 0
        engine.has_context = True
        self.shapes = {
            name: shape for name, shape in engine.shapes.items() if name in engine.inputs and -1 not in shape
        }
        self.addresses: dict[str, int] = {}
        self.kept: list[Any] = []

    def __del__(self) -> None:
        global contexts_living
        contexts_living -= 1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self.engine.logger.log(_Severity.ERROR, f"{name}: {shape} is not from {low} to {high}")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.engine.inputs:
            return self.shapes[name]
        # As ONNX Runtime finds it, since its inference knows the shapes of what the graph computes.
        zeros = {n: np.zeros(shape, _DTYPES[self.engine.types[n]]) for n, shape in self.shapes.items()}
        answer: Any = self.engine.session.run([name], zeros)[0]
        return answer.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        assert _has_context(), "the primary context has to be current"
        assert set(self.addresses) == set(self.engine.names), "an address is missing"
        if _fails("enqueue"):
            self.engine.logger.log(_Severity.ERROR, "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (launch)")
            return False
        engine, addresses, shapes = self.engine, dict(self.addresses), dict(self.shapes)

        def work(_: object) -> None:
            feed = {n: _view(addresses[n], shapes[n], engine.types[n]) for n in engine.inputs}
            answers: Any = engine.session.run(engine.outputs, feed)
            for name, answer in zip(engine.outputs, answers, strict=True):
                _view(addresses[name], answer.shape, engine.types[name])[...] = answer

        call = _HOST_FUNCTION(work)
        self.kept.append(call)  # the stream, or a captured graph, may call it at any time
        launch = _driver().cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, _HOST_FUNCTION, ctypes.c_void_p]
        if _fails("capture") and len(self.kept) == 2:
            address = ctypes.c_size_t()  # memory while a stream is captured is what cannot be captured
            _driver().cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1))
        return launch(stream, call, None) == 0


def _view(address: int, shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(_DTYPES[kind])
    nbytes = max(1, int(np.prod(shape)) * dtype.itemsize)
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


class Network:
    graph = ""

    def load(self, path: str) -> None:
        self.graph = path
        model = onnx.load(path).graph
        self.inputs = [
            _Tensor(v.name, tuple(a.dim_value or -1 for a in v.type.tensor_type.shape.dim)) for v in model.input
        ]
        self.outputs = [_Tensor(v.name, ()) for v in model.output]
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)

    def get_input(self, i: int) -> _Tensor:
        return self.inputs[i]

    def get_output(self, i: int) -> _Tensor:
        return self.outputs[i]


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shape = name, shape


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, log: ILogger):
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network.load(path)
        return True


class Config:
    progress_monitor: Any = None

    def __init__(self) -> None:
        self.profiles: list[dict[str, Any]] = []

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache()

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        return True

    def get_timing_cache(self) -> TimingCache:
        return TimingCache()

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        pass

    def set_flag(self, flag: Any) -> None:
        pass

    clear_flag = set_flag

    def set_compute_capability(self, capability: Any, i: int) -> None:
        pass


class TimingCache:
    def serialize(self) -> bytes:
        return b"times"


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: Sequence[int]) -> None:
        self.shapes[name] = [list(shape) for shape in shapes]


class Builder:
    def __init__(self, log: ILogger):
        pass

    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes:
        return plan_of(network.graph, config.profiles)
