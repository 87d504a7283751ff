"""What a lone .onnx file says of itself, in the model's own metadata: it may be copied away from its bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from ...runtime.bundle.spec import ModelSpec

PREFIX = "yolor_edge."


def describe_graphs(
    folder: Path, spec: ModelSpec, graphs: Mapping[str, Mapping[str, str]], source_sha256: str, licence: str
) -> None:
    """Write to `metadata_props` of every graph of a bundle in the making what the bundle knows of it.

    `names` are the classes as a JSON list. What is ours alone starts with `PREFIX`; values are text, or JSON where they
    are more than one.

    Args:
        folder: Of the bundle.
        spec: What the model is.
        graphs: Files by part and kind.
        source_sha256: Digest of the weights that it was exported from.
        licence: Of the weights.
    """
    model = spec.to_json()
    model.pop("caption", None)  # a vocabulary of ten thousand words belongs to the bundle, not into each graph
    shared = {
        "names": json.dumps(list(spec.class_names), ensure_ascii=False),
        f"{PREFIX}name": spec.name,
        f"{PREFIX}model": json.dumps(model, ensure_ascii=False),
        f"{PREFIX}weights_sha256": source_sha256,
        f"{PREFIX}licence": licence,
    }
    for part, files in graphs.items():
        for kind, file in files.items():
            graph = onnx.load(folder / file)
            onnx.helper.set_model_props(graph, {**shared, f"{PREFIX}part": part, f"{PREFIX}precision": kind})
            onnx.save(graph, folder / file)
