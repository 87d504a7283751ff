"""What to type to get what an extra of this package needs.

The package lies on no index, so `pip install "yolor-edge[openvino]"` would find nothing. What an extra needs does lie
on one, and the metadata of the installed package lists it.
"""

from __future__ import annotations

import operator
import platform
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

DISTRIBUTION = "yolor-edge"
# Other distributions that bring the same module: with one of them, nothing is missing.
_SAME_MODULE = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
    "cuda-bindings": ("cuda-python",),
    "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx", "tensorrt-rtx-cu12"),
    "nvidia-cuda-nvrtc-cu12": ("nvidia-cuda-nvrtc",),
}
_EXTRA = re.compile(r"""\s*(?:\band\b)?\s*\bextra\s*==\s*["']([^"']+)["']\s*""")
_COMPARISON = re.compile(r"""^(sys_platform|platform_machine|python_version)\s*(==|!=|<=?|>=?)\s*["']([^"']+)["']$""")

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def install_command(*extras: str) -> str:
    """The pip command that installs what these extras need: `pip install "openvino>=2025.4"`.

    Where the package is not installed, as in a bare source tree, or knows none of the extras, it is installed from a
    clone: `pip install ".[openvino]"`.
    """
    wanted = requirements_of(*extras)
    if not wanted:
        return f'pip install ".[{",".join(extras)}]" in a clone of yolor-edge'
    return pip_install(wanted)


def pip_install(requirements: Sequence[str]) -> str:
    """The command that installs these requirements, quoted for a shell and as people write it."""
    return " ".join(["pip install", *(_quoted(one) for one in requirements)])


def requirements_of(*extras: str) -> tuple[str, ...]:
    """What these extras need on this machine, each once: ("torch>=2.6", "onnx>=1.16"). The stricter bound counts."""
    import importlib.metadata  # here, since it would double the time that importing the runtime takes

    try:
        listed = importlib.metadata.requires(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:
        return ()
    wanted = {extra.lower().replace("_", "-") for extra in extras}
    found: dict[str, str] = {}
    for line in listed:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = _EXTRA.search(marker)
        if extra is None or extra[1].lower().replace("_", "-") not in wanted:
            continue
        rest = _EXTRA.sub("", marker).strip().strip("()").strip()
        if not _holds_here(rest):
            continue
        name = name_of(requirement)
        if name not in found or _version(found[name]) < _version(requirement):
            found[name] = requirement.replace(" ", "")
    return tuple(found.values())


def missing_of(*extras: str) -> tuple[str, ...]:
    """Of what these extras need, the requirements that nothing installed fulfils by name."""
    return tuple(one for one in requirements_of(*extras) if not _is_installed(name_of(one)))


def lacking_packages(what: str, package: str, extras: tuple[str, ...]) -> str:
    """The line for `package`, which could not be imported, and whatever else of `extras` is not there.

    Args:
        what: What needs them, a command for example.
        package: As it is imported, which for these is as it is installed.
        extras: Whose packages `what` needs; none for this package alone.
    """
    of_all = requirements_of(*(extras or ("export", "bench", "train")))
    lacking = [one for one in of_all if name_of(one) == package]
    lacking = lacking or [package]
    lacking += [one for one in missing_of(*extras) if name_of(one) != package]
    names = [name_of(one) for one in lacking]
    if len(names) == 1:
        return f"{what} needs the package {names[0]}; install it: {pip_install(lacking)}"
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{what} needs the packages {listed}; install them: {pip_install(lacking)}"


def name_of(requirement: str) -> str:
    """The distribution that a requirement names: "torch" of "torch>=2.6"."""
    return re.split(r"[\s<>=!~\[;(]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def _is_installed(name: str) -> bool:
    import importlib.metadata

    for one in (name, *_SAME_MODULE.get(name, ())):
        try:
            importlib.metadata.version(one)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False


def _holds_here(marker: str) -> bool:
    """Whether a marker of plain comparisons joined by "and" holds; one that says more is taken to hold."""
    values: dict[str, str] = {
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }
    for part in re.split(r"\s+and\s+", marker):
        found = _COMPARISON.match(part.strip().strip("()").strip())
        if found is not None and not _compares(found[2], values[found[1]], found[3], found[1] == "python_version"):
            return False
    return True


def _compares(sign: str, own: str, other: str, is_version: bool) -> bool:
    a, b = (_version(own), _version(other)) if is_version else (own, other)
    return bool(_OPERATORS[sign](a, b))


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a version, or of the bound of a requirement."""
    bound = re.search(r"[<>=~]=?\s*([\d.]+)", text)
    return tuple(int(number) for number in re.findall(r"\d+", bound[1] if bound else text))


def _quoted(requirement: str) -> str:
    return f'"{requirement}"' if re.search(r"[<>!~; ]", requirement) else shlex.quote(requirement)
