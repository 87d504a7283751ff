"""The files of a run: what it is (`run.json`, `config.toml`), its log, one line an epoch, and what else lies there."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.bundle.json_files import read_json
from ..runtime.errors import UsageError
from ..runtime.files import write_atomically
from .config import TrainConfig
from .config_file import config_text
from .distributed import is_first, wait_for_all

RUN, CONFIG, STATE, LOG, CACHE = "run.json", "config.toml", "state.safetensors", "log.jsonl", "cache"
LAST, BEST = "checkpoint", "best"
"""Folders of the checkpoints of the last epoch that was saved, and of the one with the best score."""


def write_run(out: Path, run: dict[str, Any]) -> None:
    """Say in `out` what the run is: `run.json` is what a resume needs beside the state, `config.toml` is for people.

    Args:
        out: Folder of the run.
        run: `data`, `split`, `network` and `train` as JSON, `threads`; `options`, further arguments of `fit`, which
            only `config.toml` shows; of a run from other weights `start` and `fresh`.

    Of processes that train together the first one writes, when all have read what was there.
    """
    wait_for_all()
    if not is_first():
        return
    write_atomically(out / RUN, json.dumps(run, indent=1) + "\n")
    options = {name: run[name] for name in ("data", "split", "threads")} | run.get("options", {})
    head = (
        "What this run is trained with: every setting and what it means. To train alike, or with changes:\n"
        f"  yolor-edge train --config {shlex.quote(str(out / CONFIG))} --out OTHER"
    )
    write_atomically(out / CONFIG, config_text(TrainConfig.from_json(run["train"]), options, head))


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
    """Replace the log; of processes that train together the first one does."""
    if is_first():
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
