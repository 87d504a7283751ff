"""What to type to get what an extra of this package needs, and which version of this package is installed.

The package lies on no index, so `pip install "yolor-edge[openvino]"` would find nothing. What an extra needs does lie
on one, and the metadata of the installed package lists it.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cuda_device import driver_cuda
from .packages import PACKAGES, Package, package_of_module

if TYPE_CHECKING:
    from packaging.requirements import (
        Requirement,
    )  # imported where it is needed, as importlib.metadata is: both are slow

DISTRIBUTION = "yolor-edge"


def package_version() -> str:
    """Of this package, as pyproject.toml states it; "unknown" where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def version_of(name: str) -> str:
    """The version of a package as its metadata tell, empty where it is not installed.

    Args:
        name: As for `package_command`.
    """
    import importlib.metadata

    for distribution in PACKAGES[name].distributions if name in PACKAGES else (name,):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""


def install_command(*extras: str) -> str:
    """The pip command that installs what these extras need: `pip install "openvino>=2025.4"`.

    Where the package is not installed, as in a bare source tree, or knows none of the extras, it is installed from a
    clone: `pip install ".[openvino]"`.
    """
    wanted = requirements_of(*extras)
    if not wanted:
        return f'pip install ".[{",".join(extras)}]" in a clone of yolor-edge'
    return pip_install(wanted)


def package_command(name: str) -> str:
    """The command that installs a package, empty where there is no wheel of it for this machine.

    Args:
        name: A key of `PACKAGES`; any other is taken for the name of a distribution.
    """
    package = PACKAGES.get(name)
    if package is None:
        return pip_install((name,))
    if not has_wheel(package):
        return ""
    return install_command(cuda_extra() if package.name == "cuda-python" else package.extras[0])


def package_hint(name: str) -> str:
    """For the end of a message that a package is missing: "install it: ...", or that there is no wheel of it here."""
    command = package_command(name)
    return f"install it: {command}" if command else no_wheel(name)


def no_wheel(name: str) -> str:
    """That there is no wheel of a package for this machine."""
    version = ".".join(platform.python_version_tuple()[:2])
    return f"there is no wheel of {PACKAGES[name].distributions[0]} for {platform.machine()} and Python {version}"


def cuda_extra() -> str:
    """The extra for the driver's CUDA; without a driver that of CUDA 12, whose packages run on newer drivers too."""
    cuda = driver_cuda()
    return "cuda13" if cuda is not None and cuda >= (13, 0) else "cuda12"


def has_wheel(package: Package) -> bool:
    """Whether pip finds a wheel of it for this machine."""
    from packaging.markers import Marker

    return not package.wheels or Marker(package.wheels).evaluate(_here())


def pip_install(requirements: Sequence[str]) -> str:
    """The command that installs these requirements, quoted for a shell and as people write it."""
    return " ".join(["pip install", *(_quoted(one) for one in requirements)])


def requirements_of(*extras: str) -> tuple[str, ...]:
    """What these extras need on this machine, each once: ("torch>=2.6", "onnx>=1.16"). The stricter bound counts."""
    import importlib.metadata

    from packaging.requirements import Requirement

    try:
        listed = importlib.metadata.requires(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:
        return ()
    wanted = [extra.replace("_", "-") for extra in extras]
    found: dict[str, Requirement] = {}
    for one in map(Requirement, listed):
        marker = one.marker
        # What is needed without any extra is there already.
        if marker is None or marker.evaluate(_here("")) or not any(marker.evaluate(_here(e)) for e in wanted):
            continue
        if one.name not in found or _least(found[one.name]) < _least(one):
            found[one.name] = one
    return tuple(f"{one.name}{_bounds(one)}" for one in found.values())


def lacking_packages(what: str, package: str, extras: tuple[str, ...]) -> str:
    """The line for `package`, which could not be imported, and whatever else of `extras` is not there.

    Args:
        what: What needs them, a command for example.
        package: As it is imported.
        extras: Whose packages `what` needs; none for this package alone.
    """
    row = package_of_module(package)
    name = package if row is None else row.distributions[0]
    needed = requirements_of(*extras)
    alone = () if row is None else requirements_of(*row.extras)
    lacking = [one for one in (*needed, *alone) if name_of(one) == name][:1] or [name]
    lacking += [one for one in needed if name_of(one) != name and not _is_installed(name_of(one))]
    names = [name_of(one) for one in lacking]
    if len(names) == 1:
        return f"{what} needs the package {names[0]}; install it: {pip_install(lacking)}"
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{what} needs the packages {listed}; install them: {pip_install(lacking)}"


def release_of(version: str) -> tuple[int, ...]:
    """The numbers of a version to compare: (12, 9, 4) of "12.9.4"; none of what is no version."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version).release
    except InvalidVersion:
        return ()


def name_of(requirement: str) -> str:
    """The distribution that a requirement names: "torch" of "torch>=2.6"."""
    from packaging.requirements import Requirement

    return Requirement(requirement).name


def _here(extra: str = "") -> dict[str, str]:
    """What markers are told of this machine."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"extra": extra, "platform_machine": platform.machine(), "python_version": python}


def _least(requirement: Requirement) -> tuple[int, ...]:
    """The smallest version that a requirement allows."""
    from packaging.version import Version

    return max((Version(one.version).release for one in requirement.specifier if one.operator == ">="), default=())


def _bounds(requirement: Requirement) -> str:
    """Its bounds as people write them, the lower one first."""
    return ",".join(sorted(map(str, requirement.specifier), key=lambda bound: (bound[0] != ">", bound)))


def _is_installed(name: str) -> bool:
    """Whether a distribution is installed, or another one that brings the same module."""
    import importlib.metadata

    row = next((package for package in PACKAGES.values() if name in package.distributions), None)
    for one in (name,) if row is None else row.distributions:
        try:
            importlib.metadata.version(one)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False


def _quoted(requirement: str) -> str:
    return f'"{requirement}"' if re.search(r"[<>!~; ]", requirement) else shlex.quote(requirement)
