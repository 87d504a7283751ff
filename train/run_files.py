"""The files of a run: what it is (`run.json`), its log, one line an epoch, and writes that no signal cuts short."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.bundle.json_files import read_json
from ..runtime.errors import UsageError
from ..runtime.files import write_atomically

RUN, STATE, LOG, CACHE = "run.json", "state.safetensors", "log.jsonl", "cache"


def write_run(out: Path, run: dict[str, Any]) -> None:
    """Say in `out` what the run is: what a resume needs beside the state."""
    write_atomically(out / RUN, json.dumps(run, indent=1) + "\n")


def read_run(out: Path) -> dict[str, Any]:
    """What `write_run` wrote.

    Raises:
        UsageError: If there is no run in `out`, or it cannot be read.
    """
    if not (out / RUN).is_file():
        raise UsageError(
            f"{out}: holds no run to resume (no {RUN}); start one: yolor-edge train --data DIR --out {out}", "out"
        )
    return read_json(out / RUN, "the description of a run", UsageError, "start a new one")


def not_a_run(out: Path, error: Exception) -> UsageError:
    """What is said of a `run.json` that lacks something, or has it wrong."""
    return UsageError(f"{out / RUN}: is not the description of a run ({error}); start a new one")


def read_log(out: Path) -> list[dict[str, Any]]:
    """The log's entries, one an epoch; a line that a kill cut short is left out."""
    entries = []
    if (out / LOG).exists():
        for line in (out / LOG).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
    return entries


def write_log(out: Path, entries: list[dict[str, Any]]) -> None:
    """Replace the log."""
    write_atomically(out / LOG, "".join(json.dumps(entry) + "\n" for entry in entries))


@contextlib.contextmanager
def finish_before_stopping() -> Iterator[None]:
    """Hold back Ctrl-C and a polite kill until the block is done."""
    held: list[int] = []
    try:
        previous = {s: signal.signal(s, lambda number, _: held.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Not the main thread: signals do not arrive here.
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held:
            os.kill(os.getpid(), held[0])
