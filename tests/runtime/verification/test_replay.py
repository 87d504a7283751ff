"""Replaying reference inputs: what passes, what is found, and what is no golden file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from yolor_edge.runtime.backends.registry import BACKENDS, BackendEntry, open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.errors import BackendError, BackendMissingError, BundleError, UsageError
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.results import InstanceMasks, Result
from yolor_edge.runtime.verification.replay import (
    Answers,
    Check,
    Tolerances,
    Verification,
    answers_of,
    compare,
    read_golden,
    verify,
    verify_everything,
    write_golden,
)

from ..tiny_bundle import VOCABULARY, coloured_patch, tiny_spec, write_tiny_bundle

ALL_TASKS = ("boxes", "masks", "semantic", "caption")
STAGES = [
    *("pixels", "class_logits", "box_bins", "mask_coefficients", "prototypes", "semantic_logits", "caption_memory"),
    *("boxes", "masks", "semantic map", "caption (greedy)", "caption (beam)"),
]


def reseal(folder: Path, tasks: tuple[str, ...] = ALL_TASKS, **tolerances: Any) -> Bundle:
    """Write `bundle.json` anew, as if whatever lies in the folder had been exported so."""
    parts = ("vision", "caption_prefill", "caption_step") if "caption" in tasks else ("vision",)
    graphs = {part: {"fp32": f"{part}.fp32.onnx"} for part in parts}
    parity = {"tolerances": {"fp32": tolerances}} if tolerances else None
    return write_bundle(folder, tiny_spec(tasks), graphs, provenance={"made_by": "tests"}, parity=parity)


def answer(bundle: Bundle, image: NDArray[np.uint8]) -> Answers:
    graphs = open_graphs(bundle, threads=1)
    with Model(bundle.spec, graphs) as model:
        return answers_of(model, graphs["vision"], image)


def with_golden(folder: Path, tasks: tuple[str, ...] = ALL_TASKS) -> Bundle:
    """The tiny bundle with two images that its own pipeline answered."""
    bundle = write_tiny_bundle(folder, tasks)
    (folder / "golden" / "one.npz").unlink()
    pictures = {
        "green": coloured_patch((50, 60), (16, 8, 40, 40), "green"),
        "blue": coloured_patch((64, 96), (8, 24, 56, 64), "blue"),
    }
    for name, image in pictures.items():
        write_golden(folder / "golden" / f"{name}.npz", image, answer(bundle, image))
    return reseal(folder, tasks)


@pytest.fixture(scope="module")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Shared: not to be changed."""
    return with_golden(tmp_path_factory.mktemp("golden") / "tiny")


@pytest.fixture
def spoilt(golden_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(golden_bundle.path, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def expected(golden_bundle: Bundle) -> Answers:
    """What is known about the green patch."""
    return read_golden(golden_bundle.path / "golden" / "green.npz")[1]


# Replaying.


def test_a_bundle_verifies_against_its_own_answers(golden_bundle: Bundle) -> None:
    verification = verify(golden_bundle, threads=1)
    assert verification.passed
    assert verification.failures == ()
    assert [(check.golden, check.stage) for check in verification.checks] == [
        (golden, stage) for golden in ("blue", "green") for stage in STAGES
    ]
    measured = {check.stage: check.measured for check in verification.checks if check.golden == "green"}
    assert measured["pixels"] == "0 levels"
    assert not measured["boxes"].startswith("0 of 0"), "an image without a box proves little"
    assert measured["caption (greedy)"] == "4 tokens same"


@pytest.mark.parametrize("tasks", [("boxes",), ("semantic",), ("caption",), ("boxes", "masks")])
def test_only_the_tasks_there_are_are_compared(tmp_path: Path, tasks: tuple[str, ...]) -> None:
    stages_of = {
        "boxes": {"class_logits", "box_bins", "boxes"},
        "masks": {"mask_coefficients", "prototypes", "masks"},
        "semantic": {"semantic_logits", "semantic map"},
        "caption": {"caption_memory", "caption (greedy)", "caption (beam)"},
    }
    verification = verify(with_golden(tmp_path / "tiny", tasks).path, threads=1)
    assert verification.passed
    assert {check.stage for check in verification.checks} == {"pixels"}.union(*(stages_of[task] for task in tasks))


def test_the_table_and_the_json_say_the_same(golden_bundle: Bundle) -> None:
    verification = verify(golden_bundle.path, threads=1)
    lines = verification.table().splitlines()
    assert lines[0].split() == ["input", "stage", "measured", "allowed"]
    assert len(lines) == 2 + len(verification.checks)
    assert all(line.endswith("ok") and line.startswith(("blue", "green")) for line in lines[1:-1])
    assert lines[-1] == "onnxruntime fp32: verified"
    data = json.loads(json.dumps(verification.to_json()))
    assert (data["passed"], data["backend"], data["precision"]) == (True, "onnxruntime", "fp32")
    assert data["warnings"] == []
    assert data["checks"][0] == {
        **{"golden": "blue", "stage": "pixels", "measured": "0 levels", "allowed": "0 levels"},
        **{"passed": True, "used": 0.0},
    }


def test_answers_that_hold_nothing_prove_nothing(spoilt: Path) -> None:
    nothing = np.full((48, 64, 3), 114, np.uint8)  # the colour of padding, in which no cell finds anything
    golden = spoilt / "golden"
    for file in golden.iterdir():
        file.unlink()
    bundle = reseal(spoilt)
    write_golden(golden / "grey.npz", nothing, answer(bundle, nothing))
    bundle = reseal(spoilt)
    assert read_golden(golden / "grey.npz")[1].result.boxes.shape == (0, 4)  # type: ignore[union-attr]
    verification = verify(bundle, threads=1)
    assert verification.passed
    (warning,) = verification.warnings
    assert warning.startswith(
        "the network finds no boxes and no masks in the reference images, so boxes and masks were"
    )
    assert verification.table().splitlines()[-1] == f"warning: {warning}"
    replay = verify_everything(bundle, "onnxruntime", threads=1)
    assert f"warning: {warning}" in replay.table()
    assert replay.to_json()["warnings"] == replay.to_json()["verifications"][0]["warnings"] == [warning]


def test_a_failure_is_marked_and_counted() -> None:
    checks = (Check("a", "pixels", "0 levels", "0 levels", True), Check("a", "boxes", "2 of 3", "all", False))
    verification = Verification("onnxruntime", "fp32", checks)
    assert not verification.passed
    assert verification.failures == checks[1:]
    lines = verification.table().splitlines()
    assert lines[2].endswith("FAILED")
    assert lines[-1] == "onnxruntime fp32: 1 of 2 checks failed"


def change_weight(folder: Path, part: str, name: str, by: NDArray[np.float32] | float, kind: str = "fp32") -> None:
    file = folder / f"{part}.{kind}.onnx"
    model = onnx.load(file)
    weight = next(one for one in model.graph.initializer if one.name == name)
    value = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((value + np.float32(1) * by).astype(value.dtype), name))
    file.write_bytes(model.SerializeToString())


# A decoder that knows one word, whatever came before.
ONE_WORD = np.eye(10, dtype=np.float32)[VOCABULARY.index("here")] * 60


@pytest.mark.parametrize(
    ("part", "weight", "by", "stages"),
    [
        ("vision", "class_logits_conv8_b", 0.5, {"class_logits", "boxes"}),
        ("vision", "box_bins_conv8_b", np.tile(np.array([4, 0, 0, 40], np.float32), 4), {"box_bins", "boxes"}),
        ("vision", "prototypes_b", -20.0, {"prototypes", "masks"}),
        ("vision", "semantic_logits_b", np.array([0, 0, 0, 20], np.float32), {"semantic_logits", "semantic map"}),
        ("caption_prefill", "bigrams", ONE_WORD, {"caption (greedy)", "caption (beam)"}),
        ("caption_step", "bigrams", ONE_WORD, {"caption (greedy)", "caption (beam)"}),
    ],
    ids=["class_logits", "box_bins", "prototypes", "semantic_logits", "prefill", "step"],
)
def test_another_weight_fails_the_checks_that_it_reaches(
    spoilt: Path, part: str, weight: str, by: NDArray[np.float32] | float, stages: set[str]
) -> None:
    change_weight(spoilt, part, weight, by)
    reseal(spoilt)
    verification = verify(spoilt, threads=1)
    assert not verification.passed
    assert {check.stage for check in verification.failures} == stages
    assert "checks failed" in verification.table().splitlines()[-1]


def test_another_preprocessing_fails_from_the_pixels_on(spoilt: Path) -> None:
    data = json.loads((spoilt / "bundle.json").read_text())
    data["model"]["preprocess"]["channel_order"] = "BGR"
    (spoilt / "bundle.json").write_text(json.dumps(data))
    failures = verify(spoilt, threads=1).failures
    # The green patch looks the same in either order.
    assert failures[0].golden == "blue"
    assert failures[0].stage == "pixels"
    assert failures[0].measured == "255 levels"


def test_the_bundle_s_own_tolerances_count(spoilt: Path) -> None:
    change_weight(spoilt, "vision", "class_logits_conv8_b", 0.015)
    reseal(spoilt)
    assert {check.stage for check in verify(spoilt, threads=1).failures} == {"class_logits"}
    reseal(spoilt, head=0.02)
    assert verify(spoilt, threads=1).passed


def test_an_altered_file_is_noticed_before_anything_runs(spoilt: Path) -> None:
    change_weight(spoilt, "vision", "class_logits_conv8_b", 0.5)
    with pytest.raises(BundleError, match=r"vision\.fp32\.onnx was altered"):
        verify(spoilt)


def test_a_bundle_without_golden_inputs(spoilt: Path) -> None:
    shutil.rmtree(spoilt / "golden")
    reseal(spoilt)
    with pytest.raises(BundleError, match="tiny: holds no reference inputs to replay; export it again"):
        verify(spoilt)


def test_what_is_asked_for_must_exist(golden_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no fp16 graph"):
        verify(golden_bundle, precision="fp16")
    with pytest.raises(UsageError, match="unknown backend 'abacus'"):
        verify(golden_bundle, backend="abacus")
    with pytest.raises(BundleError, match="no such folder"):
        verify(tmp_path / "nowhere")


def test_a_graph_that_cannot_be_loaded(spoilt: Path) -> None:
    (spoilt / "vision.fp32.onnx").write_bytes(b"not a graph")
    reseal(spoilt)
    with pytest.raises(BackendError, match=r"vision\.fp32\.onnx: ONNX Runtime cannot load it"):
        verify(spoilt)


# Replaying everything.


@pytest.fixture
def three_precisions(spoilt: Path) -> Path:
    """The bundle with graphs that are called fp16 and int8, the signed ones spoilt; captions in fp32 only."""
    for kind in ("fp16", "int8-s8s8", "int8-u8s8"):
        shutil.copy(spoilt / "vision.fp32.onnx", spoilt / f"vision.{kind}.onnx")
    change_weight(spoilt, "vision", "semantic_logits_b", np.array([0, 0, 0, 20], np.float32), "int8-s8s8")
    kinds = ("fp32", "fp16", "int8-s8s8", "int8-u8s8")
    graphs = {
        "vision": {kind: f"vision.{kind}.onnx" for kind in kinds},
        **{part: {"fp32": f"{part}.fp32.onnx"} for part in ("caption_prefill", "caption_step")},
    }
    write_bundle(spoilt, tiny_spec(), graphs, provenance={"made_by": "tests"})
    return spoilt


@pytest.fixture
def only_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no other backend is installed, on a machine without a GPU."""
    monkeypatch.setattr("yolor_edge.runtime.verification.replay._GPU_DEVICES", ())
    for name in [name for name in BACKENDS if name != "onnxruntime"]:
        monkeypatch.delitem(BACKENDS, name)
    monkeypatch.setitem(BACKENDS, "abacus", BackendEntry("package_of_abacus", "abacus", "s8s8"))


@pytest.fixture
def abacus_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A second backend that is installed: ONNX Runtime by another name."""
    from yolor_edge.runtime.backends import onnxruntime_backend

    module = types.ModuleType("abacus")
    module.open_graph = onnxruntime_backend.open_graph  # type: ignore[attr-defined]
    monkeypatch.setattr("yolor_edge.runtime.verification.replay._GPU_DEVICES", ())
    for name in [name for name in BACKENDS if name != "onnxruntime"]:
        monkeypatch.delitem(BACKENDS, name)
    monkeypatch.setitem(BACKENDS, "abacus", BackendEntry(".abacus", "abacus", "s8s8"))
    monkeypatch.setitem(sys.modules, "yolor_edge.runtime.backends.abacus", module)
    return module


def test_everything_is_every_precision_on_every_backend(
    three_precisions: Path, abacus_module: types.ModuleType
) -> None:
    replay = verify_everything(three_precisions, threads=1)
    ran = {(one.backend, one.precision): one.passed for one in replay.verifications}
    assert ran == {
        ("onnxruntime", "fp32"): True,
        ("onnxruntime", "fp16"): True,
        ("onnxruntime", "int8"): True,
        ("abacus", "fp32"): True,
        ("abacus", "fp16"): True,
        ("abacus", "int8"): False,
    }
    assert not replay.passed
    assert replay.skipped == ()
    [failure] = replay.verifications[-1].failures
    assert (failure.golden, failure.stage) == ("all inputs", "semantic map")
    tables = replay.table().split("\n\n")
    summary = tables.pop().splitlines()
    assert summary[0] == "onnxruntime fp32  verified"
    assert summary[-1] == "abacus int8       FAILED"
    assert len(summary) == 6
    verdicts = [line for table in tables for line in table.splitlines() if line.startswith(("onnxruntime", "abacus"))]
    assert verdicts == [
        *(f"onnxruntime {precision}: verified" for precision in ("fp32", "fp16", "int8")),
        *("abacus fp32: verified", "abacus fp16: verified", "abacus int8: 1 of 28 checks failed"),
    ]
    assert json.loads(json.dumps(replay.to_json()))["passed"] is False
    never = "was never scored, its bundle was made without a data set"
    assert [one.warnings[0].partition("; ")[0] for one in replay.verifications if one.warnings] == [
        *(f"{precision} {never}" for precision in ("fp16", "int8", "fp16", "int8")),
    ]


def test_a_short_table_shows_the_worst_input_of_each_stage(spoilt: Path) -> None:
    change_weight(spoilt, "vision", "prototypes_b", np.array([-20, 0, 0], np.float32))
    reseal(spoilt)
    verification = verify(spoilt, threads=1)
    rows = verification.table(each=False).splitlines()[1:-1]
    assert len(rows) == len(STAGES)
    for row, stage in zip(rows, STAGES, strict=True):
        checks = [check for check in verification.checks if check.stage == stage]
        assert stage in row
        assert row.endswith("ok" if all(check.passed for check in checks) else "FAILED")
        worst = max(checks, key=lambda check: check.used)
        assert row.startswith(worst.golden)
        assert worst.measured in row
    assert len(verification.table().splitlines()) == 2 + 2 * len(STAGES)


@pytest.mark.usefixtures("only_onnxruntime")
def test_what_is_not_replayed_is_told(three_precisions: Path) -> None:
    (three_precisions / "engines").mkdir()
    (three_precisions / "engines" / "vision.fp16.sm_86.engine").write_bytes(b"engine")
    replay = verify_everything(three_precisions, threads=1)
    assert replay.passed
    assert {one.backend for one in replay.verifications} == {"onnxruntime"}
    assert [(one.what, one.why) for one in replay.skipped] == [
        (
            "abacus",
            'backend "abacus" needs the package package_of_abacus; install it: pip install abacus',
        ),
        ("engines/vision.fp16.sm_86.engine", "needs a GPU, and there is none here"),
    ]
    assert replay.table().endswith(
        "\nengines/vision.fp16.sm_86.engine  not replayed: needs a GPU, and there is none here"
    )
    assert replay.to_json()["skipped"][1]["what"] == "engines/vision.fp16.sm_86.engine"


@pytest.mark.usefixtures("only_onnxruntime")
def test_a_part_of_everything(three_precisions: Path) -> None:
    def ran(**choice: str) -> list[tuple[str, str]]:
        replay = verify_everything(three_precisions, threads=1, **choice)
        return [(one.backend, one.precision) for one in replay.verifications]

    assert ran(precision="fp16") == [("onnxruntime", "fp16")]
    assert ran(backend="onnxruntime") == [("onnxruntime", precision) for precision in ("fp32", "fp16", "int8")]
    assert ran(backend="onnxruntime", precision="int8") == [("onnxruntime", "int8")]


@pytest.mark.usefixtures("only_onnxruntime")
@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"backend": "abacus"}, BackendMissingError, 'backend "abacus" needs the package'),
        ({"backend": "nothing"}, UsageError, "unknown backend 'nothing'"),
        ({"precision": "fp64"}, UsageError, "unknown precision 'fp64'; the precisions are fp32, fp16, int8, or auto"),
        ({"backend": "onnxruntime", "precision": "fp64"}, UsageError, "unknown precision 'fp64'"),
    ],
)
def test_what_is_asked_for_by_name_must_be_there(
    three_precisions: Path, choice: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify_everything(three_precisions, threads=1, **choice)


@pytest.mark.usefixtures("only_onnxruntime")
def test_graphs_that_do_not_load_are_a_failure_and_the_others_go_on(three_precisions: Path) -> None:
    (three_precisions / "vision.fp16.onnx").write_bytes(b"not a graph")
    bundle = Bundle.open(write_again(three_precisions))
    replay = verify_everything(bundle, threads=1)
    assert [one.passed for one in replay.verifications] == [True, False, True]
    [failure] = replay.verifications[1].failures
    assert failure.stage == "loading and running"
    assert "vision.fp16.onnx: ONNX Runtime cannot load it" in failure.measured


@pytest.mark.usefixtures("only_onnxruntime")
def test_an_int8_graph_in_the_other_dialect_only(three_precisions: Path) -> None:
    (three_precisions / "vision.int8-u8s8.onnx").unlink()
    replay = verify_everything(Bundle.open(write_again(three_precisions)), threads=1)
    assert [one.precision for one in replay.verifications] == ["fp32", "fp16"]
    assert (replay.skipped[0].what, replay.skipped[0].why) == (
        "onnxruntime int8",
        "the bundle holds no int8 graph in the dialect u8s8",
    )


@pytest.mark.usefixtures("only_onnxruntime")
def test_a_machine_without_a_backend(golden_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BACKENDS, "onnxruntime")
    with pytest.raises(BackendError, match=r"nothing of it can be replayed here \(abacus: backend"):
        verify_everything(golden_bundle, threads=1)


def write_again(folder: Path) -> Path:
    """`bundle.json` anew, with the graphs that are still there and whatever is in them."""
    data = json.loads((folder / "bundle.json").read_text())
    graphs = {
        part: {kind: name for kind, name in names.items() if (folder / name).exists()}
        for part, names in data["graphs"].items()
    }
    return write_bundle(folder, tiny_spec(), graphs, provenance={"made_by": "tests"}).path


# Golden files.


def test_a_golden_file_comes_back_as_it_was_written(golden_bundle: Bundle, tmp_path: Path) -> None:
    image = coloured_patch((41, 67), (10, 5, 30, 40), "red")
    written = answer(golden_bundle, image)
    write_golden(tmp_path / "new" / "red.v1.npz", image, written)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["red.v1.npz"]
    again, read = read_golden(tmp_path / "new" / "red.v1.npz")
    assert np.array_equal(again, image)
    assert np.array_equal(read.pixels, written.pixels)
    assert list(read.heads) == list(written.heads)
    assert all(np.array_equal(read.heads[name], value) for name, value in written.heads.items())
    assert read.captions == written.captions
    a, b = read.result, written.result
    assert a.image_size == b.image_size == (41, 67)
    for name in ("boxes", "scores", "class_ids", "semantic_map"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.masks is not None and b.masks is not None
    assert len(b.masks) > 0
    assert np.array_equal(a.masks.full(), b.masks.full())


def test_a_golden_file_without_a_box_or_a_task(tmp_path: Path) -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    nothing = Result(
        (5, 7),
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        class_ids=np.zeros(0, np.int32),
        masks=InstanceMasks([], (5, 7)),
    )
    for result in (nothing, Result((5, 7))):
        answers = Answers(np.zeros((32, 32, 3), np.uint8), {}, result, {"greedy": ()})
        write_golden(tmp_path / "empty.npz", image, answers)
        _, read = read_golden(tmp_path / "empty.npz")
        assert read.captions == {"greedy": ()}
        assert all(check.passed for check in compare("empty", read, answers, Tolerances()))
        assert (read.result.boxes is None) == (result.boxes is None)
        assert read.result.masks is None or read.result.masks.full().shape == (0, 5, 7)


def test_an_empty_mask_and_one_in_the_corner_are_kept(tmp_path: Path) -> None:
    crops = [(0, 0, np.zeros((0, 0), np.uint8)), (3, 8, np.array([[1, 0], [0, 1]], np.uint8))]
    result = Result(
        (5, 10),
        boxes=np.zeros((2, 4), np.float32),
        scores=np.zeros(2, np.float32),
        class_ids=np.zeros(2, np.int32),
        masks=InstanceMasks(crops, (5, 10)),
    )
    answers = Answers(np.zeros((32, 32, 3), np.uint8), {}, result, {})
    write_golden(tmp_path / "one.npz", np.zeros((5, 10, 3), np.uint8), answers)
    masks = read_golden(tmp_path / "one.npz")[1].result.masks
    assert masks is not None and result.masks is not None
    assert np.array_equal(masks.full(), result.masks.full())
    assert masks.crops()[1][:2] == (3, 8)
    assert masks.crops()[1][2].shape == (2, 2)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def flip_bytes(file: Path) -> None:
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(255 - byte for byte in data[middle : middle + 40])
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("no archive at all")


def plain_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))


def pickled(file: Path) -> None:
    np.savez(file, image=np.array([{"a": 1}], object))


def resave(**changes: Any) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        with np.load(file) as archive:
            arrays = {**archive, **changes}
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_short, ""),
        (flip_bytes, ""),
        (empty, ""),
        (text, ""),
        (plain_array, ""),
        (pickled, ""),
        (resave(image=None), "it holds no image"),
        (resave(pixels=None, scores=None), "it holds no pixels, scores"),
        (resave(image=np.zeros((4, 4, 3), np.float32)), r"image must be \(h, w, 3\) uint8, got \(4, 4, 3\) float32"),
        (resave(image=np.zeros((0, 4, 3), np.uint8)), r"image must be \(h, w, 3\) uint8, got \(0, 4, 3\)"),
        (resave(image=np.uint8(3)), r"image must be \(h, w, 3\) uint8, got \(\)"),
        (resave(scores=np.float32(3)), r"boxes must have shape \(0, 4\)"),
        (resave(scores=np.zeros(9, np.float32)), r"boxes must have shape \(9, 4\)"),
        (resave(semantic_map=np.zeros((2, 2), np.uint8)), r"semantic_map must have shape \(50, 60\), got \(2, 2\)"),
        (resave(region_margins=np.zeros((2, 3), np.float32)), r"region_margins must have shape \(1, 3\), got \(2, 3\)"),
        (resave(region_margins=np.float32(1)), r"region_margins must have shape \(1, 0\), got \(\)"),
        (resave(masks=np.zeros((0, 50, 8), np.uint8)), r"masks must have shape \(.*, 50, 8\), got \(0, 50, 8\)"),
    ],
)
def test_a_damaged_golden_file_is_named(spoilt: Path, spoil: Callable[[Path], None], message: str) -> None:
    file = spoilt / "golden" / "green.npz"
    spoil(file)
    reseal(spoilt)
    with pytest.raises(BundleError, match=rf"green\.npz: is not a golden file \(.*{message}.*\); export .* again"):
        verify(spoilt, threads=1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.npz: is not a golden file"):
        read_golden(tmp_path / "none.npz")


# Tolerances.


def test_tolerances_come_back_from_json() -> None:
    given = Tolerances(0.1, 0.5, 0.2, 0.4, 0.9)
    assert Tolerances.from_json(json.loads(json.dumps(dataclasses.asdict(given)))) == given
    assert Tolerances.from_json({}) == Tolerances()
    assert Tolerances.from_json({"head": 1}) == Tolerances(head=1.0)


@pytest.mark.parametrize(
    "tolerances", [{"fp32": {"head": "much"}}, {"fp32": {"head": None}}, {"fp32": [1]}, [1], {"fp32": 3}]
)
def test_tolerances_that_are_no_numbers(spoilt: Path, tolerances: Any) -> None:
    data = json.loads((spoilt / "bundle.json").read_text())
    data["parity"] = {"tolerances": tolerances}
    (spoilt / "bundle.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"parity\.tolerances in bundle\.json must map a precision to numbers"):
        verify(spoilt, threads=1)


# Comparing.


def failures(expected: Answers, found: Answers, tolerances: Tolerances | None = None) -> dict[str, str]:
    """What was measured, by the stages that failed."""
    return {
        check.stage: check.measured
        for check in compare("x", expected, found, tolerances or Tolerances())
        if not check.passed
    }


def changed(answers: Answers, **fields: Any) -> Answers:
    """A copy with other fields of the result, or with `pixels`, `heads` or `captions`."""
    own = {name: fields.pop(name) for name in ("pixels", "heads", "captions") if name in fields}
    return dataclasses.replace(answers, **own, result=dataclasses.replace(answers.result, **fields))


def with_head(answers: Answers, name: str, value: Any) -> Answers:
    return changed(answers, heads={**answers.heads, name: value})


def test_the_same_passes(expected: Answers) -> None:
    assert failures(expected, expected) == {}


def test_one_pixel_one_level_off(expected: Answers) -> None:
    pixels = expected.pixels.copy()
    pixels[3, 4, 1] -= 1
    assert failures(expected, changed(expected, pixels=pixels)) == {"pixels": "1 levels"}
    other_shape = changed(expected, pixels=pixels[:-1])
    assert failures(expected, other_shape) == {"pixels": f"shape {other_shape.pixels.shape}"}


@pytest.mark.parametrize(("factor", "passes"), [(0.9, True), (1.1, False)])
def test_a_head_is_compared_by_its_own_scale(expected: Answers, factor: float, passes: bool) -> None:
    head = expected.heads["box_bins"].copy()
    head[0, 5, 7] += factor * 1e-3 * np.abs(head).max()
    found = failures(expected, with_head(expected, "box_bins", head))
    assert found == ({} if passes else {"box_bins": "1.1e-03 at (0, 5, 7)"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_value_that_is_no_number_fails(expected: Answers, value: float) -> None:
    head = expected.heads["class_logits"].copy()
    head[0, 1, 2] = value
    spoilt = with_head(expected, "class_logits", head)
    assert list(failures(expected, spoilt)) == ["class_logits"]
    assert list(failures(spoilt, expected)) == ["class_logits"]
    assert list(failures(spoilt, spoilt)) == ["class_logits"], "neither of the two can be trusted"


def test_a_head_of_zeros_equals_itself_only(expected: Answers) -> None:
    zeros = with_head(expected, "box_bins", np.zeros_like(expected.heads["box_bins"]))
    assert failures(zeros, zeros) == {}
    assert list(failures(zeros, expected)) == ["box_bins"]


def test_a_head_of_another_shape_or_absent(expected: Answers) -> None:
    shorter = with_head(expected, "prototypes", expected.heads["prototypes"][:, :2])
    assert failures(expected, shorter) == {"prototypes": f"shape {(1, 2, *expected.heads['prototypes'].shape[2:])}"}
    heads = {name: value for name, value in expected.heads.items() if name != "prototypes"}
    assert failures(expected, changed(expected, heads=heads)) == {"prototypes": "absent"}


def objects(
    boxes: list[list[float]],
    scores: list[float],
    class_ids: list[int],
    masks: list[tuple[int, int, NDArray[np.uint8]]] | None = None,
) -> Answers:
    """Answers of an image of 40 x 60 that are only objects."""
    result = Result(
        (40, 60),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        class_ids=np.array(class_ids, np.int32),
        masks=None if masks is None else InstanceMasks(masks, (40, 60)),
    )
    return Answers(np.zeros((1, 1, 3), np.uint8), {}, result, {})


BOXES: list[list[float]] = [[0, 0, 20, 20], [30, 10, 50, 30], [5, 5, 15, 35]]
THREE = objects(BOXES, [0.9, 0.8, 0.7], [0, 1, 1])


def test_boxes_may_come_in_another_order() -> None:
    found = objects([BOXES[2], BOXES[0], BOXES[1]], [0.7, 0.9, 0.8], [1, 0, 1])
    assert failures(THREE, found) == {}


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (objects(BOXES[:2], [0.9, 0.8], [0, 1]), "2 of 3 matched, 2 found"),
        (objects([*BOXES, [40, 30, 50, 40]], [0.9, 0.8, 0.7, 0.3], [0, 1, 1, 0]), "3 of 3 matched, 4 found"),
        (objects([*BOXES, BOXES[0]], [0.9, 0.8, 0.7, 0.3], [0, 1, 1, 0]), "3 of 3 matched, 4 found"),
        (objects(BOXES, [0.9, 0.8, 0.7], [0, 1, 0]), "2 of 3 matched, 3 found"),
        (objects([[0, 0, 20, 20.5], *BOXES[1:]], [0.9, 0.8, 0.7], [0, 1, 1]), "3 of 3 matched, 3 found, IoU >= 0.9756"),
        (objects(BOXES, [0.9, 0.8, 0.69], [0, 1, 1]), "3 of 3 matched, 3 found, IoU >= 1.0000, score +- 1.0e-02"),
        (objects([[20, 20, 40, 40], *BOXES[1:]], [0.9, 0.8, 0.7], [0, 1, 1]), "2 of 3 matched, 3 found"),
        (objects([], [], []), "0 of 3 matched, 0 found"),
        (objects(BOXES, [0.9, np.nan, 0.7], [0, 1, 1]), "3 of 3 matched"),
        (objects([[np.nan] * 4, *BOXES[1:]], [0.9, 0.8, 0.7], [0, 1, 1]), "2 of 3 matched"),
    ],
    ids=["missing", "one more", "doubled", "class", "moved", "score", "elsewhere", "none", "nan score", "nan box"],
)
def test_objects_that_differ(found: Answers, start: str) -> None:
    failed = failures(THREE, found)
    assert list(failed) == ["boxes"]
    assert failed["boxes"].startswith(start)


def test_what_is_allowed_may_differ() -> None:
    found = objects([[0, 0, 20, 20.1], *BOXES[1:]], [0.904, 0.8, 0.7], [0, 1, 1])
    assert failures(THREE, found) == {}
    assert list(failures(THREE, found, Tolerances(box_iou=0.999))) == ["boxes"]
    assert list(failures(THREE, found, Tolerances(score=1e-3))) == ["boxes"]


def test_a_box_is_matched_to_its_own_counterpart_in_a_crowd() -> None:
    """Two boxes of a class that overlap by more than half are not mistaken for each other."""
    near: list[list[float]] = [[0, 0, 20, 20], [3, 0, 23, 20]]
    a, b = objects(near, [0.9, 0.8], [1, 1]), objects(near[::-1], [0.8, 0.9], [1, 1])
    assert failures(a, b) == {}


def test_a_box_is_the_counterpart_of_one_only() -> None:
    near: list[list[float]] = [[0, 0, 20, 20], [0, 0, 20, 20.1]]
    a = objects(near, [0.9, 0.9], [1, 1])
    failed = failures(a, objects([near[0], [30, 10, 50, 30]], [0.9, 0.9], [1, 1]))
    assert failed["boxes"].startswith("1 of 2 matched, 2 found")


def square(y: int, x: int, side: int = 10) -> tuple[int, int, NDArray[np.uint8]]:
    return y, x, np.ones((side, side), np.uint8)


@pytest.mark.parametrize(
    ("mask", "iou"),
    [
        (square(5, 5), 1.0),
        ((5, 5, np.pad(np.ones((10, 10), np.uint8), (0, 4))), 1.0),
        ((0, 0, np.pad(np.ones((10, 10), np.uint8), (5, 20))), 1.0),
        (square(5, 10), 50 / 150),
        (square(10, 10), 25 / 175),
        (square(5, 15), 0.0),
        (square(20, 30), 0.0),
        ((0, 0, np.zeros((0, 0), np.uint8)), 0.0),
        (square(6, 6, 8), 64 / 100),
    ],
)
def test_masks_are_compared_wherever_their_crops_lie(mask: tuple[int, int, NDArray[np.uint8]], iou: float) -> None:
    a = objects([[5, 5, 15, 15]], [0.9], [0], [square(5, 5)])
    b = objects([[5, 5, 15, 15]], [0.9], [0], [mask])
    for one, other in ((a, b), (b, a)):
        assert failures(one, other) == ({} if iou == 1 else {"masks": f"IoU >= {iou:.4f}"})
    full_a, full_b = (answers.result.masks for answers in (a, b))
    assert full_a is not None and full_b is not None
    both = full_a.full() & full_b.full()
    assert both.sum() / (full_a.full() | full_b.full()).sum() == pytest.approx(iou)


def test_two_empty_masks_are_the_same() -> None:
    nothing = objects([[5, 5, 15, 15]], [0.9], [0], [(7, 7, np.zeros((2, 2), np.uint8))])
    also = objects([[5, 5, 15, 15]], [0.9], [0], [(0, 0, np.zeros((0, 0), np.uint8))])
    assert failures(nothing, also) == {}


def test_the_mask_of_the_matching_box_is_compared() -> None:
    boxes: list[list[float]] = [[5, 5, 15, 15], [20, 20, 30, 30]]
    masks = [square(5, 5), square(20, 20)]
    a = objects(boxes, [0.9, 0.9], [0, 0], masks)
    assert failures(a, objects(boxes[::-1], [0.9, 0.9], [0, 0], masks[::-1])) == {}
    assert failures(a, objects(boxes, [0.9, 0.9], [0, 0], masks[::-1])) == {"masks": "IoU >= 0.0000"}


def test_the_semantic_map_may_differ_in_one_pixel_of_a_thousand(expected: Answers) -> None:
    assert expected.result.semantic_map is not None
    for pixels, passes in ((3, True), (4, False)):  # of 3000
        other = expected.result.semantic_map.copy()
        other.ravel()[:pixels] += 1
        assert (failures(expected, changed(expected, semantic_map=other)) == {}) == passes


def test_another_caption(expected: Answers) -> None:
    greedy = expected.captions["greedy"]
    other = {**expected.captions, "greedy": (*greedy[:-1], greedy[-1] + 1)}
    failed = failures(expected, changed(expected, captions=other))
    assert failed == {"caption (greedy)": "differs from token 4 on, 4 tokens"}
    shorter = {**expected.captions, "beam": expected.captions["beam"][:-1]}
    assert failures(expected, changed(expected, captions=shorter)) == {
        "caption (beam)": "differs from token 4 on, 3 tokens, not 4"
    }


def test_an_answer_that_is_absent_fails(expected: Answers) -> None:
    assert failures(expected, changed(expected, semantic_map=None)) == {"semantic map": "absent"}
    assert failures(expected, changed(expected, masks=None)) == {"masks": "absent"}
    assert failures(expected, changed(expected, captions={})) == {
        "caption (greedy)": "absent",
        "caption (beam)": "absent",
    }
    without_boxes = changed(expected, boxes=None, scores=None, class_ids=None, masks=None)
    assert failures(expected, without_boxes) == {"boxes": "absent"}
