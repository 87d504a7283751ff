"""Adopted detectors run, are quantised, verified and measured like our own; what cannot be adopted leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export import PrecisionOptions, adopt
from yolor_edge.export.precision.to_fp16 import nodes_out_of_range
from yolor_edge.main import main
from yolor_edge.runtime import Bundle, UsageError, load, verify
from yolor_edge.runtime.errors import ParityError

from ..exported import Exported
from .foreign_graphs import CELLS, NAMES, SIZE, decoded, detector, saved


@pytest.fixture(scope="module")
def foreign(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported network as another exporter would write it, names in its metadata."""
    bundle = exported.bundle
    model = onnx.load(bundle.path / bundle.graphs["vision"]["fp32"])
    names = str(dict(enumerate(bundle.spec.class_names)))
    whole = decoded(model, bundle.spec.strides, bundle.spec.input_size, metadata={"names": names, "task": "segment"})
    return saved(whole, tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def adopted(foreign: Path, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[str]]:
    """The bundle adopted from it in every precision, and the lines of progress."""
    lines: list[str] = []
    options = PrecisionOptions(("int8",), calibration=exported.data / "train")
    out = tmp_path_factory.mktemp("adopted") / "bundle"
    return adopt(foreign, out, licence="MIT", precisions=options, progress=lines.append), lines


def test_an_adopted_network_answers_as_it_did(adopted: tuple[Bundle, list[str]], exported: Exported) -> None:
    bundle, _ = adopted
    found = 0
    with load(bundle.path) as ours, load(exported.bundle.path) as reference:
        for index in range(3):
            image = draw_scene(0, index, (90, 120)).image
            a = ours.predict(image)
            b = reference.predict(image, ["boxes", "masks"])
            assert a.boxes is not None and b.boxes is not None and a.masks is not None and b.masks is not None
            assert a.scores is not None and b.scores is not None
            assert a.detected_names == b.detected_names
            np.testing.assert_allclose(a.boxes, b.boxes, atol=0.02)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            assert (a.masks.full() != b.masks.full()).mean() < 1e-4
            found += len(a)
    assert found > 10


def test_what_the_bundle_says_of_itself(adopted: tuple[Bundle, list[str]], foreign: Path) -> None:
    bundle, lines = adopted
    spec = bundle.spec
    assert (spec.tasks, spec.box_coding, spec.score_coding) == (("boxes", "masks"), "xyxy", "probabilities")
    assert spec.preprocess.rounding == "half_even"
    assert spec.box_count == CELLS and spec.input_size == SIZE and bundle.licence == "MIT"
    assert bundle.provenance["adopted"] == foreign.name
    assert bundle.provenance["layout"] == "classes,cxcywh,pixels,probabilities,boxes=output0"
    assert bundle.precisions == ("fp32", "int8")
    assert any("agrees with the original in 12 checks" in line for line in lines)


def test_it_is_verified(adopted: tuple[Bundle, list[str]]) -> None:
    assert verify(adopted[0]).passed


@pytest.mark.parametrize("form", ["classes", "objectness", "pair", "detections"])
def test_every_layout_has_every_precision(form: str, tmp_path: Path, exported: Exported) -> None:
    options = PrecisionOptions(("fp16", "int8"), calibration=exported.data / "train")
    path = saved(detector(form, "xyxy" if form == "detections" else "cxcywh"), tmp_path)
    bundle = adopt(path, tmp_path / "bundle", NAMES, precisions=options)
    for precision in ("fp32", "fp16", "int8"):
        assert verify(bundle, precision=precision).passed


def test_boxes_in_pixels_are_decoded_in_float32(adopted: tuple[Bundle, list[str]]) -> None:
    model = onnx.load(adopted[0].path / "vision.fp32.onnx")
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    kept = nodes_out_of_range(model, [{"images": np.zeros((1, 3, *SIZE), np.float32)}])
    assert any("boxes in pixels need more digits" in why for why in kept.values())
    # Of the convolutions only the expectation over bins.
    assert len(convolutions & set(kept)) == 1


def test_an_expectation_is_no_prediction(adopted: tuple[Bundle, list[str]], exported: Exported) -> None:
    float_layers = [layer["layer"] for layer in adopted[0].accuracy["int8-u8s8"]["layers"] if layer["why"]]
    own = onnx.load(exported.bundle.path / "vision.fp32.onnx")
    predictions = {n.name for n in own.graph.node if n.op_type == "Conv" and n.name.startswith("box_head")}
    assert len(float_layers) > 3 and predictions & set(float_layers)


def test_commands_take_an_adopted_bundle(
    adopted: tuple[Bundle, list[str]], exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(adopted[0].path)
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), draw_scene(0, 0, (90, 120)).image)
    assert main(["run", path, str(picture), "--out", str(tmp_path / "out")]) == 0
    assert main(["evaluate", path, "--data", str(exported.data), "--split", "train", "--json"]) == 0
    capsys.readouterr()
    assert main(["inspect", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["licence"] == "MIT" and facts["precisions"] == ["fp32", "int8"]


def test_detections_are_not_suppressed_again(tmp_path: Path) -> None:
    bundle = adopt(saved(detector("detections", "xyxy"), tmp_path), tmp_path / "bundle", NAMES)
    assert bundle.spec.thresholds.iou == 1.0 and bundle.licence == "unknown"
    image = draw_scene(0, 0, (90, 120)).image
    with load(bundle.path) as model:
        assert len(model.predict(image, score_threshold=0.001)) == 20
    assert verify(bundle).passed


def test_a_fixed_batch_stays(tmp_path: Path) -> None:
    bundle = adopt(saved(detector(shape=(2, 3, *SIZE)), tmp_path), tmp_path / "bundle", NAMES)
    assert bundle.spec.graph.batch == 2 and verify(bundle).passed


def test_normalisation_is_part_of_the_graph(tmp_path: Path) -> None:
    plain = adopt(saved(detector(), tmp_path), tmp_path / "plain", NAMES)
    path = saved(detector(), tmp_path)
    shifted = adopt(path, tmp_path / "shifted", NAMES, scale=1.0, mean=(0, 0, 0), std=(255, 255, 255))
    image = draw_scene(0, 0, (90, 120)).image
    with load(plain.path) as a, load(shifted.path) as b:
        found, expected = b.predict(image).boxes, a.predict(image).boxes
        assert found is not None and expected is not None
        np.testing.assert_allclose(found, expected, atol=0.01)
    assert shifted.spec.preprocess.scale == 1.0


def test_classes_by_the_names_of_coco_have_its_ids(tmp_path: Path) -> None:
    bundle = adopt(saved(detector(), tmp_path), tmp_path / "bundle", ["person", "stop sign", "toothbrush"])
    assert bundle.spec.category_ids == (1, 13, 90)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "does not tell its classes; give --classes"),
        ("--classes {two}", "no head for 2 classes among its outputs"),
        ("--classes {empty}", "empty: line 2 is empty; expected one name a line"),
        ("--classes {out}/nothing.txt", "--classes {out}/nothing.txt: cannot be read"),
        ("--classes {names} --layout corners", "--layout: unknown word 'corners'"),
        ("--classes {names} --input-size 32", "which 32x32 does not fit; leave --input-size out"),
        ("--classes {names} --std 1,0,1", "--std must be three numbers, none of them 0"),
        ("--classes {names} --mean 1,2", "expected three numbers"),
        ("--classes {names} --channel-order HSV", '--channel-order must be "RGB" or "BGR"'),
        ("--classes {names} --precision int8", "int8 needs images to calibrate on"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(detector(), tmp_path)
    files = {"two": "a\nb\n", "empty": "a\n\nc\n", "names": "\n".join(NAMES) + "\n\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    places = {name: tmp_path / name for name in (*files, "out")}
    before = sorted(tmp_path.iterdir())
    assert main(["adopt", str(path), "--out", str(tmp_path / "bundle"), *options.format(**places).split()]) == 2
    told = capsys.readouterr().err
    assert message.format(**places) in told and told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_rewired_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolor_edge.export.adopting.layouts import Layout

    true = Layout.decode
    monkeypatch.setattr(Layout, "decode", lambda self, values: {k: v + 1 for k, v in true(self, values).items()})
    with pytest.raises(ParityError, match=r"differs from the original: .*nothing was written"):
        adopt(saved(detector(), tmp_path), tmp_path / "bundle", NAMES)
    assert not (tmp_path / "bundle").exists()


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    path = saved(detector(), tmp_path)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        adopt(path, tmp_path / "bundle", NAMES)
