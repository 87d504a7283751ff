"""Which package reaches the driver of CUDA: PyCUDA, or NVIDIA's own bindings where that is not installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Protocol, cast

from ..environment.install import package_hint
from ..errors import BackendError, BackendMissingError, UsageError
from .device import Device
from .driver import NO_DEVICE, CudaError, Driver

# Name of a binding -> what is imported to look for it, and the module of this package that leads there.
BINDINGS = {
    "pycuda": ("pycuda", ".pycuda_driver"),
    "cuda-python": ("cuda.bindings", ".bindings_driver"),
}


class _DriverModule(Protocol):
    def open_driver(self) -> Driver: ...


def installed_bindings() -> tuple[str, ...]:
    """Those that are installed, in the order they are preferred in."""
    return tuple(name for name, (package, _) in BINDINGS.items() if _is_there(package))


def open_device(index: int = 0, binding: str | None = None) -> Device:
    """A GPU, through the binding that is installed.

    Args:
        index: Among the GPUs that this process sees.
        binding: One of `BINDINGS`; None for the first that is installed.

    Raises:
        UsageError: If there is no such binding.
        BackendMissingError: If none is installed.
        BackendError: If this machine has no driver or no such GPU.
    """
    if binding is not None and binding not in BINDINGS:
        raise UsageError(f"unknown CUDA binding {binding!r}; they are {', '.join(BINDINGS)}")
    installed = installed_bindings()
    chosen = binding or (installed[0] if installed else None)
    if chosen is None or chosen not in installed:
        raise BackendMissingError(
            f"running on a GPU needs {chosen or 'PyCUDA or cuda-python'}; {package_hint(chosen or 'cuda-python')}"
        )
    try:
        module = cast(_DriverModule, importlib.import_module(BINDINGS[chosen][1], __package__))
    except (ImportError, OSError) as error:  # PyCUDA is linked to the driver, which a container may lack
        raise BackendError(
            f"{chosen} is installed but does not load ({' '.join(str(error).split())}); install NVIDIA's driver, or in "
            "a container pass the GPU in; yolor-edge doctor says what this machine has"
        ) from error
    try:
        return Device(module.open_driver(), index)
    except CudaError as error:
        what = f"there is no GPU {index} here" if error.code in NO_DEVICE else "the GPU cannot be used"
        raise BackendError(f"{what} ({error}); yolor-edge doctor says what this machine has") from error


def _is_there(package: str) -> bool:
    try:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None  # a folder of that name is no package
    except ModuleNotFoundError:  # of a parent
        return False
