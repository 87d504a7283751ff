"""Names as people type them: options in messages, and backends and flavours with either kind of dash."""

from __future__ import annotations

import argparse
import re

# Arguments of functions that go by another name on the command line.
_OPTIONS = {"budget_ms": "--caption-budget-ms", "maximum_seconds": "--seconds", "tasks": "--heads"}


def as_typed(message: str, arguments: argparse.Namespace) -> str:
    """A message that begins with the name of a function's argument, with the option that was typed in its place.

    "caption_decoder must be ..." becomes "--caption-decoder must be ...", and "seed must be ..." becomes "--set seed
    must be ..." where it was set that way. A message that begins with anything else stays as it is.

    Args:
        message: Of an error.
        arguments: What was parsed, with the parser of the command as `parser`.
    """
    found = re.match(r"([a-z][a-z_]*) (?=must |is )", message)
    parser = getattr(arguments, "parser", None)
    if found is None or parser is None:
        return message
    name = found[1]
    options = parser._option_string_actions
    for option in (f"--{name.replace('_', '-')}", _OPTIONS.get(name, "")):
        if option in options:
            return f"{option}{message[len(name) :]}"
    if any(setting.startswith(f"{name}=") for setting in getattr(arguments, "set", None) or ()):
        return f"--set {message}"
    return message


def backend_name(text: str) -> str:
    """ "tensorrt_rtx" as the backend is called, "tensorrt-rtx"."""
    return text.replace("_", "-")


def flavour_name(text: str) -> str:
    """ "tensorrt-rtx" as the flavour is called, "tensorrt_rtx"."""
    return text.replace("-", "_")
