"""Engines for the pretended TensorRT."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.engines import Engine, EngineRecord, write_record
from yolor_edge.runtime.files import sha256_of

VERSIONS = {"tensorrt": "10.13.0.35", "tensorrt-rtx": "1.7.1.116"}
BEAM = 3


def add_engine(
    bundle: Bundle, part: str = "vision", flavour: str = "tensorrt", batches: Sequence[int] = (1,), **changes: Any
) -> Engine:
    """An engine of a part's fp32 graph in the cache of a bundle, that fits the pretended GPU unless it is changed."""
    from pretended_tensorrt import plan_of  # pyright: ignore[reportMissingImports]  # only where the GPU is pretended

    graph = bundle.path / bundle.graphs[part]["fp32"]
    fields: dict[str, Any] = {
        "part": part,
        "precision": "fp32",
        "graph": graph.name,
        "onnx_sha256": bundle.files[graph.name],
        "flavour": flavour,
        "version": VERSIONS[flavour],
        "targets": ("sm_86",),
        "gpu": None if flavour == "tensorrt-rtx" else "Pretended GPU",
        "system": platform.system(),
        "architecture": platform.machine(),
        "batches": {"vision": tuple(batches), "caption_step": (BEAM,)}.get(part, (1,)),
        "settings": {"workspace_mib": None, "low_memory": False},
        **changes,
    }
    record = EngineRecord(**fields)
    plan = changes.get("plan") or plan_of(str(graph), _profiles(graph, part, batches))
    path = bundle.path / "engines" / f"{record.key}.engine"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plan)
    record = dataclasses.replace(record, engine_sha256=sha256_of(path), engine_bytes=len(plan))
    write_record(bundle, record)
    return Engine(path, record)


def _profiles(graph: Path, part: str, batches: Sequence[int]) -> list[dict[str, Any]]:
    profiles = [_profile(graph, span) for span in _spans(part, batches)]
    return [profile for profile in profiles if profile]


def _spans(part: str, batches: Sequence[int]) -> list[dict[str, tuple[int, int]]]:
    if part == "caption_step":
        return [{"batch": (1, BEAM), "T": (1, 8)}]
    return [{"batch": (n, n)} for n in batches]


def _profile(graph: Any, spans: dict[str, tuple[int, int]]) -> dict[str, Any]:
    profile = {}
    for value in onnx.load(str(graph)).graph.input:
        axes = value.type.tensor_type.shape.dim
        ends = [
            spans.get(axis.dim_param, (1, 16)) if axis.dim_param else (axis.dim_value, axis.dim_value) for axis in axes
        ]
        if any(axis.dim_param for axis in axes):
            low, high = [low for low, _ in ends], [high for _, high in ends]
            profile[value.name] = [low, high, high]
    return profile
