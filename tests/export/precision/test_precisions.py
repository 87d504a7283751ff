"""Precisions beside fp32: what is written, recorded and refused."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.export.precision import precisions
from yolor_edge.export.precision.precisions import Added, PrecisionOptions, add_precisions, check_inputs, read_layers
from yolor_edge.runtime.backends.scored import unscored
from yolor_edge.runtime.bundle.bundle import INT8_DIALECTS, Bundle, write_bundle
from yolor_edge.runtime.errors import AccuracyError, CalibrationError, UsageError
from yolor_edge.runtime.model import load
from yolor_edge.runtime.verification.golden import read_golden

from ..exported import INPUT_SIZE, Exported

Graphs = dict[str, dict[str, str]]
INT8_KINDS = [f"int8-{dialect}" for dialect in INT8_DIALECTS]


@pytest.fixture(scope="module")
def calibration_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("other") / "scenes", count=3, seed=8, size=INPUT_SIZE) / "train"


def unsealed(exported: Exported, folder: Path) -> tuple[Graphs, dict[str, np.ndarray]]:
    """The exported bundle's graphs and reference images in a folder of their own, without its bundle.json."""
    source = exported.bundle
    shutil.copytree(source.path, folder, ignore=shutil.ignore_patterns("bundle.json"))
    images = {path.stem: read_golden(path)[0] for path in sorted(folder.glob("golden/*.npz"))}
    return {part: dict(files) for part, files in source.graphs.items()}, images


def seal(exported: Exported, folder: Path, graphs: Graphs, added: Added) -> Bundle:
    parity = {"tolerances": added.tolerances, **added.parity}
    return write_bundle(
        folder,
        exported.bundle.spec,
        graphs,
        provenance=added.provenance,
        parity=parity,
        accuracy=added.accuracy,
    )


@pytest.fixture(scope="module")
def noise_measured_once(exported: Exported) -> dict[str, dict[str, float]]:
    names = [n.name for n in onnx.load(exported.bundle.graph_files()["vision"]).graph.node if n.op_type == "Conv"]
    return {name: {"class_logits": 1.0} for name in names}


@pytest.fixture
def quick(noise_measured_once: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ranking of layers, which test_budget.py is about, as given, and fp16 as agreeing with fp32.

    A network that was never trained multiplies rounding until its fp16 answers are others.
    """
    monkeypatch.setattr("yolor_edge.export.precision.budget.layer_noise", lambda *_: noise_measured_once)
    monkeypatch.setattr(precisions, "compare", lambda *_: [])
    monkeypatch.setattr(precisions, "captions_check", lambda *_: None)


def test_fp16_that_answers_otherwise_is_left_out_and_named(exported: Exported, tmp_path: Path) -> None:
    """fp32, which is proven, stays; with the layers that fp16 would need in float."""
    graphs, images = unsealed(exported, tmp_path / "bundle")
    options = PrecisionOptions(precisions=("fp16",), keep_failed=True)
    steps: list[str] = []
    added = add_precisions(tmp_path / "bundle", graphs, exported.bundle.spec, images, options, steps.append)
    assert all("fp16" not in files for files in graphs.values())
    bundle = seal(exported, tmp_path / "bundle", graphs, added)
    assert bundle.precisions == ("fp32",)
    assert bundle.failed["fp16"].startswith("it differs from fp32: ")
    told = next(line for line in steps if line.startswith("fp16 is left out: it differs from fp32: "))
    assert "checks failed" in told
    aside = {name for name in bundle.files if name.endswith(".failed.onnx")}
    assert aside == {f"{part}.fp16.failed.onnx" for part in graphs}
    for name in aside:
        onnx.checker.check_model(onnx.load(tmp_path / "bundle" / name))
    assert (tmp_path / "bundle" / "keep-float.fp16.txt").is_file()
    assert not list((tmp_path / "bundle").glob("*.fp16.onnx"))
    with pytest.raises(UsageError, match="has no fp16 graph; when it was made, fp16 did not pass: it differs"):
        bundle.graph_files("fp16")


@pytest.mark.usefixtures("quick")
def test_int8_over_the_budget_is_left_out_and_the_ranges_stay(
    exported: Exported, calibration_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_costly(*_: object) -> None:
        raise AccuracyError("int8-s8s8 misses the budget")

    monkeypatch.setattr(precisions, "meet_budget", too_costly)
    options = PrecisionOptions(("fp16", "int8"), calibration_data, data=exported.data, split="train")
    graphs, images = unsealed(exported, tmp_path / "bundle")
    steps: list[str] = []
    added = add_precisions(tmp_path / "bundle", graphs, exported.bundle.spec, images, options, steps.append)
    assert set(graphs["vision"]) == {"fp32", "fp16"}
    bundle = seal(exported, tmp_path / "bundle", graphs, added)
    assert bundle.failed == {"int8": "int8-s8s8 misses the budget"}
    assert "int8-s8s8 is left out: int8-s8s8 misses the budget" in steps
    assert any(line.startswith(("  first over the usual noise: ", "  no stage of int8-s8s8")) for line in steps)
    assert "calibration.json" in bundle.files
    assert not any("failed" in name for name in bundle.files)


@pytest.mark.usefixtures("quick")
def test_a_bundle_with_every_precision_opens_runs_and_verifies(
    exported: Exported, calibration_data: Path, tmp_path: Path
) -> None:
    graphs, images = unsealed(exported, tmp_path / "bundle")
    options = PrecisionOptions(
        precisions=("fp16", "int8"), calibration=calibration_data, data=exported.data, split="train", max_drop=1.0
    )
    steps: list[str] = []
    added = add_precisions(tmp_path / "bundle", graphs, exported.bundle.spec, images, options, steps.append)
    bundle = seal(exported, tmp_path / "bundle", graphs, added)

    assert bundle.precisions == ("fp32", "fp16", "int8")
    assert set(bundle.graphs["vision"]) == {"fp32", "fp16", *INT8_KINDS}
    assert set(bundle.accuracy["fp16"]["scores"]) == {"box AP", "mask AP", "mIoU", "CIDEr"}
    (record,) = bundle.accuracy["fp16"]["scored_on"]
    assert (record["backend"], record["how"]) == ("onnxruntime", "every tensor rounded to fp16")
    (record,) = bundle.accuracy["int8-openvino"]["scored_on"]
    assert record["backend"] == ("openvino" if find_spec("openvino") else "onnxruntime")
    assert unscored(bundle, "onnxruntime", "int8") == ""
    assert unscored(bundle, "tensorrt", "int8").startswith("int8-s8s8 was scored in onnxruntime ")
    assert "3 calibration images are few, 200 or more" in " ".join(steps)
    (idle,) = [step for step in steps if step.startswith("warning: in fp32 the network scores box AP ")]
    assert "no more than it may lose, so nothing keeps a precision from losing it all" in idle
    for kind in INT8_KINDS:
        report = bundle.accuracy[kind]
        assert {"box AP", "mask AP", "mIoU", "CIDEr"} == set(report["scores"]) == set(report["reference"])
        assert report["int8_flops_share"] > 0.9 and report["layers"]
    # What is not int8 is fp16 for TensorRT, but for what leaves its range; ONNX Runtime's stays in fp32.
    floats = {}
    for kind in ("int8-s8s8", "int8-u8s8"):
        model = onnx.load(bundle.path / bundle.graphs["vision"][kind])
        weights = {weight.name: weight.data_type for weight in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        floats[kind] = {
            (node.name, weights[node.input[2]])
            for node in convolutions
            if len(node.input) > 2 and weights.get(node.input[2]) in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        }
    kept = bundle.accuracy["int8-s8s8"]["kept_in_fp32"]
    assert {kind for _, kind in floats["int8-u8s8"]} == {onnx.TensorProto.FLOAT}
    assert {name for name, kind in floats["int8-s8s8"] if kind == onnx.TensorProto.FLOAT} <= set(kept)
    assert onnx.TensorProto.FLOAT16 in {kind for _, kind in floats["int8-s8s8"]}
    assert bundle.provenance["calibration"]["images"] == 3
    for precision in ("fp16", "int8"):
        with load(bundle, precision=precision, threads=1) as model:
            result = model.predict(next(iter(images.values())))
        assert result.caption is not None and result.semantic_map is not None

    # The scales it wrote serve another export of the same weights, and no other weights.
    again, _ = unsealed(exported, tmp_path / "again")
    scales = PrecisionOptions(precisions=("int8",), scales=tmp_path / "bundle" / "calibration.json")
    steps.clear()
    add_precisions(tmp_path / "again", again, exported.bundle.spec, images, scales, steps.append)
    assert "int8 is not scored: give a data set to hold it to a budget" in steps
    for kind in INT8_KINDS:
        name = f"vision.{kind}.onnx"
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes()


@pytest.mark.usefixtures("quick")
def test_pictures_that_are_scored_on_do_not_calibrate(exported: Exported, tmp_path: Path) -> None:
    graphs, images = unsealed(exported, tmp_path / "bundle")
    options = PrecisionOptions(
        precisions=("int8",), calibration=exported.data / "train", data=exported.data, split="train"
    )
    with pytest.raises(CalibrationError, match="is one of the images that the result is scored on"):
        add_precisions(tmp_path / "bundle", graphs, exported.bundle.spec, images, options, lambda line: None)


class Scored:
    """A scorer that gives one number for fp32 and another for everything else."""

    reference: ClassVar = {"mIoU": 0.5}

    def scores(self, *_: object, **__: object) -> dict[str, float]:
        return {"mIoU": 0.4}


@pytest.mark.usefixtures("quick")
def test_fp16_over_the_budget_is_left_out(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "_Scorer", lambda *_: Scored())
    for max_drop, expected in ((0.2, {"fp32", "fp16"}), (0.05, {"fp32"})):
        graphs, images = unsealed(exported, tmp_path / f"{max_drop}")
        options = PrecisionOptions(("fp16",), data=exported.data, split="train", max_drop=max_drop)
        steps: list[str] = []
        added = add_precisions(tmp_path / f"{max_drop}", graphs, exported.bundle.spec, images, options, steps.append)
        assert set(graphs["vision"]) == expected
        assert "  mIoU     0.5000 -> 0.4000  (-0.1000)" in steps
    assert added.provenance["failed"] == {"fp16": "it misses the budget: mIoU drops by 0.1000, allowed 0.05"}
    assert not added.accuracy


@pytest.mark.usefixtures("quick")
def test_auto_goes_without_what_costs_too_much(
    exported: Exported, calibration_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_costly(*_: object) -> None:
        raise AccuracyError("int8-s8s8 misses the budget")

    options = PrecisionOptions(("auto",), calibration_data, data=exported.data, split="train", max_drop=1.0)
    monkeypatch.setattr(precisions, "_Scorer", lambda *_: Scored())
    monkeypatch.setattr(precisions, "meet_budget", too_costly)
    graphs, images = unsealed(exported, tmp_path / "costly")
    added = add_precisions(tmp_path / "costly", graphs, exported.bundle.spec, images, options, lambda line: None)
    assert set(graphs["vision"]) == {"fp32", "fp16"}
    assert set(added.provenance["failed"]) == {"int8"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ("fp8",)}, "unknown precision fp8; the precisions are fp32, fp16, int8, auto"),
        ({"precisions": ("int8",)}, "int8 needs images to calibrate on: give calibration"),
        ({"precisions": ("auto",), "calibration": "x"}, "precisions auto chooses by accuracy too: give data"),
        ({"precisions": ("int8",), "calibration": "x", "scales": Path("y")}, "leave one of the two out"),
        ({"data": "x"}, "data is for fp16 and int8: add one to precisions, or leave it out"),
        ({"precisions": ("fp16",), "scales": Path("x")}, "scales is for int8: add int8 to precisions, or leave it out"),
        ({"keep_float": ("x",)}, "keep_float is for fp16 and int8: add one to precisions, or leave it out"),
        ({"max_drop": -0.1}, r"max_drop must not be negative, got -0\.1"),
        ({"max_drop": float("nan")}, "max_drop must not be negative, got nan"),
        ({"method": "best"}, "must be one of minmax, percentile, entropy, got 'best'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrecisionOptions(**options)  # type: ignore[arg-type]


def test_unknown_layers_are_refused_for_fp16_too(exported: Exported, tmp_path: Path) -> None:
    graphs, images = unsealed(exported, tmp_path / "bundle")
    options = PrecisionOptions(precisions=("fp16",), keep_float=("nonsense.layer",))
    with pytest.raises(UsageError, match=r"keep_float: no layer is called 'nonsense\.layer'; names look like"):
        add_precisions(tmp_path / "bundle", graphs, exported.bundle.spec, images, options, lambda line: None)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"calibration": "{empty}"}, UsageError, "empty"),
        ({"calibration": "{list}"}, CalibrationError, r"nowhere\.jpg: no such image; correct the list"),
        ({"scales": "{list}"}, CalibrationError, "is not a file of scales"),
        (
            {"calibration": "{damaged}"},
            CalibrationError,
            r"a\.jpg: .* \(1 more of 3 neither\); correct the list of calibration$",
        ),
        (
            {"calibration": "{train}", "data": "{data}"},
            CalibrationError,
            "one of the images that the result is scored",
        ),
    ],
)
def test_what_int8_is_given_is_looked_at_before_the_export(
    exported: Exported, tmp_path: Path, given: dict[str, str], error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("nowhere.jpg\n")
    (tmp_path / "damaged").mkdir()
    whole = next(iter((exported.data / "train").iterdir())).read_bytes()
    for name, content in (("a", b"no picture"), ("b", whole), ("c", whole[: len(whole) // 2])):
        (tmp_path / "damaged" / f"{name}.jpg").write_bytes(content)
    places = {
        "empty": tmp_path / "empty",
        "list": tmp_path / "list.txt",
        "damaged": tmp_path / "damaged",
        "train": exported.data / "train",
        "data": exported.data,
    }
    paths = {name: Path(value.format(**places)) for name, value in given.items()}
    options = PrecisionOptions(precisions=("int8",), split="train", **paths)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        check_inputs(options, exported.bundle.spec)


def test_lists_of_layers(tmp_path: Path) -> None:
    file = tmp_path / "keep.txt"
    file.write_text("# from diff\nbackbone.stem.1\n\nneck.top  # noisy\n")
    assert read_layers(file) == ("backbone.stem.1", "neck.top")
    file.write_text("\n#\n")
    assert read_layers(file) == ()
    with pytest.raises(UsageError, match="cannot be read as a list of layers"):
        read_layers(tmp_path / "nowhere.txt")
