"""Which optional packages are installed and whether they load, found out in processes of their own.

A package is imported in a child, because loading it takes seconds and memory, and because a broken one may end its
process: a GPU library that was built for another driver does not raise, it aborts.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .packages import PACKAGES, TRIED_OUT, Package

_SECONDS = 60
# Run in the child: the search path of this process, then the import; the answer is the last line.
_PROBE = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
module = importlib.import_module(sys.argv[2])
answer = {"version": str(getattr(module, "__version__", ""))}
if sys.argv[2] == "onnxruntime":
    answer["offers"] = module.get_available_providers()
if sys.argv[2] == "openvino":
    answer["offers"] = module.Core().available_devices
print("\\n" + json.dumps(answer))
"""


# Distributions that are but a name for others, and lie beside them in a whole installation.
_NAMES_FOR_OTHERS = frozenset({"tensorrt", "tensorrt-rtx", "cuda-python"})


@dataclass(frozen=True)
class Found:
    """What became of one package.

    Attributes:
        package: Which.
        version: As the module says, else as the metadata says; empty if it is not installed.
        offers: Execution providers of ONNX Runtime, devices of OpenVINO.
        error: Why it does not load, one line; None if it does, or is not installed.
        rivals: Distributions that are installed side by side and overwrite each other.
    """

    package: Package
    version: str = ""
    offers: tuple[str, ...] = ()
    error: str | None = None
    rivals: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether it is there at all, whole or broken."""
        return bool(self.version) or self.error is not None


def look_for(
    packages: Iterable[Package] = tuple(PACKAGES[name] for name in TRIED_OUT), seconds: float = _SECONDS
) -> tuple[Found, ...]:
    """Find and try out packages, all at once.

    Args:
        packages: Which.
        seconds: How long an import may take.
    """
    started = [(package, *_installed(package)) for package in packages]
    children = [None if not there else _start(package) for package, there, _ in started]
    return tuple(
        Found(package) if child is None else _answer(package, versions, child, seconds)
        for (package, _, versions), child in zip(started, children, strict=True)
    )


def _installed(package: Package) -> tuple[bool, dict[str, str]]:
    """Whether the module or a distribution of it is there, and the versions of the distributions that are."""
    versions = {}
    for name in package.distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    top = package.module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    # Type stubs leave a folder without code, and `cuda` is a folder that several packages share.
    has_code = spec is not None and spec.origin is not None
    return bool(versions) or has_code, versions


def _start(package: Package) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROBE, json.dumps(sys.path), package.module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _answer(package: Package, versions: dict[str, str], child: subprocess.Popen[str], seconds: float) -> Found:
    version = next(iter(versions.values()), "unknown version")
    rivals = _rivals(versions)
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return Found(package, version, error=f"did not load within {seconds:g} s", rivals=rivals)
    if child.returncode != 0:
        return Found(package, version, error=_reason(child.returncode, err), rivals=rivals)
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    told = answer["version"].partition("-")[0]  # OpenVINO adds its commit
    return Found(package, told or version, tuple(answer.get("offers", ())), rivals=rivals)


def _rivals(versions: dict[str, str]) -> tuple[str, ...]:
    names = tuple(name for name in versions if name not in _NAMES_FOR_OTHERS)
    return names if len(names) > 1 else ()


def _reason(code: int, err: str) -> str:
    """The last line of what a child said, or the signal that ended it."""
    if code < 0:
        return f"loading it ends the process with signal {-code}"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"loading it ends the process with code {code}"
