"""A GPU: memory, streams, events, captured graphs and kernels, in its primary context.

The primary context is the one that TensorRT and the runtime API of CUDA use, so that all share one memory; no other is
ever made. Every call here makes it current on the calling thread for as long as it lasts, so any thread may call;
around many calls in a row `with device.current():` does so once. Work that is put into a stream runs later, and what it
reads and writes has to live until the stream was synchronised. Nothing here is freed by the garbage collector alone:
close it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import BackendError
from .driver import OUT_OF_MEMORY, Array, CudaError, DeviceInfo, Driver, Handle, as_ctypes

__all__ = [
    "CapturedGraph",
    "Device",
    "DeviceBuffer",
    "DeviceInfo",
    "Event",
    "Function",
    "HostArray",
    "Module",
    "Stream",
]


class Device:
    """A GPU whose primary context is kept alive until this is closed.

    Args:
        driver: How to reach it.
        index: Among the GPUs that this process sees.

    Attributes:
        info: What it is.
        binding: Name of the package that reaches it.

    Raises:
        CudaError: If there is no such GPU, or its driver does not start.
    """

    def __init__(self, driver: Driver, index: int = 0):
        self.info: DeviceInfo = driver.describe(index)
        self.binding: str = driver.name
        self._driver = driver
        self._context: Handle | None = driver.retain(index)
        self._depth = threading.local()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the context; what was made from it and not closed is lost. Closing twice is harmless."""
        context, self._context = self._context, None
        if context is not None:
            self._driver.push(context)
            self._driver.release(context)

    @property
    def is_closed(self) -> bool:
        """Whether it is."""
        return self._context is None

    @contextlib.contextmanager
    def current(self) -> Iterator[Driver]:
        """The context current on this thread, for calls of other libraries; may be nested.

        Raises:
            BackendError: If the device is closed.
        """
        if self._context is None:
            raise BackendError(f"{self.info.name}: the device is closed")
        depth = getattr(self._depth, "value", 0)
        if depth == 0:
            self._driver.push(self._context)
        self._depth.value = depth + 1
        try:
            yield self._driver
        finally:
            self._depth.value = depth
            if depth == 0:
                self._driver.pop()

    def memory(self) -> tuple[int, int]:
        """Bytes of its memory that are free, and that there are."""
        with self.current() as driver:
            return driver.memory()

    def allocate(self, nbytes: int, purpose: str = "") -> DeviceBuffer:
        """Memory of the device; what is in it is not defined.

        Args:
            nbytes: At least 1.
            purpose: What it is for, in an error's words.

        Raises:
            CudaError: If there is not so much left: how much was asked for, how much is free, what to do.
        """
        if nbytes < 1:
            raise ValueError(f"nbytes must be at least 1, got {nbytes}")
        with self.current() as driver, self._told_of_memory(nbytes, purpose, "GPU"):
            memory, address = driver.allocate(nbytes)
        return DeviceBuffer(self, memory, address, nbytes)

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, purpose: str = "") -> HostArray:
        """Page-locked memory of the host, which copies to and from the device need to be asynchronous.

        Raises:
            CudaError: If there is not so much.
        """
        return self._host(shape, dtype, False, purpose)

    def mapped(self, shape: Sequence[int], dtype: DTypeLike, purpose: str = "") -> HostArray:
        """Page-locked memory of the host that the device sees as well, at `address`: nothing is ever copied.

        On an integrated GPU it is the same memory at full speed. Elsewhere every access crosses the bus.

        Raises:
            CudaError: If there is not so much.
        """
        return self._host(shape, dtype, True, purpose)

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        with self.current() as driver:
            return Stream(self, *driver.stream())

    def event(self, timing: bool = True) -> Event:
        """A moment in a stream; `timing` is what `elapsed_ms` needs."""
        with self.current() as driver:
            return Event(self, driver.event(timing))

    def to_device(self, target: DeviceBuffer | HostArray | int, source: Array, stream: Stream) -> None:
        """Copy a contiguous array to the device, in `stream`; asynchronous only from `pinned` memory."""
        _check_contiguous(source)
        with self.current() as driver:
            driver.to_device(_address(target, source.nbytes), source, stream.handle)

    def to_host(self, target: Array, source: DeviceBuffer | HostArray | int, stream: Stream) -> None:
        """Copy from the device into a contiguous array, in `stream`; asynchronous only into `pinned` memory."""
        _check_contiguous(target)
        with self.current() as driver:
            driver.to_host(target, _address(source, target.nbytes), stream.handle)

    def copy(
        self,
        target: DeviceBuffer | HostArray | int,
        source: DeviceBuffer | HostArray | int,
        nbytes: int,
        stream: Stream,
    ) -> None:
        """Copy from the device to the device, in `stream`."""
        with self.current() as driver:
            driver.copy(_address(target, nbytes), _address(source, nbytes), nbytes, stream.handle)

    def fill(self, target: DeviceBuffer | HostArray | int, value: int, nbytes: int, stream: Stream) -> None:
        """Set `nbytes` bytes to `value`, in `stream`."""
        with self.current() as driver:
            driver.fill(_address(target, nbytes), value, nbytes, stream.handle)

    def capture(self, stream: Stream, work: Callable[[], object]) -> CapturedGraph:
        """A graph of all that `work` puts into `stream`; nothing of it is done now.

        `work` must have run once already, so that nothing is allocated in it, and must not synchronise.

        Raises:
            CudaError: If it does what cannot be captured.
        """
        with self.current() as driver:
            driver.begin_capture(stream.handle)
            try:
                work()
            except BaseException:
                with contextlib.suppress(CudaError):  # the first error is the one to tell
                    driver.destroy_graph(driver.end_capture(stream.handle))
                raise
            return CapturedGraph(self, driver.end_capture(stream.handle))

    def load_module(self, image: bytes) -> Module:
        """Compiled kernels: a cubin, a fatbin or PTX.

        Raises:
            CudaError: If the driver refuses it; `code` is "CUDA_ERROR_NO_BINARY_FOR_GPU" if it is for other GPUs.
        """
        with self.current() as driver:
            return Module(self, driver.load_module(image))

    def launch(
        self,
        function: Function,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_bytes: int = 0,
        stream: Stream,
    ) -> None:
        """Put a kernel into a stream.

        Args:
            function: Which.
            grid: Blocks along x, y, z; what is left out is 1.
            block: Threads of a block along x, y, z.
            args: As the kernel takes them, by value: a `DeviceBuffer` or mapped `HostArray` for a pointer (or a
                `ctypes.c_void_p`), numpy scalars such as `np.int32(3)`, instances of ctypes, structures too.
            shared_bytes: Of dynamic shared memory.
            stream: Where.

        Raises:
            TypeError: If an argument has no fixed size, as Python's own int and float.
            CudaError: If the driver refuses it.
        """
        arguments = [as_ctypes(argument) for argument in args]
        with self.current() as driver:
            driver.launch(function.handle, _triple(grid), _triple(block), arguments, shared_bytes, stream.handle)

    def _host(self, shape: Sequence[int], dtype: DTypeLike, mapped: bool, purpose: str) -> HostArray:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        with self.current() as driver, self._told_of_memory(nbytes, purpose, "page-locked"):
            memory, raw, address = driver.allocate_host(max(nbytes, 1), mapped)
        return HostArray(self, memory, raw[:nbytes].view(kind).reshape(tuple(shape)), address)

    @contextlib.contextmanager
    def _told_of_memory(self, nbytes: int, purpose: str, kind: str) -> Iterator[None]:
        """Say of an error for want of memory how much was asked for, how much there is, and what to do."""
        try:
            yield
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            what = f" for {purpose}" if purpose else ""
            free, total = self._driver.memory()
            raise CudaError(
                f"{self.info.name}: allocating {_mib(nbytes)} of {kind} memory{what}",
                OUT_OF_MEMORY,
                f"{_mib(free)} of {_mib(total)} are free; end other programs that use the GPU, or take a smaller "
                "batch, input size or precision",
            ) from error


class _Owned:
    """Something of a device's that is freed by `close`."""

    def __init__(self, device: Device, handle: Handle):
        self.device = device
        self._handle: Handle | None = handle

    @property
    def handle(self) -> Handle:
        """What the driver knows it by.

        Raises:
            BackendError: If it is closed.
        """
        if self._handle is None:
            raise BackendError(f"{type(self).__name__}: is closed")
        return self._handle

    def close(self) -> None:
        """Free it. Closing twice, or after the device, is harmless."""
        handle, self._handle = self._handle, None
        if handle is None or self.device.is_closed:
            return
        with self.device.current() as driver:
            self._free(driver, handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DeviceBuffer(_Owned):
    """Memory of the device.

    Attributes:
        address: Where it is, as an int; 0 once it is closed.
        nbytes: Its size.
    """

    def __init__(self, device: Device, memory: Handle, address: int, nbytes: int):
        super().__init__(device, memory)
        self.address = address
        self.nbytes = nbytes

    def _free(self, driver: Driver, handle: Handle) -> None:
        self.address = 0
        driver.free(handle)


class HostArray(_Owned):
    """Page-locked memory of the host.

    Attributes:
        array: A view of it in its shape and dtype; not to be touched once it is closed.
        address: Where the device sees it if it is mapped, else 0.
    """

    def __init__(self, device: Device, memory: Handle, array: Array, address: int):
        super().__init__(device, memory)
        self.array = array
        self.address = address

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.array.nbytes

    def _free(self, driver: Driver, handle: Handle) -> None:
        self.address = 0
        self.array = np.empty(0, self.array.dtype)  # a view would be of memory that is gone
        driver.free_host(handle)


class Stream(_Owned):
    """Work in order.

    Attributes:
        number: What libraries such as TensorRT know it by.
    """

    def __init__(self, device: Device, handle: Handle, number: int):
        super().__init__(device, handle)
        self.number = number

    def synchronize(self) -> None:
        """Wait until all of it is done; other threads go on meanwhile.

        Raises:
            CudaError: If something in it failed.
        """
        with self.device.current() as driver:
            driver.synchronize(self.handle)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        with self.device.current() as driver:
            return driver.is_done(self.handle)

    def wait(self, event: Event) -> None:
        """What comes later waits for `event`; the host does not."""
        with self.device.current() as driver:
            driver.wait(self.handle, event.handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_stream(handle)


class Event(_Owned):
    """A moment in a stream."""

    def record(self, stream: Stream) -> None:
        """It happens when `stream` has done what it holds now."""
        with self.device.current() as driver:
            driver.record(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait on the host until it has happened."""
        with self.device.current() as driver:
            driver.wait_for_event(self.handle)

    def elapsed_ms(self, start: Event) -> float:
        """Milliseconds since `start`; both have happened."""
        with self.device.current() as driver:
            return driver.elapsed_ms(start.handle, self.handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_event(handle)


class CapturedGraph(_Owned):
    """Work of a stream, to be launched at once and as often as wanted, on the very memory it was captured with."""

    def launch(self, stream: Stream) -> None:
        """Put all of it into `stream`."""
        with self.device.current() as driver:
            driver.launch_graph(self.handle, stream.handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_graph(handle)


class Module(_Owned):
    """Compiled kernels."""

    def function(self, name: str) -> Function:
        """A kernel by name, of use as long as this is open.

        Raises:
            CudaError: If there is none of that name.
        """
        with self.device.current() as driver:
            return Function(name, driver.function(self.handle, name))

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.unload_module(handle)


class Function:
    """A kernel."""

    def __init__(self, name: str, handle: Handle):
        self.name = name
        self.handle = handle


def _address(memory: DeviceBuffer | HostArray | int, nbytes: int) -> int:
    """Where `nbytes` bytes of it begin."""
    if isinstance(memory, int):
        return memory
    if memory.address == 0:
        raise BackendError(f"{type(memory).__name__}: is closed, or not seen by the device")
    if nbytes > memory.nbytes:
        raise ValueError(f"{nbytes} bytes do not fit into a buffer of {memory.nbytes}")
    return memory.address


def _check_contiguous(array: Array) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays are copied to or from a device")


def _triple(extent: int | tuple[int, ...]) -> tuple[int, int, int]:
    given = (extent,) if isinstance(extent, int) else extent
    x, y, z = (*given, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f} MiB"
