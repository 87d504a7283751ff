"""Noise of layers: the part of the graph behind a layer gives what the whole graph gives with that layer in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from yolor_edge.export.onnx_graphs.probe import open_model
from yolor_edge.export.precision.calibration import Calibration, CalibrationSet, calibrate
from yolor_edge.export.precision.sensitivity import HeadNoise, graph_noise, layer_noise
from yolor_edge.export.precision.to_int8 import quantize
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..exported import INPUT_SIZE, Exported

HEADS = ("class_logits", "box_bins", "mask_coefficients", "prototypes", "semantic_logits", "caption_memory")


@pytest.fixture(scope="module")
def vision(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def inputs(exported: Exported) -> list[Array]:
    files: list[Path] = sorted((exported.data / "train").iterdir())[:1]
    return list(CalibrationSet(files, PreprocessRule(INPUT_SIZE)).tensors())


@pytest.fixture(scope="module")
def calibration(exported: Exported, vision: onnx.ModelProto) -> Calibration:
    files: list[Path] = sorted((exported.data / "train").iterdir())
    return calibrate(vision, CalibrationSet(files, PreprocessRule(INPUT_SIZE)), "minmax")


Noise = dict[str, dict[str, float]]


@pytest.fixture(scope="module", params=["s8s8", "u8s8"])
def measured(
    request: pytest.FixtureRequest, vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> tuple[str, Noise]:
    return request.param, layer_noise(vision, calibration.ranges, request.param, inputs)


def test_the_part_behind_a_layer_gives_what_the_whole_graph_gives(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array], measured: tuple[str, Noise]
) -> None:
    dialect, found = measured
    layers = ("mask_head.exit.0.conv", "box_head.classes.1.0.conv", "neck.top.exit.conv")
    graphs = []
    for layer in layers:
        alone = quantize(vision, calibration.ranges, dialect, [name for name in found if name != layer])
        assert alone.int8 == (layer,)
        graphs.append(alone.model)
    for layer, expected in zip(layers, graph_noise(vision, graphs, inputs), strict=True):
        # In the whole graph whatever else reads the layer's input reads it rounded too: that is no noise of this layer.
        behind = [head for head in HEADS if found[layer][head] > 0]
        assert behind
        for head in behind:
            assert found[layer][head] == pytest.approx(expected[head], rel=0.5, abs=1e-9)


def test_noise_of_a_head_comes_only_from_layers_before_it(measured: tuple[str, Noise]) -> None:
    dialect, noise = measured
    assert noise["mask_head.exit.0.conv"]["class_logits"] == 0
    assert noise["mask_head.exit.0.conv"]["prototypes"] > 0
    assert all(value > 0 for value in noise["backbone.stem.1.conv"].values())
    assert "mask_head.exit.1" not in noise, "a prediction has no choice"
    assert ("backbone.stem.0.conv" in noise) == (dialect == "u8s8"), "with signed activations the stem has none"


def test_noise_counts_at_cells_that_hold_objects(vision: onnx.ModelProto, inputs: list[Array]) -> None:
    graph = open_model(vision)
    values = graph.run({"images": inputs[0]})
    graph.close()
    values["class_logits"] = np.full_like(values["class_logits"], -9)
    values["class_logits"][0, 1, 7] = 3
    noise = HeadNoise("box_bins", values)
    at_object, elsewhere = values["box_bins"].copy(), values["box_bins"].copy()
    at_object[0, :, 7] += 1
    elsewhere[0, :, 8] += 1
    assert noise.of(values["box_bins"]) == 0
    assert noise.of(at_object) > 1e4 * noise.of(elsewhere) > 0
