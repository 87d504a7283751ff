"""The losses: right against scalar references, near zero for the truth, silent where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.dense_truth import DenseTruth
from yolor_edge.train.losses import DenseLoss, anchor_cells, caption_loss, complete_iou, product_logits

from ..reference import losses as reference
from .tiny_network import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
CLASSES, SEMANTIC, PROTOTYPES, BINS = 3, 5, 32, 16
CELLS = 8 * 12 + 4 * 6 + 2 * 3
GAINS = TrainConfig()
DENSE_TASKS = ("boxes", "masks", "semantic")
NAMES = {"class", "box", "dfl", "mask", "semantic", "dice"}

# Two objects whose sides lie whole strides away from the centres of the finest cells, and their classes.
OBJECTS = torch.tensor([[4.0, 4.0, 44.0, 44.0], [52.0, 12.0, 92.0, 60.0]])
OBJECT_CLASSES = torch.tensor([2, 0])


def dense_loss(tasks: tuple[str, ...] = DENSE_TASKS) -> DenseLoss:
    return DenseLoss(tiny_config(tasks=tasks, classes=CLASSES, semantic=SEMANTIC), GAINS, torch.device("cpu"))


def object_masks() -> Tensor:
    """(2, 16, 24) uint8: each object but for one of its corners."""
    masks = torch.zeros(2, 16, 24, dtype=torch.uint8)
    for mask, box in zip(masks, (OBJECTS / 4).long().tolist(), strict=True):
        x1, y1, x2, y2 = box
        mask[y1:y2, x1:x2] = 255
        mask[y1 : y1 + 4, x1 : x1 + 4] = 0
    return masks


def semantic_truth() -> Tensor:
    """(16, 24): blocks of two cells, as the semantic head's own resolution can say."""
    coarse = torch.from_numpy(np.random.default_rng(0).integers(0, SEMANTIC, (8, 12)))
    return coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).to(torch.uint8)


def truth_of(pictures: int = 1) -> DenseTruth:
    return DenseTruth(
        boxes=OBJECTS.repeat(pictures, 1, 1),
        classes=OBJECT_CLASSES.repeat(pictures, 1),
        valid=torch.ones(pictures, 2, dtype=torch.bool),
        classes_known=torch.ones(pictures, 16, 24, dtype=torch.bool),
        masks=torch.cat([object_masks() for _ in range(pictures)]),
        first_mask=2 * torch.arange(pictures),
        mask_known=torch.ones(pictures, 2, dtype=torch.bool),
        semantic=semantic_truth().repeat(pictures, 1, 1),
    )


def without_objects(truth: DenseTruth, picture: int) -> DenseTruth:
    """The truth with no objects on one of its pictures, which have two each."""
    truth.valid[picture] = truth.mask_known[picture] = False
    counts = truth.valid.sum(1)
    rows = [row for i in range(len(counts)) if i != picture for row in (2 * i, 2 * i + 1)]
    return replace(truth, masks=truth.masks[rows], first_mask=counts.cumsum(0) - counts)


def random_outputs(pictures: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "class_logits": (CLASSES, CELLS),
        "box_bins": (4 * BINS, CELLS),
        "mask_coefficients": (PROTOTYPES, CELLS),
        "prototypes": (PROTOTYPES, 16, 24),
        "semantic_logits": (SEMANTIC, 8, 12),
    }
    return {name: torch.randn(pictures, *shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def perfect_outputs() -> dict[str, Tensor]:
    """What a network says that knows `truth_of(1)`: ten cells of the finest level speak for each object."""
    outputs = {name: torch.zeros_like(output) for name, output in random_outputs().items()}
    outputs["class_logits"] -= 20
    bins = outputs["box_bins"][0].view(4, BINS, CELLS)
    for i, (x1, y1, x2, y2) in enumerate(OBJECTS.tolist()):
        inside = [
            (row, column)
            for row in range(8)
            for column in range(12)
            if x1 < column * 8 + 4 < x2 and y1 < row * 8 + 4 < y2
        ]
        for row, column in inside[:10]:
            cell = row * 12 + column
            x, y = column * 8 + 4, row * 8 + 4
            for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                assert distance % 8 == 0
                bins[side, int(distance) // 8, cell] = 40
            outputs["class_logits"][0, OBJECT_CLASSES[i], cell] = 20
            outputs["mask_coefficients"][0, i, cell] = 1
        outputs["prototypes"][0, i] = torch.where(object_masks()[i] > 0, 20.0, -20.0)
    coarse = semantic_truth()[::2, ::2].long()
    outputs["semantic_logits"].scatter_(1, coarse[None, None], 40)
    return outputs


@pytest.mark.parametrize("seed", range(5))
def test_complete_iou_agrees_with_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (2, 40, 2))
    a, b = np.concatenate((corners, corners + rng.uniform(0.5, 40, (2, 40, 2))), 2)
    found = complete_iou(torch.from_numpy(a), torch.from_numpy(b))
    expected = [reference.complete_iou(one, other) for one, other in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    assert ((found >= -1.5) & (found <= 1)).all()


def test_complete_iou_at_its_edges() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [0.0, 0, 4, 2], [3.0, 3, 3, 3], [3.0, 3, 3, 3]], requires_grad=True)
    others = torch.tensor([[0.0, 0, 4, 2], [1000.0, 0, 1004, 2], [3.0, 3, 3, 3], [0.0, 0, 8, 8]])
    found = complete_iou(boxes, others)
    assert found[0].item() == pytest.approx(1)
    assert found[1].item() == pytest.approx(-1, abs=0.01)
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert boxes.grad is not None
    assert torch.isfinite(boxes.grad).all()


def test_complete_iou_pulls_the_box_towards_the_truth() -> None:
    box = torch.tensor([[20.0, 20.0, 30.0, 30.0]], requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(1 - complete_iou(box, torch.tensor([[0.0, 4, 30, 16]])).sum(), box)
        box = (box - 20 * gradient).detach().requires_grad_()
    assert complete_iou(box, torch.tensor([[0.0, 4, 30, 16]])).item() > 0.8


def test_the_box_losses_of_one_cell_agree_with_their_definitions() -> None:
    """One object so small that one cell answers for it: CIoU and DFL by hand, weighted by the class target."""
    truth = replace(
        truth_of(),
        boxes=torch.tensor([[[15.5, 26.0, 20.5, 31.0]]]),
        classes=torch.tensor([[1]]),
        valid=torch.ones(1, 1, dtype=torch.bool),
    )
    # Widened to 8 x 8 pixels it reaches one centre of the finest level, (20, 28), and none of the coarser ones.
    outputs = {name: output.detach() for name, output in random_outputs(seed=4).items()}
    outputs["box_bins"] *= 0.5
    outputs["box_bins"].view(1, 4, BINS, CELLS)[:, :, :2] += 4
    losses = dense_loss(("boxes",))(outputs, truth)

    cell, bins = 3 * 12 + 2, np.arange(BINS)
    logits = outputs["box_bins"][0].view(4, BINS, CELLS)[:, :, cell].double()
    left, top, right, bottom = (logits.softmax(1).numpy() * bins).sum(1) * 8
    box = (20 - left, 28 - top, 20 + right, 28 + bottom)
    wanted = (15.5, 26.0, 20.5, 31.0)
    distances = np.array([20 - 15.5, 28 - 26, 20.5 - 20, 31 - 28]) / 8
    dfl = np.mean([reference.distribution_focal(side.tolist(), d) for side, d in zip(logits, distances, strict=True)])
    # The one positive cell's class target is its IoU, which is also the total below its floor of one.
    overlap = (min(20.5, box[2]) - max(15.5, box[0])) * (min(31, box[3]) - max(26, box[1]))
    iou = overlap / (5 * 5 + (box[2] - box[0]) * (box[3] - box[1]) - overlap)
    assert 0.02 < iou < 1
    assert losses["box"].item() == pytest.approx(
        GAINS.box_gain * iou * (1 - reference.complete_iou(box, wanted)), rel=1e-4
    )
    assert losses["dfl"].item() == pytest.approx(GAINS.dfl_gain * iou * dfl, rel=1e-4)


def test_the_truth_itself_costs_almost_nothing() -> None:
    losses = dense_loss()(perfect_outputs(), truth_of())
    assert set(losses) == NAMES
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(0, abs=0.01 if name == "dice" else 1e-3), name
    for name, loss in dense_loss()(random_outputs(), truth_of()).items():
        assert loss.item() > 0.1, name


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("class_logits", "class"),
        ("box_bins", "dfl"),
        ("prototypes", "mask"),
        ("mask_coefficients", "mask"),
        ("semantic_logits", "semantic"),
    ],
)
def test_what_is_not_the_truth_costs_more(output: str, loss: str) -> None:
    outputs = perfect_outputs()
    perfect = dense_loss()(outputs, truth_of())[loss].item()
    outputs[output] = -outputs[output] if output != "class_logits" else outputs[output].roll(1, 1)
    assert dense_loss()(outputs, truth_of())[loss].item() > perfect + 0.1


def test_masks_count_inside_their_box_only() -> None:
    """With a margin of a cell, which the runtime's interpolation can see."""
    outputs = perfect_outputs()
    loss = dense_loss()
    before = loss(outputs, truth_of())["mask"].item()
    outputs["prototypes"][0, 0, :, 13:] = 20  # the first object ends at column 11
    outputs["prototypes"][0, 0, 13:] = 20
    assert loss(outputs, truth_of())["mask"].item() == pytest.approx(before)
    for row, column in ((5, 0), (5, 11), (0, 5), (11, 5)):
        changed = {**outputs, "prototypes": outputs["prototypes"].clone()}
        changed["prototypes"][0, 0, row, column] = 20
        assert loss(changed, truth_of())["mask"].item() > before + 1e-3


def test_pictures_without_truth_teach_nothing() -> None:
    """The middle one of three has no annotations at all: its outputs get no gradient."""
    truth = without_objects(truth_of(3), 1)
    truth.classes_known[1] = False
    truth.semantic[1] = 255
    outputs = random_outputs(3)
    sum(dense_loss()(outputs, truth).values(), torch.zeros(())).backward()
    for name, output in outputs.items():
        assert output.grad is not None
        assert not output.grad[1].any(), name
        assert output.grad[0].any(), name
        assert output.grad[2].any(), name


def test_a_picture_without_objects_teaches_that_there_are_none() -> None:
    truth = without_objects(truth_of(2), 1)
    truth.semantic[1] = 255
    outputs = random_outputs(2)
    sum(dense_loss()(outputs, truth).values(), torch.zeros(())).backward()
    for name, output in outputs.items():
        assert output.grad is not None
        assert bool(output.grad[1].any()) == (name == "class_logits"), name
    gradient = outputs["class_logits"].grad
    assert gradient is not None
    assert (gradient[1] > 0).all()


def test_where_classes_are_unknown_no_absence_is_taught_but_objects_are() -> None:
    """The left half of the picture was not labelled: of its cells only those that answer for an object learn."""
    truth = truth_of()
    truth.classes_known[0, :, :12] = False
    outputs = random_outputs()
    loss = dense_loss()
    loss(outputs, truth)["class"].backward()
    gradient = outputs["class_logits"].grad
    assert gradient is not None
    moved = gradient[0].any(0)
    left = loss.points[:, 0] < 48
    assert moved[~left].all()
    whole = random_outputs()
    loss(whole, truth_of())["box"].backward()
    bins = whole["box_bins"].grad
    assert bins is not None
    positive = bins[0].any(0)
    assert positive[left].any()
    assert torch.equal(moved[left], positive[left])


def test_boxes_without_masks_teach_boxes_only() -> None:
    truth = truth_of()
    truth.mask_known[0] = False
    truth.masks[:] = 0
    outputs = random_outputs()
    losses = dense_loss()(outputs, truth)
    assert losses["mask"].item() == 0
    sum(losses.values(), torch.zeros(())).backward()
    for name in ("mask_coefficients", "prototypes"):
        gradient = outputs[name].grad
        assert gradient is None or not gradient.any()
    assert outputs["box_bins"].grad is not None
    assert outputs["box_bins"].grad.any()


def test_a_batch_without_any_truth_costs_nothing_and_can_be_learnt_from() -> None:
    truth = replace(
        truth_of(2),
        boxes=torch.zeros(2, 0, 4),
        classes=torch.zeros(2, 0, dtype=torch.int64),
        valid=torch.zeros(2, 0, dtype=torch.bool),
        classes_known=torch.zeros(2, 16, 24, dtype=torch.bool),
        masks=torch.zeros(0, 16, 24, dtype=torch.uint8),
        first_mask=torch.zeros(2, dtype=torch.int64),
        mask_known=torch.zeros(2, 0, dtype=torch.bool),
        semantic=torch.full((2, 16, 24), 255, dtype=torch.uint8),
    )
    outputs = random_outputs(2)
    losses = dense_loss()(outputs, truth)
    assert set(losses) == NAMES
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()


def test_padding_changes_nothing() -> None:
    truth = truth_of()
    padded = replace(
        truth,
        boxes=torch.cat((truth.boxes, torch.zeros(1, 3, 4)), 1),
        classes=torch.cat((truth.classes, torch.zeros(1, 3, dtype=torch.int64)), 1),
        valid=torch.cat((truth.valid, torch.zeros(1, 3, dtype=torch.bool)), 1),
        mask_known=torch.cat((truth.mask_known, torch.zeros(1, 3, dtype=torch.bool)), 1),
    )
    expected = dense_loss()(random_outputs(), truth)
    for name, loss in dense_loss()(random_outputs(), padded).items():
        torch.testing.assert_close(loss, expected[name])


def test_ignored_places_of_the_semantic_map_do_not_count() -> None:
    truth = truth_of()
    truth.semantic[:, :, 12:] = 255
    outputs = random_outputs()
    loss = dense_loss(("semantic",))
    losses = loss(outputs, truth)
    sum(losses.values(), torch.zeros(())).backward()
    gradient = outputs["semantic_logits"].grad
    assert gradient is not None
    # Column 6 of the head is the first beyond the border; the interpolation of column 11 of the truth reaches it.
    assert not gradient[..., 7:].any()
    assert gradient[..., :6].abs().amin((1, 2, 3)).item() > 0
    changed = {"semantic_logits": outputs["semantic_logits"].detach().clone()}
    changed["semantic_logits"][..., 7:] = 50
    for name, value in loss(changed, truth).items():
        torch.testing.assert_close(value, losses[name].detach())


def test_only_the_losses_of_its_tasks() -> None:
    outputs, truth = random_outputs(), truth_of()
    assert set(dense_loss(("boxes",))(outputs, truth)) == {"class", "box", "dfl"}
    assert set(dense_loss(("boxes", "masks"))(outputs, truth)) == {"class", "box", "dfl", "mask"}
    assert set(dense_loss(("semantic",))(outputs, truth)) == {"semantic", "dice"}
    assert dense_loss(("caption",))({}, truth) == {}


def crowded_truth(objects: int = 60) -> DenseTruth:
    """One picture full of small objects that lie over each other."""
    corners = torch.from_numpy(np.random.default_rng(7).uniform((0, 0), (80, 48), (objects, 2))).float()
    return replace(
        truth_of(),
        boxes=torch.cat((corners, corners + 16), 1)[None],
        classes=torch.zeros(1, objects, dtype=torch.int64),
        valid=torch.ones(1, objects, dtype=torch.bool),
        masks=torch.full((objects, 16, 24), 255, dtype=torch.uint8),
        mask_known=torch.ones(1, objects, dtype=torch.bool),
    )


def test_every_cell_that_answers_for_an_object_learns_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowded picture: objects weigh alike, whatever the number of their cells, and however many go at once."""
    truth, outputs = crowded_truth(), random_outputs()
    losses = dense_loss()(outputs, truth)
    (losses["mask"] + losses["box"]).backward()
    moved, boxed = (outputs[name].grad for name in ("mask_coefficients", "box_bins"))
    assert moved is not None and boxed is not None
    answering = boxed[0].any(0)
    assert answering.sum() > 30
    assert torch.equal(moved[0].any(0), answering)
    flat = {**outputs, "prototypes": torch.zeros(1, PROTOTYPES, 16, 24)}
    found = dense_loss()(flat, truth)["mask"].item() / GAINS.mask_gain / np.log(2) * 60
    assert found == pytest.approx(round(found), rel=1e-5)  # That many objects have a cell.
    monkeypatch.setattr("yolor_edge.train.losses.MASK_OBJECTS", 7)
    again = random_outputs()
    dense_loss()(again, truth)["mask"].backward()
    torch.testing.assert_close(again["mask_coefficients"].grad, moved)


@pytest.mark.parametrize("samples", [40, 6])
def test_the_mask_loss_agrees_with_its_definition(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """Object by object and cell by cell in float64; of objects wider than the samples, places evenly spread."""
    monkeypatch.setattr("yolor_edge.train.losses.MASK_SAMPLES", samples)
    truth, outputs = truth_of(2), random_outputs(2, seed=3)
    truth.boxes = truth.boxes + torch.tensor([[[0.0], [0.0]], [[-3.0], [6.0]]])
    truth.masks = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (4, 16, 24))).to(torch.uint8)
    losses = dense_loss()(outputs, truth)
    losses["box"].backward(retain_graph=True)
    gradient = outputs["box_bins"].grad
    assert gradient is not None
    exact = {name: outputs[name].detach().double().requires_grad_() for name in ("prototypes", "mask_coefficients")}
    means, loss = [], dense_loss()
    for image in range(2):
        for n, box in enumerate((truth.boxes[image] / 4).tolist()):
            inside = (loss.points / 4 >= torch.tensor(box[:2])).all(1)
            inside &= (loss.points / 4 <= torch.tensor(box[2:])).all(1)
            cells = (gradient[image].any(0) & inside).nonzero()[:, 0]
            x, y = (
                [c for c in range(count) if box[axis] - 1 < c + 0.5 < box[axis + 2] + 1]
                for axis, count in enumerate((24, 16))
            )
            x, y = (
                row if len(row) <= samples else [row[(2 * i + 1) * len(row) // (2 * samples)] for i in range(samples)]
                for row in (x, y)
            )
            assert len(cells)
            target = truth.masks[2 * image + n].double() / 255
            of_cells = []
            for cell in cells.tolist():
                logits = torch.einsum(
                    "k,khw->hw", exact["mask_coefficients"][image, :, cell], exact["prototypes"][image]
                )
                probs = logits.sigmoid()
                costs = -(target * probs.log() + (1 - target) * (1 - probs).log())
                of_cells.append(costs[y][:, x].mean())
            means.append(torch.stack(of_cells).mean())
    expected = GAINS.mask_gain * torch.stack(means).mean()
    assert losses["mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["mask"].backward()
    expected.backward()
    for name, output in exact.items():
        assert output.grad is not None
        torch.testing.assert_close(outputs[name].grad, output.grad.float(), rtol=1e-4, atol=1e-7)


def varied_truth(pictures: int) -> DenseTruth:
    """As many different pictures of two objects each."""
    rng = np.random.default_rng(11)
    truth = truth_of(pictures)
    moved = torch.from_numpy(rng.uniform(-4, 4, (pictures, 2, 2))).float()
    truth.boxes = truth.boxes + moved.repeat(1, 1, 2)
    truth.masks = torch.from_numpy(rng.integers(0, 256, tuple(truth.masks.shape))).to(torch.uint8)
    return truth


@pytest.mark.parametrize("batch", [4, 16, 64])
def test_a_picture_has_the_same_effect_in_every_batch(batch: int) -> None:
    """Of a loss the gradient of the first picture, times what its sum is divided by, does not know the others."""
    tasks, names = ("boxes", "masks", "semantic"), ("class", "box", "dfl", "mask", "semantic")
    truth, outputs = varied_truth(batch), random_outputs(batch, seed=5)
    alone = {name: output[:1].detach().clone().requires_grad_() for name, output in outputs.items()}
    first = truth.first_images(1)
    losses, own = dense_loss(tasks)(outputs, truth), dense_loss(tasks)(alone, first)
    for name in names:
        for key in outputs:
            whole, single = (
                torch.autograd.grad(values[name], given[key], retain_graph=True, allow_unused=True)[0]
                for values, given in ((losses, outputs), (own, alone))
            )
            if single is None or not single.any():
                continue
            known = single[0].abs() > 1e-3 * single.abs().max()
            ratio = whole[0][known] / single[0][known]
            torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=2e-3, atol=0)
            if name in ("mask", "semantic"):
                assert ratio.mean().item() == pytest.approx(1 / batch, rel=1e-3)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_a_batch_of_one_picture_many_times_costs_what_the_picture_costs(batch: int) -> None:
    truth, one = truth_of(batch), random_outputs(seed=5)
    outputs = {name: output.detach().repeat(batch, *[1] * (output.ndim - 1)) for name, output in one.items()}
    expected = dense_loss()(one, truth_of(1))
    for name, loss in dense_loss()(outputs, truth).items():
        # Dice has a 1 beside its sums, and the targets' total a floor of 1.
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.02 if name == "dice" else 1e-4), name


def test_pictures_whose_truth_is_unknown_take_nothing_from_the_others() -> None:
    """Neither the classes' loss nor any other grows or falls with views that nobody labelled."""
    alone = {name: output.detach() for name, output in random_outputs(seed=6).items()}
    others = random_outputs(4, seed=7)
    outputs = {name: torch.cat((output, others[name].detach())) for name, output in alone.items()}
    truth = truth_of(5)
    truth.classes_known[1:] = truth.valid[1:] = truth.mask_known[1:] = False
    truth.semantic[1:] = 255
    truth = replace(truth, masks=truth.masks[:2], first_mask=torch.tensor([0, 2, 2, 2, 2]))
    expected = dense_loss()(alone, truth_of(1))
    for name, loss in dense_loss()(outputs, truth).items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5), name


def test_the_semantic_losses_are_those_of_the_whole_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image, with the softmax computed again for the gradient: values and gradients as autograd has them."""
    rng = np.random.default_rng(8)
    target = torch.from_numpy(rng.integers(0, SEMANTIC - 1, (3, 16, 24))).to(torch.uint8)  # One class is not there.
    target[torch.from_numpy(rng.random((3, 16, 24)) < 0.2)] = 255
    outputs = random_outputs(3, seed=8)
    logits = outputs["semantic_logits"].detach().double().requires_grad_()
    large = F.interpolate(logits, size=(16, 24), mode="bilinear", align_corners=False)
    known = target != 255
    rows, wanted = large.permute(0, 2, 3, 1)[known], target[known].long()
    cross_entropy = F.cross_entropy(rows, wanted)
    probs, truth = rows.softmax(1), F.one_hot(wanted, SEMANTIC)
    dice = 1 - (2 * (probs * truth).sum(0) + 1) / (probs.sum(0) + truth.sum(0) + 1)
    dice = dice[truth.sum(0) > 0].mean()
    expected = torch.autograd.grad(2 * cross_entropy + 3 * dice, logits)[0].float()
    for values in (1, 1 << 24):
        monkeypatch.setattr("yolor_edge.train.losses.SEMANTIC_VALUES", values)
        for layout in (torch.contiguous_format, torch.channels_last):
            given = outputs["semantic_logits"].detach().contiguous(memory_format=layout).requires_grad_()
            losses = dense_loss(("semantic",))({"semantic_logits": given}, replace(truth_of(3), semantic=target))
            assert losses["semantic"].item() == pytest.approx(cross_entropy.item(), rel=1e-6)
            assert losses["dice"].item() == pytest.approx(GAINS.dice_gain * dice.item(), rel=1e-6)
            (2 * losses["semantic"] + 3 / GAINS.dice_gain * losses["dice"]).backward()
            torch.testing.assert_close(given.grad, expected, rtol=1e-5, atol=1e-7)


def test_parts_of_a_batch_have_the_mean_of_its_loss() -> None:
    """Two processes with one picture each: the mean of their losses and gradients is that of both pictures."""
    truth, outputs = varied_truth(2), random_outputs(2, seed=9)
    truth.semantic[1, :, 10:] = 255
    truth.mask_known[1, 1] = False
    whole = dense_loss()(outputs, truth)
    sum(whole.values(), torch.zeros(())).backward()
    halves = [
        DenseTruth(
            **{
                name: value[(2 if name == "masks" else 1) * i :][: 2 if name == "masks" else 1]
                for name, value in vars(truth).items()
                if value is not None
            }
        )
        for i in range(2)
    ]
    halves[1].first_mask = torch.tensor([0])
    # What every process counts, in the order it is asked in; the first pass only listens.
    asked: list[list[Tensor]] = [[], []]
    for final in (False, True):
        losses, gradients = [], []
        for i, half in enumerate(halves):
            turn = iter(zip(*asked, strict=True)) if final else None

            def mean(counts: Tensor, i: int = i, turn: Any = turn) -> Tensor:
                if turn is None:
                    asked[i].append(counts)
                    return counts
                return torch.stack(next(turn)).mean(0)

            loss = dense_loss()
            loss.reduce, loss.parts = mean, 2
            own = {name: output[i : i + 1].detach().clone().requires_grad_() for name, output in outputs.items()}
            losses.append(loss(own, half))
            sum(losses[-1].values(), torch.zeros(())).backward()
            gradients.append({name: output.grad for name, output in own.items()})
    for name, loss in whole.items():
        assert sum(part[name].item() for part in losses) / 2 == pytest.approx(loss.item(), rel=1e-5), name
    for name, output in outputs.items():
        found = torch.cat([gradient[name] for gradient in gradients]) / 2
        torch.testing.assert_close(found, output.grad, rtol=1e-4, atol=1e-7)


def test_caption_loss_is_a_mean_over_words_without_padding() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[4, 5, 3], [6, 3, 0]])
    log_probs = logits.log_softmax(-1)
    words = [(0, 0, 4), (0, 1, 5), (0, 2, 3), (1, 0, 6), (1, 1, 3)]
    expected = -np.mean([log_probs[row, place, word].item() for row, place, word in words])
    assert caption_loss(logits, targets, 0, 0.0).item() == pytest.approx(expected, rel=1e-5)
    smoothed = np.mean(
        [
            0.9 * -log_probs[row, place, word].item() + 0.1 * -log_probs[row, place].mean().item()
            for row, place, word in words
        ]
    )
    assert caption_loss(logits, targets, 0, 0.1).item() == pytest.approx(smoothed, rel=1e-5)


def test_the_logit_of_a_product_holds_where_the_product_itself_is_rounded() -> None:
    values = np.array([-60.0, -20.0, -3.0, 0.0, 2.0, 20.0, 60.0])
    a, b = np.meshgrid(values, values)
    objectness, classes = torch.from_numpy(a).float().requires_grad_(True), torch.from_numpy(b).float()
    found = product_logits(objectness, classes)
    exact = -np.logaddexp(np.logaddexp(-a, -b), -(a + b))
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=1e-6, atol=1e-6)
    middle = slice(2, 5)
    product = (objectness.sigmoid() * classes.sigmoid()).detach()[middle, middle]
    np.testing.assert_allclose(found.detach().sigmoid()[middle, middle], product, rtol=1e-5)
    found.sum().backward()
    assert objectness.grad is not None
    assert (objectness.grad.numpy()[a <= 0] > 0.4).all()  # However far below: what is wrong can still be learnt from.


def test_cells_of_anchors_go_by_level_anchor_row_and_column() -> None:
    anchors = [[(8.0, 16.0), (20.0, 12.0)], [(40.0, 60.0)]]
    points, strides, sizes = anchor_cells((32, 64), (16, 32), anchors)
    assert points.shape == sizes.shape == (2 * 8 + 2, 2)
    assert strides.tolist() == [16.0] * 16 + [32.0] * 2
    assert points[:2].tolist() == points[8:10].tolist() == [[8.0, 8.0], [24.0, 8.0]]
    assert points[-1].tolist() == [48.0, 16.0]
    assert sizes.tolist() == [[8.0, 16.0]] * 8 + [[20.0, 12.0]] * 8 + [[40.0, 60.0]] * 2
