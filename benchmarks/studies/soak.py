"""A stream for a long time: does its memory stay, do its threads stay, does every image get its answer?

    python -m yolor_edge.benchmarks.studies.soak bundles/demo --frames 100000 --out benchmarks/results/soak.json

Images of changing sizes are drawn once and given again and again, now and then one that cannot be read, while the
memory of the process is looked at a hundred times. Memory counts as steady when the median of the last tenth of the run
is at most `--allowed-mib` above that of the second tenth; the first is for warming up. The exit code says so. What is
in use is looked at too, as Python and as malloc count it: where the process grows and that does not, it is memory that
was given back to an allocator, which keeps it in pieces.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.captions.captioning import CaptionOptions
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ...runtime.model import load
from ...runtime.sources.sources import Frame
from ..report.machine import describe_machine, source_commit
from ..report.report_files import output_file

SIZES = ((480, 640), (360, 640), (720, 1280), (333, 217))
LOOKS = 100
UNREADABLE_EVERY = 1000


def drawn_images(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Grey images with rectangles in pure colours, of sizes that change from one to the next."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        image = np.full((height, width, 3), 114, np.uint8)
        for _ in range(int(rng.integers(1, 6))):
            y, x = int(rng.integers(0, height - 40)), int(rng.integers(0, width - 40))
            h, w = int(rng.integers(20, height // 2)), int(rng.integers(20, width // 2))
            image[y : y + h, x : x + w] = rng.permutation([0, int(rng.integers(0, 2)) * 255, 255])
        pictures.append(image)
    return pictures


def resident_bytes() -> int:
    """Physical memory that this process holds now.

    Raises:
        UsageError: On a system that does not tell.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise UsageError("/proc/self/statm: cannot be read; the soak runs on Linux") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


class _MallocFigures(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


@functools.cache
def _malloc_figures() -> Callable[[], Any] | None:
    figures = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if figures is not None:
        figures.restype = _MallocFigures
    return figures


def bytes_in_use() -> int | None:
    """What malloc has given out and not yet got back, in all threads; None where that cannot be asked."""
    figures = _malloc_figures()
    if figures is None:
        return None
    found = figures()
    return found.uordblks + found.hblkhd


def soak(
    bundle: str | os.PathLike[str],
    frames: int,
    seconds: float | None = None,
    *,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = 1,
    in_flight: int = 2,
    caption_every: int | str = 1,
    beam_size: int = 1,
) -> dict[str, Any]:
    """Run a stream of so many images, or until the time is over.

    Returns:
        What was asked for, the figures of the stream, the looks at the memory and what they say.
    """
    pictures = drawn_images(len(SIZES) * 4)
    until = time.monotonic() + (seconds if seconds is not None else float("inf"))

    def source() -> Iterator[Frame]:
        for index in range(frames):
            if time.monotonic() > until:
                return
            if index % UNREADABLE_EVERY == UNREADABLE_EVERY - 1:
                yield Frame("drawn", None, "drawn unreadable", index)
            else:
                yield Frame("drawn", pictures[index % len(pictures)], None, index)

    looks: list[dict[str, Any]] = []
    objects = expected = 0
    started = next_look = time.monotonic()
    with load(bundle, backend, precision, threads) as model:
        threads_before = threading.active_count()  # some packages start one when they are imported
        options = {"in_flight": in_flight, "caption_every": caption_every}
        with model.stream(source(), caption=CaptionOptions(beam_size=beam_size), **options) as stream:  # type: ignore[arg-type]
            for answer in stream:
                if answer.frame.index != expected:
                    raise AssertionError(f"answer {expected} is that of frame {answer.frame.index}")
                expected += 1
                if answer.result is not None:
                    objects += len(answer.result.boxes if answer.result.boxes is not None else ())
                    if answer.result.masks is not None:
                        answer.result.masks.rle()
                is_due = (
                    time.monotonic() >= next_look if seconds is not None else expected % max(1, frames // LOOKS) == 0
                )
                if is_due:
                    next_look = time.monotonic() + (seconds or 0) / LOOKS
                    looks.append(
                        {
                            "frame": expected,
                            "seconds": round(time.monotonic() - started, 2),
                            "resident_bytes": resident_bytes(),
                            "malloc_bytes": bytes_in_use(),
                            "python_blocks": sys.getallocatedblocks(),
                            "threads": threading.active_count(),
                        }
                    )
            figures = asdict(stream.statistics)
        threads_left = threading.active_count() - threads_before
    return {
        "asked": {
            "frames": frames,
            "seconds": seconds,
            "backend": backend,
            "precision": precision,
            "threads": threads,
            "in_flight": in_flight,
            "caption_every": caption_every,
            "beam_size": beam_size,
            "picture_sizes": SIZES,
        },
        "frames": expected,
        "objects": objects,
        "statistics": figures,
        **judge(looks),
        "threads_left": threads_left,
        "looks": looks,
    }


def judge(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the looks at the memory say: median of the second tenth and of the last, and the growth between.

    Of what is in use it is the least of each tenth: what comes and goes is then left out.

    Raises:
        UsageError: If there were too few.
    """
    tenth = len(looks) // 10
    if tenth < 1:
        raise UsageError(f"{len(looks)} looks at the memory say nothing; run more frames, or for longer")
    early, late = looks[tenth : 2 * tenth], looks[-tenth:]
    before, after = (statistics.median(look["resident_bytes"] for look in part) for part in (early, late))
    between = late[-1]["frame"] - early[-1]["frame"]
    in_use = {
        f"{what}_{when}": min(look[what] for look in part)
        for what in ("malloc_bytes", "python_blocks")
        for when, part in (("early", early), ("late", late))
        if all(look.get(what) is not None for look in part)
    }
    return {
        "resident_bytes_early": before,
        "resident_bytes_late": after,
        "growth_bytes": after - before,
        "growth_bytes_per_frame": round((after - before) / max(1, between), 4),
        **in_use,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if memory grew or a thread was left."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, help="stop after so long, whatever --frames says")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--caption-every", default="1", help='a number, or "scene-change"')
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--allowed-mib", type=float, default=4.0, help="growth that still counts as steady")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    every = chosen.caption_every
    found = soak(
        chosen.bundle,
        chosen.frames,
        chosen.seconds,
        backend=chosen.backend,
        precision=chosen.precision,
        threads=chosen.threads,
        in_flight=chosen.in_flight,
        caption_every=int(every) if every.isdecimal() else every,
        beam_size=chosen.beam_size,
    )
    is_steady = found["growth_bytes"] <= chosen.allowed_mib * 2**20 and found["threads_left"] == 0
    report = {
        "command": " ".join(["python -m yolor_edge.benchmarks.studies.soak", *(arguments or sys.argv[1:])]),
        "commit": source_commit(),
        "is_steady": is_steady,
        **found,
        "machine": describe_machine(),
    }
    if chosen.out is not None:
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")
    early, late = (found[f"resident_bytes_{when}"] / 2**20 for when in ("early", "late"))
    print(
        f"{found['frames']} frames in {found['statistics']['seconds']:.0f} s, {early:.1f} MiB early, {late:.1f} late, "
        f"{found['threads_left']} threads left: {'steady' if is_steady else 'NOT STEADY'}"
    )
    return 0 if is_steady else 1


if __name__ == "__main__":
    raise SystemExit(main())
