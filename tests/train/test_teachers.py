"""A bundle teaches what the checkpoint teaches that it was exported from; what cannot be shown is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train.batches import training_loader
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.distillation import Distillation
from yolor_edge.train.importing import import_checkpoint
from yolor_edge.train.network.any_network import network_of
from yolor_edge.train.teachers import GraphTeacher, Teacher, TorchTeacher, open_teacher, reopen_teacher

from ..export.exported import INPUT_SIZE, Exported
from ..runtime.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig(batch_size=3, workers=0, mosaic=0, mixup=0)


def losses_of(teacher: Teacher, exported: Exported) -> dict[str, float]:
    """What a network of other random weights would learn from `teacher` in one step."""
    layout = exported.checkpoint.layout
    torch.manual_seed(8)
    student = network_of(layout).eval()
    loader, _ = training_loader(CocoDataset.open(exported.data), layout, CONFIG)
    batch = next(iter(loader))
    assert not isinstance(batch, Exception) and batch.weak is not None
    images = torch.cat((batch.strong, batch.weak)).float() / 255
    with torch.no_grad():
        outputs = student(images)
        memory = outputs.pop("caption_memory")[len(batch.strong) :]
        where = student.memory_positions(INPUT_SIZE)
        words = student.caption_decoder(batch.tokens[:, :-1], memory[batch.owners], where)
        dense = {name: values[: len(batch.strong)] for name, values in outputs.items()}
        found = Distillation(teacher, layout, CONFIG)(images, batch, dense, words)
    return {name: loss.item() for name, loss in found.items()}


def test_a_bundle_teaches_what_its_checkpoint_does(exported: Exported) -> None:
    checkpoint = open_teacher(exported.checkpoint.path, INPUT_SIZE)
    bundle = open_teacher(exported.bundle.path, INPUT_SIZE, threads=1)
    assert isinstance(checkpoint, TorchTeacher) and isinstance(bundle, GraphTeacher)
    assert (checkpoint.source["licence"], bundle.source["licence"]) == ("CC-BY-4.0", "CC-BY-4.0")
    assert bundle.source["sha256"] == exported.bundle.digest
    expected, found = losses_of(checkpoint, exported), losses_of(bundle, exported)
    assert {"distill_class", "distill_semantic", "distill_caption"} <= set(expected)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_graph_of_a_fixed_batch_is_fed_whole_batches(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    teacher = open_teacher(bundle.path, INPUT_SIZE, threads=1)
    assert isinstance(teacher, GraphTeacher)
    images = torch.rand(3, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(1))
    free = teacher.see(images, ("semantic",))["semantic_logits"]
    graph = dataclasses.replace(bundle.spec.graph, batch=2)
    teacher.spec = dataclasses.replace(bundle.spec, graph=graph)
    torch.testing.assert_close(teacher.see(images, ("semantic",))["semantic_logits"], free)


def test_another_input_size_is_for_checkpoints(exported: Exported) -> None:
    with pytest.raises(UsageError, match="its graphs take images of 64x96 only, the student is trained on 96x96"):
        open_teacher(exported.bundle.path, (96, 96))
    teacher = open_teacher(exported.checkpoint.path, (96, 128))
    outputs = teacher.see(torch.rand(1, 3, 96, 128), ("semantic", "caption"))
    assert outputs["semantic_logits"].shape[2:] == (12, 16)
    assert outputs["caption_memory"].shape[1] == 12


def test_an_altered_teacher_is_not_the_one_a_run_began_with(exported: Exported, tmp_path: Path) -> None:
    known = open_teacher(exported.checkpoint.path, INPUT_SIZE).source
    assert reopen_teacher(known, INPUT_SIZE, None).source == known
    with pytest.raises(UsageError, match="is not the teacher that this run began with"):
        reopen_teacher({**known, "sha256": "0" * 64}, INPUT_SIZE, None)
    with pytest.raises(UsageError, match=r"nowhere: the teacher of this run .* is not there any more; put it back"):
        reopen_teacher({**known, "path": str(tmp_path / "nowhere")}, INPUT_SIZE, None)


def test_a_bundle_with_boxes_as_corners_cannot_teach_boxes(exported: Exported, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "corners", ("boxes",), "xyxy", "probabilities")
    teacher = open_teacher(bundle.path, INPUT_SIZE, threads=1)
    with pytest.raises(UsageError, match="does not say which cell a box comes from; take its checkpoint"):
        Distillation(teacher, exported.checkpoint.layout, TrainConfig())


def test_an_imported_network_with_anchors_teaches_one_without(
    goldens: Path, exported: Exported, tmp_path: Path
) -> None:
    file = goldens / "yolov7" / "checkpoint.pt"
    if not file.is_file():
        pytest.skip("there is no golden yolov7")
    import_checkpoint(file, tmp_path / "imported")
    teacher = open_teacher(tmp_path / "imported", INPUT_SIZE)
    layout = dataclasses.replace(
        exported.checkpoint.config,
        class_names=("dog", "kite"),
        category_ids=(1, 2),
        tasks=("boxes",),
    )
    distillation = Distillation(teacher, layout, TrainConfig())
    known = teacher.see(torch.rand(2, 3, *INPUT_SIZE), ("boxes",))
    heads = distillation._cells_of(known)
    cells = sum((INPUT_SIZE[0] // stride) * (INPUT_SIZE[1] // stride) for stride in (8, 16, 32))
    assert heads["class_scores"].shape == (2, len(teacher.spec.class_names), cells)
    assert heads["boxes"].shape == (2, cells, 4)
    # The surest of the anchors of the first cell of each level.
    scores, first = known["class_scores"].amax(1), 0
    for stride, start in ((8, 0), (16, 96), (32, 120)):
        count = (INPUT_SIZE[0] // stride) * (INPUT_SIZE[1] // stride)
        best = max(scores[0, first + anchor * count].item() for anchor in range(3))
        assert heads["class_scores"][0, :, start].max().item() == pytest.approx(best)
        first += 3 * count
