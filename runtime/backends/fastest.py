"""What "auto" means: the backend and the precision that are fastest on this machine, as measured here.

Precisions that were not scored when the bundle was made are not taken. The vision graphs take turns, so that a machine
that is busy for a while is so for all of them, and what was measured is kept with the bundle for the next time.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec

import numpy as np

from ..bundle.bundle import PRECISIONS, Bundle
from ..bundle.engines import ENGINES_FOLDER, judge_engines
from ..bundle.speed_records import Speed, read_speeds, write_speeds
from ..environment.cores import usable_cores
from ..environment.cuda_device import CudaDevice, cuda_device
from ..environment.machine import cpu_kind, describe_hardware
from ..environment.tensorrt_package import import_flavour
from ..errors import YolorEdgeError
from ..progress import Say
from .base import Graph
from .registry import BACKENDS, backend_entry, backend_version, check_threads, open_graphs
from .scored import vision_kind

AUTO = "auto"
LONGEST_SECONDS = 4.0
_WARMUP, _FEWEST_ROUNDS, _MOST_ROUNDS = 2, 3, 15
# What is so little slower than the fastest, and more precise, is taken instead.
_AS_FAST = 1.03


@dataclass(frozen=True)
class Fastest:
    """What "auto" stands for here.

    Attributes:
        backend, precision: Names as `load` takes them.
        speeds: What that was chosen by, the fastest first; nothing where there was no choice.
    """

    backend: str
    precision: str
    speeds: tuple[Speed, ...] = ()

    def line(self) -> str:
        """For people."""
        chosen = f"{self.backend} {self.precision}"
        if not self.speeds:
            return f"auto: {chosen}, which is all there is to choose"
        others = ", ".join(f"{one.name} {one.ms:.1f}" for one in self.speeds if one.name != chosen)
        own = next(one for one in self.speeds if one.name == chosen)
        return f"auto: {chosen}, {own.ms:.1f} ms a run; {others} (measured on this machine, {own.day})"


def choose_fastest(
    bundle: Bundle,
    backend: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    say: Say | None = None,
    anew: bool = False,
) -> Fastest:
    """The fastest backend, the fastest precision, or both; measured if that was not done yet, in some seconds.

    Args:
        bundle: Opened.
        backend: A name from `BACKENDS`, or "auto": all that are installed.
        precision: Of the graphs, or "auto": fp32, and what was scored within the bundle's budget.
        threads: CPU threads; None for as many as this process may run on.
        say: Called with a line before measuring, and for a graph that cannot be measured.
        anew: Measure even if that was done before.

    Raises:
        UsageError: If the backend is unknown.
        BackendError: If no graph can be run.
    """
    if backend != AUTO:
        backend_entry(backend)
    check_threads(threads)
    names = _candidates(bundle, backend, precision)
    if len(names) == 1:
        return Fastest(*names[0])
    if not names:  # nothing is built or installed yet, which is for whoever opens it to tell
        usual = "fp16" if backend != AUTO and backend_entry(backend).flavour and "fp16" in bundle.precisions else "fp32"
        chosen = usual if precision == AUTO else precision
        return Fastest("onnxruntime" if backend == AUTO else backend, chosen)
    speeds = [] if anew else _known(recorded_speeds(bundle), names, threads)
    if not speeds:
        if say is not None:
            say(f"measuring which is the fastest here: {', '.join(' '.join(name) for name in names)} ...")
        speeds = _measured(bundle, names, threads, say)
        with contextlib.suppress(OSError):  # a bundle that cannot be written costs these seconds at every start
            write_speeds(bundle, speeds)
    speeds = sorted((speed for speed in speeds if speed.ms), key=lambda speed: speed.ms)
    near = [speed for speed in speeds if speed.ms <= _AS_FAST * speeds[0].ms]
    best = min(near, key=lambda speed: (PRECISIONS.index(speed.precision), speed.ms))
    return Fastest(best.backend, best.precision, tuple(speeds))


def recorded_speeds(bundle: Bundle) -> list[Speed]:
    """What was measured of a bundle on this machine, with the versions that are installed now."""
    places = {name: (backend_version(name), _machine(name)) for name in BACKENDS}
    return [one for one in read_speeds(bundle) if places.get(one.backend) == (one.version, one.machine)]


def _candidates(bundle: Bundle, backend: str, precision: str) -> list[tuple[str, str]]:
    """What may be chosen: (backend, precision)."""
    device = cuda_device()
    found = []
    for name, entry in BACKENDS.items():
        if (backend not in (AUTO, name)) or (entry.needs_gpu and device is None):
            continue
        if find_spec(entry.imports) is None:
            continue
        held: Iterable[str] = bundle.precisions
        if entry.flavour and device is not None:  # engines are not built here
            held = _built(bundle, entry.flavour, device)
        for one in held:
            kind = vision_kind(name, one)
            if kind not in bundle.graphs["vision"] or precision not in (AUTO, one):
                continue
            if precision == AUTO and one == "fp16" and not entry.needs_gpu:
                continue  # on a CPU it is computed in float32, and no faster
            if precision == AUTO and one != "fp32" and not bundle.accuracy.get(kind, {}).get("scores"):
                continue
            found.append((name, one))
    return found


def _built(bundle: Bundle, flavour: str, device: CudaDevice) -> list[str]:
    """The precisions in which there is an engine of the vision graph that fits here."""
    if not any((bundle.path / ENGINES_FOLDER).glob(f"vision.*.{flavour}-*.engine")):
        return []
    try:
        version = str(import_flavour(flavour).__version__)
    except YolorEdgeError:
        return []
    judged = judge_engines(bundle, {flavour: version}, device.compute_capability, device.name)
    records = [fit.record for fit in judged if not fit.complaints]
    built = {one.precision for one in records if one and (one.part, one.flavour) == ("vision", flavour)}
    return [one for one in bundle.precisions if one in built]


def _known(speeds: Sequence[Speed], names: Sequence[tuple[str, str]], threads: int | None) -> list[Speed]:
    """Those of `names` with so many threads, if all of them are there."""
    found = [
        speed
        for speed in speeds
        if (speed.backend, speed.precision) in names and speed.threads == _threads(speed.backend, threads)
    ]
    return found if len(found) == len(names) and any(speed.ms for speed in found) else []


def _measured(bundle: Bundle, names: Sequence[tuple[str, str]], threads: int | None, say: Say | None) -> list[Speed]:
    graphs: dict[tuple[str, str], Graph] = {}
    times: dict[tuple[str, str], list[float]] = {}
    failure: YolorEdgeError | None = None
    failed: list[tuple[str, str]] = []
    random = np.random.default_rng(0)
    image = random.random((bundle.spec.graph.batch or 1, 3, *bundle.spec.input_size), dtype=np.float32)

    def run(name: tuple[str, str]) -> float:
        graph = graphs[name]
        feed = {"images": image.astype(graph.inputs["images"].dtype, copy=False)}
        started = time.perf_counter()
        graph.run(feed)
        return 1000 * (time.perf_counter() - started)

    try:
        for name in names:
            try:
                graphs[name] = open_graphs(bundle, *name, threads, ("vision",))["vision"]
                times[name] = []
                for _ in range(_WARMUP):
                    run(name)
            except YolorEdgeError as error:
                failure = error
                times.pop(name, None)
                failed.append(name)
                if say is not None:
                    say(f"{' '.join(name)} cannot be measured: {error}")
        started = time.perf_counter()
        for rounds in range(_MOST_ROUNDS):
            if rounds >= _FEWEST_ROUNDS and time.perf_counter() - started > LONGEST_SECONDS:
                break
            for name, taken in times.items():
                taken.append(run(name))
    finally:
        for graph in graphs.values():
            graph.close()
    if failure is not None and not times:
        raise failure
    # What does not run is kept too, else it would be tried anew at every start.
    medians = {**{name: statistics.median(taken) for name, taken in times.items()}, **dict.fromkeys(failed, 0.0)}
    today, digest = date.today().isoformat(), bundle.digest
    return [
        Speed(
            *(backend, precision, backend_version(backend), _machine(backend)),
            threads=_threads(backend, threads),
            ms=round(ms, 3),
            day=today,
            bundle_sha256=digest,
        )
        for (backend, precision), ms in medians.items()
    ]


def _threads(backend: str, threads: int | None) -> int:
    return 0 if BACKENDS[backend].needs_gpu else threads or usable_cores()


def _machine(backend: str) -> str:
    """What decides about speed beside the backend's version and the threads."""
    device = cuda_device() if BACKENDS[backend].needs_gpu else None
    if device is not None:
        return device.name
    return f"{describe_hardware()['cpu']['model']}, {cpu_kind()}"
