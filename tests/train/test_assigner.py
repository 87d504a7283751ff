"""The assigner against its plain reference, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from yolor_edge.train.assigner import TOP_CELLS, Assignment, assign, pairwise_iou
from yolor_edge.train.losses import cell_centres

from ..reference import assigner as reference

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, STRIDES = (64, 96), (8, 16, 32)
POINTS, LEVELS = cell_centres(SIZE, STRIDES)
CELLS = len(POINTS)


def random_boxes(rng: np.random.Generator, count: int, smallest: float = 1.0) -> np.ndarray:
    centre = rng.uniform((0, 0), SIZE[::-1], (count, 2))
    half = np.exp(rng.uniform(np.log(smallest), np.log(60), (count, 2))) / 2
    return np.concatenate((centre - half, centre + half), 1).clip(0, SIZE[::-1] * 2)


def cell_boxes(rng: np.random.Generator) -> np.ndarray:
    """What cells predict: a box around the centre of each."""
    distances = rng.uniform(0, 30, (CELLS, 4))
    return np.concatenate((POINTS.numpy() - distances[:, :2], POINTS.numpy() + distances[:, 2:]), 1)


def assign_one(logits: Tensor, boxes: Tensor, true_boxes: list[list[float]], classes: list[int]) -> Assignment:
    return assign(
        logits.T[None],
        boxes[None],
        POINTS,
        LEVELS,
        torch.tensor(true_boxes).reshape(1, -1, 4),
        torch.tensor(classes, dtype=torch.int64)[None],
        torch.ones(1, len(classes), dtype=torch.bool),
    )


def targets_of(found: Assignment, classes: list[int], count: int) -> Tensor:
    """(N, C) the class probabilities wanted of the cells of the first image."""
    targets = torch.zeros(found.positive.shape[1], count)
    for cells, held, quality, name in zip(found.cells[0], found.held[0], found.quality[0], classes, strict=True):
        assert not quality[~held].any()
        targets[cells[held], name] = quality[held]
    return targets


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, classes = [int(rng.integers(1, 9)), 0, int(rng.integers(1, 5))], 4
    most = max(counts) + 2
    logits = torch.from_numpy(rng.normal(-2, 2, (3, CELLS, classes))).float()
    boxes = torch.from_numpy(np.stack([cell_boxes(rng) for _ in counts])).float()
    true_boxes = torch.from_numpy(np.stack([random_boxes(rng, most) for _ in counts])).float()
    true_classes = torch.from_numpy(rng.integers(0, classes, (3, most)))
    valid = torch.arange(most)[None] < torch.tensor(counts)[:, None]

    found = assign(logits.transpose(1, 2), boxes, POINTS, LEVELS, true_boxes, true_classes, valid)

    assert found.positive.shape == found.objects.shape == (3, CELLS)
    assert found.cells.shape == found.held.shape == found.quality.shape == (3, most, TOP_CELLS)
    for i, count in enumerate(counts):
        object_of, targets = reference.assign(
            logits[i].double().sigmoid().numpy(),
            boxes[i].double().numpy(),
            POINTS.double().numpy(),
            min(STRIDES),
            true_boxes[i, :count].double().numpy(),
            true_classes[i, :count].tolist(),
        )
        np.testing.assert_array_equal(found.positive[i].numpy(), object_of >= 0)
        np.testing.assert_array_equal(found.objects[i].numpy(), object_of.clip(min=0))
        one = Assignment(*(getattr(found, field)[i : i + 1] for field in Assignment.__annotations__))
        found_targets, matched = targets_of(one, true_classes[i].tolist(), classes).numpy(), targets >= 0.01
        np.testing.assert_allclose(found_targets[matched], targets[matched], rtol=1e-3)
        # Of an object that nothing matches yet, next to nothing is wanted; how little is not laid down.
        assert (found_targets[~matched] < 0.01).all()


def test_iou_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 6), random_boxes(rng, 5)
    b[0] = a[0]
    b[1, 2:] = b[1, :2]  # no area
    found = pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    expected = [[reference.iou(one, other) for other in b] for one in a]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0, 0] == pytest.approx(1)


def test_no_objects_in_the_batch() -> None:
    found = assign_one(torch.zeros(CELLS, 3), torch.rand(CELLS, 4), [], [])
    assert not found.positive.any()
    assert found.cells.shape == found.held.shape == found.quality.shape == (1, 0, 0)


def test_padding_is_no_object() -> None:
    rng = np.random.default_rng(2)
    logits, boxes = torch.zeros(1, 3, CELLS), torch.from_numpy(cell_boxes(rng)).float()[None]
    found = assign(
        logits,
        boxes,
        POINTS,
        LEVELS,
        torch.tensor([[[0.0, 0, 96, 64]]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.zeros(1, 1, dtype=torch.bool),
    )
    assert not found.positive.any()


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_objects_get_a_cell_wherever_they_lie(seed: int) -> None:
    """Also on the border of cells and in the corners of the image; half a pixel, or no area at all."""
    rng = np.random.default_rng(seed)
    boxes = torch.from_numpy(cell_boxes(rng)).float()
    corners = [[0.0, 0.0], [95.5, 63.5], [48.0, 32.0], *rng.uniform((0, 0), (95, 63), (5, 2)).tolist()]
    for x, y in corners:
        for side in (0.0, 0.5):
            found = assign_one(torch.zeros(CELLS, 2), boxes, [[x, y, x + side, y + side]], [1])
            assert 1 <= found.positive.sum() <= 4 + 4 + 4


def test_only_cells_inside_the_object_answer() -> None:
    rng = np.random.default_rng(3)
    x1, y1, x2, y2 = box = [20.0, 10.0, 60.0, 50.0]
    found = assign_one(torch.zeros(CELLS, 1), torch.from_numpy(cell_boxes(rng)).float(), [box], [0])
    assert found.positive.sum() == TOP_CELLS
    x, y = POINTS[found.positive[0]].T
    assert bool(((x > x1) & (x < x2) & (y > y1) & (y < y2)).all())


def test_a_cell_that_two_objects_want_goes_to_the_one_it_overlaps_more() -> None:
    """Two boxes around the same cells; each keeps those whose prediction is nearer to it."""
    large, small = [8.0, 8.0, 56.0, 56.0], [24.0, 24.0, 40.0, 40.0]
    boxes = torch.tensor(large).repeat(CELLS, 1)
    inside_small = ((POINTS - 32).abs() <= 8).all(1)
    boxes[inside_small] = torch.tensor(small)
    found = assign_one(torch.zeros(CELLS, 2), boxes, [large, small], [0, 1])
    assert bool((found.objects[0, inside_small & found.positive[0]] == 1).all())
    assert bool((found.objects[0, ~inside_small & found.positive[0]] == 0).all())
    # Both are matched without a flaw, so each has a cell with the target 1 for its own class and 0 for the other.
    targets = targets_of(found, [0, 1], 2)
    assert targets.amax(0).tolist() == pytest.approx([1, 1])
    assert not ((targets > 0).sum(1) > 1).any()


def test_twin_objects_share_one_cell_without_harm() -> None:
    """Two tiny objects in the same cell: it answers for one of them, and nothing is divided by zero."""
    boxes = torch.cat((POINTS - 4, POINTS + 4), 1)
    # The classes speak for the second object so loudly that its alignment is higher; overlap decides all the same.
    logits = torch.tensor([-10.0, 10.0]).expand(CELLS, 2)
    found = assign_one(logits, boxes, [[1.0, 1, 7, 7], [2.0, 2, 6, 6]], [0, 1])
    own = (torch.tensor([4.0, 4.0]) == POINTS).all(1)
    assert found.positive[0, own].all()
    assert found.objects[0, own].item() == 0  # 36 / 64 overlaps more than 16 / 64
    assert targets_of(found, [0, 1], 2)[own].tolist() == [[pytest.approx(36 / 64), 0.0]]
    assert torch.isfinite(found.quality).all()


def test_equal_cells_get_equal_targets() -> None:
    """Cells that tie in score and overlap: as many as there are places, all with the same target."""
    box = [0.0, 0.0, 96.0, 64.0]
    found = assign_one(torch.zeros(CELLS, 1), torch.tensor(box).repeat(CELLS, 1), [box], [0])
    assert found.positive.sum() == TOP_CELLS
    torch.testing.assert_close(found.quality, torch.ones(1, 1, TOP_CELLS))


def test_a_hopeless_start_still_has_an_order() -> None:
    """No prediction overlaps anything: the cells inside are chosen by score, and nothing is wanted of them yet."""
    rng = np.random.default_rng(4)
    logits = torch.from_numpy(rng.normal(-8, 1, (CELLS, 1))).float()
    box = [0.0, 0.0, 96.0, 64.0]
    found = assign_one(logits, torch.full((CELLS, 4), -100.0), [box], [0])
    best = logits[:, 0].topk(TOP_CELLS).indices
    assert set(found.positive[0].nonzero()[:, 0].tolist()) == set(best.tolist())
    assert not found.quality.any()


def test_fewer_cells_than_places() -> None:
    points, levels = cell_centres((32, 32), (32,))
    found = assign(
        torch.zeros(1, 1, 1),
        torch.tensor([[[4.0, 4, 28, 28]]]),
        points,
        levels,
        torch.tensor([[[4.0, 4, 28, 28]]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
    )
    assert found.positive.tolist() == [[True]]
    torch.testing.assert_close(found.quality, torch.ones(1, 1, 1))


def test_inputs_stay_as_they_were() -> None:
    rng = np.random.default_rng(5)
    inputs = (
        torch.from_numpy(rng.normal(size=(1, 2, CELLS))).float(),
        torch.from_numpy(cell_boxes(rng)).float()[None],
        POINTS.clone(),
        LEVELS.clone(),
        torch.tensor([[[4.0, 4, 28, 28]]]),
        torch.ones(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
    )
    copies = [tensor.clone() for tensor in inputs]
    assign(*inputs)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


def test_with_anchors_only_cells_that_can_predict_a_box_answer_for_it() -> None:
    points, strides = cell_centres((64, 64), (8, 16))
    anchors = torch.where(strides[:, None] == 8, 6.0, 40.0).expand(-1, 2)
    boxes = torch.cat((points - 10, points + 10), 1)
    truth = torch.tensor([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 64.0, 64.0], [2.0, 2.0, 6.0, 6.0]])
    found = assign(
        torch.zeros(1, 2, len(points)),
        boxes[None],
        points,
        strides,
        truth[None],
        torch.tensor([[0, 1, 0]]),
        torch.ones(1, 3, dtype=torch.bool),
        anchors,
    )
    centres = (truth[:, :2] + truth[:, 2:]) / 2
    chosen = found.positive[0].nonzero()[:, 0]
    assert {int(found.objects[0, cell]) for cell in chosen} == {0, 1, 2}
    for cell in chosen:
        box = int(found.objects[0, cell])
        assert ((points[cell] - centres[box]).abs() < strides[cell]).all()
        if box == 1:  # 64 pixels a side: more than four times the small anchor
            assert strides[cell] == 16


def test_a_box_that_no_anchor_fits_still_has_cells() -> None:
    points, strides = cell_centres((64, 64), (8,))
    found = assign(
        torch.zeros(1, 1, len(points)),
        torch.cat((points - 4, points + 4), 1)[None],
        points,
        strides,
        torch.tensor([[[0.0, 0.0, 64.0, 64.0]]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.full((len(points), 2), 3.0),
    )
    assert found.positive.any()
