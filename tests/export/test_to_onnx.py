"""From a checkpoint to a bundle: what is in it, that it answers as the network does, and when none is written."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export import to_onnx
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.export.onnx_graphs.graph_cleanup import check_no_constants
from yolor_edge.export.parity.fold_proof import VisionCost
from yolor_edge.export.to_onnx import export_bundle
from yolor_edge.runtime.backends.onnxruntime_backend import open_graph
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import CheckpointError, ImageError, ParityError, UsageError
from yolor_edge.runtime.files import sha256_of
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.verification.replay import Tolerances, answers_of, compare, read_golden, verify
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.network.network import Network
from yolor_edge.train.torch_backend import TorchGraph, parts_of, spec_of, torch_model

from .exported import Exported

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = ("vision", "caption_prefill", "caption_step")
CELLS = 8 * 12 + 4 * 6 + 2 * 3
CLASSES, SEMANTIC, PROTOTYPES, BINS = 8, 17, 32, 4 * 16
MEMORY, WIDTH, LAYERS, HEADS, DEPTH = 6, 128, 3, 4, 32


@pytest.fixture(scope="module")
def network(exported: Exported) -> Network:
    network = exported.checkpoint.network()
    assert isinstance(network, Network)
    return network


@pytest.fixture
def stored_parts(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> dict[str, onnx.ModelProto]:
    """Exports within the test write these graphs, those of the exported bundle, instead of asking torch again."""
    models = {name: onnx.load(path) for name, path in exported.bundle.graph_files().items()}

    def export_part(name: str, part: TorchGraph) -> onnx.ModelProto:
        return models[name]

    def unfolded_cost(network: Network) -> VisionCost:
        return VisionCost.of(network, models["vision"])

    monkeypatch.setattr(to_onnx, "export_part", export_part)
    monkeypatch.setattr(to_onnx, "unfolded_cost", unfolded_cost)
    return models


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is refused before the long work begins."""

    def export_part(name: str, part: TorchGraph) -> onnx.ModelProto:
        raise AssertionError("the export was begun")

    monkeypatch.setattr(to_onnx, "export_part", export_part)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`, hidden ones too."""
    return {str(file.relative_to(folder)): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


def perturb(model: onnx.ModelProto, initializer: str | None = None, output: str | None = None, by: float = 0.5) -> None:
    """Add `by` to all of one weight: the one named, or the bias of the last convolution before `output`."""
    if initializer is None:
        makers = {name: node for node in model.graph.node for name in node.output}
        node = makers[str(output)]
        while node.op_type != "Conv":
            node = makers[node.input[0]]
        initializer = node.input[2]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == initializer)
    value = numpy_helper.to_array(weight) + np.float32(by)
    weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), initializer))


# What is in it.


def test_the_bundle_opens_and_knows_the_model(exported: Exported, network: Network) -> None:
    bundle = Bundle.open(exported.bundle.path)
    assert bundle.spec == spec_of(network.config)
    assert bundle.spec.tasks == ("boxes", "masks", "semantic", "caption")
    assert bundle.spec.input_size == (64, 96)
    assert bundle.spec.class_names == network.config.class_names
    assert bundle.spec.caption is not None
    assert bundle.spec.caption.vocabulary == network.config.vocabulary
    assert bundle.spec.caption.max_length == 11
    golden = {f"golden/scene-{i}.npz" for i in range(3)}
    weights = {"fp32": "caption.fp32.bin", "int8": "caption.int8.bin"}
    assert set(bundle.files) == {f"{part}.fp32.onnx" for part in PARTS} | golden | set(weights.values())
    assert bundle.caption_weights == weights
    assert bundle.graphs == {part: {"fp32": f"{part}.fp32.onnx"} for part in PARTS}


def test_the_bundle_says_where_it_came_from(exported: Exported) -> None:
    provenance = exported.bundle.provenance
    assert provenance["checkpoint_sha256"] == exported.checkpoint.sha256
    assert provenance["checkpoint"] == exported.checkpoint.provenance
    assert provenance["exporter"]["torch"] == torch.__version__
    assert provenance["exporter"]["onnx"] == onnx.__version__
    assert provenance["exporter"]["opset"] == 18


@pytest.mark.parametrize("part", PARTS)
def test_a_lone_graph_says_what_it_is(exported: Exported, part: str) -> None:
    bundle = exported.bundle
    graph = onnx.load(bundle.graph_files()[part])
    told = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(told["names"]) == list(bundle.spec.class_names)
    assert told["yolor_edge.name"] == bundle.spec.name
    assert (told["yolor_edge.part"], told["yolor_edge.precision"]) == (part, "fp32")
    assert told["yolor_edge.weights_sha256"] == bundle.provenance["checkpoint_sha256"]
    assert told["yolor_edge.licence"] == bundle.licence
    model = json.loads(told["yolor_edge.model"])
    known = bundle.spec.to_json()
    assert model == {name: known[name] for name in known if name != "caption"}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert all(node.input[1] == f"{node.name}.weight" for node in convolutions)


def test_the_ladder_is_kept_in_the_bundle(exported: Exported) -> None:
    parity = exported.bundle.parity
    outputs = ["class_logits", "box_bins", "mask_coefficients", "prototypes", "semantic_logits", "caption_memory"]
    assert list(parity["folded"]) == outputs
    assert all(0 <= worst <= 1e-4 for worst in parity["folded"].values())
    assert all(0 <= worst <= 1e-12 for worst in parity["folded_float64"].values())
    for name, own in parity["folded_rounding"].items():
        assert 1e-5 < parity["folded"][name] <= 4 * own
    before, after = parity["folding"]["before"], parity["folding"]["after"]
    graph = onnx.load(exported.bundle.graph_files()["vision"])
    del graph.metadata_props[:]  # what a lone file says of itself came later
    assert after["nodes"] == len(graph.graph.node) < before["nodes"]
    assert after["bytes"] == graph.ByteSize() < before["bytes"]
    assert after["parameters"] < before["parameters"]
    assert after["flops"] == before["flops"]
    assert after["norm_flops"] == 0 < before["norm_flops"]
    assert Tolerances.from_json(parity["tolerances"]["fp32"]) == Tolerances()
    stages = ["pixels", *outputs, "boxes", "masks", "semantic map", "caption (greedy)", "caption (beam)"]
    found = [(check["golden"], check["stage"]) for check in parity["onnx_fp32"]]
    assert found == [(f"scene-{i}", stage) for i in range(3) for stage in stages] + [
        ("batch of 3", name) for name in outputs
    ]
    assert all(check["passed"] for check in parity["onnx_fp32"])
    native = [(check["golden"], check["stage"]) for check in parity["caption_fp32"] if check["passed"]]
    searches = ("caption (greedy, native)", "caption (beam, native)")
    assert native == [(f"scene-{i}", stage) for i in range(3) for stage in searches]


def test_nothing_else_is_left_on_disk_and_nothing_is_printed(exported: Exported) -> None:
    folder = exported.bundle.path.parent
    assert sorted(path.name for path in folder.iterdir()) == ["bundle", "checkpoint", "scenes"]
    assert exported.printed == ""
    begun = [step for step in exported.steps if step.endswith(" ...")]  # a line before each step, in time to wait by
    assert begun == [
        "folding norms and implicit knowledge into the convolutions ...",
        *(f"writing {part}.fp32.onnx ..." for part in PARTS),
        "comparing captions of the native decoder with the network's on 3 images ...",
        "comparing ONNX fp32 with the network on 3 images ...",
    ]
    assert [step.partition(":")[0] for step in exported.steps if step not in begun][:5] == [
        "folded",
        "vision.fp32.onnx",
        "vision, before -> after folding",
        *(f"{part}.fp32.onnx" for part in PARTS[1:]),
    ]
    assert exported.steps[-1].startswith("ONNX fp32 agrees with the network in ")


def test_exporting_imports_no_other_backend(exported: Exported) -> None:
    assert not {"tensorrt", "pycuda", "onnxsim", "torchvision"} & set(sys.modules)


CACHE: list[Any] = [LAYERS, "beam", HEADS, "past", DEPTH]
GROWN: list[Any] = [LAYERS, "beam", HEADS, "past + 1", DEPTH]
CROSS: list[Any] = [LAYERS, 1, HEADS, MEMORY, DEPTH]
FIRST: list[Any] = [LAYERS, 1, HEADS, 1, DEPTH]


def expected_tensors(words: int) -> dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]]:
    """Inputs and outputs of every part, in order, with their axes."""
    return {
        "vision": (
            {"images": ["batch", 3, 64, 96]},
            {
                "class_logits": ["batch", CLASSES, CELLS],
                "box_bins": ["batch", BINS, CELLS],
                "mask_coefficients": ["batch", PROTOTYPES, CELLS],
                "prototypes": ["batch", PROTOTYPES, 16, 24],
                "semantic_logits": ["batch", SEMANTIC, 8, 12],
                "caption_memory": ["batch", MEMORY, WIDTH],
            },
        ),
        "caption_prefill": (
            {"caption_memory": [1, MEMORY, WIDTH], "tokens": [1]},
            {
                "log_probs": [1, words],
                "cross_keys": CROSS,
                "cross_values": CROSS,
                "present_keys": FIRST,
                "present_values": FIRST,
            },
        ),
        "caption_step": (
            {
                "tokens": ["beam"],
                "past_keys": CACHE,
                "past_values": CACHE,
                "cross_keys": CROSS,
                "cross_values": CROSS,
            },
            {"log_probs": ["beam", words], "present_keys": GROWN, "present_values": GROWN},
        ),
    }


@pytest.mark.parametrize("part", PARTS)
def test_tensors_have_names_and_named_axes(exported: Exported, network: Network, part: str) -> None:
    graph = onnx.load(exported.bundle.graph_files()[part]).graph
    inputs, outputs = expected_tensors(len(network.config.vocabulary))[part]
    for values, expected in ((graph.input, inputs), (graph.output, outputs)):
        found = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }
        assert found == expected
        assert list(found) == list(expected)
        for value in values:
            is_index = value.type.tensor_type.elem_type == onnx.TensorProto.INT64
            assert is_index == (value.name == "tokens")


@pytest.mark.parametrize("part", PARTS)
def test_the_graph_holds_only_what_computes(exported: Exported, part: str) -> None:
    model = onnx.load(exported.bundle.graph_files()[part])
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not set(kinds) & {"BatchNormalization", "Identity", "Constant", "Dropout", "Cast", "Expand"}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    if part == "vision":
        # As many convolutions as the network has, each with its bias: nothing beside them scales or shifts.
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 106
        assert all(len(node.input) == 3 for node in convolutions)
        assert set(kinds) <= {
            "Conv",
            "Sigmoid",
            "Mul",
            "Concat",
            "Reshape",
            "MaxPool",
            "AveragePool",
            "Resize",
            "Transpose",
        }
        assert kinds["Mul"] == kinds["Sigmoid"]  # SiLU, and no other product
    check_no_constants(model)


def test_the_step_graph_is_lean(exported: Exported) -> None:
    """One position a row needs no transposition into heads, and every cache is taken apart and put together once."""
    nodes = onnx.load(exported.bundle.graph_files()["caption_step"]).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["Gather"] == 2  # the word's vector and its position's
    assert kinds["Split"] == 4  # past and cross, keys and values
    assert kinds["Transpose"] == kinds["MatMul"] / 2 == 2 * LAYERS  # of the keys
    assert not set(kinds) & {"Slice", "Unsqueeze", "Expand"}
    assert len(nodes) < 120


@pytest.mark.parametrize("part", PARTS)
def test_the_graph_tells_nothing_of_the_exporting_machine(exported: Exported, part: str) -> None:
    content = exported.bundle.graph_files()[part].read_bytes()
    for path in (Path(torch.__file__).parent, Path(to_onnx.__file__).parent, Path.home()):
        assert len(str(path)) < 6 or str(path).encode() not in content
    assert b"site-packages" not in content
    assert not re.search(rb"[A-Za-z_/]{4,}\.py", content)


def test_each_weight_is_in_one_file_only(exported: Exported, network: Network) -> None:
    """The vision graph carries no caption decoder, and the decoder's graphs no backbone."""
    sizes = {part: path.stat().st_size for part, path in exported.bundle.graph_files().items()}
    decoder = 4 * sum(parameter.numel() for parameter in network.caption_decoder.parameters())
    everything = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert sizes["vision"] < 1.05 * (everything - decoder)
    assert sizes["caption_prefill"] < 1.1 * decoder
    assert sizes["caption_step"] < 1.1 * decoder


def test_golden_files_hold_what_the_network_answers(exported: Exported, network: Network) -> None:
    parts = parts_of(network)
    model = Model(spec_of(network.config), parts)
    boxes = 0
    for i in range(3):
        image, kept = read_golden(exported.bundle.path / "golden" / f"scene-{i}.npz")
        assert image.shape == (80, 96, 3)  # taller than the input, so that it has to be resized and padded
        assert np.array_equal(image, draw_scene(0, i, (80, 96)).image)
        assert set(kept.captions) == {"greedy", "beam"}
        assert all(0 < len(ids) <= 11 for ids in kept.captions.values())
        checks = compare("again", kept, answers_of(model, parts["vision"], image), Tolerances())
        assert [check for check in checks if not check.passed] == []
        assert kept.result.boxes is not None
        boxes += len(kept.result.boxes)
    assert boxes > 0, "the reference images show no box, so boxes and masks are not proven on any"


# It answers as the network does.


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_free_and_its_images_do_not_mix(exported: Exported, network: Network, batch: int) -> None:
    images = np.random.default_rng(batch).random((batch, 3, 64, 96), dtype=np.float32)
    graph = open_graph(exported.bundle.graph_files()["vision"], 1)
    found = graph.run({"images": images})
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in network(torch.from_numpy(images)).items()}
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)
    last = graph.run({"images": images[-1:]})
    for name, value in last.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name][-1:], value, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize(("beam", "past"), [(1, 1), (1, 2), (3, 1), (2, 5), (7, 10)])
def test_beam_and_past_are_free(exported: Exported, network: Network, beam: int, past: int) -> None:
    random = np.random.default_rng(beam)
    feed: dict[str, Any] = {
        "tokens": random.integers(0, len(network.config.vocabulary), beam),
        **{
            name: random.normal(size=(3, beam, 4, past, 32)).astype(np.float32) for name in ("past_keys", "past_values")
        },
        **{name: random.normal(size=(3, 1, 4, 6, 32)).astype(np.float32) for name in ("cross_keys", "cross_values")},
    }
    found = open_graph(exported.bundle.graph_files()["caption_step"], 1).run(feed)
    for name, expected in parts_of(network)["caption_step"].run(feed).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_pictures_that_it_was_not_proven_on(exported: Exported, network: Network) -> None:
    parts = parts_of(network)
    graphs = open_graphs(exported.bundle, threads=1)
    boxes = 0
    with Model(spec_of(network.config), parts) as reference, Model(exported.bundle.spec, graphs) as model:
        for i, size in enumerate([(64, 96), (111, 75), (65, 240)]):
            image = draw_scene(5, i, size).image
            expected = answers_of(reference, parts["vision"], image)
            checks = compare("new", expected, answers_of(model, graphs["vision"], image), Tolerances())
            assert [check for check in checks if not check.passed] == []
            assert expected.result.boxes is not None
            boxes += len(expected.result.boxes)
    assert boxes > 0


def test_the_bundle_verifies(exported: Exported) -> None:
    verification = verify(exported.bundle, threads=1)
    assert verification.failures == ()
    assert {check.golden for check in verification.checks} == {"scene-0", "scene-1", "scene-2"}


def test_some_heads_at_another_size_proven_on_own_pictures(exported: Exported, tmp_path: Path) -> None:
    pictures = []
    for i, size in enumerate([(70, 50), (40, 90), (96, 64), (64, 64)]):
        pictures.append(tmp_path / f"image {i}.v1.png")
        write_image(pictures[-1], draw_scene(1, i, (max(64, size[0]), max(64, size[1]))).image[: size[0], : size[1]])
    # A folder that holds a checkpoint is as good as the checkpoint; tasks come in any order.
    bundle = export_bundle(
        exported.checkpoint.path.parent,
        tmp_path / "new" / "bundle",
        input_size=(96, 64),
        tasks=("semantic", "boxes"),
        images=pictures,
    )
    assert bundle.spec.tasks == ("boxes", "semantic")
    assert bundle.spec.input_size == (96, 64)
    assert bundle.spec.caption is None
    golden = {f"golden/{i}-image {i}.v1.npz" for i in range(3)}
    assert set(bundle.files) == {"vision.fp32.onnx"} | golden
    assert verify(bundle, threads=1).passed
    graph = open_graphs(bundle, threads=1)["vision"]
    assert {name: info.shape for name, info in graph.outputs.items()} == {
        "class_logits": ("batch", CLASSES, CELLS),
        "box_bins": ("batch", BINS, CELLS),
        "semantic_logits": ("batch", SEMANTIC, 12, 8),
    }
    # The trained weights, not the fresh ones of a smaller network.
    images = np.random.default_rng(0).random((1, 3, 96, 64), dtype=np.float32)
    found = graph.run({"images": images})
    with torch.inference_mode():
        expected = exported.checkpoint.network()(torch.from_numpy(images))
    for name, value in found.items():
        scale = float(expected[name].abs().max())
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=1e-4 * scale, err_msg=name)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bundle"]


# When it is not written.


@pytest.mark.usefixtures("no_export")
def test_what_exists_is_not_replaced_unasked(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="out: exists already; choose another out or replace it with overwrite"):
        export_bundle(exported.checkpoint, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.usefixtures("no_export")
def test_a_file_is_never_replaced(exported: Exported, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out: is a file, so it is not replaced"):
        export_bundle(exported.checkpoint, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.usefixtures("no_export")
def test_a_folder_that_is_no_bundle_is_never_replaced(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(UsageError, match="photos: exists and is not a bundle, so it is not replaced"):
        export_bundle(exported.checkpoint, tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"dear"


@pytest.mark.usefixtures("stored_parts")
def test_a_bundle_is_replaced_as_a_whole_when_asked(exported: Exported, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported.bundle.path, tmp_path / "out"))
    (out / "vision.fp32.onnx").write_bytes(b"damaged")
    (out / "extra.txt").write_text("of the old one")
    bundle = export_bundle(exported.checkpoint, out, overwrite=True)
    assert bundle.path == out
    assert contents(out).keys() == contents(exported.bundle.path).keys()
    assert bundle.spec == exported.bundle.spec
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("stored_parts")
def test_the_same_checkpoint_gives_the_same_bundle(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()  # which is replaced without harm
    bundle = export_bundle(exported.checkpoint.path, tmp_path / "empty", overwrite=True)
    golden = [name for name in bundle.files if name.startswith("golden/")]
    assert {name: bundle.files[name] for name in golden} == {name: exported.bundle.files[name] for name in golden}
    assert bundle.provenance == exported.bundle.provenance


def wrong_output(name: str) -> Callable[[dict[str, onnx.ModelProto]], None]:
    return lambda models: perturb(models["vision"], output=name)


def wrong_decoder(part: str) -> Callable[[dict[str, onnx.ModelProto]], None]:
    """All log_probs must change, not all by the same: the words' vectors are turned round."""

    def change(models: dict[str, onnx.ModelProto]) -> None:
        table = next(one for one in models[part].graph.initializer if one.name.endswith("words.weight"))
        value = numpy_helper.to_array(table)[:, ::-1].copy()
        table.CopyFrom(numpy_helper.from_array(value, table.name))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (wrong_output("prototypes"), "prototypes on scene-0"),
        (wrong_output("semantic_logits"), "semantic_logits on scene-0"),
        (wrong_output("caption_memory"), "caption_memory on scene-0"),
        (wrong_decoder("caption_prefill"), "caption (greedy) on scene-"),
        (wrong_decoder("caption_step"), "caption (greedy) on scene-"),
    ],
    ids=["prototypes", "semantic_logits", "caption_memory", "prefill", "step"],
)
def test_a_graph_that_differs_is_not_written(
    exported: Exported,
    stored_parts: dict[str, onnx.ModelProto],
    tmp_path: Path,
    change: Callable[[dict[str, onnx.ModelProto]], None],
    named: str,
) -> None:
    change(stored_parts)
    with pytest.raises(ParityError) as caught:
        export_bundle(exported.checkpoint, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"ONNX fp32 differs from the network: {named}")
    assert "allowed" in message
    assert message.endswith(f"checks failed); nothing was written to {tmp_path / 'out'}")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_bundle_that_was_there(
    exported: Exported, stored_parts: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported.bundle.path, tmp_path / "out"))
    before = contents(tmp_path)
    perturb(stored_parts["vision"], output="prototypes")
    with pytest.raises(ParityError, match="prototypes"):
        export_bundle(exported.checkpoint, out, overwrite=True)
    assert contents(tmp_path) == before


def test_a_nan_in_the_graph_is_a_difference(
    exported: Exported, stored_parts: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    perturb(stored_parts["vision"], output="semantic_logits", by=float("nan"))
    with pytest.raises(ParityError, match="semantic_logits on scene-0: nan"):
        export_bundle(exported.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_export")
def test_a_fold_that_differs_is_named(exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong_fold(network: Network) -> Network:
        folded = fold(network)
        with torch.no_grad():
            folded.semantic_head.body.get_parameter("1.bias").add_(0.5)
        return folded

    monkeypatch.setattr(to_onnx, "fold", wrong_fold)
    with pytest.raises(ParityError, match=r"folded network: output 'semantic_logits' differs by .*, allowed \d"):
        export_bundle(exported.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(name: str, part: TorchGraph) -> onnx.ModelProto:
        raise KeyboardInterrupt

    monkeypatch.setattr(to_onnx, "export_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(exported.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("depth",)}, "tasks: the network has no task depth; it has boxes, masks, semantic, caption"),
        ({"tasks": ("masks",)}, "the task masks needs the task boxes"),
        ({"input_size": (64, 100)}, "input_size must be two multiples of 32 within 32 and 8192, got 64x100"),
        ({"input_size": (0, 64)}, "input_size must be two multiples of 32 within 32 and 8192, got 0x64"),
        ({"input_size": (64, 64, 3)}, "input_size must be two multiples of 32"),
        ({"input_size": (-32, 64)}, "input_size must be two multiples of 32"),
        ({"input_size": (8224, 64)}, "input_size must be two multiples of 32"),
    ],
)
@pytest.mark.usefixtures("no_export")
def test_misuse_is_refused_before_the_work(
    exported: Exported, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_bundle(exported.checkpoint, tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_export")
def test_a_head_that_was_not_trained_cannot_be_kept(tmp_path: Path) -> None:
    from yolor_edge.train.checkpoint import write_checkpoint

    from ..train.tiny_network import tiny_network

    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_network(tasks=("boxes",)), {})
    with pytest.raises(UsageError, match="tasks: the network has no task caption, semantic; it has boxes"):
        export_bundle(checkpoint, tmp_path / "out", tasks=("boxes", "caption", "semantic"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_export")
def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder; expected a checkpoint"):
        export_bundle(tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_export")
def test_a_picture_that_cannot_be_read_is_named(exported: Exported, tmp_path: Path) -> None:
    picture = tmp_path / "broken.jpg"
    picture.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        export_bundle(exported.checkpoint, tmp_path / "out", images=[picture])
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jpg"]


def test_the_model_of_a_checkpoint_and_of_its_bundle_have_one_spec(exported: Exported, network: Network) -> None:
    with torch_model(network) as model:
        assert model.spec == exported.bundle.spec
    assert Checkpoint.open(exported.checkpoint.path).sha256 == exported.bundle.provenance["checkpoint_sha256"]
