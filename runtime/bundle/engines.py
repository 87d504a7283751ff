"""The cache of TensorRT engines in a bundle: what an engine is for, and whether it fits, told before it is loaded.

An engine is `engines/<key>.engine` with `<key>.json` beside it. It runs only with the very version of TensorRT that
built it, on the devices it was built for, and it is code: so everything in its record, and the digest of its bytes, is
checked before any of it is deserialised. Nothing here imports TensorRT, and nothing here builds.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BundleError, EngineMismatchError, UsageError
from ..files import sha256_of, write_atomically
from .bundle import PARTS, PRECISIONS, Bundle
from .json_files import JsonReader, read_json, readable_json

ENGINES_FOLDER = "engines"
RECORD_VERSION = 1
# Targets of full TensorRT that stand for more than the GPU which built the engine.
PORTABLE_TARGETS = ("ampere_plus", "same_compute_capability")

# name of an input -> its (smallest, usual, largest) shape
Profile = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class EngineRecord:
    """Everything an engine depends on, as its JSON file holds it.

    Attributes:
        part: Of the network, one of `bundle.PARTS`.
        precision: Of the graph, one of `bundle.PRECISIONS`.
        graph: Name of the graph file in the bundle.
        onnx_sha256: Digest of that file.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Full version of that package.
        targets: Compute capabilities such as "sm_86", and words of `PORTABLE_TARGETS`.
        gpu: Name of the GPU it was built on; None if it was built without one.
        system: Operating system, in the words of `platform.system`.
        architecture: Of the machine, in the words of `platform.machine`.
        batches: Batches of images it takes (vision), or the largest number of sentences (caption step).
        settings: What the builder was told, JSON values only.
        profiles: The shapes it takes; none if its inputs are fixed. This and what follows is known once it is built.
        engine_sha256: Digest of the engine.
        engine_bytes: Its size.
        build: Seconds, peak memory, layers by precision: for people, nothing is decided by it.
    """

    part: str
    precision: str
    graph: str
    onnx_sha256: str
    flavour: str
    version: str
    targets: tuple[str, ...]
    gpu: str | None
    system: str
    architecture: str
    batches: tuple[int, ...]
    settings: Mapping[str, Any]
    profiles: tuple[Profile, ...] = ()
    engine_sha256: str = ""
    engine_bytes: int = 0
    build: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The file name without its ending: readable, and distinct for whatever needs another engine."""
        outcome = ("profiles", "engine_sha256", "engine_bytes", "build")
        identity = {name: value for name, value in asdict(self).items() if name not in outcome}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        target = self.targets[0] if len(self.targets) == 1 else f"{len(self.targets)}-targets"
        return f"{self.part}.{self.precision}.{self.flavour}-{self.version}.{target}.{digest}"

    def to_json(self) -> dict[str, Any]:
        """As `engines/<key>.json` holds it."""
        return {"record_version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> EngineRecord:
        """Read a record.

        Raises:
            EngineMismatchError: If the file is not the record of an engine, or of a version not read here.
        """
        data = read_json(path, "the record of an engine", EngineMismatchError, "build the engine again")
        if data.get("record_version") != RECORD_VERSION:
            raise EngineMismatchError(f"{path}: is not the record of an engine in version {RECORD_VERSION}")
        try:
            return _record_from_json(data)
        except BundleError as error:
            raise EngineMismatchError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Engine:
    """An engine that fits where it is wanted.

    Attributes:
        path: The engine file.
        record: What it was built for.
    """

    path: Path
    record: EngineRecord

    def read(self) -> bytes:
        """Its bytes, for deserialisation.

        Raises:
            EngineMismatchError: If they are no longer those that were built.
        """
        plan = self.path.read_bytes()
        digest = hashlib.sha256(plan).hexdigest()
        if digest != self.record.engine_sha256:
            raise EngineMismatchError(_altered(self.path, digest, self.record))
        return plan


def graph_kind(bundle: Bundle, part: str, precision: str) -> str:
    """Which of a part's graphs an engine is built from: captions without one in this precision take the next finer.

    Raises:
        UsageError: If the precision is unknown, or the bundle has no such vision graph or no such part.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {precision!r}; the precisions are {', '.join(PRECISIONS)}", argument="precision"
        )
    if part not in bundle.graphs:
        raise UsageError(f"{bundle.path}: has no part {part!r}, it has {', '.join(bundle.graphs)}")
    if part == "vision":
        bundle.graph_files(precision)  # says what is there, if this is not
        return "int8-s8s8" if precision == "int8" else precision
    wanted = {"int8": ("int8-s8s8", "fp16", "fp32"), "fp16": ("fp16", "fp32"), "fp32": ("fp32",)}[precision]
    return next(kind for kind in wanted if kind in bundle.graphs[part])


def write_record(bundle: Bundle, record: EngineRecord) -> Path:
    """Write the record of an engine into the cache of a bundle; returns its path."""
    path = bundle.path / ENGINES_FOLDER / f"{record.key}.json"
    write_atomically(path, readable_json(record.to_json()) + "\n")
    return path


def find_engine(
    bundle: Bundle,
    part: str,
    precision: str,
    flavour: str,
    version: str,
    compute_capability: str,
    *,
    gpu: str | None = None,
    batch: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Engine:
    """The engine of the cache that fits here; decided from its record and the digest of its bytes alone.

    Args:
        bundle: Opened, so its graphs are those that `bundle.json` names.
        part: One of `bundle.PARTS`.
        precision: One of `bundle.PRECISIONS`.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Full version of the package that will load it.
        compute_capability: Of the device that will run it, such as "sm_86".
        gpu: Name of that device, if known.
        batch: Images at once (vision) or sentences at once (caption step); None for any.
        settings: What the builder must have been told; None for anything.

    Returns:
        The engine; of several that fit, the one built last.

    Raises:
        EngineMismatchError: If none fits: both values of every difference to the nearest one, and the command that
            builds it.
        UsageError: If the bundle has no such graph.
    """
    kind = graph_kind(bundle, part, precision)
    graph = bundle.graphs[part][kind]
    own_precision = kind.partition("-")[0]  # captions of an int8 build are fp16
    wanted = _Wanted(
        *(part, precision, bundle.files[graph], flavour, version, compute_capability, gpu, batch, settings),
        system=platform.system(),
        architecture=platform.machine(),
    )
    found: list[tuple[list[str], Path, EngineRecord | None]] = []
    records = sorted((bundle.path / ENGINES_FOLDER).glob("*.json"), key=lambda f: (-f.stat().st_mtime_ns, f.name))
    for file in records:
        engine = file.with_suffix(".engine")
        try:
            record = EngineRecord.read(file)
        except EngineMismatchError as error:
            if file.name.startswith(f"{part}.{own_precision}."):
                found.append(([str(error)], engine, None))
            continue
        if (record.part, record.precision) != (part, own_precision):
            continue
        complaints = wanted.complaints(record)
        if not complaints:
            complaints = _damage(engine, record)
            if not complaints:
                return Engine(engine, record)
        found.append((complaints, engine, record))
    if not found:
        raise EngineMismatchError(
            f"{bundle.path}: has no {precision} engine of {part} yet; build it with: "
            f"{_rebuild_command(bundle, wanted, None)}"
        )
    complaints, engine, record = min(found, key=lambda entry: len(entry[0]))
    others = f" ({len(found) - 1} more do not fit either)" if len(found) > 1 else ""
    raise EngineMismatchError(
        f"{engine}: {'; '.join(complaints)}{others}; build it anew with: {_rebuild_command(bundle, wanted, record)}"
    )


@dataclass(frozen=True)
class EngineFit:
    """An engine of the cache and what keeps it from being used here.

    Attributes:
        path: The engine file.
        record: What it was built for; None where that cannot be read.
        complaints: Why it is not used here, in words; empty if it fits.
        is_damaged: It would not be used anywhere: altered, or without its record.
    """

    path: Path
    record: EngineRecord | None
    complaints: tuple[str, ...]
    is_damaged: bool = False


def judge_engines(
    bundle: Bundle, versions: Mapping[str, str], compute_capability: str | None, gpu: str | None = None
) -> tuple[EngineFit, ...]:
    """Every engine of a bundle's cache, judged like `find_engine` does.

    Args:
        bundle: Opened.
        versions: The full version of each flavour that is installed here.
        compute_capability: Of the GPU here, such as "sm_86"; None where there is none.
        gpu: Its name.
    """
    folder = bundle.path / ENGINES_FOLDER
    engines = sorted(
        {file.with_suffix(".engine") for suffix in ("engine", "json") for file in folder.glob(f"[!.]*.{suffix}")}
    )
    return tuple(_judged(bundle, engine, versions, compute_capability, gpu) for engine in engines)


def _judged(
    bundle: Bundle, engine: Path, versions: Mapping[str, str], compute_capability: str | None, gpu: str | None
) -> EngineFit:
    try:
        record = EngineRecord.read(engine.with_suffix(".json"))
    except EngineMismatchError as error:
        return EngineFit(engine, None, (str(error),), is_damaged=True)
    damage = _damage(engine, record)
    if damage:
        return EngineFit(engine, record, tuple(damage), is_damaged=True)
    found = []
    try:
        graph = bundle.graphs[record.part][graph_kind(bundle, record.part, record.precision)]
    except UsageError as error:
        return EngineFit(engine, record, (str(error),))
    if record.flavour not in versions:
        found.append(f"needs {record.flavour} {record.version}, which is not installed")
    if compute_capability is None:
        found.append(f"needs an NVIDIA GPU ({', '.join(record.targets)}), there is none here")
    wanted = _Wanted(
        *(record.part, record.precision, bundle.files[graph]),
        *(record.flavour, versions.get(record.flavour, record.version)),
        # Without a GPU the complaint is the one above, not one more about its kind.
        compute_capability or next(iter(record.targets), ""),
        *(gpu, None, None),
        system=platform.system(),
        architecture=platform.machine(),
    )
    return EngineFit(engine, record, (*found, *wanted.complaints(record)))


def build_command(
    bundle: Path,
    precision: str,
    flavour: str,
    targets: Sequence[str] = (),
    batches: Sequence[int] = (),
    beam: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """The command line that builds these engines."""
    words = ["yolor-edge", "build", str(bundle), "--precision", precision, "--flavour", flavour]
    if targets:
        words += ["--target", ",".join(targets)]
    if batches:
        words += ["--batch-sizes", ",".join(str(n) for n in batches)]
    if beam is not None:
        words += ["--max-beam-size", str(beam)]
    settings = settings or {}
    if settings.get("workspace_mib") is not None:
        words += ["--workspace", str(settings["workspace_mib"])]
    if settings.get("low_memory"):
        words.append("--low-memory")
    return shlex.join(words)


def is_compute_capability(text: str) -> bool:
    """Whether `text` names a compute capability the way targets do, such as "sm_86"."""
    return re.fullmatch(r"sm_\d{2,3}", text) is not None


@dataclass(frozen=True)
class _Wanted:
    """What an engine must be to be used here."""

    part: str
    precision: str
    onnx_sha256: str
    flavour: str
    version: str
    compute_capability: str
    gpu: str | None
    batch: int | None
    settings: Mapping[str, Any] | None
    system: str
    architecture: str

    def complaints(self, record: EngineRecord) -> list[str]:
        """Where the record differs, with both values."""
        found = []

        def differ(what: str, built: object, here: object) -> None:
            if built != here:
                found.append(f"built {what} {built}, here it is {here}")

        differ("from a graph with SHA-256", record.onnx_sha256[:12], self.onnx_sha256[:12])
        differ("by", record.flavour, self.flavour)
        if record.flavour == self.flavour:
            differ(f"by {record.flavour}", record.version, self.version)
        differ("on", record.system, self.system)
        differ("on", record.architecture, self.architecture)
        if not self._runs_there(record.targets):
            found.append(f"built for {', '.join(record.targets)}, here it is {self.compute_capability}")
        is_portable = any(target in PORTABLE_TARGETS for target in record.targets)
        if record.gpu and self.gpu and not is_portable:
            differ("on the GPU", record.gpu, self.gpu)
        if self.batch is not None and not _takes(record, self.batch):
            what = "batches of" if self.part == "vision" else "at most so many sentences:"
            found.append(f"takes {what} {', '.join(str(n) for n in record.batches)}, wanted are {self.batch}")
        for name, value in (self.settings or {}).items():
            differ(f"with {name}", record.settings.get(name), value)
        return found

    def _runs_there(self, targets: Sequence[str]) -> bool:
        if self.compute_capability in targets:
            return True
        here = self.compute_capability.removeprefix("sm_")
        return "ampere_plus" in targets and here.isdigit() and int(here) >= 80


def _takes(record: EngineRecord, batch: int) -> bool:
    if record.part == "caption_step":
        return any(batch <= n for n in record.batches)
    if record.settings.get("one_profile"):
        return min(record.batches) <= batch <= max(record.batches)
    return not record.batches or batch in record.batches


def _damage(engine: Path, record: EngineRecord) -> list[str]:
    if not engine.is_file():
        return ["is missing beside its record"]
    digest = sha256_of(engine)
    return [] if digest == record.engine_sha256 else [_altered(engine, digest, record).removeprefix(f"{engine}: ")]


def _altered(path: Path, digest: str, record: EngineRecord) -> str:
    return f"{path}: was altered, its SHA-256 is {digest[:12]} and its record says {record.engine_sha256[:12]}"


def _rebuild_command(bundle: Bundle, wanted: _Wanted, record: EngineRecord | None) -> str:
    """What builds an engine that fits here, and still fits wherever the one of `record` did."""
    targets: list[str] = []
    if wanted.flavour == "tensorrt-rtx":
        targets = [t for t in record.targets if is_compute_capability(t)] if record else []
        targets = sorted({*targets, wanted.compute_capability}, key=lambda t: (len(t), t))
    elif record is not None and record.flavour == wanted.flavour:
        targets = [target for target in record.targets if target in PORTABLE_TARGETS]
        targets = targets if wanted._runs_there(record.targets) else []
    asked = [wanted.batch] if wanted.batch is not None else []
    batches = asked if wanted.part == "vision" else []
    beams = asked if wanted.part == "caption_step" else []
    if record is not None and record.part == "vision":
        batches = sorted({*record.batches, *asked})
    if record is not None and record.part == "caption_step":
        beams = [max(*record.batches, *asked)] if record.batches else asked
    settings = wanted.settings if wanted.settings is not None else record.settings if record else None
    return build_command(
        *(bundle.path, wanted.precision, wanted.flavour, targets, batches),
        beam=beams[0] if beams else None,
        settings=settings,
    )


def _record_from_json(data: dict[str, Any]) -> EngineRecord:
    """The record in parsed JSON.

    Raises:
        BundleError: If something is missing or of another type; all of it in one message.
    """
    reader = JsonReader(data, "record")
    text = {
        name: reader.get(name, str, "")
        for name in (
            *("part", "precision", "graph", "onnx_sha256", "engine_sha256"),
            *("flavour", "version", "system", "architecture"),
        )
    }
    record = EngineRecord(
        **text,
        engine_bytes=reader.get("engine_bytes", int, 0),
        targets=reader.strings("targets"),
        gpu=reader.get("gpu", str, "") if reader.present("gpu") else None,
        batches=reader.integers("batches"),
        profiles=tuple(reader.get("profiles", list, [])),
        settings=reader.get("settings", dict, {}),
        build=reader.get("build", dict, {}),
    )
    complaints = list(reader.complaints)
    if text["part"] not in PARTS:
        complaints.append(f"unknown part {text['part']!r}, known are {', '.join(PARTS)}")
    if complaints:
        raise BundleError("; ".join(complaints))
    return record
