"""`yolor-edge doctor`: what is installed here, what is broken, and what to type next."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    from .. import main as cli

    parser = cli._command(
        commands,
        "doctor",
        _doctor,
        "say what this machine has for running bundles, what is broken, and what to type next",
        "One line for each thing: ok, none (not there, and nothing needs it), missing or problem, with the cure. With "
        "a bundle also whether it is whole and which of its engines fit here. Changes nothing; exit code 1 only where "
        "something that is there is broken.",
        "yolor-edge doctor bundles/scenes",
    )
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="folder of a bundle to look at as well")
    cli._add_json(parser)


def _doctor(arguments: argparse.Namespace) -> int:
    from .. import main as cli

    try:
        from ..runtime.diagnosis.doctor import examine
    except ImportError as error:  # of what the runtime itself stands on: numpy or the extension
        return _tell_of_the_runtime(error, arguments.json)
    found = examine(arguments.bundle)
    cli._print(arguments, found.to_json(), found.table())
    return found.exit_code


def _tell_of_the_runtime(error: ImportError, as_json: bool) -> int:
    """Say that the runtime itself does not load, in the same form, with the cure for the usual reasons."""
    reason = " ".join(str(error).split())
    module = (error.name or "").partition(".")[0]
    if "_native" in reason or "_native" in (error.name or ""):
        name, cure = (
            "extension",
            "it was not built for this Python: in a clone, pip install --force-reinstall --no-deps .",
        )
    elif module == "numpy" or "numpy" in reason:
        name, cure = "numpy", "pip install --force-reinstall numpy"
    else:
        name, cure = "yolor-edge", "in a clone, pip install --force-reinstall ."
    check = {"group": "software", "name": name, "state": "problem", "found": f"does not load: {reason}", "cure": cure}
    if as_json:
        print(json.dumps({"passed": False, "checks": [check], "next": [cure]}, indent=2))
    else:
        print(f"software\n  problem  {name}  {check['found']}; {cure}")
    return 1
