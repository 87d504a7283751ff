"""What `Device` needs of the driver, one method per call; `bindings_driver` and `pycuda_driver` reach it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError

# What a driver gives for a stream, an event, memory: only that driver looks into it.
Handle = Any
Array = NDArray[Any]

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
NO_DEVICE = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE")


class CudaError(BackendError):
    """A call that the driver refused.

    Attributes:
        code: The driver's name for it, such as "CUDA_ERROR_OUT_OF_MEMORY".
    """

    def __init__(self, call: str, code: str, meaning: str = ""):
        self.code = code
        super().__init__(f"{call} failed: {meaning or code}" + (f" ({code})" if meaning else ""))


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU as its driver describes it.

    Attributes:
        index: Among those that this process sees.
        name: For people, such as "Orin".
        compute_capability: In the words of targets, such as "sm_87".
        is_integrated: Whether it shares its memory with the CPU, as a Jetson's does.
        multiprocessors: How many there are.
        total_bytes: Of its memory.
    """

    index: int
    name: str
    compute_capability: str
    is_integrated: bool
    multiprocessors: int
    total_bytes: int


class Driver(Protocol):
    """The calls; every one of them raises `CudaError`. All but the first four need the context to be current."""

    name: str

    def describe(self, index: int) -> DeviceInfo:
        """The GPU of this index."""
        ...

    def retain(self, index: int) -> Handle:
        """The primary context of this GPU, kept alive until it is released; not made current."""
        ...

    def release(self, context: Handle) -> None:
        """Let go of a context; it is current on this thread, and no longer so afterwards."""
        ...

    def push(self, context: Handle) -> None:
        """Make a context current on this thread."""
        ...

    def pop(self) -> None:
        """Make current what was so before."""
        ...

    def memory(self) -> tuple[int, int]:
        """Bytes free, and in all."""
        ...

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        """Memory of the device, and its address."""
        ...

    def free(self, memory: Handle) -> None:
        """Give it back."""
        ...

    def allocate_host(self, nbytes: int, mapped: bool) -> tuple[Handle, Array, int]:
        """Page-locked memory of the host, (nbytes,) uint8 over it, and if mapped where the device sees it, else 0."""
        ...

    def free_host(self, memory: Handle) -> None:
        """Give it back."""
        ...

    def to_device(self, address: int, source: Array, stream: Handle) -> None:
        """Copy a contiguous array."""
        ...

    def to_host(self, target: Array, address: int, stream: Handle) -> None:
        """Copy into a contiguous array."""
        ...

    def copy(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        """Copy from device to device."""
        ...

    def fill(self, address: int, value: int, nbytes: int, stream: Handle) -> None:
        """Set bytes."""
        ...

    def stream(self) -> tuple[Handle, int]:
        """A stream that does not wait for the default one, and the number that libraries know it by."""
        ...

    def synchronize(self, stream: Handle) -> None:
        """Wait until it has nothing left to do."""
        ...

    def is_done(self, stream: Handle) -> bool:
        """Whether it has nothing left to do."""
        ...

    def destroy_stream(self, stream: Handle) -> None:
        """Free it."""
        ...

    def wait(self, stream: Handle, event: Handle) -> None:
        """Let a stream wait for an event before it goes on."""
        ...

    def event(self, timing: bool) -> Handle:
        """An event."""
        ...

    def record(self, event: Handle, stream: Handle) -> None:
        """Let it happen once the stream has come here."""
        ...

    def wait_for_event(self, event: Handle) -> None:
        """Wait on the host until it has happened."""
        ...

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that have happened."""
        ...

    def destroy_event(self, event: Handle) -> None:
        """Free it."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """Note what this thread puts into the stream from now on, instead of doing it."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """What was noted, ready to launch."""
        ...

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        """Do all of it again."""
        ...

    def destroy_graph(self, graph: Handle) -> None:
        """Free it."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Compiled kernels: a cubin, a fatbin, or PTX with a zero byte at its end."""
        ...

    def function(self, module: Handle, name: str) -> Handle:
        """A kernel by name."""
        ...

    def unload_module(self, module: Handle) -> None:
        """Free it."""
        ...

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        shared_bytes: int,
        stream: Handle,
    ) -> None:
        """Put a kernel into a stream; `arguments` are instances of ctypes."""
        ...


def as_ctypes(argument: object) -> Any:
    """A kernel's argument as an instance of ctypes, of the very size that the kernel takes.

    Raises:
        TypeError: If its size cannot be known, as of Python's own int and float.
    """
    address = getattr(argument, "address", None)
    if isinstance(address, int):
        return ctypes.c_void_p(address)
    if isinstance(argument, np.generic):
        scalar = np.ctypeslib.as_ctypes_type(argument.dtype) if argument.dtype != np.float16 else ctypes.c_uint16
        return scalar.from_buffer_copy(argument.tobytes())
    if isinstance(argument, ctypes._SimpleCData | ctypes.Structure | ctypes.Array):
        return argument
    raise TypeError(
        f"a kernel's argument must be a buffer, a numpy scalar or an instance of ctypes, got {type(argument).__name__}"
    )
