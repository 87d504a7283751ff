"""`yolor-edge doctor`: what is installed here, what is broken, and what to type next."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..imports import is_of_an_import, trouble_of
from ..options import add_json
from ..output import print_result, quiet_imports, say
from ..parsing import Misuse, add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        "[BUNDLE] [options]",
        "say what this machine has for running bundles, what is broken, and what to type next",
        "One line for each thing: ok, none (not there, and nothing needs it), missing or problem, with the cure. With "
        "a bundle also whether it is whole, which of its engines fit here, what is fastest, and what was not scored "
        "where it would run. Changes nothing unless told to choose; exit code 1 only where something that is there is "
        "broken.",
        "yolor-edge doctor bundles/scenes",
        needs_opencv=False,
    )
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="folder of a bundle to check as well")
    parser.add_argument(
        "--choose",
        action="store_true",
        help="first measure anew which backend and precision of the bundle are the fastest here, which takes some "
        "seconds and is kept for --backend auto and --precision auto (default: changes nothing)",
    )
    add_json(parser)


def _doctor(arguments: argparse.Namespace) -> int:
    try:
        with quiet_imports():
            from ..runtime.diagnosis.examination import doctor
    except Exception as error:  # of what the runtime itself stands on: numpy, OpenCV or the extension
        return _tell_of_the_runtime(error, arguments.json)
    if arguments.choose:
        _choose(arguments.bundle)
    found = doctor(arguments.bundle)
    print_result(arguments, found.to_json(), found.table())
    return found.exit_code


def _choose(path: str | None) -> None:
    """Measure what is fastest; where nothing of it runs, the diagnosis behind it says why."""
    if path is None:
        raise Misuse("--choose needs the BUNDLE to choose for; see yolor-edge doctor --help")
    from ..runtime.backends.fastest import choose_fastest
    from ..runtime.bundle.bundle import Bundle
    from ..runtime.errors import YolorEdgeError

    try:
        say(choose_fastest(Bundle.open(path), say=say, anew=True).line())
    except YolorEdgeError as error:
        say(f"nothing could be chosen: {error}")


def _tell_of_the_runtime(error: Exception, as_json: bool) -> int:
    """Say that the runtime itself does not load, in the same form, with the cure."""
    trouble = trouble_of(error) if is_of_an_import(error) else None
    if trouble is None:
        raise error
    check = {
        "group": "software",
        "name": trouble.name,
        "state": "problem",
        "found": trouble.found,
        "cure": trouble.cure,
    }
    if as_json:
        print(json.dumps({"passed": False, "checks": [check], "next": [trouble.cure]}, indent=2))
    else:
        print(f"software\n  problem  {trouble.name}  {trouble.found}; {trouble.cure}")
    return 1
