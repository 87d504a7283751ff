"""A package that is missing or does not load, told in one line with the command that cures it.

Nothing of the runtime is imported here before it is known that numpy loads: what is examined may be what it stands on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shlex
import textwrap
import types
from dataclasses import dataclass

from .output import quiet_imports

_OWN = __name__.partition(".")[0]
_OTHER_NUMPY = ("multiarray failed to import", "_ARRAY_API", "binary incompatibility", "compiled using NumPy")


@dataclass(frozen=True)
class Trouble:
    """One package that cannot be imported.

    Attributes:
        name: Of the package, for people.
        found: What is wrong with it, such as "is not installed".
        cure: The command, or what else to do.
    """

    name: str
    found: str
    cure: str


def check_opencv() -> None:
    """Import numpy and OpenCV before anything is begun, so that one that does not load is told in one line.

    Raises:
        ImportError: With `name` set, if numpy does not load; a `PackageError` for OpenCV, whose message is the line.
    """
    try:
        with quiet_imports():
            importlib.import_module("numpy")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a broken package may raise anything
        raise ImportError(str(error), name="numpy") from error
    from .runtime.environment.opencv import require_opencv

    require_opencv()


def is_of_an_import(error: Exception) -> bool:
    """Whether an error came out of an import; packages that do not fit each other raise all kinds of errors."""
    return isinstance(error, ImportError) or bool(_importing(error.__traceback__))


def trouble_of(error: Exception) -> Trouble | None:
    """Which package an import failed for and what to do; None where it is a mistake in this program."""
    reason = textwrap.shorten(str(error), 200)
    where = (isinstance(error, ImportError) and error.name) or _importing(error.__traceback__)
    package = where.partition(".")[0]
    if package == _OWN:
        if "YOLOR_EDGE_SIMD" in reason:
            return Trouble("extension", f"does not load: {reason}", "unset YOLOR_EDGE_SIMD to have the best one chosen")
        if "_native" not in reason + where:
            return None
        cure = "it was not built for this Python: in a clone, pip install --force-reinstall --no-deps ."
        return Trouble("extension", f"does not load: {reason}", cure)
    name = package or "a package"
    of = _distribution(package)
    if isinstance(error, ModuleNotFoundError) and where == package:
        return Trouble(name, "is not installed", f"pip install {of}")
    if any(sign in reason for sign in _OTHER_NUMPY) and package != "numpy":
        return _built_for_another_numpy(name, package, of)
    library = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", reason)
    if library is not None:
        cure = f"install that library, or pip install --force-reinstall --no-deps {of}"
        return Trouble(name, f"does not load: the library {library[1]} is not there", cure)
    if not package:
        return None
    how = "--force-reinstall --no-deps" if isinstance(error, ImportError) else "--upgrade --force-reinstall"
    return Trouble(name, f"does not load: {reason}", f"pip install {how} {shlex.quote(of)}")


def missing_line(command: str, trouble: Trouble, error: Exception, extras: tuple[str, ...]) -> str:
    """The whole complaint of a command.

    Args:
        command: That needs the package.
        trouble: What is wrong.
        error: What was raised.
        extras: Those of this package that the command needs; what else of them is missing is told as well.
    """
    if isinstance(error, ModuleNotFoundError) and trouble.name not in ("numpy", "extension"):
        from .runtime.environment.install import lacking_packages

        return lacking_packages(command, trouble.name, extras)
    if trouble.found == "is not installed":
        return f"{command} needs {trouble.name}, which is not installed; install it: {trouble.cure}"
    return f"{trouble.name} {trouble.found}; {trouble.cure}"


def _built_for_another_numpy(name: str, package: str, of: str) -> Trouble:
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        version = "?"
    found = f"was built for another numpy than the {version} that is installed"
    if _is_installed(of):
        return Trouble(name, found, f"pip install --upgrade --force-reinstall --no-deps {of}")
    # A package without metadata is the system's own, as on a Jetson, and numpy has to follow it.
    return Trouble(name, found, 'pip install "numpy<2"' if not version.startswith("1.") else 'pip install "numpy>=2"')


def _distribution(package: str) -> str:
    """What a package is installed as, or would be."""
    names = importlib.metadata.packages_distributions().get(package, [])
    return names[0] if names else package.replace("_", "-")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _importing(trace: types.TracebackType | None) -> str:
    """The package that was being imported when an error was raised; empty if it was none but our own."""
    found = ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if trace.tb_frame.f_code.co_name == "<module>" and name.partition(".")[0] != _OWN:
            found = name
        trace = trace.tb_next
    return found
