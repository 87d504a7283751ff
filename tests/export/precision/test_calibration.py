"""Calibration: ranges of tensors on images, and the images and scales that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from yolor_edge.export.onnx_graphs.probe import open_probe
from yolor_edge.export.precision.calibration import (
    Calibration,
    CalibrationSet,
    Method,
    _entropy_range,
    _percentile_range,
    calibrate,
    calibration_files,
    held_out_digests,
)
from yolor_edge.runtime.errors import CalibrationError, UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..exported import INPUT_SIZE, Exported

RULE = PreprocessRule(INPUT_SIZE)


@pytest.fixture(scope="module")
def vision(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def pictures(exported: Exported) -> list[Path]:
    return sorted((exported.data / "train").iterdir())


def test_minmax_is_the_least_and_the_most_that_a_tensor_holds(vision: onnx.ModelProto, pictures: list[Path]) -> None:
    chosen = CalibrationSet(pictures, RULE)
    name = "backbone.stem.1.act/Mul"
    with open_probe(vision, [name]) as probe:
        seen = np.concatenate([probe.run({"images": x}, [name])[name].ravel() for x in chosen.tensors()])
    low, high = calibrate(vision, chosen, "minmax").ranges[name]
    assert (low, high) == (float(seen.min()), float(seen.max()))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_lie_within_the_extremes_and_hold_zero(
    vision: onnx.ModelProto, pictures: list[Path], method: Method
) -> None:
    chosen = CalibrationSet(pictures, RULE)
    widest = calibrate(vision, chosen, "minmax").ranges
    ranges = calibrate(vision, chosen, method).ranges
    assert ranges.keys() == widest.keys()
    for name, (low, high) in ranges.items():
        assert low <= 0 <= high
        slack = 1e-5 * (widest[name][1] - widest[name][0])
        assert widest[name][0] - slack <= low and high <= widest[name][1] + slack


def test_percentile_leaves_out_what_one_value_in_ten_thousand_reaches() -> None:
    counts = np.zeros(2048, np.int64)
    counts[1000] = 1_000_000
    counts[2047] = 20  # twenty in a million: beyond the percentile
    low, high = _percentile_range(counts, 0.0, 2048.0)
    assert (low, high) == (1000.0, 1001.0)


def test_entropy_clips_a_lone_outlier_but_not_a_uniform_spread() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount(np.abs(rng.normal(0, 60, 200_000)).astype(int).clip(0, 2047), minlength=2048)
    counts[2047] += 1
    _, high = _entropy_range(counts, 0.0, 2048.0)
    assert 150 < high < 700
    _, high = _entropy_range(np.full(2048, 1000), 0.0, 2048.0)
    assert high > 1900


def test_scales_come_back_and_are_refused_when_stale(
    vision: onnx.ModelProto, pictures: list[Path], tmp_path: Path
) -> None:
    found = calibrate(vision, CalibrationSet(pictures, RULE), "minmax")
    file = tmp_path / "calibration.json"
    found.save(file)
    assert Calibration.load(file) == found
    found.require_fresh(file, vision, RULE)
    other = onnx.ModelProto()
    other.CopyFrom(vision)
    weight = next(w for w in other.graph.initializer if w.name == "backbone.stem.0.conv.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    with pytest.raises(CalibrationError, match=r"stale, the weights are not those .*; calibrate again"):
        found.require_fresh(file, other, RULE)
    with pytest.raises(CalibrationError, match="stale, the preprocessing is not that"):
        found.require_fresh(file, vision, PreprocessRule((128, 128)))


def test_wider_ranges_come_behind_those_of_the_method() -> None:
    own, widest = {"a": (-1.0, 1.0), "b": (0.0, 2.0)}, {"a": (-1.0, 16.0), "b": (0.0, 2.0)}
    found = Calibration(own, widest, "percentile", (), "", "").by_method()
    assert list(found) == ["percentile", "between", "minmax"]
    assert found["between"] == {"a": (-1.0, pytest.approx(8.0)), "b": (0.0, pytest.approx(2.0))}
    assert list(Calibration(widest, widest, "minmax", (), "", "").by_method()) == ["minmax"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the calibration.json"),
        ("{", "is not a file of scales"),
        ("[]", "is not a file of scales"),
        (json.dumps({"scales_version": 9}), "scales_version 9, expected 2"),
        (json.dumps({"scales_version": 2, "ranges": {"x": [0]}}), "is not a file of scales"),
        (json.dumps({"scales_version": 2, "ranges": {"x": [float("nan"), 1]}}), "NaN is no number"),
        (json.dumps({"scales_version": 2, "ranges": {"x": [1, 2]}}), "range of 'x' is not one around zero"),
    ],
)
def test_foreign_scales_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CalibrationError, match=message):
        Calibration.load(file)


def test_a_list_names_pictures_relative_to_itself(pictures: list[Path]) -> None:
    listed = pictures[0].parent.parent / "list.txt"
    listed.write_text(f"# the first two\n\ntrain/{pictures[0].name}\n{pictures[1]}\n")
    assert [path.resolve() for path in calibration_files(listed)] == [path.resolve() for path in pictures[:2]]
    assert len(calibration_files(pictures[0].parent)) == len(pictures)
    listed.write_text("\n# nothing\n")
    with pytest.raises(UsageError, match="lists no images; expected one path per line"):
        calibration_files(listed)


def test_pictures_that_cannot_be_used_are_refused(pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="gave no images; pass at least one"):
        CalibrationSet([], RULE)
    with pytest.raises(CalibrationError, match=r"nowhere\.jpg: no such image"):
        CalibrationSet([tmp_path / "nowhere.jpg"], RULE)
    with pytest.raises(CalibrationError, match="all 2 calibration images are the same"):
        CalibrationSet([pictures[0], pictures[0]], RULE)
    held_out = held_out_digests(pictures[1:2])
    with pytest.raises(CalibrationError, match=r"is one of the images that the result is scored on \(1 of 4 are\)"):
        CalibrationSet(pictures, RULE, held_out)
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(CalibrationError, match=r"broken\.jpg.*correct the list of calibration"):
        list(CalibrationSet([tmp_path / "broken.jpg"], RULE).tensors())


def test_pictures_that_look_alike_to_the_network_are_refused(vision: onnx.ModelProto, tmp_path: Path) -> None:
    for i, side in enumerate((32, 64)):  # grey all over, in two sizes of one shape
        write_image(tmp_path / f"{i}.png", np.full((side, side * 3 // 2, 3), 90, np.uint8))
    with pytest.raises(CalibrationError, match="all alike to the network"):
        calibrate(vision, CalibrationSet([tmp_path / "0.png", tmp_path / "1.png"], RULE), "minmax")


def test_an_unknown_method_is_refused(vision: onnx.ModelProto, pictures: list[Path]) -> None:
    with pytest.raises(UsageError, match="must be one of minmax, percentile, entropy, got 'mse'"):
        calibrate(vision, CalibrationSet(pictures, RULE), "mse")  # type: ignore[arg-type]
