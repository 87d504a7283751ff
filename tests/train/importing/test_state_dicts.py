"""State dicts with the name of their configuration give what the pickled modules give."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from yolor_edge.benchmarks.studies.full_size_networks import PUBLISHED, full_size_network, lively
from yolor_edge.runtime.errors import CheckpointError, UsageError
from yolor_edge.train.importing.configurations import CONFIGURATIONS
from yolor_edge.train.importing.importer import chosen_model, imported_network
from yolor_edge.train.importing.pickle_machine import Record, StoredTensor
from yolor_edge.train.importing.state_dicts import graph_of_state_dict
from yolor_edge.train.importing.torch_files import read_torch_file
from yolor_edge.train.network.layers_fold import layers_cost

from .golden import golden

SAME = {
    "yolov7": "yolov7",
    "yolov7-tiny": "yolov7-tiny.yaml",
    "yolov7-w6-aux": "yolov7-w6",
    "yolov7-e6-aux": "yolov7-e6",
    "yolov7-u7-seg": "yolov7-seg",
    "yolov7-af": "yolov7-af",
    "gelan-c": "gelan-c",
    "gelan-c-seg": "gelan-c-seg",
    "gelan-c-pan": "gelan-c-pan",
    "yolov9-c": "yolov9-c",
    "yolor-csp-yolov7yaml": "yolor-csp",
    "yolor-paper-p6": "yolor-p6",
}

pytestmark = pytest.mark.usefixtures("one_thread")


def flat(record: Record, prefix: str = "") -> dict[str, StoredTensor]:
    """What `state_dict` of the module gives."""
    found = {}
    for part in ("_parameters", "_buffers"):
        for name, value in record.state[part].items():
            if isinstance(value, StoredTensor):
                found[prefix + name] = value
    for name, child in record.state["_modules"].items():
        if child is not None:
            found |= flat(child, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("name", SAME)
def test_a_state_dict_is_imported_as_its_module_is(name: str, goldens: Path) -> None:
    case = golden(goldens / name).imported
    model, _ = chosen_model(read_torch_file(goldens / name / "checkpoint.pt"))
    assert isinstance(model, Record)
    tensors = flat(model)
    graph, heads, family, _ = graph_of_state_dict(tensors, SAME[name])
    found = imported_network(graph, heads, family, "x", case.config.class_names, (), {}, True)
    assert found.config.layers == case.config.layers
    assert (found.config.boxes, found.config.masks, found.config.semantic) == (
        case.config.boxes,
        case.config.masks,
        case.config.semantic,
    )
    assert family == case.config.family
    assert found.weights.keys() == case.weights.keys()
    assert all(np.array_equal(found.weights[key], value) for key, value in case.weights.items())
    bare = {key.removeprefix("model."): value for key, value in tensors.items()}
    assert graph_of_state_dict(bare, SAME[name])[0].layers == graph.layers
    other = "gelan-c" if "gelan-c" not in name else "yolov7"
    with pytest.raises(CheckpointError, match=other):
        graph_of_state_dict(tensors, other)


def test_unknown_configurations_are_refused(goldens: Path) -> None:
    with pytest.raises(UsageError, match=r"is not known; known are.*yolov7x"):
        graph_of_state_dict({"model.0.conv.weight": None}, "yolov99")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "gelan-s" in name else pytest.mark.slow) for name in PUBLISHED]
)
def test_full_size_networks_cost_what_was_published(name: str, goldens: Path) -> None:
    cost = layers_cost(full_size_network(goldens / "manifests" / f"{name}.json.xz").config)
    parameters, flops = PUBLISHED[name]
    assert cost.folded_parameters / 1e6 == pytest.approx(parameters, abs=0.051)
    assert cost.folded_flops / 1e9 == pytest.approx(flops, rel=0.01)


def test_every_manifest_has_its_configuration(goldens: Path) -> None:
    for file in sorted((goldens / "manifests").glob("*.json.xz")):
        manifest = json.loads(lzma.decompress(file.read_bytes()))
        stem = Path(manifest["cfg"]).stem
        found = [CONFIGURATIONS[key] for key in (stem, f"{stem}-deploy", f"{stem}-paper") if key in CONFIGURATIONS]
        classes = [layer[1].rpartition(".")[2] for layer in manifest["layers"]]
        assert any([kind for kind, _, _ in configuration.layers] == classes for configuration in found)


@torch.no_grad()
def test_a_full_size_network_runs(goldens: Path) -> None:
    network = full_size_network(goldens / "manifests" / "yolov9-detect-gelan-s.json.xz", seed=3).network()
    outputs = lively(network)(torch.rand(1, 3, 64, 96))
    assert outputs["box_bins"].shape == (1, 64, 126) and outputs["class_logits"].shape == (1, 80, 126)
    assert all(value.isfinite().all() and value.std() > 1e-3 for value in outputs.values())
