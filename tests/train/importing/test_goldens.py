"""Imported networks against what the official code computed from the same files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from yolor_edge.runtime.errors import CheckpointError, UsageError
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.importing import import_checkpoint, importer
from yolor_edge.train.importing.importer import chosen_model, read_checkpoint
from yolor_edge.train.importing.pickle_machine import Record
from yolor_edge.train.importing.torch_files import read_torch_file
from yolor_edge.train.network.layers_fold import fold, layers_cost

from .golden import NAMES, Golden, arguments, decoded_bins, golden, official_boxes, relative

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, goldens: Path) -> Golden:
    if not (goldens / request.param).is_dir():
        pytest.skip(f"there is no golden {request.param}")
    return golden(goldens / request.param)


@torch.no_grad()
def test_raw_heads_and_decoded_boxes_are_the_official_ones(case: Golden) -> None:
    config, expected = case.imported.config, case.expected
    features = case.network.features(case.images)
    for index, level in enumerate(case.network.raw_levels(features)):
        assert relative(level, expected[f"raw.{index}"]) < 1e-5
    outputs = case.network.heads(features)
    anchors = config.box_coding == "xyxy"
    corners, scores = official_boxes(expected["prediction"], len(config.class_names), anchors)
    if anchors:
        found, found_scores = outputs["boxes"].numpy(), outputs["class_scores"].numpy()
    else:
        size = (case.images.shape[2], case.images.shape[3])
        found = decoded_bins(outputs["box_bins"].numpy(), config.strides, size)
        found_scores = outputs["class_logits"].sigmoid().numpy()
    assert np.abs(found - corners).max() < 1e-3  # pixels
    assert np.abs(found_scores - scores).max() < 1e-5
    for name, key in (("prototypes", "proto"), ("semantic_logits", "semantic")):
        assert (name in outputs) == (key in expected)
        if key in expected:
            assert relative(outputs[name], expected[key]) < 1e-5
    if "coefficients" in expected:
        assert relative(outputs["mask_coefficients"], expected["coefficients"]) < 1e-5
    elif anchors and "proto" in expected:
        rest = expected["prediction"][..., 5 + len(config.class_names) :].transpose(0, 2, 1)
        assert relative(outputs["mask_coefficients"], rest) < 1e-5


def test_what_the_file_says_is_kept(case: Golden) -> None:
    config = case.imported.config
    if "names" in case.meta:
        names = case.meta["names"]
        assert list(config.class_names) == (list(names.values()) if isinstance(names, dict) else names)
    if "strides" in case.meta:
        assert list(config.strides) == case.meta["strides"]
    assert config.input_size == ((1280, 1280) if 64 in config.strides else (640, 640))
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


@torch.no_grad()
def test_folding_changes_nothing_but_the_last_digits(case: Golden) -> None:
    folded = fold(case.network)
    kinds = {layer["type"] for layer in folded.config.layers}
    assert not kinds & {"rep_conv", "norm", "add_vector", "multiply_vector"}
    assert not any("norm" in layer for layer in folded.config.layers)
    before, after = case.network(case.images), folded(case.images)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert relative(after[name], value.numpy()) < 1e-4
    cost = layers_cost(case.imported.config, (case.images.shape[2], case.images.shape[3]))
    assert cost.folded_parameters == sum(parameter.numel() for parameter in folded.parameters())
    assert cost.parameters == sum(parameter.numel() for parameter in case.network.parameters())
    assert cost.folded_parameters < cost.parameters
    assert f"{cost.folded_parameters / 1e6:.2f} M" in cost.table()


@torch.no_grad()
@pytest.mark.parametrize("name", ["yolov7-tiny", "gyolo", "yolor-p6-darknet"])
def test_a_checkpoint_is_written_and_opened(name: str, goldens: Path, tmp_path: Path) -> None:
    case = golden(goldens / name)
    folder = goldens / name
    written = import_checkpoint(folder / "checkpoint.pt", tmp_path / "out", licence="GPL-3.0", **arguments(folder))
    opened = Checkpoint.open(tmp_path / "out")
    assert opened.layout == written.layout == case.imported.config
    assert opened.provenance["licence"] == "GPL-3.0" and len(opened.provenance["imported_sha256"]) == 64
    found, expected = opened.network()(case.images), case.network(case.images)
    for key, value in expected.items():
        assert torch.equal(found[key], value)
    with pytest.raises(CheckpointError, match="imported network"):
        _ = opened.config
    lines = (tmp_path / "out" / "checkpoint.json").read_text(encoding="utf-8").splitlines()
    assert sum('"type": "conv"' in line for line in lines) > 20  # a layer is a line


def test_auxiliary_layers_are_left_out(goldens: Path) -> None:
    for name, gone in (("yolov7-w6-aux", range(118, 122)), ("yolov9-c", range(23, 38)), ("gyolo", range(24, 43))):
        tops = {layer["name"].split("_")[0] for layer in golden(goldens / name).imported.config.layers}
        assert not tops & {str(index) for index in gone}


@torch.no_grad()
def test_captions_are_the_official_ones(goldens: Path) -> None:
    case = golden(goldens / "gyolo")
    decoder, expected = case.network.caption_decoder, case.expected
    memory = case.network(case.images)["caption_memory"]
    cells = expected["caption.grid_memory"].shape[1]
    assert decoder.regions == memory.shape[1] - cells
    assert relative(memory[:, :cells], expected["caption.grid_memory"]) < 1e-5
    order = expected["caption.region_index"].argsort(1)  # cells are in the order of their numbers here
    regions = expected["caption.reg_feat"].copy()
    regions[:, : order.shape[1]] = np.take_along_axis(regions, order[..., None], 1)
    assert relative(memory[:, cells:], regions) < 1e-5
    forced = torch.from_numpy(expected["caption.forced.ids"])
    where = case.network.memory_positions((case.images.shape[2], case.images.shape[3]))
    found = decoder(forced, memory, where).log_softmax(2).numpy()
    assert np.abs(found - expected["caption.forced.log_probs"]).max() < 1e-5


def test_arguments_that_do_not_fit_are_refused(goldens: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], name: str, part: str, **given: object) -> None:
        with pytest.raises(error, match=part) as caught:
            import_checkpoint(goldens / name / "checkpoint.pt", tmp_path / "out", **given)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    refused(UsageError, "yolov7", "there are 2 names, but .* has 5 classes", names=["a", "b"])
    refused(UsageError, "yolov7", "writes no captions", vocabulary=["a"])
    refused(UsageError, "yolov7", "holds its network itself", config="yolov7")
    refused(UsageError, "gyolo", "40 words, and the words are not in the file")
    refused(
        UsageError, "gyolo", "of the captions: holds 3 words, but .* writes captions of 40", vocabulary=["a", "b", "c"]
    )
    refused(UsageError, "yolor-csp-darknet", "say which with config")
    refused(UsageError, "yolor-csp-darknet", "give its .cfg file", config="yolov7")
    refused(UsageError, "yolor-csp-darknet", "no such file", config=tmp_path / "none.cfg")
    refused(CheckpointError, "yolor-csp-darknet", "layer", config=goldens / "yolor-p6-darknet" / "layers.json")


def test_a_cfg_file_is_read_as_its_sections(goldens: Path, tmp_path: Path) -> None:
    folder = goldens / "yolor-csp-darknet"
    sections = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    lines = ["# made for a test"]
    for section in sections:
        lines += [f"[{section['kind']}]", *(f"{k} = {v}  # as it is" for k, v in section.items() if k != "kind"), ""]
    (tmp_path / "narrow.cfg").write_text("\n".join(lines), encoding="utf-8")
    found = read_checkpoint(folder / "checkpoint.pt", config=tmp_path / "narrow.cfg", names=list("abcde"))
    assert found.config.layers == golden(folder).imported.config.layers
    assert found.config.class_names == tuple("abcde")


@pytest.mark.parametrize(("name", "config"), [("yolor-csp-darknet", "yolor_csp"), ("yolor-p6-darknet", "yolor-p6")])
def test_official_darknet_networks_are_known_by_name(goldens: Path, name: str, config: str) -> None:
    found = read_checkpoint(goldens / name / "checkpoint.pt", config=config)
    expected = golden(goldens / name).imported
    assert (found.config.layers, found.config.boxes) == (expected.config.layers, expected.config.boxes)
    assert all(np.array_equal(found.weights[key], value) for key, value in expected.weights.items())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"4": "models.common.Transformer9"}, r"models.common.Transformer9 \(layer 4\)"),
        ({"4": "models.common.C3", "9": "utils.other.SPPF"}, r"C3 \(layer 4\); utils.other.SPPF \(layer 9\).*YOLOv5"),
        ({"77": "models.yolo.NewDetect"}, r"models.yolo.NewDetect \(layer 77\)"),
    ],
)
def test_unknown_modules_are_named_all_at_once(
    goldens: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], part: str
) -> None:
    file = goldens / "yolov7-tiny" / "checkpoint.pt"
    content = read_torch_file(file)
    model, _ = chosen_model(content)
    assert isinstance(model, Record)
    layers = model.state["_modules"]["model"].state["_modules"]
    for index, path in change.items():
        layers[index].path = path
    monkeypatch.setattr(importer, "read_torch_file", lambda path: content)
    with pytest.raises(CheckpointError, match=part):
        read_checkpoint(file)


def test_tensors_that_contradict_the_tree_are_refused(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = goldens / "yolov7-tiny" / "checkpoint.pt"

    def refused(part: str, *keys: str, **changes: object) -> None:
        content = read_torch_file(file)
        node = chosen_model(content)[0]
        assert isinstance(node, Record)
        for key in keys:
            node = node.state["_modules"][key]
        for name, value in changes.items():
            target = node.state["_parameters"] if name in node.state["_parameters"] else node.state
            if callable(value):
                value = value(target[name])
            target[name] = value
        monkeypatch.setattr(importer, "read_torch_file", lambda path: content)
        with pytest.raises(CheckpointError, match=part) as caught:
            read_checkpoint(file)
        assert "\n" not in str(caught.value)

    refused("layer 3.conv.*contradicts", "model", "3", "conv", out_channels=7)
    refused("layer 3.conv.*stride", "model", "3", "conv", stride=("a", 1))
    refused("layer 3.*reads layer 99", "model", "3", f=99)
    refused("layer 3.*reads layer", "model", "3", f="x")
    refused("layer 77.*says its strides", "model", "1", "conv", stride=(1, 1))
    refused("layer 3.bn.*channels", "model", "3", "bn", weight=lambda v: dataclasses.replace(v, shape=(1,)))
    refused("layer 3.*no part conv", "model", "3", _modules={})
    refused("nc", "model", "77", nc=80)
    refused("nl", "model", "77", nl=-1)
    refused("nested too deeply|layers|known", _modules={"model": Record("torch.nn.Sequential", (), {})})
