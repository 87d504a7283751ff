"""The training loop on a handful of tiny scenes: it trains, goes on after a kill, and refuses what it cannot do."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.runtime.errors import DatasetError, ImageError, UsageError
from yolor_edge.train.batches import training_loader
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.epochs import Epochs
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.network.config import CAPTIONERS, TASKS, Captioner, Task
from yolor_edge.train.network.network import Network
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.run_files import LOG, RUN, STATE
from yolor_edge.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
# Two steps an epoch; the second epoch is a plain one.
TRAIN = TrainConfig(epochs=2, batch_size=4, workers=0, plain_epochs=1, captions_per_image=2)
DENSE_LOSSES = {"class", "box", "dfl", "mask", "semantic", "dice"}


def train(data: Path, out: Path, config: TrainConfig = TRAIN, **more: Any) -> Checkpoint:
    return fit(data, out, config=config, input_size=SIZE, **more)


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of a run of two epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(scenes, out)
    return out


class Killed(BaseException):
    """What nothing in the product catches."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str, int], None]:
    """Call kill(owner, name, n): the n-th call of that function dies before it does anything."""

    def arm(owner: object, name: str, call: int) -> None:
        function, calls = getattr(owner, name), 0

        def dying(*args: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                monkeypatch.setattr(owner, name, function)
                # A new process would not begin with this one's random numbers.
                torch.manual_seed(12345)
                np.random.seed(12345)  # noqa: NPY002
                raise Killed
            return function(*args, **keywords)

        monkeypatch.setattr(owner, name, dying)

    return arm


def assert_same_run(out: Path, expected: Path) -> None:
    for name in ("checkpoint/network.safetensors", STATE):
        own, other = (safetensors.torch.load_file(folder / name) for folder in (out, expected))
        assert own.keys() == other.keys()
        different = [key for key, tensor in own.items() if not torch.equal(tensor, other[key])]
        assert different == []
    assert Checkpoint.open(out).sha256 == Checkpoint.open(expected).sha256


def test_a_run_leaves_a_checkpoint_a_log_and_a_state(finished: Path, scenes: Path) -> None:
    shown = {"index.html", "results.csv", "config.toml", "batches", "samples", "labels.png"}
    assert {path.name for path in finished.iterdir()} - {"tensorboard"} == {"checkpoint", LOG, RUN, STATE, *shown}
    checkpoint = Checkpoint.open(finished)
    assert checkpoint.config.tasks == TASKS
    assert checkpoint.config.input_size == SIZE
    assert checkpoint.config.class_names == CocoDataset.open(scenes).class_names
    assert checkpoint.provenance["epochs_done"] == 2
    assert checkpoint.provenance["data"] == {"name": "scenes", "split": "train", "images": 8}
    assert TrainConfig.from_json(checkpoint.provenance["train"]) == TRAIN
    log = log_of(finished)
    assert [entry["epoch"] for entry in log] == [1, 2]
    for entry in log:
        assert set(entry["losses"]) == {*DENSE_LOSSES, "caption"}
        assert all(np.isfinite(loss) and loss > 0 for loss in entry["losses"].values())
    with torch.no_grad():
        outputs = checkpoint.network()(torch.rand(1, 3, *SIZE))
    assert all(torch.isfinite(output).all() for output in outputs.values())


def test_the_threads_asked_for_are_used_and_kept_for_a_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(Epochs, "run", lambda _: used.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    train(scenes, tmp_path / "run", threads=2)
    resume(tmp_path / "run")
    resume(tmp_path / "run", threads=1)
    assert used == [2, 2, 1]
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        train(scenes, tmp_path / "other", threads=0)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("owner", "name", "call", "epochs_logged"),
    [
        (Trainer, "step", 1, []),  # before anything was saved
        (Trainer, "step", 4, [1]),  # in the middle of the second epoch
        (Epochs, "write", 1, [1]),  # the first epoch's state saved, its checkpoint not
        (Epochs, "write", 2, [1, 2]),  # the same after the last epoch: nothing is left to train
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    finished: Path,
    scenes: Path,
    tmp_path: Path,
    kill: Callable[[object, str, int], None],
    owner: object,
    name: str,
    call: int,
    epochs_logged: list[int],
) -> None:
    out = tmp_path / "run"
    kill(owner, name, call)
    with pytest.raises(Killed):
        train(scenes, out)
    assert ([entry["epoch"] for entry in log_of(out)] if (out / LOG).exists() else []) == epochs_logged
    resume(out)
    assert_same_run(out, finished)
    by_epoch = {entry["epoch"]: entry for entry in log_of(finished)}
    log = log_of(out)
    assert log == [by_epoch[entry["epoch"]] for entry in log]
    assert log[-1]["epoch"] == 2
    assert not list(out.rglob("*.part*"))


def test_a_finished_run_resumed_stays_as_it_is(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    resume(out)
    assert_same_run(out, finished)
    assert log_of(out) == log_of(finished)


def test_a_line_of_the_log_that_was_cut_short_is_no_obstacle(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    (out / LOG).write_text((out / LOG).read_text(encoding="utf-8")[:-20], encoding="utf-8")
    resume(out)
    assert [entry["epoch"] for entry in log_of(out)] == [1]


def test_some_of_the_heads_and_then_a_kill(
    scenes: Path, tmp_path: Path, kill: Callable[[object, str, int], None]
) -> None:
    """The data set has truth that this network does not learn; that is no reason not to go on."""
    kill(Trainer, "step", 2)
    with pytest.raises(Killed):
        train(scenes, tmp_path / "run", replace(TRAIN, epochs=1), tasks=("caption", "boxes"))
    checkpoint = resume(tmp_path / "run")
    assert checkpoint.config.tasks == ("boxes", "caption")
    assert checkpoint.config.semantic_names == ()
    assert set(log_of(tmp_path / "run")[0]["losses"]) == {"class", "box", "dfl", "caption"}


@pytest.mark.parametrize("augment", ["asymmetric", "none"])
def test_captions_with_regions_and_then_a_kill(
    scenes: Path, tmp_path: Path, kill: Callable[[object, str, int], None], augment: Literal["asymmetric", "none"]
) -> None:
    kill(Trainer, "step", 2)
    with pytest.raises(Killed):
        train(scenes, tmp_path / "run", replace(TRAIN, epochs=1, augment=augment), captioner="grit")
    checkpoint = resume(tmp_path / "run")
    assert checkpoint.config.captioner == "grit"
    assert checkpoint.network().caption_decoder.regions == checkpoint.config.regions_at(SIZE) > 126
    assert set(log_of(tmp_path / "run")[0]["losses"]) == {*DENSE_LOSSES, "caption"}


def change_annotations(data: Path, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = data / "annotations" / f"{kind}_train.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def own_scenes(scenes: Path, tmp_path: Path) -> Path:
    """A copy of `scenes` to spoil."""
    return Path(shutil.copytree(scenes, tmp_path / "own"))


@pytest.mark.parametrize(
    ("missing", "losses"),
    [
        (("captions",), DENSE_LOSSES),
        (("panoptic",), (DENSE_LOSSES | {"caption"}) - {"semantic", "dice"}),
    ],
)
def test_kinds_of_truth_that_a_data_set_lacks(
    own_scenes: Path, tmp_path: Path, missing: tuple[str, ...], losses: set[str]
) -> None:
    for kind in missing:
        (own_scenes / "annotations" / f"{kind}_train.json").unlink()
    checkpoint = train(own_scenes, tmp_path / "run", replace(TRAIN, epochs=1))
    assert set(log_of(tmp_path / "run")[0]["losses"]) == losses
    assert ("caption" in checkpoint.config.tasks) == ("captions" not in missing)
    assert ("semantic" in checkpoint.config.tasks) == ("panoptic" not in missing)


@pytest.mark.parametrize(("tasks", "augment"), [(None, "none"), (("caption",), "asymmetric")])
def test_batches_without_captions(
    scenes_with_one_caption: Path, tmp_path: Path, tasks: tuple[Task, ...] | None, augment: str
) -> None:
    config = TRAIN.with_settings(["epochs=1", f"augment={augment}"])
    checkpoint = train(scenes_with_one_caption, tmp_path / "run", config, tasks=tasks)
    assert "caption" in checkpoint.config.tasks
    assert log_of(tmp_path / "run")[0]["losses"]["caption"] > 0


def test_pictures_without_objects_and_without_boxes(own_scenes: Path, tmp_path: Path) -> None:
    """Half of the images are listed without an object, and one of the others has a crowd only."""

    def thin_out(document: dict[str, Any]) -> None:
        ids = sorted(image["id"] for image in document["images"])
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids[4:]]
        for annotation in document["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] == ids[4])

    change_annotations(own_scenes, "instances", thin_out)
    change_annotations(
        own_scenes,
        "panoptic",
        lambda document: document["annotations"].pop(),
    )
    train(own_scenes, tmp_path / "run", replace(TRAIN, epochs=1, batch_size=1, captions_per_image=1))
    losses = log_of(tmp_path / "run")[0]["losses"]
    assert set(losses) == {*DENSE_LOSSES, "caption"}
    assert all(np.isfinite(loss) for loss in losses.values())


def test_a_data_set_without_a_single_object(own_scenes: Path, tmp_path: Path) -> None:
    change_annotations(own_scenes, "instances", lambda document: document.update(annotations=[]))
    with pytest.raises(DatasetError, match="boxes: none of 8 images has an object"):
        train(own_scenes, tmp_path / "run", tasks=("boxes", "semantic"))
    assert not (tmp_path / "run").exists()
    assert train(own_scenes, tmp_path / "run", replace(TRAIN, epochs=1)).config.tasks == ("semantic", "caption")


def test_validation_scores_travel_with_the_checkpoint_and_do_not_touch_the_training(
    finished: Path, own_scenes: Path, tmp_path: Path
) -> None:
    write_scenes(own_scenes, count=1, seed=4, split="val", size=SIZE)
    best = train(own_scenes, tmp_path / "run")
    last = Checkpoint.open(tmp_path / "run" / "checkpoint")
    assert last.sha256 == Checkpoint.open(finished).sha256
    log = log_of(tmp_path / "run")
    assert all("box_ap" in entry["validation"]["scores"] and 0 <= entry["score"] <= 1 for entry in log)
    assert last.provenance["validation"] == log[1]["validation"]
    assert best.path == Checkpoint.open(tmp_path / "run").path == tmp_path / "run" / "best"
    epoch = max(log, key=lambda entry: (entry["score"], entry["epoch"]))["epoch"]
    assert best.provenance["epochs_done"] == epoch
    assert best.provenance["validation"] == log[epoch - 1]["validation"]


def test_half_precision_checkpoints(finished: Path, scenes: Path, tmp_path: Path) -> None:
    checkpoint = train(scenes, tmp_path / "run", replace(TRAIN, weights="float16"))
    own, other = (Checkpoint.open(run).network().state_dict() for run in (tmp_path / "run", finished))
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name].half().float() if tensor.ndim >= 2 else other[name])
    assert checkpoint.path == tmp_path / "run" / "checkpoint"


def test_a_run_is_not_written_into_its_own_data(scenes: Path) -> None:
    before = sorted(scenes.rglob("*"))
    with pytest.raises(UsageError, match=r"is the data set's own folder; choose another out"):
        fit(scenes, scenes)
    assert sorted(scenes.rglob("*")) == before


@pytest.mark.parametrize(("load", "threads", "is_told"), [(1.7, 2, True), (0.1, 2, False), (1.7, 1, False)])
def test_a_busy_machine_is_told(
    load: float,
    threads: int,
    is_told: bool,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(Epochs, "run", lambda self: None)
    fit(scenes, tmp_path / "run", config=replace(TRAIN, check="off"), input_size=SIZE, threads=threads)
    assert ("other programs keep 1.7 of " in capsys.readouterr().err) == is_told


def test_an_existing_run_is_refused(finished: Path, scenes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UsageError, match=r"finished: holds a run already; continue it .yolor-edge train --resume "):
        train(scenes, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tasks": ("boxes", "depth")}, "has no truth for depth; it has boxes, masks, semantic, caption"),
        ({"tasks": ("masks",)}, "the task masks needs the task boxes"),
        ({"size": "xl"}, "size must be one of n, s, m, l, got 'xl'"),
        ({"config": replace(TRAIN, device="abacus")}, "device 'abacus' is not known"),
        ({"input_size": (64, 100)}, "input_size must be two multiples of 32"),
        ({"captioner": "gpt"}, "captioner must be one of catr, grit, got 'gpt'"),
        (
            {"captioner": "grit", "tasks": ("semantic", "caption")},
            "the captioner grit needs the task boxes: its captions look at the cells that boxes come from; the tasks "
            "are semantic, caption",
        ),
        ({"captioner": "grit", "tasks": ("boxes",)}, "the captioner grit needs the task caption"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing_behind(
    scenes: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        fit(scenes, tmp_path / "run", **{"config": TRAIN, "input_size": SIZE, **more})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_task_without_truth_is_refused(own_scenes: Path, tmp_path: Path) -> None:
    (own_scenes / "annotations" / "captions_train.json").unlink()
    with pytest.raises(UsageError, match=r"\(train\): has no truth for caption; it has boxes, masks, semantic"):
        train(own_scenes, tmp_path / "run", tasks=("boxes", "caption"))
    with pytest.raises(DatasetError):
        train(tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_read_is_named(own_scenes: Path, tmp_path: Path) -> None:
    picture = sorted((own_scenes / "train").iterdir())[3]
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DatasetError) as told:
        train(own_scenes, tmp_path / "run", replace(TRAIN, epochs=1))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ImageError) as caught:
        train(own_scenes, tmp_path / "run", replace(TRAIN, epochs=1, check="off"))
    for error in (told.value, caught.value):
        assert str(picture) in str(error)
        assert "\n" not in str(error)


def test_a_share_is_held_out_and_stays_so_in_a_resume(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(scenes, out, replace(TRAIN, epochs=1, val_share=0.25, check="fast"))
    assert json.loads((out / RUN).read_text())["split"] == "train@0.25"
    assert "validation" in log_of(out)[0] or "scores" in log_of(out)[0]
    resume(out, epochs=2)
    assert Checkpoint.open(out / "checkpoint").provenance["data"]["split"] == "train@0.25"


def test_crowds_alone_teach_nothing(own_scenes: Path, tmp_path: Path) -> None:
    path = own_scenes / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    for one in document["annotations"]:
        one["iscrowd"] = 1
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="boxes: 19 of 19 objects are crowds; see yolor-edge check"):
        train(own_scenes, tmp_path / "run", tasks=("boxes",))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_resumed(finished: Path, own_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing: holds no run to resume"):
        resume(tmp_path / "nothing")

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    state = (out / STATE).read_bytes()
    (out / STATE).write_bytes(state[: len(state) // 2])
    with pytest.raises(UsageError, match=r"state.safetensors: cannot be resumed from .* delete it") as caught:
        resume(out)
    assert "\n" not in str(caught.value)

    run = json.loads((out / RUN).read_text(encoding="utf-8"))
    (out / RUN).write_text(json.dumps({**run, "data": str(own_scenes)}), encoding="utf-8")
    change_annotations(own_scenes, "instances", lambda document: document["categories"][0].update(name="blob"))
    with pytest.raises(DatasetError, match="use the data set that the network was trained for"):
        resume(out)

    (out / RUN).write_text(json.dumps({**run, "data": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(DatasetError, match="gone"):
        resume(out)

    for text in ("{", "[]", "{}"):
        (out / RUN).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=r"run.json: is not the description of a run"):
            resume(out)


def trainer_of(scenes: Path, captioner: Captioner) -> Trainer:
    """A trainer of all four tasks in float32 that has not moved yet."""
    data = CocoDataset.open(scenes)
    config = replace(TRAIN, amp="off", warmup=0.1, learning_rate=2e-3, weight_decay=0.1)
    network = describe_network(data, "n", config, SIZE, None, "tiny", captioner)
    return Trainer(network, config, steps=100, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def trainer(scenes: Path, one_thread: None) -> Trainer:
    return trainer_of(scenes, "catr")


def test_the_learning_rate_rises_then_falls_to_its_end(trainer: Trainer) -> None:
    rates = []
    for trainer.step_index in range(101):
        rates.append(trainer.learning_rate())
    trainer.step_index = 0
    assert rates[:10] == pytest.approx([2e-3 * (i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(2e-3)
    assert rates[55] == pytest.approx(2e-3 * (0.01 + 0.99 / 2))
    assert rates[100] == pytest.approx(2e-3 * 0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_weight_decay_spares_norms_biases_and_implicit_vectors(trainer: Trainer) -> None:
    decayed, plain = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    for parameter in decayed["params"]:
        assert names[id(parameter)].endswith("weight")
        assert parameter.ndim >= 2
    for parameter in plain["params"]:
        assert parameter.ndim == 1 or names[id(parameter)].endswith("vector")


def test_the_loss_of_gated_captions_falls_as_that_of_plain_ones(scenes: Path) -> None:
    """The same batch, again and again: all losses fall, that of the captions as far with regions as without."""
    data = CocoDataset.open(scenes)
    falls = {}
    for captioner in CAPTIONERS:
        trainer = trainer_of(scenes, captioner)
        batch = next(iter(training_loader(data, trainer.network.config, trainer.config)[0]))
        trainer.network.train()
        losses = [trainer.step(batch) for _ in range(12)]
        for name in ("class", "mask", "semantic", "caption"):
            assert losses[-1][name] < losses[0][name]
        falls[captioner] = losses[-1]["caption"] / losses[0]["caption"]
    assert falls["grit"] < 0.85
    assert falls["grit"] < 1.15 * falls["catr"]


def test_choosing_regions_leaves_the_dense_heads_as_they_are(scenes: Path) -> None:
    """Views for captions pass the class head only to choose cells: they neither teach it nor move its statistics."""
    trainer = trainer_of(scenes, "grit")
    trainer.network.train()
    network = trainer.network
    assert isinstance(network, Network)
    features = network.features(torch.rand(2, 3, *SIZE))
    before = {name: value.clone() for name, value in network.box_head.state_dict().items()}
    logits = trainer._choosing(features)
    assert set(logits) == {"class_logits", "semantic_logits"}
    assert not any(value.requires_grad for value in logits.values())
    assert all(torch.equal(value, before[name]) for name, value in network.box_head.state_dict().items())
    assert all(module.training for module in network.modules())


def test_the_average_follows_slowly_and_the_loss_falls(trainer: Trainer, scenes: Path) -> None:
    """One batch seen again and again: the first step's average by hand, then the loss goes down."""
    data = CocoDataset.open(scenes)
    batch = next(iter(training_loader(data, trainer.network.config, trainer.config)[0]))
    before = {name: tensor.clone() for name, tensor in trainer.average.state_dict().items()}
    trainer.network.train()
    first = trainer.step(batch)
    decay = 2 / 11
    own = trainer.network.state_dict()
    for name, average in trainer.average.state_dict().items():
        if average.is_floating_point():
            expected = decay * before[name] + (1 - decay) * own[name]
            torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(average, own[name])
    assert not trainer.average.training
    last = [trainer.step(batch) for _ in range(14)][-1]
    assert sum(last.values()) < 0.75 * sum(first.values())
    for name in ("class", "mask", "semantic", "caption"):
        assert last[name] < first[name]


def test_one_image_of_one_cell_is_refused_in_words(trainer: Trainer, scenes: Path) -> None:
    batch = next(iter(training_loader(CocoDataset.open(scenes), trainer.network.config, trainer.config)[0]))
    tiny = replace(batch, strong=batch.strong[:1, :, :32, :32], weak=None)
    trainer.network.train()
    before = trainer.step_index
    with pytest.raises(UsageError, match="a step of one image at 32x32 leaves batch normalisation a single value"):
        trainer.step(tiny)
    assert trainer.step_index == before
