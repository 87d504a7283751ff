"""What doctor says about NVIDIA devices: the GPU, its driver, a Jetson's release, and which TensorRT suits them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cuda.kernels.kernel_image import GIVEN, FoundCompiler
from ..environment.cuda_device import CudaDriver
from ..environment.install import cuda_extra, install_command, no_wheel, package_command, release_of
from ..environment.installed_packages import Found
from ..environment.machine import UNKNOWN, text_of
from .checks import Check

_GROUP = "gpu"
_NVIDIA = "0x10de"
# Compute capabilities that the support matrices of TensorRT for RTX 1.7 list, all of them on x86-64.
RTX_CAPABILITIES = frozenset({"sm_75", "sm_86", "sm_89", "sm_120", "sm_121"})
_OLDEST_CAPABILITY = 75  # TensorRT 10.3 to 11 know Turing and what came after it
_OLDEST_TENSORRT = (10, 3)
_OLDEST_L4T = (36, 4)  # JetPack 6.1, the first with TensorRT 10.3
_BINDINGS = ("pycuda", "cuda-python")
_PROVIDER = "CUDAExecutionProvider"
_JETPACK_CURE = "update to JetPack 6.1 or newer, which brings TensorRT 10.3"


def suiting_flavours(compute_capability: str, architecture: str, is_jetson: bool) -> tuple[str, ...]:
    """The flavours of TensorRT that run on a GPU of this compute capability, the usual one first."""
    number = compute_capability.removeprefix("sm_")
    if not number.isdigit() or int(number) < _OLDEST_CAPABILITY:
        return ()
    if compute_capability in RTX_CAPABILITIES and architecture in ("x86_64", "AMD64") and not is_jetson:
        return ("tensorrt", "tensorrt-rtx")
    return ("tensorrt",)


def gpu_checks(
    driver: CudaDriver | None, hardware: dict[str, Any], is_jetson: bool, packages: dict[str, Found], root: Path
) -> list[Check]:
    """The lines about NVIDIA devices.

    Args:
        driver: What NVIDIA's driver says; None where there is none.
        hardware: From `describe_hardware`.
        is_jetson: Whether this is a Jetson.
        packages: What is installed, by name.
        root: Where /proc and /sys are read from.
    """
    checks = _jetson_checks(hardware) if is_jetson else []
    checks += _driver_checks(driver, is_jetson, root)
    for device, memory in driver.devices if driver is not None else ():
        size = "memory unknown" if memory is None else f"{memory / 2**30:.1f} GiB"
        checks.append(Check(_GROUP, "GPU", "ok", f"{device.name}, {device.compute_capability}, {size}"))
        suiting = suiting_flavours(device.compute_capability, hardware["cpu"]["architecture"], is_jetson)
        checks.append(_flavour_check(device.compute_capability, suiting, packages, is_jetson))
    if driver is not None and driver.devices:
        checks.append(_binding_check(packages, driver))
        checks.append(_provider_check(packages["onnxruntime"]))
    return checks


def has_cuda_provider(onnxruntime: Found) -> bool:
    """Whether this ONNX Runtime was built for NVIDIA GPUs."""
    return _PROVIDER in onnxruntime.offers and onnxruntime.error is None


def has_kernels(compilers: Sequence[FoundCompiler], misfit: str) -> bool:
    """Whether the kernels of post-processing on the GPU can be had here, compiled here or elsewhere; see below."""
    given = os.environ.get(GIVEN)
    return os.access(given, os.R_OK) if given else not misfit or bool(compilers)


def compiler_check(compilers: Sequence[FoundCompiler], has_gpu: bool, misfit: str) -> Check:
    """The line about where the GPU's kernels for pre- and post-processing come from.

    Args:
        compilers: Those found, the one that is used first.
        has_gpu: Whether there is a GPU to compile for.
        misfit: Why the kernels that were compiled beforehand cannot be used on it; empty if they can.
    """
    name, without = "kernel compiler", "--processing cpu does without"
    given = os.environ.get(GIVEN)
    if given and has_kernels(compilers, misfit):
        return Check(_GROUP, name, "ok", f"not needed: {GIVEN} names {given}")
    if given:
        return Check(_GROUP, name, "problem", f"{GIVEN} names {given}, which cannot be read", f"unset it; {without}")
    if not misfit:
        return Check(_GROUP, name, "ok", "not needed: the kernels that were compiled beforehand fit the GPU and driver")
    beforehand = f"; the kernels that were compiled beforehand are not used: {misfit}" if has_gpu else ""
    if compilers:
        text = "; ".join(f"{compiler.name} in {compiler.path}" for compiler in compilers)
        return Check(_GROUP, name, "ok", text + beforehand)
    text = "neither NVRTC nor nvcc, one of which compiles the kernels for post-processing on the GPU"
    if not has_gpu:
        return Check(_GROUP, name, "none", "neither NVRTC nor nvcc; only for NVIDIA GPUs")
    cure = f"{install_command(cuda_extra())} brings NVRTC, or install the CUDA toolkit; {without}"
    return Check(_GROUP, name, "missing", text + beforehand, cure)


def package_cure(name: str, is_jetson: bool) -> str:
    """What installs a package that runs on NVIDIA devices; empty where there is no wheel of it for this machine."""
    if name == "tensorrt" and is_jetson:
        return "it comes with JetPack: make the virtual environment with --system-site-packages"
    return package_command(name)


def too_old(found: Found) -> str:
    """Why this TensorRT cannot be used; empty if it can."""
    if found.package.name != "tensorrt" or (release_of(found.version) or _OLDEST_TENSORRT) >= _OLDEST_TENSORRT:
        return ""
    return f"{found.version} is older than 10.3, the first that builds strongly typed engines"


def _jetson_checks(hardware: dict[str, Any]) -> list[Check]:
    l4t, jetpack, mode = hardware["l4t"], hardware["jetpack"], hardware["nvpmodel"]
    text = f"{hardware['board']}, L4T {l4t}, JetPack {jetpack}"
    checks = [Check(_GROUP, "Jetson", "ok", text)]
    if (release_of(l4t.removeprefix("R")) or _OLDEST_L4T) < _OLDEST_L4T:
        checks = [Check(_GROUP, "Jetson", "problem", f"{text}: its TensorRT is too old", _JETPACK_CURE)]
    if mode == UNKNOWN:
        cure = "sudo nvpmodel -q says what the clocks are limited to"
        return [*checks, Check(_GROUP, "power mode", "none", "nvpmodel does not say", cure)]
    # The name of the mode is all that there is to know about it; what limits the clocks beside it is a matter of rates.
    return [*checks, Check(_GROUP, "power mode", "ok", mode, "for steady latencies: sudo jetson_clocks")]


def _driver_checks(driver: CudaDriver | None, is_jetson: bool, root: Path) -> list[Check]:
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", text_of(root / "proc/driver/nvidia/version"))
    has_gpu = bool(found) or is_jetson or _has_nvidia_on_the_bus(root)
    if driver is None:
        if not has_gpu:
            return [Check(_GROUP, "GPU", "none", "no NVIDIA GPU and no driver; bundles run on the CPU")]
        cure = "install NVIDIA's driver; in a container, start it with --gpus all (on a Jetson --runtime nvidia)"
        return [Check(_GROUP, "driver", "problem", "there is an NVIDIA GPU, but no libcuda.so.1", cure)]
    text = f"{found[1] if found else 'version unknown'}, CUDA up to {driver.cuda or UNKNOWN}"
    if driver.error is not None:
        if not has_gpu and driver.error == "CUDA_ERROR_NO_DEVICE":
            return [Check(_GROUP, "driver", "none", f"{text}; there is no GPU, bundles run on the CPU")]
        cure = "restart the machine after an update of the driver; in a container, pass the GPU in with --gpus all"
        return [Check(_GROUP, "driver", "problem", f"{text}; does not answer: {driver.error}", cure)]
    if not driver.devices and "CUDA_VISIBLE_DEVICES" in os.environ:
        return [Check(_GROUP, "driver", "missing", f"{text}; sees no GPU", "unset CUDA_VISIBLE_DEVICES")]
    if not driver.devices:
        return [Check(_GROUP, "driver", "none", f"{text}; sees no GPU")]
    return [Check(_GROUP, "driver", "ok", text)]


def _has_nvidia_on_the_bus(root: Path) -> bool:
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        # Display controllers only: NVIDIA makes network cards too.
        if text_of(vendor) == _NVIDIA and text_of(vendor.with_name("class")).startswith("0x03"):
            return True
    return False


def _flavour_check(
    compute_capability: str, suiting: tuple[str, ...], packages: dict[str, Found], is_jetson: bool
) -> Check:
    name = "TensorRT"
    if not suiting:
        text = f"none of 10.3 or newer runs on {compute_capability}"
        return Check(_GROUP, name, "none", text, "run the bundle on the CPU, or with --backend onnxruntime-cuda")
    installed = [flavour for flavour in suiting if packages[flavour].is_installed]
    usable = [f for f in installed if packages[f].error is None and not too_old(packages[f])]
    text = f"for {compute_capability}: {' or '.join(suiting)}"
    if usable:
        return Check(_GROUP, name, "ok", f"{text}; installed: {', '.join(usable)}")
    if installed:  # told in the line of the package already
        return Check(_GROUP, name, "none", f"{text}; what is installed of it cannot be used")
    return Check(_GROUP, name, "missing", f"{text}; not installed", package_cure(suiting[0], is_jetson))


def _binding_check(packages: dict[str, Found], driver: CudaDriver) -> Check:
    """What leads to the GPU's memory and streams; one of the two is enough."""
    name, cure = "CUDA in Python", package_command("cuda-python")
    usable = [name for name in _BINDINGS if packages[name].is_installed and packages[name].error is None]
    if not usable:
        text = f"neither {' nor '.join(_BINDINGS)}, one of which TensorRT's engines need to run"
        return Check(_GROUP, name, "missing", text, cure)
    version = packages[usable[0]].version
    # PyCUDA is compiled for the CUDA that is here; bindings of an older CUDA run on a newer driver.
    if usable[0] == "cuda-python" and release_of(version)[:1] > release_of(driver.cuda or "")[:1] != ():
        text = f"cuda-python {version} is of a newer CUDA than the driver, which runs {driver.cuda}"
        return Check(_GROUP, name, "problem", text, cure)
    return Check(_GROUP, name, "ok", f"through {usable[0]} {version}")


def _provider_check(onnxruntime: Found) -> Check:
    """Whether the backend onnxruntime-cuda has what it needs, as far as that shows before it runs."""
    name = "ONNX Runtime"
    if has_cuda_provider(onnxruntime):
        text = f"{onnxruntime.version} has its CUDA provider, for --backend onnxruntime-cuda"
        return Check(_GROUP, name, "ok", text)
    text = "without its CUDA provider, which --backend onnxruntime-cuda needs"
    install = package_command("onnxruntime-gpu")
    if not install:
        return Check(_GROUP, name, "none", f"{text}; {no_wheel('onnxruntime-gpu')}")
    if not onnxruntime.is_installed:
        return Check(_GROUP, name, "missing", "not installed", install)
    remove = f"pip uninstall -y {onnxruntime.package.distributions[0]}"
    return Check(_GROUP, name, "missing", text, f"{remove} && {install}")
