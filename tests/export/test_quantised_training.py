"""Training with int8 in the loop: the network rounds as its exported graph does, and learns its ranges."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from yolor_edge.evaluation.scenes.scene_drawing import draw_scene
from yolor_edge.export.onnx_graphs.graph_view import GraphView
from yolor_edge.export.onnx_graphs.probe import open_probe
from yolor_edge.export.precision.calibration import Calibration, CalibrationSet, calibrate
from yolor_edge.export.precision.learned_bounds import plan_of, with_learned_bounds
from yolor_edge.export.precision.to_int8 import _as_halves, quantize, weight_levels
from yolor_edge.export.quantised_training import plan_quantisation
from yolor_edge.main import main
from yolor_edge.runtime.images.preprocess import preprocess
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.network.network import Network
from yolor_edge.train.quantisation import (
    QuantisationPlan,
    QuantisedConv,
    _halves_up,
    _Rounded,
    learned_bounds,
    quantise,
    rounded_weights,
    unquantised,
)

from .exported import Exported


@pytest.fixture(scope="module")
def graph(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.bundle.path / "vision.fp32.onnx")


@pytest.fixture(scope="module")
def calibration(exported: Exported, graph: onnx.ModelProto) -> Calibration:
    pictures = CalibrationSet(sorted((exported.data / "train").iterdir()), exported.bundle.spec.preprocess)
    return calibrate(graph, pictures)


@pytest.fixture(scope="module")
def plan(graph: onnx.ModelProto, calibration: Calibration) -> QuantisationPlan:
    return plan_of(graph, calibration)


def test_scales_and_weights_are_those_of_the_exporter() -> None:
    rng = np.random.default_rng(0)
    scales = np.concatenate([rng.uniform(1e-8, 2.0, 2000), 10.0 ** rng.uniform(-8, 5, 2000), [0.5, 1.0, 65504.0, 7e4]])
    np.testing.assert_array_equal(_halves_up(torch.from_numpy(scales)).numpy(), _as_halves(scales))
    weight = rng.normal(0, 0.1, (24, 5, 3, 3)).astype(np.float32)
    weight[3] = 0
    levels, scale = weight_levels(weight, None, np.float32(0.01), "s8s8")
    np.testing.assert_array_equal(
        rounded_weights(torch.from_numpy(weight)).numpy(), levels * scale[:, None, None, None].astype(np.float32)
    )


def test_every_block_rounds_as_its_part_of_the_graph(
    exported: Exported, graph: onnx.ModelProto, calibration: Calibration, plan: QuantisationPlan
) -> None:
    """Each block on what its convolution in the int8 graph takes: small differences grow from block to block."""
    network = exported.checkpoint.network()
    quantise(network, plan)
    rounded = GraphView(quantize(graph, calibration.ranges, "s8s8").model)
    convolutions = {
        node.name.removesuffix(".conv"): node for node in rounded.model.graph.node if node.op_type == "Conv"
    }
    taken = {path: convolutions[path].input[0] for path in plan.groups}
    given = {path: f"{path}.act/Mul/dq" for path in plan.groups}
    probed = sorted({*taken.values(), *given.values()} - {"images"})
    image = preprocess(draw_scene(5, 0, (64, 96)).image, exported.bundle.spec.preprocess)[0][None]
    with open_probe(rounded.model, probed) as probe:
        values = {**probe.run({"images": image}, probed), "images": image}
    for path in plan.groups:
        with torch.no_grad():
            own = network.get_submodule(path)(torch.from_numpy(values[taken[path]])).numpy()
        step = plan.bounds[plan.groups[path]] / 127
        apart = np.abs(own - values[given[path]]) / step
        assert apart.max() < 1.01, path  # a sum on the border between two levels may fall to either side
        assert (apart > 0.01).mean() < 1e-3, path


def test_what_the_plan_names(plan: QuantisationPlan) -> None:
    assert "backbone.stem.0" not in plan.weights  # symmetric int8 would cost every pixel its lowest bit
    assert "backbone.stem.0" in plan.groups
    assert not any(path.startswith(("caption_memory", "semantic_head.body.1")) for path in plan.weights)
    assert set(plan.groups.values()) == set(plan.bounds)
    # What meets in a Concat shares a scale.
    assert plan.groups["backbone.stage2.short"] == plan.groups["backbone.stage2.entry"]
    assert QuantisationPlan.from_json(plan.to_json()) == plan


def test_bounds_learn_and_leave_the_weights_names(exported: Exported, plan: QuantisationPlan) -> None:
    network = exported.checkpoint.network()
    quantise(network, plan)
    with pytest.raises(ValueError, match="has no block nowhere"):
        quantise(exported.checkpoint.network(), QuantisationPlan(("nowhere",), {}, {}, 1))
    copied = copy.deepcopy(network)
    before = learned_bounds(copied)
    assert set(before) == set(plan.groups)
    assert before["backbone.stem.0"] == pytest.approx(plan.bounds[plan.groups["backbone.stem.0"]], rel=1e-5)
    copied(torch.rand(2, 3, 64, 96))["prototypes"].square().mean().backward()
    bounds = [p for name, p in copied.named_parameters() if name.startswith("int8.")]
    assert len(bounds) == len(plan.bounds)
    assert sum(bool(p.grad is not None and p.grad != 0) for p in bounds) > len(bounds) // 2
    with torch.no_grad():
        for bound in bounds:
            bound.add_(0.1)
    assert all(
        value == pytest.approx(before[path] * np.exp(0.1), rel=1e-4) for path, value in learned_bounds(copied).items()
    )
    assert learned_bounds(network) == before
    assert isinstance(network, Network)
    plain = unquantised(network)
    assert not any(isinstance(module, QuantisedConv) for module in plain.modules())
    own = exported.checkpoint.network().state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in plain.state_dict().items())


def test_the_gradient_by_a_bound_is_what_rounding_moved() -> None:
    """Inside the bounds how far a value was moved, outside the level it was moved to (LSQ, equation 3)."""
    x = torch.tensor([0.0, 3.2, 40.1, 300.0, -500.0], requires_grad=True)
    # A scale of 1: the next float16 number above 126.99 / 127.
    log_bound = torch.tensor(np.log(126.99), dtype=torch.float32, requires_grad=True)
    y = _Rounded.apply(x, log_bound)
    assert y.tolist() == [0.0, 3.0, 40.0, 127.0, -128.0]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1, 0, 0]
    assert log_bound.grad is not None
    moved = (3 - 3.2) + (40 - 40.1) + 127 - 128
    assert float(log_bound.grad) == pytest.approx(moved / np.sqrt(5 * 127), rel=1e-4)


def test_learned_bounds_stand_in_the_calibration(
    graph: onnx.ModelProto, calibration: Calibration, plan: QuantisationPlan
) -> None:
    bounds = {path: 2.0 * plan.bounds[group] for path, group in plan.groups.items()}
    changed, count = with_learned_bounds(calibration, graph, bounds)
    assert count >= len(plan.groups)
    again = plan_of(graph, changed)
    assert again.groups == plan.groups
    assert {g: pytest.approx(2 * b) for g, b in plan.bounds.items()} == again.bounds
    assert changed.ranges["backbone.stem.0.act/Mul"][0] == calibration.ranges["backbone.stem.0.act/Mul"][0]
    assert changed.ranges["backbone.stem.0.conv"] == calibration.ranges["backbone.stem.0.conv"]  # of u8s8 alone
    assert with_learned_bounds(calibration, graph, {})[1] == 0


def test_from_the_command_line_to_the_graph(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    images, run, out = str(exported.data / "train"), tmp_path / "run", tmp_path / "bundle"
    line = ["train", "--from", str(exported.checkpoint.path), "--quantise", images, "--data", str(exported.data)]
    line += ["--out", str(run), "--no-check", "--set", "batch_size=4", "--set", "workers=0", "--epochs"]
    assert main([*line, "2"]) == 0
    said = capsys.readouterr().err
    assert "int8 in the loop: weights of " in said
    first = Checkpoint.open(run)
    assert first.provenance["train"]["amp"] == "off"
    assert set(first.int8_bounds) == set(plan_quantisation(exported.checkpoint, images).groups)
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    trained = Checkpoint.open(run)
    assert trained.int8_bounds != first.int8_bounds
    assert set(trained.network().state_dict()) == set(exported.checkpoint.network().state_dict())
    export = ["export", str(run), "--out", str(out), "--precision", "int8", "--calibration", images]
    assert main(export) == 0
    assert "have the range that training with int8 in the loop has learned" in capsys.readouterr().err
    graph = onnx.load(out / "vision.int8-s8s8.onnx")
    scales = {
        w.name: float(onnx.numpy_helper.to_array(w)) for w in graph.graph.initializer if w.name.endswith("Mul/scale")
    }
    for path, bound in trained.int8_bounds.items():
        if (name := f"{path}.act/Mul/scale") in scales:
            assert bound / 127 <= scales[name] * (1 + 1e-6)
            assert scales[name] == pytest.approx(bound / 127, rel=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--quantise {data}/train", "--quantise goes on with a trained network; give it with --from CHECKPOINT"),
        ("--quantise nowhere --from {checkpoint}", "nowhere: no such file or folder"),
        ("--quantise {data}/train --from {checkpoint} --size s", "tensors that are new; train in float first"),
    ],
)
def test_what_cannot_be_quantised(
    exported: Exported, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"data": exported.data, "checkpoint": exported.checkpoint.path}
    line = ["train", "--data", str(exported.data), "--out", str(tmp_path / "run"), *options.format(**places).split()]
    assert main(line) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]
    assert not (tmp_path / "run").exists()
