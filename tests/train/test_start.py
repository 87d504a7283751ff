"""Training that starts from other weights: what is kept, by name and by row, what is frozen, and how fast it moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.runtime.errors import CheckpointError, UsageError
from yolor_edge.train.batches import training_loader
from yolor_edge.train.checkpoint import Checkpoint, write_checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.network.config import NetworkConfig
from yolor_edge.train.network.layers import LayerNetwork, LayersConfig
from yolor_edge.train.network.network import Network
from yolor_edge.train.network.parts import modules_by_part, part_of
from yolor_edge.train.run_files import LOG, RUN, STATE
from yolor_edge.train.start import Transfer, Weights
from yolor_edge.train.trainer import StartRates, Trainer

from .tiny_network import SPECIALS, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
TRAIN = TrainConfig(epochs=1, batch_size=4, workers=0, plain_epochs=0, captions_per_image=2, amp="off")
OLD, NEW = ("circle", "square", "star"), ("star", "heart", "circle")


def weights_of(network: Network) -> Weights:
    return Weights(network.config, network.state_dict(), {})


def moved(config: NetworkConfig, old: NetworkConfig) -> tuple[Transfer, Network, Network]:
    """A network of `config` filled with one of `old`: what became of it, the filled one and the old one."""
    torch.manual_seed(1)
    given, own = Network(old), Network(config)
    transfer = Transfer.plan(weights_of(given), config)
    transfer.fill(own, weights_of(given))
    return transfer, own, given


def test_classes_and_words_keep_their_rows_by_name() -> None:
    old = tiny_config(
        class_names=OLD,
        category_ids=(1, 2, 3),
        semantic_names=("grass", "sky", "water"),
        semantic_category_ids=(1, 2, 3),
        vocabulary=(*SPECIALS, "a", "red", "star"),
    )
    new = replace(
        old, class_names=NEW, semantic_names=("sky", "sand", "grass"), vocabulary=(*SPECIALS, "star", "blue", "a", "on")
    )
    transfer, own, given = moved(new, old)
    after, before = own.state_dict(), given.state_dict()
    for level in range(3):
        for name, axis in (("1.weight", 0), ("1.bias", 0), ("2.vector", 1)):
            rows, old_rows = (state[f"box_head.classes.{level}.2.{name}"] for state in (after, before))
            assert torch.equal(rows.select(axis, 0), old_rows.select(axis, 2))  # star
            assert torch.equal(rows.select(axis, 2), old_rows.select(axis, 0))  # circle
        heart = after[f"box_head.classes.{level}.2.1.weight"][1]
        assert not (heart == before[f"box_head.classes.{level}.2.1.weight"][:, None]).all(-1).any()
    for name in ("semantic_head.body.1.1.weight", "semantic_head.body.1.1.bias"):
        assert torch.equal(after[name][[0, 2]], before[name][[1, 0]])
    for name in ("caption_decoder.words.weight", "caption_decoder.output.4.weight", "caption_decoder.output.4.bias"):
        assert torch.equal(after[name][[0, 1, 2, 3, 4, 6]], before[name][[0, 1, 2, 3, 6, 4]])
    assert len(transfer.by_name) == 3 * 3 + 3 + 3
    assert (transfer.remade, transfer.added, transfer.dropped) == ((), (), ())
    for name in transfer.kept:
        assert torch.equal(after[name], before[name])
    assert transfer.notes == (
        "classes: 2 kept (star, circle), 1 new (heart), 1 dropped (square)",
        "semantic classes: 2 kept (sky, grass), 1 new (sand), 1 dropped (water)",
        "words: 2 kept (star, a), 2 new (blue, on), 1 dropped (red)",
    )


def test_heads_that_are_added_dropped_and_remade() -> None:
    old = tiny_config(tasks=("boxes", "masks"), class_names=("a", "b"), category_ids=(1, 2))
    new = tiny_config(tasks=("boxes", "semantic"), class_names=("c",), category_ids=(1,))
    transfer, own, given = moved(new, old)
    counts = transfer.counts()
    assert list(counts) == ["backbone", "neck", "boxes", "masks", "semantic"]
    assert list(counts["backbone"]) == list(counts["neck"]) == ["kept"]
    assert counts["boxes"]["remade"] == 9
    assert list(counts["masks"]) == ["dropped"]
    assert list(counts["semantic"]) == ["added"]
    names = {name for part in counts.values() for name in part}
    assert sum(sum(part.values()) for part in counts.values()) == len({*own.state_dict(), *given.state_dict()})
    assert names == {"kept", "remade", "added", "dropped"}
    lines = transfer.table().splitlines()
    assert lines[0].split() == ["tensors", "kept", "by", "name", "remade", "added", "dropped"]
    assert lines[1].split() == ["backbone", str(counts["backbone"]["kept"]), "-", "-", "-", "-"]
    assert lines[3].split() == ["boxes", str(counts["boxes"]["kept"]), "-", "9", "-", "-"]
    assert "classes: 1 new (c), 2 dropped (a, b)" in lines


def test_another_size_keeps_what_has_the_same_shape() -> None:
    transfer, own, given = moved(tiny_config("s"), tiny_config("n"))
    assert transfer.kept
    assert transfer.remade
    after, before = own.state_dict(), given.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in transfer.kept)
    assert all(after[name].shape != before[name].shape for name in transfer.remade)


@pytest.fixture(scope="module")
def old_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("old") / "old", count=4, seed=5, size=SIZE, shapes=OLD)


@pytest.fixture(scope="module")
def new_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("new") / "new", count=4, seed=6, size=SIZE, shapes=NEW)


@pytest.fixture(scope="module")
def known(old_scenes: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run on scenes of three shapes, all four tasks."""
    out = tmp_path_factory.mktemp("known") / "run"
    fit(old_scenes, out, config=TRAIN, input_size=SIZE, name="known")
    return out


def started(data: Path, start: Path, out: Path, config: TrainConfig = TRAIN, **more: Any) -> Checkpoint:
    return fit(data, out, config=config, start=start, **more)


def test_a_run_starts_from_another_one(
    known: Path, new_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = started(new_scenes, known, tmp_path / "run", tasks=("boxes", "masks"))
    said = capsys.readouterr().err
    assert f"from {known}:\ntensors " in said
    assert "classes: 2 kept (circle, star), 1 new (heart), 1 dropped (square)" in said
    assert checkpoint.config.class_names == ("circle", "star", "heart")
    assert (checkpoint.config.input_size, checkpoint.config.name) == (SIZE, "known")
    start = checkpoint.provenance["start"]
    assert (start["checkpoint"], start["sha256"]) == ("run", Checkpoint.open(known).sha256)
    assert start["tensors"]["caption"] == {"dropped": start["tensors"]["caption"]["dropped"]}


def states(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]


def test_a_start_may_be_gone_when_the_run_is_resumed(
    known: Path, new_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(*_: object, **__: object) -> None:
        raise Killed

    whole = started(new_scenes, known, tmp_path / "whole", freeze=("backbone",))
    gone = Path(shutil.copytree(known, tmp_path / "gone" / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", dying)
        with pytest.raises(Killed):
            started(new_scenes, gone, tmp_path / "run", freeze=("backbone",))
    shutil.rmtree(gone)
    assert resume(tmp_path / "run").sha256 == whole.sha256
    (tmp_path / "run" / STATE).unlink()
    with pytest.raises(UsageError, match=r"state.safetensors: is missing, and with it the weights .* start a new one"):
        resume(tmp_path / "run")


def trainer_of(data: Path, start: Path, frozen: tuple[str, ...], config: TrainConfig) -> tuple[Trainer, Transfer]:
    weights = Weights.open(start)
    dataset = CocoDataset.open(data)
    layout = weights.layout
    assert isinstance(layout, NetworkConfig)
    network = replace(layout, class_names=dataset.class_names, category_ids=dataset.category_ids)
    transfer = Transfer.plan(weights, network)
    rates = StartRates(frozen, frozenset(transfer.fresh))
    trainer = Trainer(network, config, 10, torch.device("cpu"), rates)
    trainer.load_start(transfer, weights)
    return trainer, transfer


def test_frozen_parts_stay_and_kept_ones_move_slowly(known: Path, new_scenes: Path) -> None:
    config = replace(TRAIN, kept_rate=0.25, learning_rate=2e-3)
    trainer, transfer = trainer_of(new_scenes, known, ("backbone", "masks"), config)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.train_mode()
    dataset = CocoDataset.open(new_scenes)
    for batch in training_loader(dataset, trainer.network.config, config)[0]:
        trainer.step(batch)
    modules = modules_by_part(trainer.network.config)
    for network in (trainer.network, trainer.average):
        after = network.state_dict()
        for name, tensor in before.items():
            if part_of(name, modules) in ("backbone", "masks"):
                assert torch.equal(after[name], tensor), name
        assert not torch.equal(after["neck.top.short.0.weight"], before["neck.top.short.0.weight"])
        assert not torch.equal(after["neck.top.short.1.running_mean"], before["neck.top.short.1.running_mean"])
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    found: dict[str, float] = {}
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == pytest.approx(group["rate"] * 2e-3)
        found.update({names[id(parameter)]: group["rate"] for parameter in group["params"]})
    assert not any(part_of(name, modules) in ("backbone", "masks") for name in found)
    fresh = {name for name in transfer.fresh if name in found}
    assert fresh
    assert {name for name, rate in found.items() if rate == 1.0} == fresh
    assert {rate for name, rate in found.items() if name not in fresh} == {0.25}
    moving = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in trainer.optimizer.state} <= moving


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"freeze": ("back", "hip")}, "freeze: the network has no part back, hip; it has backbone, neck, boxes"),
        ({"freeze": ("boxes",)}, "freeze: 9 of 96 tensors of boxes are not those of the start, such as box_head.cl"),
        ({"freeze": ("backbone",), "start": None}, "freeze belongs to a training from other weights; give start too"),
        ({"vocabulary": "words.txt"}, "holds its words itself; vocabulary is for an official .pt file"),
        ({"start": "missing"}, "missing: no such folder; expected a checkpoint or a run"),
        ({"start": "missing.pt"}, "missing.pt: no such file; expected a .pt file"),
    ],
)
def test_what_cannot_be_started_from(
    known: Path, new_scenes: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, CheckpointError)) as caught:
        fit(new_scenes, tmp_path / "run", **{"config": TRAIN, "start": known, **more})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_whole_network_cannot_be_frozen(known: Path, old_scenes: Path, tmp_path: Path) -> None:
    parts = ("backbone", "neck", "boxes", "masks", "semantic", "caption")
    with pytest.raises(UsageError, match="is the whole network; nothing is left to train"):
        started(old_scenes, known, tmp_path / "run", freeze=parts)


def test_folders_and_files_that_are_no_checkpoint(known: Path, new_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}", encoding="utf-8")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.pt").write_text("hello, this is no checkpoint at all", encoding="utf-8")
    for start, message in (
        (tmp_path / "bundle", "is a bundle; expected the checkpoint or the run that it was exported from"),
        (tmp_path / "photos", "is not a checkpoint (no checkpoint.json in it)"),
        (tmp_path / "notes.pt", "notes.pt: "),
        (known / "checkpoint" / "network.safetensors", "is the weights of a checkpoint; expected its folder"),
    ):
        with pytest.raises(CheckpointError) as caught:
            started(new_scenes, start, tmp_path / "run")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_finished_run_takes_more_epochs(
    known: Path, old_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(known, tmp_path / "run"))
    resume(out)
    assert f"All 1 epochs are done. For more: yolor-edge train --resume {out} --epochs 2" in capsys.readouterr().err
    checkpoint = resume(out, epochs=3)
    log = states(out)
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert log[0] == states(known)[0]
    assert log[1]["learning_rate"] > log[2]["learning_rate"] == pytest.approx(1e-5)
    assert (checkpoint.provenance["epochs_done"], checkpoint.provenance["train"]["epochs"]) == (3, 3)
    assert json.loads((out / RUN).read_text(encoding="utf-8"))["train"]["epochs"] == 3
    with pytest.raises(UsageError, match="3 epochs are done; epochs must be at least that, got 2"):
        resume(out, epochs=2)


# ------------------------------------------------------------------------------------------- imported networks


def renamed(scenes: Path, to: Path, names: dict[str, str]) -> Path:
    """A copy of scenes whose classes have other names."""
    data = Path(shutil.copytree(scenes, to))
    for kind in ("instances", "panoptic"):
        path = data / "annotations" / f"{kind}_train.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        for category in document["categories"]:
            category["name"] = names.get(category["name"], category["name"])
        path.write_text(json.dumps(document), encoding="utf-8")
    return data


@pytest.fixture
def golden_file(goldens: Path) -> Callable[[str], Path]:
    def file(name: str) -> Path:
        if not (goldens / name).is_dir():
            pytest.skip(f"there is no golden {name}")
        return goldens / name / "checkpoint.pt"

    return file


@pytest.mark.parametrize("name", ["gelan-c-pan", "yolov7-u7-seg", "yolov7", "yolov7-af"])
def test_an_official_file_is_trained_itself(
    golden_file: Callable[[str], Path], new_scenes: Path, tmp_path: Path, name: str
) -> None:
    file = golden_file(name)
    data = renamed(new_scenes, tmp_path / "data", {"star": "dog"})
    given = Weights.open(file)
    config = replace(TRAIN, learning_rate=1e-12)  # Nothing moves, but everything is computed.
    checkpoint = started(data, file, tmp_path / "run", config, input_size=SIZE)
    layout, state = checkpoint.layout, checkpoint.network().state_dict()
    assert isinstance(checkpoint.network(), LayerNetwork)
    assert isinstance(layout, LayersConfig) and isinstance(given.layout, LayersConfig)
    assert layout.class_names == ("circle", "dog", "heart")
    assert layout.tasks == tuple(task for task in given.layout.tasks if task != "caption")
    assert checkpoint.provenance["licence"] == "unknown"
    losses = set(states(tmp_path / "run")[0]["losses"])
    expected = {"class", "box"} | ({"dfl"} if layout.box_coding == "dfl" else set())
    expected |= ({"mask"} if "masks" in layout.tasks else set()) | (
        {"semantic", "dice"} if "semantic" in layout.tasks else set()
    )
    assert losses == expected
    new, old = layout.class_names.index("dog"), given.layout.class_names.index("dog")
    count, old_count = len(layout.class_names), len(given.layout.class_names)
    if layout.box_coding == "dfl":
        rows = {f"layers.{layer}.conv": [(new, old)] for layer in layout.boxes["classes"]}
    else:
        more = layout.boxes.get("mask_coefficients") or 0
        step, old_step = 5 + count + more, 5 + old_count + more
        pairs = [
            (anchor * step + a, anchor * old_step + b)
            for anchor in range(3)
            for a, b in [*((i, i) for i in range(5)), (5 + new, 5 + old)]
        ]
        level = layout.boxes["levels"][0]
        rows = {f"layers.{level.replace('im', 'm')}.conv": pairs}
    for start, pairs in rows.items():
        for tensor in ("weight", "bias"):
            after, before = state[f"{start}.{tensor}"], given.tensors[f"{start}.{tensor}"]
            ours, theirs = (torch.tensor(side) for side in zip(*pairs, strict=True))
            torch.testing.assert_close(after[ours], before[theirs], rtol=0, atol=1e-9)
    first = f"layers.{layout.layers[0]['name']}.conv.weight"
    torch.testing.assert_close(state[first], given.tensors[first], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gelan-c", "yolov7"])
def test_training_an_imported_network_lowers_its_losses(
    golden_file: Callable[[str], Path], new_scenes: Path, tmp_path: Path, name: str
) -> None:
    config = replace(TRAIN, epochs=12, learning_rate=5e-3, kept_rate=1.0, augment="none")
    started(new_scenes, golden_file(name), tmp_path / "run", config, input_size=SIZE)
    log = states(tmp_path / "run")
    first, last = (sum(entry["losses"].values()) for entry in (log[0], log[-1]))
    assert last < 0.8 * first
    assert all(entry["tasks"]["boxes"]["gradient"] > 0 for entry in log)


def test_an_imported_checkpoint_is_a_start_too_with_parts_frozen(
    golden_file: Callable[[str], Path], new_scenes: Path, tmp_path: Path
) -> None:
    weights = Weights.open(golden_file("gelan-c-seg"))
    assert not isinstance(weights.layout, NetworkConfig)
    network = LayerNetwork(weights.layout)
    network.load_state_dict(dict(weights.tensors))
    write_checkpoint(tmp_path / "imported", network, {"licence": "GPL-3.0"})
    checkpoint = started(
        new_scenes,
        tmp_path / "imported",
        tmp_path / "run",
        input_size=SIZE,
        freeze=("backbone", "neck"),
        tasks=("boxes",),
    )
    layout, state = checkpoint.layout, checkpoint.network().state_dict()
    assert (layout.tasks, checkpoint.provenance["licence"]) == (("boxes",), "GPL-3.0")
    modules = modules_by_part(layout)
    parts = {name: part_of(name, modules) for name in state}
    assert set(parts.values()) == {"backbone", "neck", "boxes"}
    for name, part in parts.items():
        if part != "boxes":
            assert torch.equal(state[name], weights.tensors[name]), name
    moved = [name for name, part in parts.items() if part == "boxes" and "weight" in name]
    assert any(not torch.equal(state[name], weights.tensors[name]) for name in moved if name in weights.tensors)


def test_what_an_imported_network_cannot_be(
    golden_file: Callable[[str], Path], new_scenes: Path, tmp_path: Path
) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"size": "s"}, "size is for networks of our own plan; "),
        ({"captioner": "grit"}, "captioner is for networks of our own plan; "),
        ({"tasks": ("boxes", "masks")}, "has no head for masks; it has boxes"),
        ({"input_size": (64, 100)}, "input_size must be two multiples of 32"),
    )
    for more, message in cases:
        with pytest.raises(UsageError) as caught:
            started(new_scenes, golden_file("yolov7"), tmp_path / "run", **more)
        assert message in str(caught.value)
    with pytest.raises(UsageError, match=r"64 within 64 and 8192, got 64x96"):
        started(new_scenes, golden_file("yolov7-w6-aux"), tmp_path / "run", input_size=SIZE)
    with pytest.raises(UsageError, match=r"give the official vocabulary file as vocabulary"):
        started(new_scenes, golden_file("gyolo"), tmp_path / "run", input_size=SIZE)
    with pytest.raises(UsageError, match=r"import it first, saying which: yolor-edge import .* --config NAME"):
        started(new_scenes, golden_file("yolor-csp-darknet"), tmp_path / "run", input_size=SIZE)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(LayerNetwork, "caption_decoder"), reason="imported networks have no caption decoder")
def test_captions_of_an_imported_network(golden_file: Callable[[str], Path], new_scenes: Path, tmp_path: Path) -> None:
    file = golden_file("gyolo")
    given = Weights.open(file, file.parent / "vocab.txt")
    config = replace(TRAIN, learning_rate=1e-12)
    checkpoint = started(
        new_scenes, file, tmp_path / "run", config, input_size=SIZE, vocabulary=file.parent / "vocab.txt"
    )
    assert "caption" in checkpoint.layout.tasks
    assert states(tmp_path / "run")[0]["losses"]["caption"] > 0
    words, old_words = checkpoint.layout.vocabulary, given.layout.vocabulary
    shared = [word for word in words[4:] if word in old_words]
    assert shared
    state = checkpoint.network().state_dict()
    for name in ("captioner.decoder.words.weight", "captioner.decoder.output.weight"):
        for word in shared:
            after, before = state[name][words.index(word)], given.tensors[name][old_words.index(word)]
            torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
