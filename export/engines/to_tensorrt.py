"""From a bundle's graphs to TensorRT engines in its cache: each built in a process of its own, none built twice.

Which graph an engine is built from decides its precision; `tensorrt_flavours` hides which TensorRT builds it, and
`runtime.engines` says what an engine is good for.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime import errors
from ...runtime.backends.tensorrt.missing_engines import EngineBuilder
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.engines import ENGINES_FOLDER, Engine, EngineRecord, graph_kind, write_record
from ...runtime.errors import EngineBuildError, EngineMismatchError, UsageError, YolorEdgeError
from ...runtime.files import replacing_file, sha256_of
from ...runtime.progress import Say
from .build_needs import check_room, free_memory_mib, less_memory, needs_of
from .tensorrt_flavours import BuildJob, Ranges, Toolkit, load_toolkit

_MOST_AT_ONCE = 256
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that is in the cache now.

    Attributes:
        engine: The file and its record.
        is_new: Whether it was built just now.
    """

    engine: Engine
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"path": str(self.engine.path), "is_new": self.is_new, **self.engine.record.to_json()}


_MOST_WORKSPACE_MIB = 1 << 20  # more than any GPU has


def build_engines(
    bundle: Bundle | str | os.PathLike[str],
    precision: str = "fp16",
    targets: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1,),
    input_size: tuple[int, int] | None = None,
    *,
    flavour: str | None = None,
    max_beam_size: int | None = None,
    workspace_mib: int | None = None,
    low_memory: bool = False,
    frozen: bool = False,
    parts: Collection[str] | None = None,
    progress: Say | None = None,
) -> list[BuiltEngine]:
    """Build the engines of every part of a bundle, or find them in its cache.

    Args:
        bundle: A bundle or its folder.
        precision: "fp32", "fp16" or "int8". The caption decoder of an int8 build is fp16 where the bundle has that.
        targets: Compute capabilities such as "sm_86", or what else the flavour knows; by default the GPU here for
            `tensorrt`, and all it knows from sm_80 on for `tensorrt-rtx`.
        batch_sizes: One optimisation profile for each; with `low_memory` one profile spans them all.
        input_size: (height, width); fail unless the bundle has it, since sizes are fixed at export. None for the
            bundle's own.
        flavour: Of `tensorrt_flavours.FLAVOURS`; by default the one that is installed.
        max_beam_size: Largest beam size that the caption search may be asked for; None for the model's own.
        workspace_mib: Most scratch memory of one kernel in MiB; None for the builder's own limit.
        low_memory: Build with less memory, and perhaps a slower engine.
        frozen: Use cached kernel timings only; fail on a cache miss.
        parts: Of the bundle, those to build; None for all.
        progress: Called with lines of progress.

    Returns:
        One engine for each of the parts.

    Raises:
        UsageError: If an argument cannot be, or the bundle has no graph of this precision.
        BackendError: If the flavour's package is not installed or cannot build on this machine.
        EngineBuildError: If a graph cannot be parsed or built, or `frozen` forbids it.
        OSError: If the engine cannot be written.
    """
    say = progress or (lambda line: None)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    batches = _checked_batches(batch_sizes)
    if max_beam_size is None:
        max_beam_size = opened.spec.caption.beam_size if opened.spec.caption is not None else 1
    if not 1 <= max_beam_size <= _MOST_AT_ONCE:
        raise UsageError(
            f"<max_beam_size> must be from 1 to {_MOST_AT_ONCE}, got {max_beam_size}", argument="max_beam_size"
        )
    if workspace_mib is not None and not 1 <= workspace_mib <= _MOST_WORKSPACE_MIB:
        raise UsageError(
            f"<workspace_mib> must be from 1 to {_MOST_WORKSPACE_MIB}, got {workspace_mib}", argument="workspace_mib"
        )
    if input_size is not None:
        _check_size(opened, input_size, precision)
    kinds = {part: graph_kind(opened, part, precision) for part in opened.graphs if parts is None or part in parts}
    toolkit = load_toolkit(flavour)
    chosen = toolkit.check_targets(targets)
    say(f"{toolkit.flavour} {toolkit.version} for {', '.join(chosen)}")
    if precision == "int8" and toolkit.is_rtx:
        # As its layers tell (1.7): a fused fp16 convolution writes fp16 once, an int8 one fp32 for a kernel to read.
        say(
            "TensorRT for RTX does not fuse int8 convolutions with the SiLU behind them: expect no gain over fp16, and "
            "of a small network a larger engine"
        )
    built = []
    for part, kind in kinds.items():
        graph = opened.graphs[part][kind]
        settings: dict[str, Any] = {
            "workspace_mib": workspace_mib,
            "low_memory": low_memory,
            "exact_float32": kind == "fp32",
        }
        if part == "vision":
            settings["one_profile"] = low_memory and len(batches) > 1
        if part == "caption_step":
            settings["longest_past"] = _longest_past(opened)
        record = EngineRecord(
            part=part,
            precision=kind.partition("-")[0],
            graph=graph,
            onnx_sha256=opened.files[graph],
            flavour=toolkit.flavour,
            version=toolkit.version,
            targets=chosen,
            gpu=toolkit.device.name if toolkit.device and not toolkit.is_rtx else None,
            system=platform.system(),
            architecture=platform.machine(),
            batches={"vision": batches, "caption_step": (max_beam_size,)}.get(part, (1,)),
            settings=settings,
        )
        cached = _cached(opened, record)
        if cached is not None:
            say(f"{graph}: is built already, {cached.path.name}")
            built.append(BuiltEngine(cached, is_new=False))
            continue
        built.append(BuiltEngine(_build(opened, toolkit, record, frozen, say), is_new=True))
    return built


def build_missing(progress: Say | None = None, max_beam_size: int | None = None) -> EngineBuilder:
    """What `runtime.load` may build missing engines with: as `yolor-edge build` does by default, for the device here.

    Args:
        progress: Called with lines of progress.
        max_beam_size: Largest beam size that the caption search may be asked for; None for the model's own.
    """

    def build(bundle: Bundle, precision: str, flavour: str, parts: Sequence[str], compute_capability: str) -> object:
        targets = (compute_capability,) if flavour == "tensorrt-rtx" else ()  # tensorrt always builds for the GPU here
        return build_engines(
            bundle, precision, targets, flavour=flavour, max_beam_size=max_beam_size, parts=parts, progress=progress
        )

    return build


def profile_ranges(bundle: Bundle, part: str, batches: Sequence[int], one_profile: bool = False) -> list[Ranges]:
    """What the free axes of a part's inputs are asked to take, one entry per profile.

    Args:
        bundle: Says what each axis counts.
        part: One of its parts.
        batches: Images at once (vision), or the largest beam (caption step).
        one_profile: One profile from the smallest to the largest batch, instead of one for each.
    """
    spans: list[dict[str, tuple[int, int, int]]] = [{}]  # prefill is for one image and has nothing free
    if part == "caption_step":
        beam, past = max(batches), _longest_past(bundle)
        # The first token is prefill's, so a step always has a past. Half a sentence is the usual one.
        spans = [{"batch": (1, beam, beam), "T": (1, math.ceil(past / 2), past)}]
    elif one_profile:
        spans = [{"batch": (min(batches), max(batches), max(batches))}]
    elif part == "vision":
        spans = [{"batch": (n, n, n)} for n in batches]
    inputs = bundle.tensors.get(part, {}).get("inputs", {})
    return [
        {
            name: [span.get(axis) if isinstance(axis, str) else None for axis in info["axes"]]
            for name, info in inputs.items()
        }
        for span in spans
    ]


def _checked_batches(batches: Sequence[int]) -> tuple[int, ...]:
    wrong = [n for n in batches if not 1 <= n <= _MOST_AT_ONCE]
    if wrong or not batches:
        raise UsageError(
            f"<batch_sizes> must be from 1 to {_MOST_AT_ONCE}, got {', '.join(map(str, batches)) or 'none'}",
            argument="batch_sizes",
        )
    return tuple(sorted(set(batches)))


def _check_size(bundle: Bundle, size: tuple[int, int], precision: str) -> None:
    own = bundle.spec.input_size
    if tuple(size) == tuple(own):
        return
    height, width = size
    if not all(32 <= side <= 8192 and side % 32 == 0 for side in size):
        raise UsageError(
            f"<input_size> must be two multiples of 32 within 32 and 8192, got {height}x{width}", argument="input_size"
        )
    path = bundle.path if bundle.path.name not in ("", "..") else bundle.path.resolve()
    out = path.with_name(f"{path.name}-{height}x{width}")
    command = ["yolor-edge", "export", "CHECKPOINT", "--input-size", f"{height}x{width}", "--out", str(out)]
    if precision != "fp32":
        command += ["--precision", precision]
    digest = str(bundle.provenance.get("checkpoint_sha256", ""))
    source = f", CHECKPOINT being the one with SHA-256 {digest[:12]}" if digest else ""
    raise UsageError(
        f"{bundle.path}: sizes are fixed at export and this bundle's is {own[0]}x{own[1]}, not {height}x{width}; "
        f"export that size first: {shlex.join(command)}{source}",
        argument="input_size",
    )


def _longest_past(bundle: Bundle) -> int:
    """Most tokens a caption step looks back on: all of the longest sentence but the one that it writes."""
    caption = bundle.spec.caption
    return max(1, caption.max_length - 1) if caption is not None else 1


def _cached(bundle: Bundle, record: EngineRecord) -> Engine | None:
    """The engine of this very record, whole, or None."""
    path = bundle.path / ENGINES_FOLDER / f"{record.key}.engine"
    try:
        found = EngineRecord.read(path.with_suffix(".json"))
        is_whole = found.key == record.key and sha256_of(path) == found.engine_sha256
    except (EngineMismatchError, OSError):
        return None
    return Engine(path, found) if is_whole else None


def _build(bundle: Bundle, toolkit: Toolkit, unbuilt: EngineRecord, frozen: bool, say: Say) -> Engine:
    """Build one engine into the cache.

    Raises:
        EngineBuildError: If it cannot be built, or `frozen` forbids it.
        OSError: If it cannot be written.
    """
    folder = bundle.path / ENGINES_FOLDER
    timing = _timing_cache_file(folder, toolkit)
    if frozen and (timing is None or not timing.is_file()):
        reason = f"there is no timing cache {timing}" if timing else f"{toolkit.flavour} keeps no timing cache"
        raise EngineBuildError(
            f"{unbuilt.graph}: its {unbuilt.precision} engine for {', '.join(unbuilt.targets)} is not among those in "
            f"{folder} and {reason}, so a frozen build makes nothing; build once without <frozen>",
            argument="frozen",
        )
    job = BuildJob(
        graph=str((bundle.path / unbuilt.graph).resolve()),
        outputs=list(bundle.tensors[unbuilt.part]["outputs"]),
        targets=unbuilt.targets,
        ranges=profile_ranges(bundle, unbuilt.part, unbuilt.batches, bool(unbuilt.settings.get("one_profile"))),
        workspace_mib=unbuilt.settings["workspace_mib"],
        low_memory=unbuilt.settings["low_memory"],
        exact_float32=unbuilt.settings["exact_float32"],
        timing_cache=str(timing) if timing else None,
        frozen=frozen,
    )
    needs = needs_of(toolkit.flavour, Path(job.graph))
    for line in check_room(needs, folder, unbuilt.graph, job.low_memory, job.workspace_mib):
        say(f"{unbuilt.graph}: {line}")
    started = time.perf_counter()
    with contextlib.ExitStack() as files:
        plan = files.enter_context(replacing_file(folder / f"{unbuilt.key}.engine"))
        measured = files.enter_context(replacing_file(timing)) if timing is not None and not frozen else None
        request = {
            "flavour": toolkit.flavour,
            "job": asdict(job),
            "out": str(plan),
            "timing_cache_out": str(measured) if measured else None,
        }
        answer = _run_worker(unbuilt.graph, request, say, folder)
        seconds = time.perf_counter() - started
        record = replace(
            unbuilt,
            engine_sha256=sha256_of(plan),
            engine_bytes=int(answer["bytes"]),
            profiles=tuple(answer["profiles"]),
            build={
                "seconds": round(seconds, 2),
                "peak_mib": answer["peak_mib"],
                "layers": answer["layers"],
                "frozen": frozen,
            },
        )
        write_record(bundle, record)  # first, so that no engine lies there without its record
    peak = answer["peak_mib"]
    say(f"{unbuilt.graph}: {answer['bytes'] / 1e6:.1f} MB in {seconds:.1f} s, peak memory {peak} MiB")
    return Engine(folder / f"{record.key}.engine", record)


def _timing_cache_file(folder: Path, toolkit: Toolkit) -> Path | None:
    if not toolkit.has_timing_cache or toolkit.device is None:
        return None
    gpu = "".join(c if c.isalnum() else "-" for c in toolkit.device.name)
    return folder / f"timing.{toolkit.flavour}-{toolkit.version}.{gpu}.cache"


def _run_worker(graph: str, request: Mapping[str, Any], say: Say, folder: Path) -> dict[str, Any]:
    """Have a process build one engine; whatever ends this function early ends the process too.

    Raises:
        EngineBuildError: If the build failed or the process died.
        OSError: If it could not write.
    """
    command = [sys.executable, "-m", f"{__package__}.engine_worker"]
    started = time.perf_counter()
    free_before = free_memory_mib()
    last: dict[str, Any] = {}
    next_line = _SECONDS_BETWEEN_LINES
    with (
        tempfile.TemporaryFile() as printed,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, encoding="utf-8"
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once; its end tells why
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "result" in answer:
                    return answer["result"]
                if "error" in answer:
                    raise _worker_error(graph, answer, folder, request["job"])
                last, elapsed = answer, time.perf_counter() - started
                if elapsed >= next_line:
                    next_line = elapsed + _SECONDS_BETWEEN_LINES
                    step = f"{answer['phase']} {answer['done']}/{answer['total']}"
                    say(f"{graph}: {step}, {elapsed:.0f} s, {answer['peak_mib']} MiB")
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
        printed.seek(0)
        words = printed.read().decode(errors="replace").strip().splitlines()
        if code == -signal.SIGKILL:
            raise EngineBuildError(f"{graph}: {_killed(last.get('peak_mib'), free_before, request['job'])}")
        raise EngineBuildError(f"{graph}: {_death(code, last.get('peak_mib'), words)}")


def _worker_error(graph: str, answer: Mapping[str, Any], folder: Path, job: Mapping[str, Any]) -> Exception:
    if answer.get("errno") is not None:
        return OSError(answer["errno"], os.strerror(answer["errno"]), str(folder))
    known = getattr(errors, answer["kind"], None)
    if isinstance(known, type) and issubclass(known, YolorEdgeError):
        return known(answer["error"])
    return EngineBuildError(f"{graph}: {answer['error']}; {less_memory(job['low_memory'], job['workspace_mib'])}")


def _killed(peak_mib: int | None, free_before: int | None, job: Mapping[str, Any]) -> str:
    at = f" at {peak_mib} MiB" if peak_mib else ""
    before = f" ({free_before} MiB were free when it began)" if free_before is not None else ""
    cure = less_memory(job["low_memory"], job["workspace_mib"])
    return f"out of memory{at}{before}: the builder was killed, as the system does when memory runs out; {cure}"


def _death(code: int, peak_mib: int | None, printed: Sequence[str]) -> str:
    at = f" at {peak_mib} MiB" if peak_mib else ""
    how = f"signal {-code}" if code < 0 else f"code {code}"
    said = f" ({printed[-1]})" if printed else ""
    return f"the builder ended with {how}{at}{said}"
