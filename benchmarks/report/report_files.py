"""The files of a benchmark: every figure as JSON, and a page for people. Where they go is checked before the work."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.bundle.json_files import readable_json
from ...runtime.errors import UsageError
from ...runtime.files import replacing_file, write_atomically


class _Tried(Exception):
    """A file could be written."""


def output_file(text: str) -> Path:
    """The type of an argument that names a file to write, whose folder is made.

    Raises:
        argparse.ArgumentTypeError: If no file can be written there.
    """
    path = Path(text)
    try:
        with contextlib.suppress(_Tried), replacing_file(path) as temporary:
            temporary.touch()
            raise _Tried
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    except UsageError as error:  # which says why
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def output_stem(text: str) -> str:
    """The type of an argument that names the files of `write_both`; see `output_file`."""
    output_file(f"{text}.json")
    return text


def output_folder(text: str) -> Path:
    """The type of an argument that names a folder to write into; see `output_file`."""
    return output_file(f"{text}/report.json").parent


def write_both(out: str, report: Mapping[str, Any], text: str) -> None:
    """Write OUT.json and OUT.md, and print the latter."""
    write_atomically(Path(f"{out}.json"), readable_json(report) + "\n")
    write_atomically(Path(f"{out}.md"), text)
    print(text, end="")
