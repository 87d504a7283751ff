"""The accuracy budget: which layers go to float, how few, and when none of it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest
from yolor_edge.export.precision import budget
from yolor_edge.export.precision.budget import _signed, groups_of, meet_budget
from yolor_edge.export.precision.calibration import Calibration, CalibrationSet, calibrate
from yolor_edge.export.precision.sensitivity import convolution_flops, layer_noise
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


Noise = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def noise(vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]) -> Noise:
    return layer_noise(vision, calibration.ranges, "s8s8", inputs)


@pytest.fixture
def measured_once(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search rank by the noise measured for all of them."""
    monkeypatch.setattr(budget, "layer_noise", lambda *_: noise)


def score_that_needs(*layers: str) -> Score:
    """Box AP falls by 0.1 for every one of `layers` that is in int8."""

    def score(model: onnx.ModelProto) -> Mapping[str, float]:
        held = {weight.name for weight in model.graph.initializer}
        return {"box AP": 0.9 - 0.1 * sum(f"{layer}.weight/q" in held for layer in layers), "mIoU": 0.8}

    return score


def noisiest(noise: Noise) -> list[str]:
    return sorted(noise, key=lambda name: -(noise[name]["class_logits"] + noise[name]["box_bins"]))


@pytest.mark.usefixtures("measured_once")
def test_a_budget_that_is_met_keeps_nothing(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> None:
    _, report = meet_budget(vision, calibration.ranges, "s8s8", inputs, score_that_needs(), FP32, 0.01)
    assert (report.kept, report.scores) == ((), FP32)
    assert [count for _, count, _ in report.tries] == [0]
    assert 0.9 < report.int8_flops_share < 1
    layers = {layer.layer: layer for layer in report.layers}
    assert layers["backbone.stem.1.conv"].precision == "int8"
    assert layers["mask_head.exit.1"].why == "gives a prediction"
    assert "lowest bit" in layers["backbone.stem.0.conv"].why
    assert sum(layer.flops_share for layer in report.layers) == pytest.approx(1, abs=1e-3)


def test_with_unsigned_activations_the_stem_starts_in_float_and_goes_back_if_it_may(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> None:
    stem = "backbone.stem.0.conv"
    _, report = meet_budget(vision, calibration.ranges, "u8s8", inputs, score_that_needs(), FP32, 0.01)
    assert (report.kept, [count for _, count, _ in report.tries]) == ((), [1, 0])
    _, report = meet_budget(vision, calibration.ranges, "u8s8", inputs, score_that_needs(stem), FP32, 0.01)
    assert (report.kept, [count for _, count, _ in report.tries]) == ((stem,), [1, 0])
    assert {layer.layer: layer.why for layer in report.layers}[stem].startswith("the budget needs it in float")


@pytest.mark.usefixtures("measured_once")
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_layer_that_costs_the_score_goes_to_float_and_what_is_needless_comes_back(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array], noise: Noise, rank: int
) -> None:
    needed = noisiest(noise)[rank - 1]
    lines: list[str] = []
    found, report = meet_budget(
        vision,
        calibration.ranges,
        "s8s8",
        inputs,
        score_that_needs(needed),
        FP32,
        0.01,
        progress=lines.append,
        most_scorings=20,
    )
    assert needed in report.kept
    assert set(report.kept) <= set(found.kept)
    assert len(report.kept) < min(count for _, count, scores in report.tries if scores["box AP"] == 0.9) + 1
    assert report.scores["box AP"] == 0.9
    assert f"float: {needed} (the budget needs it in float, " in report.table()
    assert any("0 layers in float: box AP -0.1000, mIoU 0.0000" in line for line in lines)


def test_another_calibration_is_scored_before_a_layer_is_given_up(
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]
) -> None:
    """Ranges cut to a half lose the score, the others do not."""
    halves = {name: (low / 2, high / 2) for name, (low, high) in calibration.ranges.items()}
    scale = "backbone.stem.1.act/Mul/scale"

    def score(model: onnx.ModelProto) -> Mapping[str, float]:
        held = next(weight for weight in model.graph.initializer if weight.name == scale)
        high = float(onnx.numpy_helper.to_array(held)) * 127
        return {"box AP": 0.9 if high > 0.9 * calibration.ranges["backbone.stem.1.act/Mul"][1] else 0.6}

    both = {"percentile": halves, "minmax": calibration.ranges}
    _, report = meet_budget(vision, both, "s8s8", inputs, score, FP32, 0.01)
    assert (report.ranges, report.kept) == ("minmax", ())
    assert [(method, count) for method, count, _ in report.tries] == [("percentile", 0), ("minmax", 0)]


@pytest.mark.usefixtures("measured_once")
def test_every_task_has_its_own_budget(vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array]) -> None:
    lost = {"box AP": 0.88, "mIoU": 0.8}
    _, report = meet_budget(vision, calibration.ranges, "s8s8", inputs, lambda _: lost, FP32, {"boxes": 0.03})
    assert (report.kept, report.max_drop) == ((), {"box AP": 0.03, "mIoU": 0.01})
    with pytest.raises(AccuracyError):
        meet_budget(vision, calibration.ranges, "s8s8", inputs, lambda _: lost, FP32, {"semantic": 0.03})


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
    vision: onnx.ModelProto, calibration: Calibration, inputs: list[Array], noise: Noise
) -> None:
    with pytest.raises(AccuracyError, match=r"misses the budget even with .* box AP drops by .*, allowed 0\.01"):
        meet_budget(vision, calibration.ranges, "s8s8", inputs, lambda _: {"box AP": 0.5}, FP32, 0.01)


def test_groups_are_branches_that_are_no_large_part() -> None:
    shares = {"head.a.0": 0.1, "head.a.1": 0.1, "head.b.0": 0.3, "head.b.1": 0.01, "stem": 0.49}
    assert groups_of(shares, shares) == [frozenset({"head.a.0", "head.a.1"})]


def test_flops_are_those_of_the_convolutions(vision: onnx.ModelProto) -> None:
    flops = convolution_flops(vision)
    height, width = INPUT_SIZE
    assert flops["backbone.stem.0.conv"] == 2 * 8 * 3 * 9 * height * width
    assert flops["backbone.stem.1.conv"] == 2 * 16 * 8 * 9 * height * width // 4


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert [_signed(x) for x in (-0.00004, 0.0, 0.00004)] == ["0.0000"] * 3
    assert [_signed(x) for x in (-0.00006, 0.01)] == ["-0.0001", "+0.0100"]
