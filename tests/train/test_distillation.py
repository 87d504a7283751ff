"""Losses against a teacher: zero where the student says the same, else towards it; names matched; runs that resume."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.main import main
from yolor_edge.runtime.bundle.graph_options import GraphOptions
from yolor_edge.runtime.bundle.spec import ModelSpec
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.batches import Batch
from yolor_edge.train.checkpoint import Checkpoint, write_checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.dense_truth import DenseTruth
from yolor_edge.train.distillation import Distillation
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.network.config import NetworkConfig
from yolor_edge.train.network.network import Network
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.run_files import LOG, RUN, STATE
from yolor_edge.train.teachers import Grid, Teacher
from yolor_edge.train.torch_backend import spec_of

from .tiny_network import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
CELLS = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32))
LOSSES = ("distill_class", "distill_box", "distill_mask", "distill_semantic", "distill_caption")
TOKENS = torch.tensor([[2, 4, 5, 6, 3, 0], [2, 7, 4, 3, 0, 0]])


class Fixed(Teacher):
    """Says what it was made with, whatever it is shown."""

    def __init__(self, spec: ModelSpec, heads: dict[str, Tensor], words: Tensor, grid: Grid | None = None) -> None:
        source = {"path": "there", "kind": "checkpoint", "name": "fixed", "sha256": "0" * 64, "licence": "MIT"}
        super().__init__(spec, grid or Grid(spec.strides), source)
        self.heads, self.words, self.told = heads, words, torch.zeros(0)

    def to(self, device: torch.device) -> None:
        pass

    def see(self, images: Tensor, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        return {**self.heads, "caption_memory": torch.zeros(len(images), 1, 1)}

    def follow(self, memory: Tensor, owners: Tensor, tokens: Tensor) -> Tensor:
        self.told = tokens
        return self.words


def heads_of(config: NetworkConfig, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Made-up raw heads of two images, with cells that are sure of an object, and logits of the words."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 2.0) -> Tensor:
        return torch.randn(*shape, generator=draw) * scale

    height, width = SIZE
    heads = {
        "class_logits": normal(2, len(config.class_names), CELLS),
        "box_bins": normal(2, 4 * config.reg_max, CELLS),
        "mask_coefficients": normal(2, config.prototypes, CELLS, scale=0.5),
        "prototypes": normal(2, config.prototypes, height // 4, width // 4, scale=0.5),
        "semantic_logits": normal(2, len(config.semantic_names), height // 8, width // 8),
    }
    return heads, normal(len(TOKENS), TOKENS.shape[1] - 1, len(config.vocabulary))


def batch_of() -> tuple[Tensor, Batch]:
    """Images of noise, and a batch with two captions."""
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    cells = (SIZE[0] // 4, SIZE[1] // 4)
    truth = DenseTruth(
        boxes=torch.zeros(2, 0, 4),
        classes=torch.zeros(2, 0, dtype=torch.int64),
        valid=torch.zeros(2, 0, dtype=torch.bool),
        classes_known=torch.ones(2, *cells, dtype=torch.bool),
        masks=torch.zeros(0, *cells, dtype=torch.uint8),
        first_mask=torch.zeros(2, dtype=torch.int64),
        mask_known=torch.zeros(2, 0, dtype=torch.bool),
        semantic=torch.full((2, *cells), 255, dtype=torch.uint8),
    )
    strong = (images * 255).to(torch.uint8)
    return strong.float() / 255, Batch(strong, truth, None, torch.tensor([0, 1]), TOKENS)


def losses_of(teacher: Teacher, student: NetworkConfig, heads: dict[str, Tensor], words: Tensor) -> dict[str, Tensor]:
    images, batch = batch_of()
    return Distillation(teacher, student, TrainConfig())(images, batch, heads, words)


def test_there_is_no_loss_where_the_student_says_the_same() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    same = losses_of(Fixed(spec_of(config), heads, words), config, heads, words)
    assert tuple(same) == LOSSES
    assert all(abs(loss.item()) < 1e-5 for loss in same.values())
    others, other_words = heads_of(config, 2)
    far = losses_of(Fixed(spec_of(config), others, other_words), config, heads, words)
    assert all(loss.item() > 0.01 for loss in far.values())


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        ("distill_class", "class_logits"),
        ("distill_box", "box_bins"),
        ("distill_mask", "mask_coefficients"),
        ("distill_semantic", "semantic_logits"),
        ("distill_caption", "words"),
    ],
)
def test_the_gradient_points_to_the_teacher(loss: str, head: str) -> None:
    config = tiny_config()
    wanted, wanted_words = heads_of(config, 1)
    own, words = heads_of(config, 2)
    own["prototypes"] = wanted["prototypes"]  # so that coefficients alone say what a mask is
    values, target = (words, wanted_words) if head == "words" else (own[head], wanted[head])
    values.requires_grad_()
    teacher = Fixed(spec_of(config), wanted, wanted_words)
    losses_of(teacher, config, own, words)[loss].backward()
    assert values.grad is not None
    # Against the gradient is towards the teacher, as a whole and in nearly every part that has one.
    towards = (-values.grad * (target - values.detach())).flatten()
    assert towards.sum() > 0
    moved = towards[towards != 0]
    assert (moved > 0).float().mean() > 0.8
    if head == "class_logits":
        assert (moved > 0).all()


def test_other_bins_are_compared_as_boxes() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    bins = heads["box_bins"].unflatten(1, (4, -1)).softmax(2)
    distances = (bins * torch.arange(config.reg_max)[:, None]).sum(2)
    spec = dataclasses.replace(spec_of(config), box_coding="ltrb")
    without_bins = {**{k: v for k, v in heads.items() if k != "box_bins"}, "box_distances": distances}
    assert losses_of(Fixed(spec, without_bins, words), config, heads, words)["distill_box"].abs() < 1e-5
    without_bins["box_distances"] = distances + 1.0
    assert losses_of(Fixed(spec, without_bins, words), config, heads, words)["distill_box"] > 0.1


def test_of_several_anchors_the_surest_one_teaches() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    bins = heads["box_bins"].unflatten(1, (4, -1)).softmax(2)
    distances = (bins * torch.arange(config.reg_max)[:, None]).sum(2).transpose(1, 2)
    own = Distillation(Fixed(spec_of(config), heads, words), config, TrainConfig())
    pixels = distances * own.strides[:, None]
    boxes = torch.cat((own.points - pixels[..., :2], own.points + pixels[..., 2:]), -1)
    scores = heads["class_logits"].sigmoid()
    anchors = {"class_scores": [], "boxes": [], "mask_coefficients": []}
    for stride, start in ((8, 0), (16, 96), (32, 120)):
        cells = slice(start, start + (SIZE[0] // stride) * (SIZE[1] // stride))
        anchors["class_scores"] += [scores[..., cells] * 0.5, scores[..., cells]]
        anchors["boxes"] += [boxes[:, cells].transpose(1, 2) + 9.0, boxes[:, cells].transpose(1, 2)]
        anchors["mask_coefficients"] += [
            -heads["mask_coefficients"][..., cells],
            heads["mask_coefficients"][..., cells],
        ]
    known = {**heads, **{name: torch.cat(parts, 2) for name, parts in anchors.items()}}
    spec = dataclasses.replace(spec_of(config), box_coding="xyxy", score_coding="probabilities", box_count=2 * CELLS)
    pair = ((8.0, 8.0), (16.0, 16.0))
    teacher = Fixed(spec, {k: v for k, v in known.items() if k != "box_bins"}, words, Grid((8, 16, 32), (pair,) * 3))
    same = losses_of(teacher, config, heads, words)
    assert all(same[name].abs() < 1e-4 for name in ("distill_class", "distill_box", "distill_mask"))


def test_classes_and_words_are_matched_by_name() -> None:
    student = tiny_config()
    teaching = tiny_config(
        class_names=("other", *reversed(student.class_names)),
        category_ids=(1, 2, 3, 4),
        semantic_names=tuple(reversed(student.semantic_names)),
        vocabulary=(*student.vocabulary[:4], "unheard", *reversed(student.vocabulary[6:])),
    )
    heads, words = heads_of(teaching, 1)
    own = {
        **heads,
        "class_logits": heads["class_logits"].flip(1)[:, :3],
        "semantic_logits": heads["semantic_logits"].flip(1),
    }
    own_words = torch.cat((words[..., :4], torch.full((*words.shape[:2], 2), 7.0), words[..., 5:].flip(2)), 2)
    teacher = Fixed(spec_of(teaching), heads, words)
    images, batch = batch_of()
    distillation = Distillation(teacher, student, TrainConfig())
    same = distillation(images, batch, own, own_words)
    assert all(same[name].abs() < 1e-5 for name in LOSSES if name != "distill_mask")
    assert distillation.notes == ["2 of 20 words unknown to it (word0, word1)"]
    # word0 and word1 are unknown to the teacher, word2 is its last but none.
    assert teacher.told.tolist()[0] == [2, 1, 1, len(teaching.vocabulary) - 1, 3]


def test_padding_is_not_learnt() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    other = {**heads, "semantic_logits": heads["semantic_logits"].clone()}
    other["semantic_logits"][:, :, :2] += torch.randn(1, 5, 1, 1)
    images, batch = batch_of()
    images[:, :, :16] = 114 / 255
    distillation = Distillation(Fixed(spec_of(config), other, words), config, TrainConfig())
    assert distillation(images, batch, heads, words)["distill_semantic"].abs() < 1e-5


def test_tasks_weights_and_images_without_captions() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    others, other_words = heads_of(config, 2)
    teacher = Fixed(spec_of(config), others, other_words)
    images, batch = batch_of()
    chosen = TrainConfig(distill="semantic,caption", distill_semantic_gain=3.0)
    some = Distillation(teacher, config, chosen)(images, batch, heads, words)
    everything = losses_of(teacher, config, heads, words)
    assert set(some) == {"distill_semantic", "distill_caption"}
    torch.testing.assert_close(some["distill_semantic"], 6 * everything["distill_semantic"])
    assert Distillation(teacher, config, TrainConfig())(images, batch, heads, None)["distill_caption"] == 0
    assert Distillation(teacher, config, TrainConfig(distill="masks")).tasks == ("boxes", "masks")


def test_a_divided_batch_teaches_as_a_whole_one() -> None:
    config = tiny_config()
    heads, words = heads_of(config, 1)
    others, other_words = heads_of(config, 2)
    images, batch = batch_of()
    whole = losses_of(Fixed(spec_of(config), others, other_words), config, heads, words)
    counts: list[list[Tensor]] = [[], []]
    means: list[list[Tensor]] = []

    def half(index: int) -> dict[str, Tensor]:
        one = slice(index, index + 1)
        said = {name: values[one] for name, values in others.items()}
        distillation = Distillation(Fixed(spec_of(config), said, other_words[one]), config, TrainConfig())

        def reduce(count: Tensor) -> Tensor:
            counts[index].append(count)
            return means[index].pop(0) if means else count

        distillation.reduce, distillation.parts = reduce, 2
        part = Batch(batch.strong[one], batch.truth, None, torch.tensor([0]), batch.tokens[one])
        return distillation(images[one], part, {name: values[one] for name, values in heads.items()}, words[one])

    for index in range(2):  # to learn what each half counts
        half(index)
    shared = [(a + b) / 2 for a, b in zip(*counts, strict=True)]
    means += [list(shared), list(shared)]
    halves = [half(index) for index in range(2)]
    for name, loss in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, loss)


@pytest.mark.parametrize(
    ("taught", "distill", "message"),
    [
        (
            {"class_names": ("x", "y", "z")},
            "all",
            r"teach boxes and masks: none of its classes \(x, y, z\) is one of .*",
        ),
        ({"semantic_names": tuple("abcde")}, "all", "teach semantic: none .* --set distill=boxes,masks,caption"),
        ({"vocabulary": ("<pad>", "<unk>", "<bos>", "<eos>", "hm")}, "all", "teach caption: none of its words is one"),
        ({"tasks": ("semantic",)}, "boxes", "distill boxes: the teacher has no such head, it has semantic"),
        ({"graph": GraphOptions(top_k=5)}, "all", "its graph gives the best 5 cells only"),
        ({"graph": GraphOptions(semantic_map=True)}, "all", "teach semantic: its graph gives the map without"),
        ({"strides": (8, 16)}, "all", "its boxes come from cells of strides 8, 16, the student's from .* 8, 16, 32;"),
    ],
)
def test_what_cannot_be_taught_is_refused(taught: dict[str, Any], distill: str, message: str) -> None:
    student = tiny_config()
    spec = dataclasses.replace(spec_of(student), **{k: v for k, v in taught.items() if k != "vocabulary"})
    if "vocabulary" in taught:
        assert spec.caption is not None
        spec = dataclasses.replace(spec, caption=dataclasses.replace(spec.caption, vocabulary=taught["vocabulary"]))
    heads, words = heads_of(student, 1)
    with pytest.raises(UsageError, match=message) as told:
        Distillation(Fixed(spec, heads, words), student, TrainConfig(distill=distill))
    assert "\n" not in str(told.value)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(
        UsageError, match="distill must be all, or some of boxes, masks, semantic, caption, got 'poses'"
    ):
        TrainConfig(distill="poses")
    with pytest.raises(UsageError, match="distill_temperature must be greater than 0"):
        TrainConfig(distill_temperature=0)
    with pytest.raises(UsageError, match="distill_box_gain must not be negative"):
        TrainConfig(distill_box_gain=-1)


TRAIN = TrainConfig(epochs=2, batch_size=4, workers=0, plain_epochs=1, captions_per_image=2, amp="off")


@pytest.fixture(scope="module")
def teacher(scenes: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A checkpoint of random weights whose predictions are anything but even."""
    config = describe_network(CocoDataset.open(scenes), "n", TRAIN, SIZE, None, "wise")
    torch.manual_seed(4)
    network = Network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("semantic_head.body.1", "box_head.classes")) and name.endswith("1.weight"):
                parameter.mul_(60)
            if name.startswith("box_head.classes") and name.endswith("2.1.bias"):
                parameter.zero_()
    folder = tmp_path_factory.mktemp("teachers") / "wise"
    write_checkpoint(folder, network, {"licence": "CC-BY-4.0"})
    return folder


def test_a_taught_run_resumes_to_the_bit_and_remembers_its_teacher(
    scenes: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(teacher, tmp_path / "teacher")
    tasks: Any = ("boxes", "masks", "semantic")
    whole = fit(scenes, tmp_path / "whole", config=TRAIN, input_size=SIZE, tasks=tasks, teacher=moved)
    log = [json.loads(line) for line in (tmp_path / "whole" / LOG).read_text().splitlines()]
    taught = {name: loss for name, loss in log[0]["losses"].items() if name.startswith("distill")}
    assert set(taught) == {"distill_class", "distill_box", "distill_mask", "distill_semantic"}
    assert all(loss > 0.01 for loss in taught.values())
    assert whole.provenance["teacher"] == {
        "kind": "checkpoint",
        "name": "wise",
        "sha256": Checkpoint.open(teacher).sha256,
        "licence": "CC-BY-4.0",
        "tasks": ["boxes", "masks", "semantic"],
    }

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        # The first epoch's state is written, and then the process dies.
        patch.setattr("yolor_edge.train.epochs.Epochs.write", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(scenes, out, config=TRAIN, input_size=SIZE, tasks=tasks, teacher=moved)
    assert (out / STATE).exists()
    torch.manual_seed(999)
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"teacher: the teacher of this run \(checkpoint wise\) is not there any more"):
        resume(out)
    with pytest.raises(UsageError, match="is not the teacher that this run began with"):
        resume(out, teacher=tmp_path / "whole")
    assert resume(out, teacher=tmp_path / "elsewhere").sha256 == whole.sha256


def test_a_taught_student_comes_nearer_to_the_teacher(scenes: Path, teacher: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAIN, epochs=6, augment="none", learning_rate=3e-3, distill_semantic_gain=3.0)
    wise = Checkpoint.open(teacher).network()
    images = torch.from_numpy(
        np.stack([CocoDataset.open(scenes).read(CocoDataset.open(scenes)[i]) for i in range(8)])[..., ::-1].copy()
    )
    images = images.permute(0, 3, 1, 2).float() / 255

    def distance(out: Path, **more: Any) -> float:
        network = fit(scenes, out, config=config, input_size=SIZE, tasks=("semantic",), **more).network()
        network.train()  # A few steps leave the statistics of the average behind its weights.
        with torch.no_grad():
            own, wanted = (one(images)["semantic_logits"].log_softmax(1) for one in (network, wise))
        return float((wanted.exp() * (wanted - own)).sum(1).mean())

    alone, taught = distance(tmp_path / "alone"), distance(tmp_path / "taught", teacher=teacher)
    assert taught < 0.7 * alone


def test_images_without_labels_are_labelled_by_the_teacher_first(
    scenes: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "out", dataclasses.replace(TRAIN, epochs=1)
    checkpoint = fit(scenes / "train", out, config=config, input_size=SIZE, tasks=("semantic",), teacher=teacher)
    assert "holds images without labels; the teacher makes them" in capsys.readouterr().err
    assert len(CocoDataset.open(out / "labels")) == 8
    digest = Checkpoint.open(teacher).sha256
    assert (
        checkpoint.provenance["data"]["labelled_by"]["sha256"] == digest == checkpoint.provenance["teacher"]["sha256"]
    )
    assert resume(out).sha256 == checkpoint.sha256
    (out / RUN).unlink()  # as if it had ended after the labels
    shutil.rmtree(out / "checkpoint")
    (out / STATE).unlink()
    fit(scenes / "train", out, config=config, input_size=SIZE, tasks=("semantic",), teacher=teacher)
    (out / RUN).unlink()
    with pytest.raises(UsageError, match="labels: holds labels of another teacher; remove it"):
        fit(scenes / "train", out, config=config, input_size=SIZE, teacher=out / "checkpoint")


def test_misuse_of_a_teacher_is_one_line(
    scenes: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "--data", str(scenes), "--input-size", "64x96", "--out", str(tmp_path / "run"), "--teacher"]
    for more, message in (
        (["nowhere"], "nowhere: no such folder; expected a checkpoint or a run"),
        ([str(scenes)], "is not a checkpoint (no checkpoint.json in it)"),
        (
            [str(teacher), "--set", "distill=pose"],
            "--set distill must be all, or some of boxes, masks, semantic, caption",
        ),
    ):
        assert main([*line, *more]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
        assert not (tmp_path / "run").exists()
    fit(scenes, tmp_path / "alone", config=dataclasses.replace(TRAIN, epochs=1), input_size=SIZE, tasks=("semantic",))
    assert "teacher" not in json.loads((tmp_path / "alone" / RUN).read_text())
    assert main(["train", "--resume", str(tmp_path / "alone"), "--teacher", str(teacher)]) == 2
    assert "this run has no --teacher; start a new one" in capsys.readouterr().err
