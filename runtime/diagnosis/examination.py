"""`yolor-edge doctor`: what this machine has for running bundles, what is broken, and what to type next.

Nothing here raises: whatever cannot be looked at becomes a line that says so.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from ..backends.registry import BACKENDS, backend_of_flavour
from ..bundle.bundle import Bundle
from ..bundle.engines import EngineFit, build_command
from ..cuda.kernels.kernel_image import FoundCompiler, compilers_here, misfit
from ..environment.cuda_device import CudaDriver, cuda_driver, driver_cuda
from ..environment.display import display_complaint
from ..environment.install import install_command, package_version
from ..environment.installed_packages import Found, look_for
from ..environment.machine import ROOT, UNKNOWN, describe_hardware, governors, is_jetson, memory_limit
from ..environment.opencv_build import OpencvBuild, opencv_build
from ..environment.packages import PACKAGES, TRIED_OUT
from ..errors import PackageError
from .bundle_checks import bundles_below, content_checks, engine_checks, holds_bundle, open_for_checks
from .checks import Check
from .gpu_checks import (
    compiler_check,
    gpu_checks,
    has_cuda_provider,
    has_kernels,
    package_cure,
    suiting_flavours,
    too_old,
)

_TITLES = {
    "software": "software",
    "computer": "computer",
    "gpu": "NVIDIA device",
    "sources": "cameras and windows",
    "bundle": "bundle",
}
# Backends whose package, of the same name, is all they need.
_RUNS_BUNDLES = tuple(name for name, entry in BACKENDS.items() if not entry.needs_gpu)
# Where bundles lie after `make demo` and after the README's commands.
_BUNDLES_HERE = (Path("demo-out/bundle"), Path("bundles"))
_FLAVOURS = tuple(entry.flavour for entry in BACKENDS.values() if entry.flavour)
_GSTREAMER_CURE = (
    "for pipelines: the system's python3-opencv in a virtual environment with --system-site-packages (on a Jetson "
    "JetPack's), or gst-launch-1.0 ... ! fdsink | yolor-edge run BUNDLE - --camera-size WIDTHxHEIGHT"
)


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        checks: Every line.
        next_commands: What to type next, in order.
    """

    checks: tuple[Check, ...]
    next_commands: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 if something that is there is broken, else 0."""
        return int(any(check.state == "problem" for check in self.checks))

    def table(self) -> str:
        """For people: a line for each check, by group, then the commands."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for group, title in _TITLES.items():
            members = [check for check in self.checks if check.group == group]
            lines += [title, *(check.line(width) for check in members)] if members else []
        return "\n".join([*lines, "what to type next", *(f"  {command}" for command in self.next_commands)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "passed": self.exit_code == 0,
            "checks": [check.to_json() for check in self.checks],
            "next": list(self.next_commands),
        }


@dataclass
class _Facts:
    """What several checks need; what could not be found out stays as it is here."""

    packages: dict[str, Found]
    hardware: dict[str, Any]
    is_jetson: bool = False
    driver: CudaDriver | None = None
    compilers: Sequence[FoundCompiler] = ()
    misfit: str = "there is no GPU"  # why the kernels that were compiled beforehand cannot be used
    bundle: Bundle | None = None
    fitting: Sequence[EngineFit] = ()
    cameras: Sequence[Path] = ()
    can_show: bool = False

    def is_usable(self, name: str) -> bool:
        """Whether a package is there, loads and is new enough."""
        found = self.packages[name]
        return found.is_installed and found.error is None and not too_old(found)

    def can_run(self, backend: str) -> bool:
        """Whether a backend is usable here."""
        entry = BACKENDS[backend]
        if entry.needs_gpu and not self.has_gpu:
            return False
        package = "onnxruntime" if backend == "onnxruntime-cuda" else entry.package
        is_there = package in self.packages and self.is_usable(package)
        return is_there and (backend != "onnxruntime-cuda" or has_cuda_provider(self.packages[package]))

    @property
    def has_gpu(self) -> bool:
        """Whether the driver sees a GPU."""
        return self.driver is not None and bool(self.driver.devices)

    @property
    def versions(self) -> dict[str, str]:
        """Of each flavour of TensorRT that is usable."""
        return {name: self.packages[name].version for name in _FLAVOURS if self.is_usable(name)}

    @property
    def flavours(self) -> tuple[str, ...]:
        """The flavours of TensorRT that are usable and suit the GPU here."""
        if self.driver is None or not self.driver.devices:
            return ()
        capability = self.driver.devices[0][0].compute_capability
        suiting = suiting_flavours(capability, self.hardware["cpu"]["architecture"], self.is_jetson)
        return tuple(flavour for flavour in suiting if flavour in self.versions)

    @property
    def precision(self) -> str:
        """What engines of the bundle are built in unless somebody knows better."""
        return "fp16" if self.bundle is not None and "fp16" in self.bundle.precisions else "fp32"

    def build_words(self) -> str:
        """The command that builds engines of the bundle for the GPU here; empty where that cannot be done here."""
        if self.bundle is None or self.driver is None or not self.flavours:
            return ""
        target = self.driver.devices[0][0].compute_capability
        return build_command(self.bundle.path, self.precision, self.flavours[0], (target,))


def doctor(bundle: str | os.PathLike[str] | None = None, root: Path = ROOT) -> Diagnosis:
    """Look at software, computer, NVIDIA devices, cameras, and a bundle.

    Args:
        bundle: A bundle folder, or None.
        root: Where /proc, /sys, /dev and /etc are read from; another folder only in tests.

    Returns:
        Everything that was found. Optional packages are tried out in processes of their own, which takes a second or
        two; nothing is written and nothing is changed.
    """
    checks: list[Check] = []

    def look(group: str, name: str, found: Callable[[], list[Check]]) -> None:
        try:
            checks.extend(found())
        except Exception as error:  # a diagnosis that ends half-way helps nobody
            text = f"could not be looked at: {type(error).__name__}: {' '.join(str(error).split())}"
            checks.append(Check(group, name, "problem", text, "please report this"))

    # Until they are found out: nothing is installed, on hardware of which nothing can be read.
    facts = _Facts({name: Found(PACKAGES[name]) for name in TRIED_OUT}, describe_hardware(root / "nowhere"))

    def software() -> list[Check]:
        facts.is_jetson = is_jetson(root)
        facts.packages = {found.package.name: found for found in look_for()}
        return _package_checks(facts)

    def computer() -> list[Check]:
        facts.hardware = describe_hardware(root)
        return _computer_checks(facts.hardware, root)

    look("software", "python", _own_checks)
    look("software", "opencv", _opencv_checks)
    look("software", "packages", software)
    look("computer", "computer", computer)

    def gpu() -> list[Check]:
        facts.driver = cuda_driver()
        return gpu_checks(facts.driver, facts.hardware, facts.is_jetson, facts.packages, root)

    def compiler() -> list[Check]:
        facts.compilers = compilers_here()
        if facts.driver is not None and facts.driver.devices:
            facts.misfit = misfit(facts.driver.devices[0][0].compute_capability, driver_cuda())
        return [compiler_check(facts.compilers, facts.has_gpu, facts.misfit)]

    def sources() -> list[Check]:
        facts.cameras, found = _camera_checks(root)
        display = _display_check()
        with contextlib.suppress(PackageError):
            facts.can_show = display.state == "ok" and opencv_build().windows is not None
        return [*found, display]

    def about_bundle() -> list[Check]:
        if bundle is None:
            return []
        facts.bundle, first = open_for_checks(bundle)
        if facts.bundle is None:
            return [first]
        device = facts.driver.devices[0][0] if facts.driver is not None and facts.driver.devices else None
        engines, facts.fitting = engine_checks(facts.bundle, facts.versions, device, facts.build_words())
        usable = [name for name in BACKENDS if facts.can_run(name)]
        return [first, *content_checks(facts.bundle, usable), *engines]

    look("gpu", "GPU", gpu)
    look("gpu", "kernel compiler", compiler)
    look("sources", "cameras", sources)
    look("bundle", "bundle", about_bundle)
    return Diagnosis(tuple(checks), tuple(_next_commands(facts, bundle)))


def opencv_checks(build: OpencvBuild) -> list[Check]:
    """The lines about OpenCV."""
    checks = [Check("software", "OpenCV", "ok", build.title)]
    if len(build.distributions) > 1:
        names = " ".join(build.distributions)
        cure = f"pip uninstall -y {names}, then install one of them"
        text = f"{build.title}: they overwrite each other's files"
        checks = [Check("software", "OpenCV", "problem", text, cure)]
    if build.has_ffmpeg:
        checks.append(Check("software", "video files", "ok", "through FFMPEG; so are RTSP and HTTP"))
    else:
        cure = f"{install_command('opencv')} brings it"
        checks.append(Check("software", "video files", "missing", "this OpenCV has no FFMPEG", cure))
    if build.has_gstreamer:
        checks.append(Check("software", "GStreamer", "ok", "pipelines can be opened"))
    else:
        checks.append(Check("software", "GStreamer", "missing", "this OpenCV has none", _GSTREAMER_CURE))
    if build.windows:
        checks.append(Check("software", "windows", "ok", build.windows))
    else:
        replace = f", or pip uninstall -y {' '.join(build.distributions)} && pip install opencv-python"
        cure = f"for run --show: the system's python3-opencv{replace if build.distributions else ''}"
        checks.append(Check("software", "windows", "missing", "this OpenCV has none", cure))
    return checks


def _opencv_checks() -> list[Check]:
    try:
        build = opencv_build()
    except PackageError as error:
        found, _, cure = str(error).partition("; ")
        return [Check("software", "OpenCV", "problem", found, cure)]
    return opencv_checks(build)


def _own_checks() -> list[Check]:
    return [
        Check("software", "yolor-edge", "ok", f"{package_version()}, Python {platform.python_version()}"),
        Check("software", "numpy", "ok", np.__version__),
    ]


def _package_checks(facts: _Facts) -> list[Check]:
    checks = []
    can_run = any(facts.packages[name].is_installed for name in _RUNS_BUNDLES)
    for name, found in facts.packages.items():
        on_cpu = name in _RUNS_BUNDLES
        install = install_command(name) if on_cpu else package_cure(name, facts.is_jetson)
        if not found.is_installed:
            # One that runs bundles is enough, and a package for GPUs is told of beside the GPU that wants it.
            if on_cpu and not can_run:
                checks.append(Check("software", name, "missing", "not installed", install))
            else:
                reason = "another backend runs bundles" if on_cpu else "only for NVIDIA GPUs"
                checks.append(Check("software", name, "none", f"not installed; {reason}"))
        elif found.error is not None:
            text = f"{found.version} is installed but does not load: {found.error}"
            cure = f"pip install --force-reinstall --no-deps {_distribution(found)}"
            if name in ("tensorrt", "pycuda", "cuda-python"):
                cure = "install NVIDIA's driver and the CUDA libraries it looks for, or install it again"
            checks.append(Check("software", name, "problem", text, cure))
        elif found.rivals:
            names = " ".join(found.rivals)
            text = f"{found.version}: {' and '.join(found.rivals)} overwrite each other's files"
            checks.append(Check("software", name, "problem", text, f"pip uninstall -y {names}, then install one"))
        elif too_old(found):
            cure = "update to JetPack 6.1 or newer" if facts.is_jetson else f"{install} --upgrade"
            checks.append(Check("software", name, "problem", too_old(found), cure))
        else:
            offers = f": {', '.join(found.offers)}" if found.offers else ""
            checks.append(Check("software", name, "ok", f"{found.version}{offers}"))
    return checks


def _distribution(found: Found) -> str:
    return found.package.distributions[0]


def _computer_checks(hardware: dict[str, Any], root: Path) -> list[Check]:
    cpu = hardware["cpu"]
    quota = "" if cpu["quota"] in ("none", UNKNOWN) else f", limited to {cpu['quota']} by the control group"
    text = f"{cpu['model']}; {cpu['usable_cores']} of {cpu['logical_cores']} cores usable{quota}"
    checks = [Check("computer", "board", "ok", f"{hardware['board']}; {hardware['os']}, {cpu['architecture']}")]
    checks.append(Check("computer", "processor", "ok", text))
    level, best = _native.simd_level(), _native.simd_levels()[-1]
    lower = f" (by YOLOR_EDGE_SIMD; this processor has {best})" if level != best else ""
    checks.append(Check("computer", "kernels", "ok", f"{level}{lower}"))
    checks.append(_memory_check(hardware["memory_bytes"], memory_limit(root)))
    governor = governors(root)
    if governor == UNKNOWN:
        checks.append(Check("computer", "governor", "none", "the system does not say"))
    else:
        advice = "for steady latencies: sudo cpupower frequency-set -g performance"
        checks.append(Check("computer", "governor", "ok", governor, "" if governor == "performance" else advice))
    return checks


def _memory_check(total: int | str, limit: int | str) -> Check:
    if not isinstance(total, int):
        return Check("computer", "memory", "none", "the system does not say")
    text = f"{total / 2**30:.1f} GiB"
    if isinstance(limit, int) and limit < total:
        text += f", limited to {limit / 2**30:.1f} GiB by the control group"
    return Check("computer", "memory", "ok", text)


def _camera_checks(root: Path) -> tuple[list[Path], list[Check]]:
    """The cameras that may be read, and the lines about them."""
    found = sorted((root / "dev").glob("video*"), key=lambda path: (len(path.name), path.name))
    usable = [path for path in found if os.access(path, os.R_OK | os.W_OK)]
    refused = [path.name for path in found if path not in usable]
    if refused:
        cure = "sudo usermod -aG video $USER, then log in again"
        return usable, [Check("sources", "cameras", "problem", f"{', '.join(refused)}: not permitted", cure)]
    if not found:
        return [], [Check("sources", "cameras", "none", "no /dev/video*; files, URLs and pipelines do without")]
    return usable, [Check("sources", "cameras", "ok", ", ".join(f"/dev/{path.name}" for path in usable))]


def _display_check() -> Check:
    if platform.system() == "Linux" and (complaint := display_complaint()):
        return Check("sources", "display", "none", f"{complaint}; run --show needs one, all else does without")
    names = [name for name in ("WAYLAND_DISPLAY", "DISPLAY") if os.environ.get(name)]
    return Check("sources", "display", "ok", f"{names[0]}={os.environ[names[0]]}" if names else "the system's own")


def _next_commands(facts: _Facts, asked: str | os.PathLike[str] | None) -> list[str]:
    on_cpu = [name for name in _RUNS_BUNDLES if facts.is_usable(name)]
    build = facts.build_words()
    if not on_cpu and not build and not facts.fitting:
        broken = [name for name in _RUNS_BUNDLES if facts.packages[name].is_installed]
        return [f"pip install --force-reinstall --no-deps {broken[0]}"] if broken else [install_command("onnxruntime")]
    if asked is None:
        return _to_a_bundle()
    name = os.fspath(asked)
    if facts.bundle is None:
        return _to_another_bundle(name)
    commands = [] if facts.fitting or not build else [build]
    options = _backend_options(facts, on_cpu, bool(build))
    source = str(facts.cameras[0]).removeprefix("/dev/video") if facts.cameras else _pictures()
    watch = ["--show"] if facts.cameras and facts.can_show else []
    commands.append(shlex.join(["yolor-edge", "verify", name]))
    commands.append(shlex.join(["yolor-edge", "run", name, source, *options, *watch, "--out", "answers"]))
    commands.append(shlex.join(["yolor-edge", "bench", name, *options, "--out", "report"]))
    return commands


def _to_a_bundle() -> list[str]:
    """What to type where no bundle was named: look at one that lies here, or make one."""
    here = next((path for path in _BUNDLES_HERE if holds_bundle(path)), None)
    here = here or next((found for folder in _BUNDLES_HERE for found in bundles_below(folder)), None)
    if here is not None:
        name = str(here)
        run = ["yolor-edge", "run", name, _pictures(), "--out", "answers"]
        return [shlex.join(["yolor-edge", "doctor", name]), shlex.join(run)]
    checkpoint, name = ("demo/checkpoint", "demo") if Path("demo/checkpoint").is_dir() else ("CHECKPOINT", "mine")
    return [f"yolor-edge export {checkpoint} --out bundles/{name}", f"yolor-edge doctor bundles/{name}"]


def _to_another_bundle(asked: str) -> list[str]:
    """What to type where what was asked for is no bundle, or a broken one."""
    path = Path(asked)
    below = bundles_below(path) if asked else []
    if below:
        return [shlex.join(["yolor-edge", "doctor", str(found)]) for found in below[:3]]
    name = shlex.quote(str(path))
    if any((folder / "checkpoint.json").is_file() for folder in (path, path / "checkpoint")):
        return [f"yolor-edge export {name} --out bundles/mine", "yolor-edge doctor bundles/mine"]
    if holds_bundle(path):
        return [f"yolor-edge export CHECKPOINT --out {name} --force", f"yolor-edge doctor {name}"]
    if path.exists() or not asked:  # which is somebody's, and export replaces nothing but bundles
        return ["yolor-edge export CHECKPOINT --out bundles/mine", "yolor-edge doctor bundles/mine"]
    return [f"yolor-edge export CHECKPOINT --out {name}", f"yolor-edge doctor {name}"]


def _backend_options(facts: _Facts, on_cpu: Sequence[str], is_to_be_built: bool) -> list[str]:
    """The options that choose what runs the bundle best here: an engine that fits or is about to, else the CPU."""
    visions = [fit.record for fit in facts.fitting if fit.record is not None and fit.record.part == "vision"]
    on_cpu_behind = [] if has_kernels(facts.compilers, facts.misfit) else ["--processing", "cpu"]
    if visions:
        backend = backend_of_flavour(visions[0].flavour)
        return ["--backend", backend, "--precision", visions[0].precision, *on_cpu_behind]
    if is_to_be_built and not facts.fitting:
        backend = backend_of_flavour(facts.flavours[0])
        return ["--backend", backend, "--precision", facts.precision, *on_cpu_behind]
    backend = on_cpu[0] if on_cpu else "onnxruntime"
    if facts.has_gpu and facts.is_usable("onnxruntime") and has_cuda_provider(facts.packages["onnxruntime"]):
        backend = "onnxruntime-cuda"
    options = [] if backend == "onnxruntime" else ["--backend", backend]
    has_choice = facts.bundle is not None and len(facts.bundle.precisions) > 1
    return [*options, "--precision", "auto"] if has_choice else options


def _pictures() -> str:
    return "demo/images" if Path("demo/images").is_dir() else "PICTURES"
