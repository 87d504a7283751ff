"""The accuracy budget: which layers go to float, how few, and when none of it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest
from yolor_edge.export.precision import budget
from yolor_edge.export.precision.budget import _signed, convolution_flops, layer_noise, meet_budget
from yolor_edge.export.precision.calibration import Calibration, CalibrationSet, calibrate
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.errors import AccuracyError
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..exported import INPUT_SIZE, Exported

FP32 = {"box AP": 0.9, "mIoU": 0.8}
Score = Callable[[onnx.ModelProto], Mapping[str, float]]


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


@pytest.fixture(scope="module")
def noise(vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]) -> dict[str, dict[str, float]]:
    return layer_noise(vision, calibration.ranges, "s8s8", inputs)


@pytest.fixture
def measured_once(noise: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search rank by the noise measured for all of them."""
    monkeypatch.setattr(budget, "layer_noise", lambda *_: noise)


def score_that_needs(*layers: str) -> Score:
    """Box AP falls by 0.1 for every one of `layers` that is in int8."""

    def score(model: onnx.ModelProto) -> Mapping[str, float]:
        held = {weight.name for weight in model.graph.initializer}
        return {"box AP": 0.9 - 0.1 * sum(f"{layer}.weight/q" in held for layer in layers), "mIoU": 0.8}

    return score


def test_noise_of_a_head_comes_only_from_layers_before_it(noise: dict[str, dict[str, float]]) -> None:
    assert noise["mask_head.exit.0.conv"]["class_logits"] == 0
    assert noise["mask_head.exit.0.conv"]["prototypes"] > 0
    assert all(value > 0 for value in noise["backbone.stem.1.conv"].values())
    assert "mask_head.exit.1" not in noise, "a prediction has no choice"


@pytest.mark.usefixtures("measured_once")
def test_a_budget_that_is_met_keeps_nothing(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> None:
    _, report = meet_budget(vision, calibration.ranges, "s8s8", inputs, score_that_needs(), FP32, 0.01)
    assert (report.kept, report.drops()) == ((), {"box AP": 0.0, "mIoU": 0.0})
    assert [count for count, _ in report.tries] == [0]
    assert 0.9 < report.int8_flops_share < 1
    layers = {layer.layer: layer for layer in report.layers}
    assert layers["backbone.stem.1.conv"].precision == "int8"
    assert layers["mask_head.exit.1"].why == "gives a prediction"
    assert "lowest bit" in layers["backbone.stem.0.conv"].why
    assert sum(layer.flops_share for layer in report.layers) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("measured_once")
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_fewest_layers_that_meet_it_go_to_float(
    vision: onnx.ModelProto,
    calibration: Calibration,
    inputs: list[Array],
    noise: dict[str, dict[str, float]],
    rank: int,
) -> None:
    ranking = sorted(noise, key=lambda name: -(noise[name]["class_logits"] + noise[name]["box_bins"]))
    score = score_that_needs(ranking[rank - 1])
    lines: list[str] = []
    found, report = meet_budget(vision, calibration.ranges, "s8s8", inputs, score, FP32, 0.01, progress=lines.append)
    assert report.kept == tuple(ranking[:rank])
    assert set(report.kept) <= set(found.kept)
    assert report.scores["box AP"] == 0.9
    assert f"ranks {rank} of {len(noise)}" in report.table()
    assert any("0 layers in float: box AP -0.1000, mIoU 0.0000" in line for line in lines)


@pytest.mark.usefixtures("measured_once")
def test_what_is_scored_and_given_back_is_the_finished_graph(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> None:
    seen: list[str] = []

    def score(graph: onnx.ModelProto) -> dict[str, float]:
        seen.append(graph.doc_string)
        return dict(FP32)

    def finish(graph: onnx.ModelProto) -> onnx.ModelProto:
        finished = onnx.ModelProto()
        finished.CopyFrom(graph)
        finished.doc_string = "finished"
        return finished

    found, _ = meet_budget(vision, calibration.ranges, "s8s8", inputs, score, FP32, 0.01, finish=finish)
    assert (seen, found.model.doc_string) == (["finished"], "finished")
    assert found.int8


@pytest.mark.usefixtures("measured_once")
def test_a_budget_that_cannot_be_met_says_so(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array], noise: dict[str, dict[str, float]]
) -> None:
    with pytest.raises(AccuracyError, match=r"misses the budget even with .* box AP drops by .*, allowed 0\.01"):
        meet_budget(vision, calibration.ranges, "s8s8", inputs, score_that_needs(*noise), FP32, 0.01)


def test_flops_are_those_of_the_convolutions(vision: onnx.ModelProto) -> None:
    flops = convolution_flops(vision)
    height, width = INPUT_SIZE
    assert flops["backbone.stem.0.conv"] == 2 * 8 * 3 * 9 * height * width
    assert flops["backbone.stem.1.conv"] == 2 * 16 * 8 * 9 * height * width // 4


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert [_signed(x) for x in (-0.00004, 0.0, 0.00004)] == ["0.0000"] * 3
    assert [_signed(x) for x in (-0.00006, 0.01)] == ["-0.0001", "+0.0100"]
