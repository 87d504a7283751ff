"""Exports with options built into the vision graph: proven like any other, and refused where they cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export import to_onnx
from yolor_edge.export.onnx_graphs.graph_options import (
    GraphOptions,
    OptionedVision,
    spec_with_options,
    vision_with_options,
)
from yolor_edge.export.to_onnx import export_bundle
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.spec import ScoreCoding
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.model import load
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.verification.replay import Answers, Tolerances, compare_heads, read_golden, verify
from yolor_edge.train.network.network import Network
from yolor_edge.train.torch_backend import TorchGraph, parts_of, torch_model

from ...runtime.tiny_bundle import tiny_spec
from ...train.tiny_network import tiny_config, tiny_network
from ..exported import Exported

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("boxes", "masks", "semantic")
CELLS = 8 * 12 + 4 * 6 + 2 * 3


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is refused before the long work begins."""

    def export_part(name: str, part: TorchGraph) -> onnx.ModelProto:
        raise AssertionError("the export was begun")

    monkeypatch.setattr(to_onnx, "export_part", export_part)


class Corners(torch.nn.Module):
    """A network whose boxes are corners with probabilities, 30 a picture."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = images.flatten(1)[:, :90].reshape(-1, 3, 30)
        return {"class_scores": scores, "boxes": images.flatten(1)[:, 90:210].reshape(-1, 4, 30)}


def test_the_best_are_chosen_by_probabilities_too() -> None:
    images = torch.rand(2, 3, 8, 16)
    vision = OptionedVision(Corners(), GraphOptions(top_k=7))  # pyright: ignore[reportArgumentType]
    scores, boxes, cells = (head.numpy() for head in vision(images))
    whole = {name: head.numpy() for name, head in Corners()(images).items()}
    for i in range(2):
        best = np.argsort(-whole["class_scores"][i].max(0))[:7]
        np.testing.assert_array_equal(cells[i], best)
        np.testing.assert_array_equal(scores[i], whole["class_scores"][i][:, best])
        np.testing.assert_array_equal(boxes[i], whole["boxes"][i][:, best])


@pytest.mark.parametrize("score_coding", ["logits", "probabilities"])
def test_a_top_k_that_loses_candidates_is_refused_in_every_coding(score_coding: ScoreCoding) -> None:
    scores = np.zeros((1, 3, 126), np.float32)
    scores[0, 1, :9] = 0.26
    if score_coding == "logits":
        scores = np.log(np.maximum(scores, 1e-6) / (1 - scores))
    spec = tiny_spec(("boxes",), score_coding=score_coding)
    found = Answers(np.zeros((64, 96, 3), np.uint8), {spec.score_head: scores}, Result((64, 96)), {})
    to_onnx.check_top_k(replace(spec, graph=GraphOptions(top_k=9)), "one", found)
    with pytest.raises(UsageError, match=r"top_k is 8, but one has 9 cells above the score threshold 0\.25"):
        to_onnx.check_top_k(replace(spec, graph=GraphOptions(top_k=8)), "one", found)


@pytest.mark.parametrize("options", [GraphOptions(top_k=110, semantic_map=True), GraphOptions(2, 110, True)])
def test_a_bundle_with_options_is_proven_and_answers_as_the_network(
    exported: Exported, tmp_path: Path, options: GraphOptions
) -> None:
    bundle = export_bundle(exported.checkpoint, tmp_path / "bundle", tasks=TASKS, options=options)
    assert bundle == Bundle.open(tmp_path / "bundle")
    assert bundle.spec.graph == options
    stages = {check["stage"] for check in bundle.parity["onnx_fp32"]}
    assert {"cells", "class_logits", "semantic_map", "semantic map", "boxes", "masks"} <= stages
    assert "semantic_logits" not in stages
    batch = options.batch or "batch"
    assert any(check["golden"] == f"batch of {options.batch or 3}" for check in bundle.parity["onnx_fp32"])

    vision = open_graphs(bundle, threads=1)["vision"]
    assert {name: (info.shape, info.dtype) for name, info in vision.outputs.items()} == {
        "class_logits": ((batch, 8, 110), "float32"),
        "box_bins": ((batch, 64, 110), "float32"),
        "mask_coefficients": ((batch, 32, 110), "float32"),
        "prototypes": ((batch, 32, 16, 24), "float32"),
        "cells": ((batch, 110), "int32"),
        "semantic_map": ((batch, 64, 96), "uint8"),
    }
    kinds = {node.op_type for node in onnx.load(bundle.graph_files()["vision"]).graph.node}
    assert {"TopK", "ReduceMax", "GatherElements", "Resize", "ArgMax", "Cast"} <= kinds
    assert not kinds & {"NonZero", "NonMaxSuppression", "Loop", "If"}  # what TensorRT runs badly or not at all

    assert verify(bundle, threads=1).passed
    network = exported.checkpoint.network()
    image = draw_scene(7, 0, (100, 120)).image
    with torch_model(network) as reference, load(bundle, threads=1) as model:
        expected, found = reference.predict(image, TASKS), model.predict(image)
    assert expected.boxes is not None
    assert found.boxes is not None
    assert len(found.boxes) == len(expected.boxes) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    assert found.semantic_map is not None
    assert found.semantic_map.shape == (100, 120)
    # The nearest pixel of a map of 64 x 96 is not the interpolation at 100 x 120.
    assert np.mean(found.semantic_map == expected.semantic_map) > 0.8


@pytest.mark.parametrize("batch", [1, 3])
def test_the_torch_part_gives_what_the_options_say(batch: int) -> None:
    """The cells with the best logits, best first, and the map of the upsampled logits, in every image of a batch."""
    network = tiny_network()
    plain = parts_of(network)["vision"]
    options = GraphOptions(batch, 40, True)
    part = vision_with_options(plain, network, options)
    images = np.random.default_rng(0).random((batch, 3, 64, 96), dtype=np.float32)
    with torch.inference_mode():
        values = part.part(torch.from_numpy(images))
    found = {name: value.numpy() for name, value in zip(part.outputs, values, strict=True)}
    for name, info in part.outputs.items():
        assert found[name].shape == info.shape
        assert str(found[name].dtype) == info.dtype
    expected = plain.run({"images": images})
    best = expected["class_logits"].max(axis=1)
    order = np.argsort(-best, axis=1)[:, :40]
    np.testing.assert_array_equal(np.take_along_axis(best, order, 1), found["class_logits"].max(axis=1))
    assert all(check.passed for check in compare_heads("", expected, found, Tolerances()))
    assert set(found) == {*expected, "cells", "semantic_map"} - {"semantic_logits"}
    assert vision_with_options(plain, network, GraphOptions()) is plain


@pytest.mark.parametrize(
    ("options", "tasks", "message"),
    [
        (GraphOptions(batch=0), None, "batch must be from 1 to 1024, got 0"),
        (GraphOptions(batch=99999), None, "batch must be from 1 to 1024, got 99999"),
        (GraphOptions(top_k=0), None, "top_k must be from 1 to 126 (the cells of a 64x96 input), got 0"),
        (GraphOptions(top_k=127), None, "top_k must be from 1 to 126 (the cells of a 64x96 input), got 127"),
        (GraphOptions(top_k=9), ("semantic",), "top_k needs the task boxes"),
        (GraphOptions(semantic_map=True), ("boxes",), "semantic_map needs the task semantic"),
        (GraphOptions(0, 0), None, "batch must be from 1 to 1024, got 0; top_k must be from 1 to 126"),
    ],
)
@pytest.mark.usefixtures("no_export")
def test_options_that_cannot_be_are_refused_before_the_work(
    exported: Exported, tmp_path: Path, options: GraphOptions, tasks: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        export_bundle(exported.checkpoint, tmp_path / "out", tasks=tasks, options=options)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_top_k_that_loses_boxes_of_the_golden_images_is_refused(exported: Exported) -> None:
    spec = spec_with_options(exported.checkpoint.config, GraphOptions(top_k=1))
    _, expected = read_golden(exported.bundle.path / "golden" / "scene-0.npz")
    candidates = int((expected.heads["class_logits"][0].max(axis=0) > -np.log(3)).sum())
    assert candidates > 1
    with pytest.raises(UsageError) as caught:
        to_onnx.check_top_k(spec, "scene-0", expected)
    assert str(caught.value) == (
        f"top_k is 1, but scene-0 has {candidates} cells above the score threshold 0.25, so boxes would be lost; "
        f"give at least {candidates}, better twice as many"
    )
    to_onnx.check_top_k(replace(spec, graph=GraphOptions(top_k=candidates)), "scene-0", expected)
    to_onnx.check_top_k(replace(spec, graph=GraphOptions()), "scene-0", expected)


def test_the_spec_of_a_network_with_options() -> None:
    spec = spec_with_options(tiny_config(), GraphOptions(top_k=5))
    assert spec.graph == GraphOptions(top_k=5)
    assert spec.complaints() == []


def test_a_head_that_the_checkpoint_lacks(tmp_path: Path) -> None:
    from yolor_edge.train.checkpoint import write_checkpoint

    network: Network = tiny_network(tasks=("boxes",))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", network, {})
    with pytest.raises(UsageError, match="semantic_map needs the task semantic"):
        export_bundle(checkpoint, tmp_path / "out", options=GraphOptions(semantic_map=True))
    with pytest.raises(UsageError, match="the network has no task semantic; it has boxes"):
        export_bundle(checkpoint, tmp_path / "out", tasks=("boxes", "semantic"))
