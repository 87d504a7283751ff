"""The errors a user can meet, each one line: what, where, what was expected, what to do.

The command line prints the message of any `YolorEdgeError` and exits with its `exit_code`: 2 where no machine could
serve the request, since it, or a file or folder that it names, is not as it has to be (an unknown option, a precision
that the bundle lacks); 3 where there is no engine for this bundle and device; 1 where the same request could be served
elsewhere or later (a backend that is not installed, no GPU, no display, a full disk), or was served and failed.
"""

from __future__ import annotations

from collections.abc import Callable


class YolorEdgeError(Exception):
    """Base of every error this package raises on purpose.

    A message names an argument of a function as `<name>`, as in "<threads> must be at least 1, got 0". `str` shows it
    as the Python name; the command line shows the option that fills it, `--threads`.

    Attributes:
        arguments: Names of the arguments that are at fault; all that the message names are among them.
    """

    exit_code = 1

    def __init__(self, message: str = "", argument: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = (argument,) if isinstance(argument, str) else argument

    @property
    def argument(self) -> str | None:
        """The argument at fault, or the first of several; None where no argument is."""
        return self.arguments[0] if self.arguments else None

    def spelled(self, spelling: Callable[[str], str]) -> str:
        """The message, with every argument that it names written the way `spelling` writes it."""
        text = str(self.args[0])
        for name in self.arguments:
            text = text.replace(f"<{name}>", spelling(name))
        return text

    def __str__(self) -> str:
        return self.spelled(str)


class UsageError(YolorEdgeError, ValueError):
    """An argument, option or path that cannot be used as given."""

    exit_code = 2


class UnavailableError(UsageError):
    """A request that makes sense and that this machine cannot serve: it has no display, or no such device."""

    exit_code = 1


class DatasetError(YolorEdgeError):
    """A folder or annotation file that is not the data set it was taken for."""

    exit_code = 2


class CheckpointError(YolorEdgeError):
    """A checkpoint that is missing, foreign, altered or of another shape."""

    exit_code = 2


class BundleError(YolorEdgeError):
    """A bundle that is missing, foreign, altered or newer than this runtime."""

    exit_code = 2


class ImageError(YolorEdgeError):
    """An image or video that cannot be read."""


class BackendError(YolorEdgeError):
    """An inference backend that is not installed, or failed to load or to run a graph."""


class BackendMissingError(BackendError):
    """An inference backend whose package is not installed."""


class PackageError(YolorEdgeError, ImportError):
    """A package that everything stands on, such as OpenCV, and that is missing or does not load."""


class ParityError(YolorEdgeError):
    """Two stages of the chain that should agree and do not."""


class CalibrationError(YolorEdgeError):
    """Images or scales that an int8 calibration cannot use."""

    exit_code = 2


class AccuracyError(YolorEdgeError):
    """A cheaper form of a network that scores worse than was allowed."""


class EngineBuildError(YolorEdgeError):
    """An engine that could not be built; nothing of it was written."""


class EngineMismatchError(YolorEdgeError):
    """An engine that is missing, altered, or built for another graph, version or device than it is wanted for."""

    exit_code = 3
