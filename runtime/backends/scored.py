"""Where a graph was scored, held against where it is about to run: scores hold for what they were measured on."""

from __future__ import annotations

import shlex
from typing import Any

from ..bundle.bundle import Bundle
from ..environment.machine import WITHOUT_VNNI, cpu_kind
from .registry import backend_entry, backend_version


def scored_on(backend: str) -> dict[str, str]:
    """What a bundle records of a backend here that a graph was scored on: its name, its version, the kind of CPU."""
    version = backend_version(backend).partition("-")[0]
    return {"backend": backend, "version": version or "unknown", "cpu": cpu_kind()}


def vision_kind(backend: str, precision: str) -> str:
    """Of `bundle.GRAPH_KINDS`, the vision graph that a backend runs in a precision."""
    return f"int8-{backend_entry(backend).int8_dialect}" if precision == "int8" else precision


def unscored(bundle: Bundle, backend: str, precision: str) -> str:
    """Why the scores of a graph say little of this backend on this machine, in one line; empty where they do.

    Args:
        bundle: Opened.
        backend: A name from `BACKENDS`.
        precision: Of the graphs; fp32, which others are scored against, never needs scores.
    """
    if precision == "fp32":
        return ""
    kind = vision_kind(backend, precision)
    known: Any = bundle.accuracy.get(kind, {})
    records: Any = known.get("scored_on", ()) if known.get("scores") else ()
    here, kind_here = [one for one in records if one["backend"] == backend], cpu_kind()
    if not records:
        reason = f"{precision} was never scored, its bundle was made without a data set"
    elif not here:
        places = " and ".join(place(one) for one in records)
        reason = f"{kind} was scored in {places}, not in {backend}"
    elif WITHOUT_VNNI in kind_here and not any(WITHOUT_VNNI in one["cpu"] for one in here):
        same = "its weights are such that no sum saturates"
        reason = f"{kind} was scored in {place(here[0])}, and this CPU has no VNNI ({kind_here}): {same}"
    else:
        return ""
    command = ["yolor-edge", "evaluate", str(bundle.path), "--data", "DATA", "--backend", backend]
    return f"{reason}; {shlex.join([*command, '--precision', precision])} scores it here"


def place(record: dict[str, str]) -> str:
    """For people: "onnxruntime 1.32.0 (AVX-512 with VNNI)"."""
    how = f", {record['how']}" if record.get("how") else ""
    return f"{record['backend']} {record['version']} ({record['cpu']}{how})"
