"""What PyCUDA has no calls for, asked of the driver's own library: captured graphs, and the current context."""

from __future__ import annotations

import ctypes

from ..environment.cuda_device import load_driver_library
from .driver import CudaError

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_Pointer = ctypes.c_void_p


class DriverGraphs:
    """Handles are the driver's, as numbers.

    Raises:
        CudaError: If this machine has no driver.
    """

    def __init__(self) -> None:
        library = load_driver_library()
        if library is None:
            raise CudaError("loading the driver's library", "CUDA_ERROR_NO_DEVICE", "it is not there")
        self._library = library

    def begin_capture(self, stream: int) -> None:
        """See `driver.Driver.begin_capture`."""
        self._ask("cuStreamBeginCapture_v2", _Pointer(stream), _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """What was captured, ready to launch."""
        graph, executable = _Pointer(), _Pointer()
        self._ask("cuStreamEndCapture", _Pointer(stream), ctypes.byref(graph))
        try:
            self._ask("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._ask("cuGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Put all of a graph into a stream."""
        self._ask("cuGraphLaunch", _Pointer(graph), _Pointer(stream))

    def destroy(self, graph: int) -> None:
        """Free a graph."""
        self._ask("cuGraphExecDestroy", _Pointer(graph))

    def current_context(self) -> int:
        """The context that is current on this thread; 0 for none."""
        context = _Pointer()
        self._ask("cuCtxGetCurrent", ctypes.byref(context))
        return context.value or 0

    def pop_context(self) -> None:
        """Make current what was so before."""
        self._ask("cuCtxPopCurrent_v2", ctypes.byref(_Pointer()))

    def _ask(self, call: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, call)
        except AttributeError:
            raise CudaError(call, "CUDA_ERROR_NOT_SUPPORTED", "the driver is too old for it") from None
        code = function(*arguments)
        if code != 0:
            name, meaning = ctypes.c_char_p(), ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(name))
            self._library.cuGetErrorString(code, ctypes.byref(meaning))
            raise CudaError(call, (name.value or b"CUDA_ERROR_UNKNOWN").decode(), (meaning.value or b"").decode())
