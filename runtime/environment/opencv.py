"""OpenCV, whoever brought it: a wheel, Debian or JetPack. Where it is missing or broken, one line says the cure."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import PackageError
from .install import install_command
from .packages import PACKAGES

# Where Debian, Ubuntu and JetPack put the OpenCV of the system's own Python.
_SYSTEM_FOLDERS = ("/usr/lib/python3/dist-packages", "/usr/lib/python3.{minor}/dist-packages")


def require_opencv() -> None:
    """Import cv2; to be called before the first `import cv2`, which after this cannot fail.

    Raises:
        PackageError: If it is missing or does not load, in one line that names the command that cures it.
    """
    if getattr(sys.modules.get("cv2"), "imdecode", None) is not None:
        return
    said = io.StringIO()  # numpy writes a page about a module that was built for another numpy
    try:
        with contextlib.redirect_stderr(said):
            import cv2
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise PackageError(_broken(error, said.getvalue())) from error
        raise PackageError(f"OpenCV (cv2) is missing; {_cure_of_missing()}") from error
    except Exception as error:  # an ImportError; with too old a numpy a TypeError
        raise PackageError(_broken(error, said.getvalue())) from error
    if not hasattr(cv2, "imdecode"):  # a folder that pip left behind
        raise PackageError(f"OpenCV (cv2) is an empty folder, {cv2.__file__ or 'without code'}; {_cure_of_missing()}")


def _cure_of_missing() -> str:
    install = f"install it: {install_command('opencv')}"
    folders = [folder.format(minor=sys.version_info[1]) for folder in _SYSTEM_FOLDERS]
    theirs = [str(found) for folder in folders for found in Path(folder).glob("cv2*")]
    is_same_python = Path(sys.base_prefix) == Path("/usr")
    if sys.prefix != sys.base_prefix and is_same_python and theirs:
        # On an environment that is there this changes one line of pyvenv.cfg; what is installed in it stays.
        return f"to use the system's ({theirs[0]}): python3 -m venv --system-site-packages {sys.prefix}; or {install}"
    return install


def _broken(error: BaseException, said: str) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    wheels = installed_distributions()
    if "numpy" in reason or "_ARRAY_API" in reason + said:
        import numpy

        text = f"OpenCV (cv2) was built for another numpy than {numpy.__version__}"
        if wheels:
            return f"{text}; install a newer one: pip install --upgrade {wheels[0]}"
        return f'{text}; install that numpy: pip install "numpy>=1.22,<2"'
    text = f"OpenCV (cv2) is installed but does not load ({reason})"
    if not wheels:
        return f"{text}; install it again where it came from (apt install --reinstall python3-opencv)"
    # Most often libGL.so.1 or libgthread-2.0.so.0, which only the wheels with windows want.
    return f"{text}; replace it: pip uninstall -y {' '.join(wheels)} && {install_command('opencv')}"


def installed_distributions() -> tuple[str, ...]:
    """The wheels of OpenCV that are installed; none where it is the system's own."""
    import importlib.metadata

    found = []
    for name in PACKAGES["opencv"].distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            found.append(name)
    return tuple(found)


@contextlib.contextmanager
def name_for_opencv(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name of a file that OpenCV and what is behind it take for this file, while the block runs.

    It is absolute, because FFmpeg takes what stands before a colon for a protocol. For a name that is no UTF-8, which
    OpenCV dies of, a link with the same suffix stands in.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            suffix = Path(name).suffix
            link = os.path.join(folder, "file" + (suffix if suffix.isascii() else ""))
            os.symlink(name, link)
            yield link
    else:
        yield name
