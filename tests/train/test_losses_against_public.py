"""Losses and assigner against public implementations, where these are installed; they are no dependencies.

    pip install --no-deps libreyolo monai

libreyolo (MIT) has the parts of YOLO-NAS's and YOLOv9's losses, monai (Apache-2.0) the Dice loss. Of libreyolo only the
modules with the losses are executed: the whole package wants torchvision, which these do not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from yolor_edge.train.assigner import TOP_CELLS, assign
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.dense_truth import DenseTruth
from yolor_edge.train.losses import DenseLoss, cell_centres, complete_iou, distribution_focal

from .tiny_network import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, STRIDES, BINS, CLASSES = (64, 96), (8, 16, 32), 16, 3
POINTS, LEVELS = cell_centres(SIZE, STRIDES)
GAINS = TrainConfig()
BACKGROUND = CLASSES


class Public(types.SimpleNamespace):
    assigner: Any
    complete_iou: Any
    classes: Any
    boxes: Any
    distributions: Any


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Public:
    """The parts of libreyolo's losses."""
    found = importlib.util.find_spec("libreyolo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("libreyolo is not installed")
    root = found.submodule_search_locations[0]
    for name in ("", "models", "models.yolonas", "models.yolo9", "training", "utils", "data"):
        package: Any = types.ModuleType(f"libreyolo.{name}".rstrip("."))
        package.__path__ = [f"{root}/{name.replace('.', '/')}"]
        package.default_oks_sigmas = None
        monkeypatch.setitem(sys.modules, package.__name__, package)
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    nas, nine = (importlib.import_module(f"libreyolo.models.{name}.loss") for name in ("yolonas", "yolo9"))
    return Public(
        assigner=nas.TaskAlignedAssigner(topk=TOP_CELLS, alpha=0.5, beta=6.0),
        complete_iou=nas.CIoULoss(),
        classes=nine.BCELoss(),
        boxes=nine.BoxLoss(),
        distributions=nine.DFLoss(BINS),
    )


def scene(pictures: int, seed: int, apart: bool) -> tuple[dict[str, Tensor], DenseTruth]:
    """Outputs of a network that knows roughly where three objects a picture are, and the truth.

    With `apart` each object has its own third of the picture; without, they lie anywhere, over each other.
    """
    rng = np.random.default_rng(seed)
    sides = rng.uniform(16, 30 if apart else 60, (pictures, 3, 2))
    corners = rng.uniform(0, 1, (pictures, 3, 2)) * ((32, 64) - sides if apart else (96, 64) - sides)
    if apart:
        corners[..., 0] += 32 * np.arange(3)
    boxes = torch.from_numpy(np.concatenate((corners, corners + sides), 2)).float()
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    nearest = (POINTS - centres[:, :, None]).square().sum(-1).argmin(1)  # (B, N)
    aims = boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    distances = torch.cat((POINTS - aims[..., :2], aims[..., 2:] - POINTS), -1) / LEVELS[:, None]
    distances = distances + torch.from_numpy(rng.normal(0, 0.3, distances.shape)).float()
    bins = -2 * (torch.arange(BINS) - distances.clamp(0, BINS - 1)[..., None]).square()  # (B, N, 4, R)
    outputs = {
        "class_logits": torch.from_numpy(rng.normal(-1, 2, (pictures, CLASSES, len(POINTS)))).float(),
        "box_bins": bins.flatten(2).transpose(1, 2).contiguous(),
    }
    truth = DenseTruth(
        boxes=boxes,
        classes=torch.from_numpy(rng.integers(0, CLASSES, (pictures, 3))),
        valid=torch.ones(pictures, 3, dtype=torch.bool),
        classes_known=torch.ones(pictures, 16, 24, dtype=torch.bool),
        masks=torch.zeros(3 * pictures, 16, 24, dtype=torch.uint8),
        first_mask=3 * torch.arange(pictures),
        mask_known=torch.zeros(pictures, 3, dtype=torch.bool),
        semantic=torch.full((pictures, 16, 24), 255, dtype=torch.uint8),
    )
    return {name: output.requires_grad_() for name, output in outputs.items()}, truth


def decoded(bins: Tensor) -> Tensor:
    """(B, 4 R, N) to boxes (B, N, 4) in pixels."""
    distances = (bins.unflatten(1, (4, BINS)).softmax(2) * torch.arange(BINS)[:, None]).sum(2).transpose(1, 2)
    distances = distances * LEVELS[:, None]
    return torch.cat((POINTS - distances[..., :2], POINTS + distances[..., 2:]), -1)


def assigned_by(public: Public, outputs: dict[str, Tensor], truth: DenseTruth) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, N), boxes (B, N, 4) and class targets (B, N, C)."""
    return public.assigner(
        outputs["class_logits"].detach().transpose(1, 2).sigmoid(),
        decoded(outputs["box_bins"].detach()),
        POINTS,
        [],
        truth.classes[..., None],
        truth.boxes,
        truth.valid[..., None].float(),
        BACKGROUND,
    )


def ours(outputs: dict[str, Tensor], truth: DenseTruth) -> tuple[Tensor, Tensor, Tensor]:
    """As `assigned_by`; boxes are 0 where no object is."""
    found = assign(
        outputs["class_logits"].detach(),
        decoded(outputs["box_bins"].detach()),
        POINTS,
        LEVELS,
        truth.boxes,
        truth.classes,
        truth.valid,
    )
    labels = torch.where(found.positive, truth.classes.gather(1, found.objects), BACKGROUND)
    boxes = truth.boxes.gather(1, found.objects[..., None].expand(-1, -1, 4)) * found.positive[..., None]
    targets = torch.zeros(*labels.shape, CLASSES)
    for image, cells in enumerate(found.cells):
        for index, name in enumerate(truth.classes[image].tolist()):
            held = found.held[image, index]
            targets[image, cells[index][held], name] = found.quality[image, index][held]
    return labels, boxes, targets


@pytest.mark.parametrize("seed", range(3))
def test_the_assigner_chooses_the_same_cells_with_the_same_targets(public: Public, seed: int) -> None:
    outputs, truth = scene(4, seed, apart=True)
    labels, boxes, targets = assigned_by(public, outputs, truth)
    own_labels, own_boxes, own_targets = ours(outputs, truth)
    assert (labels != BACKGROUND).sum() > 40
    assert torch.equal(own_labels, labels)
    torch.testing.assert_close(own_boxes, boxes * (labels != BACKGROUND)[..., None])
    # Where nothing fits, we keep an order among the cells with a floor, and the public one divides by 1e-9 more.
    torch.testing.assert_close(own_targets, targets, rtol=1e-5, atol=1e-5)


def test_the_assigner_chooses_nearly_the_same_where_objects_lie_over_each_other(public: Public) -> None:
    """The public one gives a cell that two want to whichever overlaps it most of all objects, ours of these two."""
    agreed = []
    for seed in range(4):
        outputs, truth = scene(4, seed, apart=False)
        labels, own = assigned_by(public, outputs, truth)[0], ours(outputs, truth)[0]
        either = (labels != BACKGROUND) | (own != BACKGROUND)
        agreed.append((labels == own)[either].float().mean().item())
    assert np.mean(agreed) > 0.95


def test_the_losses_of_boxes_and_their_gradients(public: Public) -> None:
    outputs, truth = scene(4, 7, apart=True)
    labels, wanted, targets = assigned_by(public, outputs, truth)
    positive, total = labels != BACKGROUND, targets.sum()
    weights = targets.sum(-1)[positive]
    theirs = {
        "class": GAINS.class_gain * public.classes(outputs["class_logits"].transpose(1, 2), targets, total),
        "box": GAINS.box_gain * public.boxes(decoded(outputs["box_bins"]), wanted, positive, weights, total),
        "dfl": GAINS.dfl_gain
        * public.distributions(
            outputs["box_bins"].unflatten(1, (4, BINS)).permute(0, 3, 1, 2),
            wanted / LEVELS[:, None],
            (POINTS / LEVELS[:, None])[None],
            positive,
            weights,
            total,
        ),
    }
    loss = DenseLoss(tiny_config(tasks=("boxes",), classes=CLASSES), GAINS, torch.device("cpu"))
    own = loss(outputs, truth)
    assert own.keys() == theirs.keys()
    for name, value in theirs.items():
        assert own[name].item() == pytest.approx(value.item(), rel=1e-5), name
        output = outputs["class_logits" if name == "class" else "box_bins"]
        found, expected = (torch.autograd.grad(one, output, retain_graph=True)[0] for one in (own[name], value))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_complete_iou_and_distributions_of_random_boxes(public: Public) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 200, 2, generator=generator) * 50
    a, b = torch.cat((corners, corners + 1 + torch.rand(2, 200, 2, generator=generator) * 40), 2)
    torch.testing.assert_close(1 - complete_iou(a, b), public.complete_iou(a, b)[:, 0], rtol=1e-5, atol=1e-5)
    bins = torch.randn(1, 200, 4, BINS, generator=generator)
    boxes = torch.cat((-torch.rand(200, 2, generator=generator), torch.rand(200, 2, generator=generator)), 1)[None] * 20
    everywhere, alike = torch.ones(1, 200, dtype=torch.bool), torch.ones(200)
    theirs = public.distributions(bins, boxes, torch.zeros(1, 200, 2), everywhere, alike, torch.tensor(200.0))
    distances = torch.cat((-boxes[..., :2], boxes[..., 2:]), -1)
    assert distribution_focal(bins, distances).mean().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_dice_of_the_whole_batch() -> None:
    losses = pytest.importorskip("monai.losses", reason="monai is not installed")
    classes = 5
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(0, 2, (3, classes, 8, 12))).float().requires_grad_()
    target = torch.from_numpy(rng.integers(0, classes, (3, 16, 24)).astype(np.uint8))
    large = F.interpolate(logits, size=(16, 24), mode="bilinear", align_corners=False)
    theirs = losses.DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(
        large, target[:, None].long()
    )
    truth = scene(3, 0, apart=True)[1]
    truth.semantic = target
    loss = DenseLoss(tiny_config(tasks=("semantic",), semantic=classes), GAINS, torch.device("cpu"))
    own = loss({"semantic_logits": logits}, truth)["dice"] / GAINS.dice_gain
    assert own.item() == pytest.approx(theirs.item(), rel=1e-5)
    found, expected = (torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (own, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
