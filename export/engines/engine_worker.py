"""The process that builds one engine and ends: `python -m yolor_edge.export.engines.engine_worker`, a job on its stdin.

A build of its own process has a peak memory of its own, can be stopped in the middle of C++, and takes nothing with it
when the system kills it for memory. It answers in lines of JSON on stdout: progress, then a result or an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from ...runtime.errors import EngineBuildError, YolorEdgeError
from .build_needs import free_disk_bytes, no_room
from .tensorrt_flavours import BuildJob, load_toolkit

_REPORT_SECONDS = 0.25


def main() -> int:
    """Serve the one request on stdin; returns an exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this decides, and ends it
    # Libraries may write to stdout, so the answers go where only this file writes.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        answer = {"result": build_to_file(request, answers)}
    except YolorEdgeError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        answer = {"error": f"out of memory at {peak_memory_mib()} MiB", "kind": "MemoryError"}
    except OSError as error:
        answer = {"error": error.strerror or str(error), "kind": "OSError", "errno": error.errno}
    _send(answers, answer)
    return 0 if "result" in answer else 1


def build_to_file(request: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    """Build `request["job"]` with `request["flavour"]` and write the engine to `request["out"]`.

    Returns:
        Its bytes, its profiles, its layers by precision, and the peak memory.

    Raises:
        YolorEdgeError: If it cannot be built.
        OSError: If it cannot be written.
    """
    toolkit = load_toolkit(request["flavour"])
    job = BuildJob(**request["job"])

    last = 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last < _REPORT_SECONDS:  # a build has thousands of steps
            return
        last = time.monotonic()
        _send(answers, {"phase": phase, "done": done, "total": total, "peak_mib": peak_memory_mib()})

    built = toolkit.build(job, report)
    out, size = Path(request["out"]), memoryview(built.plan).nbytes
    if size > (free := free_disk_bytes(out.parent)):
        raise EngineBuildError(no_room(out.parent, Path(job.graph).name, f"{size / 1e6:.1f} MB", free))
    size = _write(out, built.plan)
    if built.timing_cache is not None and request.get("timing_cache_out"):
        _write(Path(request["timing_cache_out"]), built.timing_cache)
    return {"bytes": size, "profiles": built.profiles, "layers": built.layers, "peak_mib": peak_memory_mib()}


def peak_memory_mib() -> int:
    """The most memory this process has had resident, in MiB.

    From the process's own figures where Linux has them: what getrusage says starts with the peak of the parent.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write(path: Path, content: Any) -> int:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return path.stat().st_size


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
