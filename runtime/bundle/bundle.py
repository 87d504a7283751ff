"""The bundle: a folder that holds a whole model, opens without flags, and is what is copied to a device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BundleError, UsageError
from ..files import sha256_of, write_atomically
from .json_files import JsonReader, read_json, readable_json
from .spec import CaptionSpec, ModelSpec, Thresholds
from .tensors import describe_tensors

__all__ = [
    "BUNDLE_FILE",
    "SCHEMA_VERSION",
    "Bundle",
    "CaptionSpec",
    "ModelSpec",
    "Thresholds",
    "describe_tensors",
    "write_bundle",
]

SCHEMA_VERSION = 1
BUNDLE_FILE = "bundle.json"
PARTS = ("vision", "caption_prefill", "caption_step")
PRECISIONS = ("fp32", "fp16", "int8")
# How a graph writes int8: signed activations, as TensorRT reads them, or unsigned ones, where ONNX Runtime or where
# OpenVINO wants them. All come from one calibration.
INT8_DIALECTS = ("s8s8", "u8s8", "openvino")
# What a part's graphs are listed under: a precision, and for int8 its dialect.
GRAPH_KINDS = ("fp32", "fp16", *(f"int8-{dialect}" for dialect in INT8_DIALECTS))
# Objects of bundle.json that are kept as they are.
_FREE_FORM = ("tensors", "provenance", "parity", "accuracy")
# Where the provenance tells of precisions that were asked for and did not pass.
FAILED = "failed"
# What the native caption decoder's weights are listed under.
CAPTION_WEIGHTS = ("fp32", "int8")
# Built on the device from what the bundle holds; never part of it.
_CACHE_FOLDERS = frozenset({"engines"})


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file it lists is there and unaltered, and `bundle.json` is consistent.

    Attributes:
        path: The folder.
        spec: What the model is.
        graphs: For each network part, the graph file of each of `GRAPH_KINDS`, as names inside the folder.
        caption_weights: The native caption decoder's weight file of each of `CAPTION_WEIGHTS`, as names inside the
            folder; empty for a bundle whose captions are written by its graphs alone.
        tensors: For each part its "inputs" and "outputs" by name, with axes, dtype and meaning.
        files: SHA-256 of every file, by name inside the folder.
        licence: Of the weights.
        provenance: Where it came from: checkpoint digest, tool versions.
        parity: How far each step of the export was from the one before.
        accuracy: For each of `GRAPH_KINDS` that was scored, task scores and what they were measured on.
    """

    path: Path
    spec: ModelSpec
    graphs: Mapping[str, Mapping[str, str]]
    tensors: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    caption_weights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle and check all of it.

        Raises:
            BundleError: If the folder is not a bundle, is newer than this runtime, or a file is missing,
                altered or not its own; every complaint in one message.
        """
        if not os.fspath(path):
            raise BundleError("the path of the bundle is empty; expected the folder of one")
        path = Path(path)
        data = _read_json(path)
        complaints: list[str] = []
        spec = None
        reader = JsonReader(data, BUNDLE_FILE)
        try:
            spec = ModelSpec.from_json(reader.get("model", dict, {})) if "model" in data else None
        except BundleError as error:
            complaints.append(str(error))
        if "model" not in data:
            complaints.append(f'{BUNDLE_FILE}: key "model" is missing')
        graphs = reader.get("graphs", dict, {})
        files = reader.get("files", dict, {})
        extra = {key: reader.get(key, dict, {}) for key in _FREE_FORM if reader.present(key)}
        licence = reader.get("licence", str, "")
        # Bundles from before the native decoder have none.
        weights = reader.get("caption_weights", dict, {}) if reader.present("caption_weights") else {}
        complaints += reader.complaints
        if spec is not None and graphs:
            complaints += _graph_complaints(spec, graphs, files)
            complaints += _weights_complaints(weights, files)
        complaints += _file_complaints(path, files)
        if complaints or spec is None:
            raise BundleError(f"{path}: {'; '.join(complaints)}; copy the bundle again or export it again")
        return cls(path, spec, graphs, files=files, licence=licence, caption_weights=weights, **extra)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those in which the vision graph is there."""
        held = {kind.partition("-")[0] for kind in self.graphs["vision"]}
        return tuple(p for p in PRECISIONS if p in held)

    @property
    def failed(self) -> Mapping[str, str]:
        """Precisions that were asked for and did not pass, so that they are not there, with the reason."""
        failed = self.provenance.get(FAILED, {})
        return failed if isinstance(failed, dict) else {}

    def graph_files(self, precision: str = "fp32", dialect: str = "s8s8") -> dict[str, Path]:
        """The graph file of every part in `precision`; a caption decoder without one is taken in fp32.

        Args:
            precision: One of `PRECISIONS`.
            dialect: Of int8, one of `INT8_DIALECTS`.

        Raises:
            UsageError: If the vision graph is not there in this precision.
        """
        if precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision {precision!r}; the precisions are {', '.join(PRECISIONS)}, or auto", "precision"
            )
        kind = f"int8-{dialect}" if precision == "int8" else precision
        if kind not in self.graphs["vision"] and precision in self.failed:
            raise UsageError(
                f"{self.path}: has no {precision} graph; when it was made, {precision} did not pass: "
                f"{self.failed[precision]}",
                argument="precision",
            )
        if kind not in self.graphs["vision"]:
            raise UsageError(
                f"{self.path}: has no {precision} graph, it holds {', '.join(self.precisions)}; "
                f"choose one of those or export again in {precision}",
                argument="precision",
            )
        return {part: self.path / names.get(kind, names["fp32"]) for part, names in self.graphs.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of `bundle.json`, which holds those of all other files: it names the whole bundle."""
        return sha256_of(self.path / BUNDLE_FILE)


def write_bundle(
    folder: str | os.PathLike[str],
    spec: ModelSpec,
    graphs: Mapping[str, Mapping[str, str]],
    *,
    provenance: Mapping[str, Any],
    licence: str = "unknown",
    tensors: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
    caption_weights: Mapping[str, str] | None = None,
) -> Bundle:
    """Seal a folder whose graphs and golden files are in place: write its `bundle.json`.

    Args:
        folder: Holds every file already; whatever lies in it becomes part of the bundle.
        spec: What the model is.
        graphs: For each part ("vision", "caption_prefill", "caption_step") its file of each of `GRAPH_KINDS`.
        provenance: Where it came from, JSON values only.
        licence: Of the weights, "unknown" where it was not stated.
        tensors: Inputs and outputs of each part; by default what `describe_tensors` says.
        parity: Figures of the verification ladder, JSON values only.
        accuracy: Task scores, JSON values only.
        caption_weights: The native caption decoder's file of each of `CAPTION_WEIGHTS`.

    Returns:
        The bundle as `Bundle.open` reads it back.

    Raises:
        BundleError: If what was written does not open: a spec that contradicts itself, a graph that is not
            there.
    """
    folder = Path(folder)
    complaints = spec.complaints()
    if complaints:
        raise BundleError(f"{folder}: {'; '.join(complaints)}")
    content = {
        "schema_version": SCHEMA_VERSION,
        "licence": licence,
        "model": spec.to_json(),
        "graphs": {part: dict(names) for part, names in graphs.items()},
        **({"caption_weights": dict(caption_weights)} if caption_weights else {}),
        "tensors": dict(tensors if tensors is not None else describe_tensors(spec)),
        "provenance": dict(provenance),
        "parity": dict(parity or {}),
        "accuracy": dict(accuracy or {}),
        "files": {name: sha256_of(folder / name) for name in _files_inside(folder)},
    }
    write_atomically(folder / BUNDLE_FILE, readable_json(content) + "\n")
    return Bundle.open(folder)


def _read_json(path: Path) -> dict[str, Any]:
    """The parsed `bundle.json` of a folder, its schema version checked.

    Raises:
        BundleError: If there is none, or it is not JSON of a version read here.
    """
    if not path.exists():
        raise BundleError(f"{path}: no such folder, expected a bundle as written by yolor-edge export")
    if not path.is_dir():
        hint = {
            ".onnx": f"; to make a bundle of an ONNX detector: yolor-edge adopt {path} --out BUNDLE",
            ".pt": f"; official checkpoints are read with yolor-edge import {path} --out CHECKPOINT, then exported",
        }.get(path.suffix.lower(), "")
        raise BundleError(f"{path}: is a file, expected a bundle folder as written by yolor-edge export{hint}")
    file = path / BUNDLE_FILE
    if any((folder / "checkpoint.json").is_file() for folder in (path, path / "checkpoint")):
        raise BundleError(f"{path}: is a checkpoint; make a bundle of it: yolor-edge export {path} --out BUNDLE")
    if not file.is_file():
        raise BundleError(f"{path}: holds no {BUNDLE_FILE}; expected a bundle as written by yolor-edge export")
    data = read_json(file, "the description of a bundle", BundleError, "copy the bundle again or export it again")
    if "schema_version" not in data:
        raise BundleError(f'{file}: key "schema_version" is missing; this is not the description of a bundle')
    version = data["schema_version"]
    if type(version) is not int or version < 1:
        raise BundleError(f"{file}: schema_version must be a whole number from 1 on, got {version!r}")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is newer than this runtime reads ({SCHEMA_VERSION}); "
            f"upgrade the runtime or export again"
        )
    return data


def _graph_complaints(spec: ModelSpec, graphs: Mapping[str, Any], files: Mapping[str, Any]) -> list[str]:
    """What is wrong with the table of graphs: parts that are missing or unknown, files not listed."""
    needed = PARTS if "caption" in spec.tasks else PARTS[:1]
    found = [f"no graph for {part!r}, which its tasks need" for part in needed if not graphs.get(part)]
    for part, names in graphs.items():
        if part not in PARTS:
            found.append(f"unknown graph part {part!r}, known are {', '.join(PARTS)}")
        elif not isinstance(names, dict):
            found.append(f"graphs.{part} must map a precision to a file")
        else:
            for precision, name in names.items():
                if precision not in GRAPH_KINDS:
                    found.append(f"unknown precision {precision!r} of {part}, known are {', '.join(GRAPH_KINDS)}")
                if not isinstance(name, str) or name not in files:
                    found.append(f"graph {name!r} is not among the files listed")
            if part != "vision" and names and "fp32" not in names:
                found.append(f"no fp32 graph for {part!r}")
    return found


def _weights_complaints(weights: Mapping[str, Any], files: Mapping[str, Any]) -> list[str]:
    """What is wrong with the table of caption weights."""
    found = [
        f"unknown precision {precision!r} of caption_weights, known are {', '.join(CAPTION_WEIGHTS)}"
        for precision in weights
        if precision not in CAPTION_WEIGHTS
    ]
    return found + [
        f"caption_weights {name!r} is not among the files listed"
        for name in weights.values()
        if not isinstance(name, str) or name not in files
    ]


def _file_complaints(path: Path, files: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files: unsafe names, missing, altered, or there without being listed."""
    found = []
    for name, digest in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or not pure.parts:
            found.append(f"file name {name!r} leads out of the bundle")
        elif not (path / name).is_file():
            found.append(f"{name} is missing")
        elif sha256_of(path / name) != digest:
            found.append(f"{name} was altered (its SHA-256 is not the one in {BUNDLE_FILE})")
    foreign = [name for name in _files_inside(path) if name not in files]
    found += [f"{name} does not belong to this bundle (remove it)" for name in foreign]
    return found


def _files_inside(folder: Path) -> list[str]:
    """Names of all files of a bundle, sorted; not `bundle.json`, hidden files or what a device builds."""
    names = []
    for file in folder.rglob("*"):
        relative = file.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if file.is_file() and not is_hidden and relative.parts[0] not in _CACHE_FOLDERS:
            names.append(relative.as_posix())
    return sorted(name for name in names if name != BUNDLE_FILE)
