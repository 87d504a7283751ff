"""`yolor-edge doctor`: what is installed here, what is broken, and what to type next."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..imports import is_of_an_import, trouble_of
from ..options import add_json
from ..output import print_result, quiet_imports
from ..parsing import add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        "[BUNDLE] [options]",
        "say what this machine has for running bundles, what is broken, and what to type next",
        "One line for each thing: ok, none (not there, and nothing needs it), missing or problem, with the cure. With "
        "a bundle also whether it is whole and which of its engines fit here. Changes nothing; exit code 1 only where "
        "something that is there is broken.",
        "yolor-edge doctor bundles/scenes",
        needs_opencv=False,
    )
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="folder of a bundle to check as well")
    add_json(parser)


def _doctor(arguments: argparse.Namespace) -> int:
    try:
        with quiet_imports():
            from ..runtime.diagnosis.examination import doctor
    except Exception as error:  # of what the runtime itself stands on: numpy, OpenCV or the extension
        return _tell_of_the_runtime(error, arguments.json)
    found = doctor(arguments.bundle)
    print_result(arguments, found.to_json(), found.table())
    return found.exit_code


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
