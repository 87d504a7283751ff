"""The command `yolor-edge`: each subcommand is a thin face over one public function with the same arguments.

A subcommand imports what it needs when it runs, so that `--help` is quick and a device without torch can use
the rest. What goes wrong is one line on stderr: exit code 2 for a request that cannot be served as asked, 1
for one that failed.
"""

from __future__ import annotations

import argparse
import errno
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from .commands import (
    adopt,
    bench,
    build,
    check,
    compare,
    demo,
    diff,
    doctor,
    evaluate,
    export,
    import_,
    inspect,
    label,
    run,
    scenes,
    train,
    verify,
)
from .imports import check_opencv, is_of_an_import, missing_line, trouble_of
from .output import complain, flush, prepare_streams, say
from .parsing import PROGRAM, CommandParser, Misuse, Parser, check_command
from .termination import Terminated

COMMANDS = (
    scenes,
    check,
    train,
    import_,
    adopt,
    label,
    evaluate,
    export,
    build,
    verify,
    diff,
    run,
    bench,
    compare,
    doctor,
    inspect,
    demo,
)
# Where a package is missing: the extras whose packages a command needs, others "train". What evaluate, label and
# bench need hangs on what they are given: they name the one package.
_EXTRAS = {
    "export": ("export",),
    "adopt": ("export",),
    "diff": ("export",),
    "demo": ("export", "bench"),
    "evaluate": (),
    "label": (),
    "bench": (),
    "check": ("bench",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what a user can cause.

    Args:
        argv: The arguments after the program's name; None for those of this process.
    """
    prepare_streams()
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")  # without file, line and source
    typed = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace(typed=typed, command="", out=None, parser=None)
    try:
        code = _run(typed, arguments)
        return code if flush() else 1
    except BrokenPipeError:  # whoever read stdout or stderr has gone, as `head` does
        flush()
        return 1
    except Misuse as error:
        return complain(error, 2)
    except KeyboardInterrupt as error:
        hint = train.resume_hint(arguments) if arguments.command == "train" else ""
        hint = "; the same command goes on from here" if arguments.command == "label" else hint
        was_terminated = isinstance(error, Terminated)
        return complain(("terminated" if was_terminated else "interrupted") + hint, 143 if was_terminated else 130)
    except Exception as error:
        told = _told(error, arguments)
        if told is None:
            raise
        return complain(*told)


def make_parser() -> Parser:
    """The parser of the program, with all its commands."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description="Boxes, instance masks, a semantic map and a caption from one network: "
        "train, export, run, measure.",
        epilog="yolor-edge COMMAND --help explains a command. Start with: yolor-edge doctor",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    added = parser.add_subparsers(
        title="commands",
        dest="command",
        metavar="COMMAND",
        required=True,
        prog=PROGRAM,
        parser_class=CommandParser,
    )
    for command in COMMANDS:
        command.add(added)
    return parser


def _run(typed: Sequence[str], arguments: argparse.Namespace) -> int:
    check_command(typed, [command.__name__.rpartition(".")[2].rstrip("_") for command in COMMANDS])
    parser = make_parser()
    if not typed:
        parser.print_help()
        return 0
    try:
        parser.parse_args(typed, arguments)
    except SystemExit as leaving:  # argparse after --help and --version
        return leaving.code if isinstance(leaving.code, int) else 0
    if arguments.needs_opencv:
        check_opencv()
    return arguments.run(arguments)


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from . import __version__

        print(f"{PROGRAM} {__version__}")
        parser.exit()


def _told(error: Exception, arguments: argparse.Namespace) -> tuple[str, int] | None:
    """The line and the exit code for an error; None for one that is a mistake in the program."""
    from .runtime.errors import PackageError, YolorEdgeError

    if isinstance(error, PackageError):
        return str(error), error.exit_code
    if is_of_an_import(error):
        trouble = trouble_of(error)
        if trouble is None:
            return None
        return missing_line(arguments.command, trouble, error, _EXTRAS.get(arguments.command, ("train",))), 1
    if isinstance(error, OSError):
        return _os_error_text(error, arguments.out), 1
    if "No space left on device" in str(error):  # safetensors raises an error of its own
        return _os_error_text(OSError(errno.ENOSPC, str(error)), arguments.out), 1
    # A loss that is no number; and the error that safetensors raises where others raise an OSError.
    if isinstance(error, FloatingPointError) or type(error).__name__ == "SafetensorError":
        return str(error), 1
    if isinstance(error, YolorEdgeError):
        return error.spelled(lambda name: _as_typed(name, arguments)), error.exit_code
    return None


def _as_typed(name: str, arguments: argparse.Namespace) -> str:
    """An argument of a function as the option that fills it."""
    option = arguments.parser.option_for(name) if arguments.parser is not None else None
    if option is None and hasattr(arguments, "settings"):  # of training, which has more of them than options
        return f"--set {name}"
    return option or name


def _os_error_text(error: OSError, out: str | None) -> str:
    """What the system refused, with the file if it says which, else with the folder that was written to."""
    file = error.filename or out
    where = f"{file}: " if file else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full ({reason}); free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}not permitted ({reason}); choose another folder or change its permissions"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG) and out is not None:
        return f"{where}cannot be made or opened ({reason}); choose another place"
    return f"{where}{reason}"
