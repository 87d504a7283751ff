"""A network with gated captions on its way to a bundle: regions are chosen inside the graph, in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export.onnx_graphs.choices import (
    GIVEN_CHOICE,
    choices_of,
    chosen,
    with_choices_given,
    with_choices_shown,
)
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.export.onnx_graphs.graph_options import GraphOptions, vision_with_options
from yolor_edge.export.onnx_graphs.probe import open_model
from yolor_edge.export.parity.fold_proof import prove_fold
from yolor_edge.export.parity.stage_diff import diff
from yolor_edge.export.precision.calibration import CalibrationSet, calibrate
from yolor_edge.export.precision.to_fp16 import nodes_out_of_range, to_fp16
from yolor_edge.export.precision.to_int8 import quantize
from yolor_edge.export.to_onnx import export_bundle, export_part
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.bundle.caption_weights import open_caption_weights
from yolor_edge.runtime.errors import ParityError
from yolor_edge.runtime.images.preprocess import PreprocessRule, preprocess
from yolor_edge.runtime.model import Model, load
from yolor_edge.runtime.verification.comparison import Tolerances, compare_heads
from yolor_edge.runtime.verification.golden import read_golden
from yolor_edge.runtime.verification.replay import verify
from yolor_edge.train.network.config import Task
from yolor_edge.train.network.network import Network
from yolor_edge.train.torch_backend import parts_of, torch_model

from ..exported import INPUT_SIZE, Exported
from ..random_network import scene_batch

pytestmark = pytest.mark.usefixtures("one_thread")

CHOSEN, SEMANTIC, GRID, WIDTH = 20, 17, 6, 128
REGIONS = CHOSEN + SEMANTIC
VECTORS = GRID + REGIONS


@pytest.fixture(scope="module")
def network(gated: Exported) -> Network:
    network = gated.checkpoint.network()
    assert isinstance(network, Network)
    return network


@pytest.fixture(scope="module")
def vision(gated: Exported) -> onnx.ModelProto:
    return onnx.load(gated.bundle.graph_files()["vision"])


@pytest.fixture(scope="module")
def images() -> list[Array]:
    return [image[np.newaxis] for image in scene_batch(INPUT_SIZE, 3).numpy()]


def margins_of(network: Network, images: Array) -> Array:
    with torch.inference_mode():
        margins = network.region_margins(torch.from_numpy(images))
    assert margins is not None
    return margins.numpy()


def part_of(network: Network, tasks: tuple[Task, ...]) -> Network:
    part = Network(network.config.with_tasks(tasks))
    part.load_state_dict({name: network.state_dict()[name] for name in part.state_dict()})
    return part.eval()


# The bundle.


def test_the_bundle_verifies_with_its_graphs_and_with_the_native_decoder(gated: Exported) -> None:
    bundle = gated.bundle
    assert not gated.printed
    verification = verify(bundle, threads=1)
    assert verification.passed, verification.table()
    assert sum("native" in check.stage for check in verification.checks) == 6
    _, expected = read_golden(bundle.path / "golden" / "scene-0.npz")
    assert expected.heads["caption_memory"].shape == (1, VECTORS, WIDTH)
    assert expected.region_margins is not None
    assert expected.region_margins.shape == (1, REGIONS)
    assert (expected.region_margins >= 0).all()
    for precision, file in bundle.caption_weights.items():
        dims = open_caption_weights(bundle.path / file).dims
        assert (dims.memory, dims.regions, dims.hidden) == (VECTORS, REGIONS, 0), precision


def test_every_decoder_writes_what_the_network_writes(gated: Exported, network: Network) -> None:
    pictures = [draw_scene(31, i, (90, 120)).image for i in range(6)]

    def written(model: Model) -> list[tuple[int, ...]]:
        captions = [model.predict(picture, ["caption"]).caption for picture in pictures]
        return [caption.token_ids for caption in captions if caption is not None]

    with torch_model(network) as model:
        expected = written(model)
    assert len(expected) == 6 and len(set(expected)) > 1
    for decoder in ("graph", "native"):
        with load(gated.bundle, threads=1, caption_decoder=decoder) as model:
            assert written(model) == expected


def test_the_graph_chooses_with_what_tensorrt_has(vision: onnx.ModelProto) -> None:
    own = [node for node in vision.graph.node if node.name.startswith("region_memory")]
    kinds = {node.op_type for node in own}
    assert {"TopK", "ArgMax", "GatherElements", "Gather", "Conv"} <= kinds
    assert not {node.op_type for node in vision.graph.node} & {"NonZero", "NonMaxSuppression", "Loop", "If", "GatherND"}
    assert sorted(node.name for node in own if node.op_type == "Conv") == [
        *(f"region_memory.levels.{i}" for i in range(3)),
        "region_memory.semantic",
    ]
    # Places are looked up by row and by column: no table of all cells.
    sizes = {weight.name: int(np.prod(weight.dims)) for weight in vision.graph.initializer}
    used = {name for node in own if node.op_type != "Conv" for name in node.input if name in sizes}
    assert max(sizes[name] for name in used) <= (8 + 4 + 2 + 12 + 6 + 3) * WIDTH


def test_a_choice_that_only_rounding_makes_is_no_difference(network: Network, images: list[Array]) -> None:
    """A cell whose place another one took, so that those behind it stand elsewhere: it passes where it was close."""
    heads, margins = parts_of(network)["vision"].run({"images": images[0]}), margins_of(network, images[0])
    found = {name: value.copy() for name, value in heads.items()}
    row = int(np.argmin(margins[0, :CHOSEN]))
    moved = found["caption_memory"][0, GRID + row : GRID + CHOSEN]
    moved[:] = np.roll(moved, -1, axis=0)
    moved[-1] += 1

    def judge() -> bool:
        checks = compare_heads("", heads, found, Tolerances(), margins)
        return all(check.passed for check in checks)

    assert not judge()
    margins[0, row] = 0
    assert judge()


# Parts of a network, and graphs with options.


@pytest.mark.slow
def test_boxes_and_captions_alone_in_a_graph_with_options(network: Network, images: list[Array]) -> None:
    part = part_of(network, ("boxes", "caption"))
    folded = fold(part)
    options = GraphOptions(batch=2, top_k=110)
    model = export_part("vision", vision_with_options(parts_of(folded)["vision"], folded, options))
    assert [value.name for value in model.graph.output] == ["class_logits", "box_bins", "caption_memory", "cells"]
    batch = np.concatenate(images[:2])
    expected = parts_of(part)["vision"].run({"images": batch})
    found = open_model(model, 1).run({"images": batch})
    checks = compare_heads("", expected, found, Tolerances(), margins_of(network, batch))
    assert [check.stage for check in checks] == ["class_logits", "box_bins", "caption_memory", "cells"]
    assert all(check.passed for check in checks), checks
    whole = parts_of(network)["vision"].run({"images": batch})
    np.testing.assert_allclose(expected["caption_memory"], whole["caption_memory"], atol=1e-4)


@pytest.mark.slow
def test_a_bundle_of_captions_alone(gated: Exported, tmp_path: Path) -> None:
    """What regions are chosen by is in the graph, and nothing else of the other heads."""
    bundle = export_bundle(gated.checkpoint, tmp_path / "bundle", tasks=("caption",))
    assert bundle.spec.tasks == ("caption",)
    model = onnx.load(bundle.graph_files()["vision"])
    assert [value.name for value in model.graph.output] == ["caption_memory"]
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    heads = {name.partition(".")[0] for name in convolutions}
    assert heads == {"backbone", "neck", "box_head", "semantic_head", "caption_memory", "region_memory"}
    assert not any(name.startswith("box_head.boxes") for name in convolutions)
    assert verify(bundle, threads=1).passed
    _, expected = read_golden(bundle.path / "golden" / "scene-0.npz")
    _, whole = read_golden(gated.bundle.path / "golden" / "scene-0.npz")
    np.testing.assert_allclose(expected.heads["caption_memory"], whole.heads["caption_memory"], atol=1e-4)
    assert expected.captions == whole.captions


# Choices shown and given.


def test_the_choices_of_the_graph(vision: onnx.ModelProto, images: list[Array]) -> None:
    names = list(choices_of(vision))
    assert len(names) == 2
    assert all(name.startswith("region_memory/") for name in names)
    values = open_model(with_choices_shown(vision), 1).run({"images": images[0]})
    cells, spots = (values[name] for name in names)
    assert (cells.shape, spots.shape) == ((1, CHOSEN), (1, SEMANTIC))
    assert (np.diff(cells[0]) > 0).all()
    best = values["class_logits"][0].max(0)
    assert best[cells[0]].min() >= np.delete(best, cells[0]).max()
    np.testing.assert_array_equal(spots[0], values["semantic_logits"][0].reshape(SEMANTIC, -1).argmax(1))

    given = open_model(with_choices_given(vision, names), 1)
    feed = {"images": images[0], **chosen(values, names)}
    np.testing.assert_array_equal(given.run(feed)["caption_memory"], values["caption_memory"])
    feed[f"{names[0]}{GIVEN_CHOICE}"] = np.arange(CHOSEN)[np.newaxis]
    other = given.run(feed)["caption_memory"]
    np.testing.assert_array_equal(other[:, :GRID], values["caption_memory"][:, :GRID])
    assert np.abs(other[:, GRID:] - values["caption_memory"][:, GRID:]).max() > 0.1


def test_a_graph_without_choices_stays_as_it_is(exported: Exported) -> None:
    plain = onnx.load(exported.bundle.graph_files()["vision"])
    assert choices_of(plain) == {}
    assert with_choices_shown(plain) == plain == with_choices_given(plain, ())


def test_diff_of_a_bundle_with_itself(gated: Exported) -> None:
    found = diff(gated.bundle.path, gated.bundle.path, threads=1)
    assert found.passed
    stages = {one.stage: one for one in found.stages}
    assert stages["region_memory.levels"].layers == 3
    assert stages["region_memory.semantic"].difference.noise == 0


# Precisions.


def test_fp16_keeps_counting_in_whole_numbers(vision: onnx.ModelProto, images: list[Array]) -> None:
    half = to_fp16(vision, nodes_out_of_range(vision, [{"images": image} for image in images])).model
    assert not any(name.startswith("region_memory") and "TopK" in name for name in nodes_out_of_range(vision, []))
    types = {name: value.type.tensor_type.elem_type for name, value in choices_of(half).items()}
    assert set(types.values()) == {onnx.TensorProto.INT64}
    values = open_model(with_choices_shown(half), 1).run({"images": images[0]})
    exact = open_model(with_choices_shown(vision), 1).run({"images": images[0]})
    for name in types:  # A random network multiplies rounding; it leaves most of a choice.
        ours, theirs = set(values[name][0].tolist()), set(exact[name][0].tolist())
        assert len(ours & theirs) >= 0.7 * len(theirs)


@pytest.mark.parametrize("dialect", ["s8s8", "u8s8"])
def test_int8_leaves_what_chooses_and_what_is_chosen_in_float(
    gated: Exported, vision: onnx.ModelProto, images: list[Array], dialect: str
) -> None:
    files = sorted((gated.data / "train").iterdir())
    ranges = calibrate(vision, CalibrationSet(files, PreprocessRule(INPUT_SIZE)), "minmax").ranges
    quantized = quantize(vision, ranges, dialect)
    kept = {f"region_memory.levels.{i}" for i in range(3)} | {"region_memory.semantic", "semantic_head.body.1"}
    kept |= {f"box_head.classes.{i}.2" for i in range(3)}
    assert kept <= set(quantized.kept)
    assert not any(name.startswith("region_memory") for name in quantized.int8)
    memory = open_model(quantized.model, 1).run({"images": images[0]})["caption_memory"]
    assert memory.shape == (1, VECTORS, WIDTH)
    assert np.isfinite(memory).all()


# The fold.


@pytest.mark.parametrize("weight", ["region_memory.levels.1.bias", "region_memory.semantic.bias"])
def test_a_wrong_fold_of_the_regions_is_found(network: Network, weight: str) -> None:
    folded = fold(network)
    with torch.no_grad():
        folded.get_parameter(weight).add_(0.1)
    with pytest.raises(ParityError, match=r"^folded network: output 'caption_memory' differs by"):
        prove_fold(network, folded)


def test_a_fold_that_chooses_another_of_two_equal_cells_is_right(network: Network) -> None:
    """With logits that are all the same, any choice is as good as another."""
    flat = part_of(network, network.config.tasks)
    with torch.no_grad():
        for branch in flat.box_head.classes:
            branch.get_parameter("2.1.weight").zero_()
        folded = fold(flat)
        for branch in folded.box_head.classes:
            branch.get_parameter("2.weight").normal_(0, 1e-9)
    prove_fold(flat, folded)


def test_pixels_reach_the_regions(network: Network) -> None:
    """Another image has other regions."""
    tensors = [preprocess(draw_scene(5, i, INPUT_SIZE).image, PreprocessRule(INPUT_SIZE))[0] for i in range(2)]
    memory = parts_of(network)["vision"].run({"images": np.stack(tensors)})["caption_memory"]
    assert np.abs(memory[0, GRID:] - memory[1, GRID:]).max() > 0.1
