"""Finding where two precisions part: on a small graph made by hand, and on an exported network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.errors import BundleError, UsageError
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.verification.golden import Answers, write_golden

from ...runtime.tiny_bundle import INPUT_SIZE, coloured_patch, tiny_spec, write_tiny_bundle
from ..exported import Exported

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from yolor_edge.export.parity.dissect import Anatomy, stage_of  # noqa: E402
from yolor_edge.export.parity.stage_diff import TOLERANCES, Diff, decibels, diff  # noqa: E402  it imports onnx

CHANNELS = 8
# Every layer of the small network, with what it works on; a Concat joins two.
SOURCES = {
    "body.stem.0.conv": "images",
    "body.stem.1.conv": "body.stem.0.conv",
    "body.left.conv": "body.stem.1.conv",
    "body.right.0.conv": "body.stem.1.conv",
    "body.right.1.conv": "body.right.0.conv",
    "join.conv": "body.left.conv+body.right.1.conv",
    "head.boxes.0": "join.conv",
    "head.classes.0": "join.conv",
}
STAGES = ["body.stem", "body.left", "body.right", "join.conv", "head.boxes", "head.classes"]
Weights = dict[str, NDArray[np.float32]]


def layer_weights() -> Weights:
    rng = np.random.default_rng(7)
    found = {}
    for name, source in SOURCES.items():
        inputs = 3 if source == "images" else CHANNELS * len(source.split("+"))
        found[name] = rng.normal(0, 1.5 / np.sqrt(9 * inputs), (CHANNELS, inputs, 3, 3)).astype(np.float32)
    return found


def small_network(weights: Weights | None = None, kind: str = "fp32", batch: int | str = "batch") -> Any:
    """A graph of `SOURCES` with a SiLU behind all but the heads, in float, in half precision, or with Q/DQ pairs."""
    dtype = np.float16 if kind == "fp16" else np.float32
    nodes: list[Any] = []
    tensors: list[Any] = []

    def constant(name: str, value: Any) -> str:
        tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name or output, **attributes))
        return output

    def pair(name: str, scale: float) -> str:
        parameters = [constant(f"{name}/scale", np.float32(scale)), constant(f"{name}/zero", np.int8(0))]
        return node(
            "DequantizeLinear", [node("QuantizeLinear", [name, *parameters], f"{name}/q"), *parameters], f"{name}/dq"
        )

    given = {"images": node("Cast", ["images"], "images/half", to=TensorProto.FLOAT16) if kind == "fp16" else "images"}
    if kind == "int8":
        given["images"] = pair("images", 1 / 127)
    for name, weight in (weights or layer_weights()).items():
        sources = [given[source] for source in SOURCES[name].split("+")]
        source = sources[0] if len(sources) == 1 else node("Concat", sources, f"{name}/Concat", axis=1)
        inputs = [source, constant(f"{name}.weight", weight.astype(dtype))]
        if name.startswith("head"):
            half = node("Conv", inputs, f"{name}/half", name, pads=[1, 1, 1, 1]) if kind == "fp16" else None
            output = name.replace(".0", "_out")
            if half is not None:
                node("Cast", [half], output, to=TensorProto.FLOAT)
            else:
                node("Conv", inputs, output, name, pads=[1, 1, 1, 1])
            continue
        product = node("Conv", inputs, name, pads=[1, 1, 1, 1])
        gate = node("Sigmoid", [product], f"{name}/Sigmoid")
        given[name] = node("Mul", [product, gate], f"{name}/Mul")
        if kind == "int8":
            given[name] = pair(given[name], 4 / 127)
    shapes = {"images": 3, "head.boxes_out": CHANNELS, "head.classes_out": CHANNELS}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, *INPUT_SIZE])
        for name, channels in shapes.items()
    }
    graph = helper.make_graph(nodes, "vision", [values.pop("images")], list(values.values()), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def bundle_of(folder: Path, **models: Any) -> Path:
    """A bundle of vision graphs by kind ("int8" is the signed dialect), with two reference inputs."""
    folder.mkdir(parents=True)
    graphs = {}
    for kind, model in models.items():
        name = {"int8": "int8-s8s8"}.get(kind, kind)
        graphs[name] = f"vision.{name}.onnx"
        onnx.save(model, folder / graphs[name])
    for i, colour in enumerate(("red", "blue")):
        image = coloured_patch(INPUT_SIZE, (10 * i, 10, 50, 70), colour)
        image = np.clip(image.astype(int) + np.random.default_rng(i).integers(-60, 60, image.shape), 0, 255)
        answers = Answers(np.zeros((*INPUT_SIZE, 3), np.uint8), {}, Result(INPUT_SIZE), {})
        write_golden(folder / "golden" / f"{colour}.npz", image.astype(np.uint8), answers)
    write_bundle(folder, tiny_spec(("boxes",)), {"vision": graphs}, provenance={"made_by": "tests"})
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in all precisions: not to be changed."""
    models = {kind: small_network(kind=kind) for kind in ("fp32", "fp16", "int8")}
    return bundle_of(tmp_path_factory.mktemp("small") / "small", **models)


def disturbed(name: str, by: float = 0.05) -> Any:
    weights = layer_weights()
    weights[name] = weights[name] * (1 + by)
    return small_network(weights)


def stage(found: Diff, name: str) -> Any:
    return next(one for one in found.stages if one.stage == name)


# What is found.


def test_a_graph_does_not_differ_from_itself(small: Path) -> None:
    found = diff(small, f"{small}:fp32", threads=1)
    assert found.passed
    assert [one.stage for one in found.stages] == STAGES
    assert [one.layers for one in found.stages] == [2, 1, 2, 1, 1, 1]
    assert all(one.difference.noise == one.difference.worst == one.own_noise == 0 for one in found.stages)
    assert (found.first, found.layers, found.keep_float, found.missing) == (None, (), (), ())
    assert (found.images, found.tolerance) == (2, TOLERANCES["fp32"])


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_stage_with_a_disturbed_layer_is_named_and_the_layer_in_it(small: Path, tmp_path: Path, name: str) -> None:
    other = bundle_of(tmp_path / "other", fp32=disturbed(name))
    found = diff(f"{small}:fp32", f"{other}:fp32", threads=1)
    assert not found.passed
    assert found.first == stage_of(name)
    assert found.keep_float == (name,)
    # Others are over the tolerance as well, but add nothing of their own.
    for one in found.stages:
        assert (one.own_noise > found.tolerance) == (one.stage == found.first)
        assert one.passed == (one.difference.noise <= found.tolerance)
    assert [layer.layer for layer in found.layers] == [layer for layer in SOURCES if stage_of(layer) == found.first]
    for layer in found.layers:
        assert (layer.own_noise > 1e-3) == layer.keep_float == (layer.layer == name)


def test_what_comes_before_a_disturbed_layer_is_within(small: Path, tmp_path: Path) -> None:
    other = bundle_of(tmp_path / "other", fp32=disturbed("body.right.0.conv"))
    found = diff(small, other, threads=1)
    assert {one.stage for one in found.stages if not one.passed} == {
        "body.right",
        "join.conv",
        "head.boxes",
        "head.classes",
    }


def test_noise_is_the_difference_over_the_signal(small: Path, tmp_path: Path) -> None:
    """The weights of a head without a bias grown by a twentieth: so does all that it gives."""
    other = bundle_of(tmp_path / "other", fp32=disturbed("head.boxes.0", by=0.05))
    found = stage(diff(small, other, threads=1), "head.boxes")
    assert found.difference.noise == pytest.approx(0.05, rel=1e-4)
    assert found.difference.worst == pytest.approx(0.05, rel=1e-4)
    assert found.difference.sqnr_db == pytest.approx(26.02, abs=0.01)
    assert np.array(found.difference.range_b) == pytest.approx(1.05 * np.array(found.difference.range_a), rel=1e-4)
    assert found.own_noise == pytest.approx(0.05, rel=1e-4)


def test_half_precision_differs_by_its_rounding(small: Path) -> None:
    found = diff(f"{small}:fp32", f"{small}:fp16", threads=1)
    assert found.passed
    assert found.tolerance == TOLERANCES["fp16"]
    assert all(1e-5 < one.difference.noise < 2e-3 for one in found.stages if not one.stage.startswith("head"))
    assert [one.stage for one in found.stages] == STAGES[:4] + [s for s in STAGES[4:] if stage(found, s)]


def test_a_layer_beyond_the_range_of_half_precision_is_found(tmp_path: Path) -> None:
    weights = layer_weights()
    for name, factor in (("body.stem.1.conv", 100), ("body.right.0.conv", 2e4), ("body.right.1.conv", 1e-4)):
        weights[name] = weights[name] * np.float32(factor)
    models = {kind: small_network(weights, kind) for kind in ("fp32", "fp16")}
    both = bundle_of(tmp_path / "both", **models)
    found = diff(f"{both}:fp32", f"{both}:fp16", threads=1)
    assert found.first == "body.right"
    assert found.keep_float == ("body.right.0.conv", "body.right.1.conv"), (
        "the one that gives it, the one that takes it"
    )
    json.dumps(found.to_json(), allow_nan=False)


def test_in_int8_noise_gathers_and_each_layer_adds_its_own(small: Path) -> None:
    found = diff(f"{small}:fp32", f"{small}:int8", threads=1)
    assert found.tolerance == TOLERANCES["int8"]
    assert found.b.endswith(":int8-s8s8")
    assert stage(found, "join.conv").difference.noise > 1.2 * stage(found, "join.conv").own_noise
    assert all(1e-3 < one.own_noise < 0.1 for one in found.stages)
    back = diff(f"{small}:int8", f"{small}:fp32", threads=1)
    assert [one.stage for one in back.stages] == [one.stage for one in found.stages]


def test_a_scale_that_clips_is_found_where_it_is(small: Path, tmp_path: Path) -> None:
    model = onnx.load(small / "vision.int8-s8s8.onnx")
    scale = next(weight for weight in model.graph.initializer if weight.name == "body.right.0.conv/Mul/scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.05 / 127, np.float32), scale.name))
    other = bundle_of(tmp_path / "other", int8=model, fp32=small_network())
    found = diff(f"{small}:fp32", f"{other}:int8", threads=1)
    # The layer that reads the clipped values works in int8 because of them, and it is the one to keep in float.
    assert (found.first, found.keep_float) == ("body.right", ("body.right.1.conv",))


def test_a_tolerance_may_be_chosen(small: Path) -> None:
    strict = diff(f"{small}:fp32", f"{small}:fp16", tolerance=1e-6, threads=1)
    assert strict.first == "body.stem"
    assert strict.keep_float == ("body.stem.0.conv", "body.stem.1.conv")
    assert diff(f"{small}:fp32", f"{small}:int8", tolerance=0.5, threads=1).passed


def test_graphs_for_a_fixed_batch(tmp_path: Path) -> None:
    free, fixed = (
        bundle_of(tmp_path / "a", fp32=small_network()),
        bundle_of(tmp_path / "b", fp32=small_network(batch=2)),
    )
    for a, b in ((free, fixed), (fixed, free), (fixed, fixed)):
        assert diff(a, b, threads=1).passed


def test_layers_of_one_side_only_are_told(small: Path, tmp_path: Path) -> None:
    model = small_network()
    del model.graph.node[-1:]
    del model.graph.output[-1:]
    other = bundle_of(tmp_path / "other", fp32=model)
    for a, b in ((small, other), (other, small)):
        found = diff(a, b, threads=1)
        assert found.passed
        assert found.missing == ("head.classes.0",)
        assert "only in one of the two: head.classes.0" in found.table()


# How it is told.


def test_the_table_names_the_stage_and_the_list_is_what_export_reads(small: Path, tmp_path: Path) -> None:
    other = bundle_of(tmp_path / "other", fp32=disturbed("body.right.1.conv"))
    steps: list[tuple[int, int]] = []
    found = diff(small, other, threads=1, progress=lambda _, done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    lines = found.table().splitlines()
    assert lines[:3] == [f"A: {small}:fp32", f"B: {other}:fp32", "2 reference inputs"]
    rows = {line.split()[0]: line for line in lines[5:11]}
    assert list(rows) == STAGES
    assert rows["body.stem"].endswith("ok")
    assert rows["body.right"].endswith("OVER")
    assert "first over the tolerance: body.right (allowed is noise 0.0001, 80.0 dB); its layers:" in lines
    assert lines[-2].split()[0] == "body.right.0.conv"
    assert lines[-1].startswith("body.right.1.conv") and lines[-1].endswith("keep in float")
    assert found.keep_float_text() == "body.right.1.conv\n"
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["passed"], data["first"], data["keep_float"]) == (False, "body.right", ["body.right.1.conv"])
    assert data["stages"][2]["difference"]["noise"] == stage(found, "body.right").difference.noise


def test_no_noise_is_a_number_of_decibels() -> None:
    assert decibels(1.0) == 0
    assert decibels(0.1) == pytest.approx(20)
    assert decibels(0.0) == pytest.approx(240)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("backbone.stem.0.conv", "backbone.stem"),
        ("backbone.stage3.0.pool.1.conv", "backbone.stage3"),
        ("neck.outputs.2.conv", "neck.outputs"),
        ("box_head.classes.0.2", "box_head.classes"),
        ("caption_memory", "caption_memory"),
        ("head.3", "head"),
        ("/model.22/cv2/Conv", ".model"),
    ],
)
def test_stages_are_named_after_modules(name: str, expected: str) -> None:
    assert stage_of(name) == expected


def test_layers_end_behind_their_activation_in_every_precision() -> None:
    for kind in ("fp32", "fp16", "int8"):
        layers = Anatomy(small_network(kind=kind)).layers
        assert [layer.name for layer in layers] == list(SOURCES)
        assert [layer.tensor for layer in layers[:6]] == [f"{name}/Mul" for name in list(SOURCES)[:6]]


# What cannot be compared.


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        ("nowhere", "{small}", BundleError, "^nowhere: no such folder"),
        ("{small}", "nowhere:int8", BundleError, "^nowhere: no such folder"),
        ("{small}:fp64", "{small}", UsageError, 'small:fp64: unknown precision "fp64"; known are int8, fp32, fp16'),
        ("{small}:int8-u8s8", "{small}", UsageError, "has no int8-u8s8 graph, it holds fp32, fp16, int8-s8s8"),
        ("{small}", "{tiny}", UsageError, "have no layer in common: diff compares two precisions of one network"),
        ("{small}", "{wider}", UsageError, r"takes images \(\?, 3, 64, 96\), .* takes images \(\?, 3, 64, 128\)"),
        (
            "{small}",
            "{deeper}",
            UsageError,
            r"not of one network: join.conv gives \(\?, 8, 64, 96\) and \(\?, 16, 64, 96\)",
        ),
        ("{bare}", "{small}", BundleError, "holds no reference inputs to compare on; export it again"),
        ("{small}", "{damaged}", BundleError, r"vision\.fp32\.onnx: is not an ONNX graph"),
    ],
)
def test_what_cannot_be_compared(
    small: Path, tmp_path: Path, a: str, b: str, error: type[Exception], message: str
) -> None:
    def reseal(folder: Path, spoil: Callable[[Path], object]) -> Path:
        spoil(folder)
        data = json.loads((folder / "bundle.json").read_text())
        write_bundle(folder, tiny_spec(("boxes",)), data["graphs"], provenance={})
        return folder

    def wider(folder: Path) -> None:
        model = small_network()
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[3].dim_value = 128
        onnx.save(model, folder / "vision.fp32.onnx")

    def deeper(folder: Path) -> None:
        weights = layer_weights()
        weights["join.conv"] = np.repeat(weights["join.conv"], 2, axis=0)
        for name in ("head.boxes.0", "head.classes.0"):
            weights[name] = np.repeat(weights[name], 2, axis=1)
        onnx.save(small_network(weights), folder / "vision.fp32.onnx")

    folders = {"small": small, "tiny": tmp_path / "tiny"}
    write_tiny_bundle(folders["tiny"], ("boxes",))
    spoils: dict[str, Callable[[Path], object]] = {
        "wider": wider,
        "deeper": deeper,
        "bare": lambda folder: shutil.rmtree(folder / "golden"),
        "damaged": lambda folder: (folder / "vision.fp32.onnx").write_bytes(b"no graph at all"),
    }
    for name, spoil in spoils.items():
        folders[name] = reseal(Path(shutil.copytree(small, tmp_path / name)), spoil)
    with pytest.raises(error, match=message) as caught:
        diff(a.format(**folders), b.format(**folders), threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_above_zero(small: Path, tolerance: float) -> None:
    with pytest.raises(UsageError, match="tolerance must be a number above 0, got"):
        diff(small, small, tolerance)


# An exported network.


@pytest.mark.parametrize(
    ("layer", "first"),
    [
        ("backbone.stem.2.conv", "backbone.stem"),
        ("backbone.stage4.1.rows.0.0.conv", "backbone.stage4"),
        ("neck.lateral4.conv", "neck.lateral4"),
        ("neck.up5.exit.conv", "neck.up5"),
        ("neck.outputs.1.conv", "neck.outputs"),
        ("box_head.boxes.1.0.conv", "box_head.boxes"),
        ("mask_head.exit.1", "mask_head.exit"),
        ("caption_memory", "caption_memory"),
    ],
)
def test_a_disturbed_layer_of_an_exported_network_is_named(
    exported: Exported, tmp_path: Path, layer: str, first: str
) -> None:
    folder = Path(shutil.copytree(exported.bundle.path, tmp_path / "other"))
    file = folder / "vision.fp32.onnx"
    model = onnx.load(file)
    conv = next(node for node in model.graph.node if node.name == layer)
    weight = next(one for one in model.graph.initializer if one.name == conv.input[1])
    value = numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).normal(0, 0.05 * value.std(), value.shape)
    weight.CopyFrom(numpy_helper.from_array((value + noise).astype(np.float32), weight.name))
    onnx.save(model, file)
    bundle = exported.bundle
    other: Bundle = write_bundle(folder, bundle.spec, bundle.graphs, provenance={})
    found = diff(bundle.path, other.path, threads=1)
    assert found.first == first
    assert found.keep_float == (layer,)
