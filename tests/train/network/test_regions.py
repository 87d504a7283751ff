"""Regions of the memory: the right cells in a steady order, their features and places, no gradient through a choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from yolor_edge.train.network.caption_decoder import sine_positions
from yolor_edge.train.network.regions import RegionMemory, best_cells, cell_positions, region_margins

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS, WIDTH, CLASSES, SEMANTIC = (6, 8, 10), 16, 3, 5
SIZES = ((4, 6), (2, 3), (1, 2))
CELLS = sum(height * width for height, width in SIZES)


def some_outputs(images: int = 2, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Levels, class logits and semantic logits of images."""
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(images, c, *size, generator=generator) for c, size in zip(CHANNELS, SIZES, strict=True)]
    class_logits = torch.randn(images, CLASSES, CELLS, generator=generator)
    return levels, class_logits, torch.randn(images, SEMANTIC, *SIZES[0], generator=generator)


def memory_of(cells: int, has_semantic: bool = True) -> RegionMemory:
    torch.manual_seed(1)
    return RegionMemory(CHANNELS, WIDTH, cells, has_semantic).eval()


def test_the_best_cells_in_the_order_of_their_numbers() -> None:
    logits = torch.tensor([[[0.0, 9.0, -1.0, 5.0, 2.0], [7.0, 0.0, 0.0, 0.0, 0.0]]])
    assert best_cells(logits, 3).tolist() == [[0, 1, 3]]
    assert best_cells(logits, 1).tolist() == [[1]]
    assert best_cells(logits, 9).tolist() == [[0, 1, 2, 3, 4]]
    logits[0, 1, 2] = 6.0  # Takes the place of cell 3; those that stay keep theirs.
    assert best_cells(logits, 3).tolist() == [[0, 1, 2]]


def test_a_cell_has_its_place_among_all_levels() -> None:
    expected = torch.cat([sine_positions(height, width, WIDTH) for height, width in SIZES])
    every = torch.arange(CELLS).expand(2, -1)
    assert torch.equal(cell_positions(SIZES, every, WIDTH), expected.expand(2, -1, -1))
    some = torch.tensor([[0, 23, 24, 31], [5, 5, 29, 30]])
    assert torch.equal(cell_positions(SIZES, some, WIDTH), expected[some])


@pytest.mark.parametrize("has_semantic", [True, False])
def test_a_region_is_the_projection_of_its_cell_and_its_place(has_semantic: bool) -> None:
    """Against a loop over regions in numpy."""
    levels, class_logits, semantic_logits = some_outputs()
    memory = memory_of(7, has_semantic)
    with torch.no_grad():
        found = memory(levels, class_logits, semantic_logits if has_semantic else None).numpy()
        maps = [project(level) for project, level in zip(memory.levels, levels, strict=True)]
        projected = torch.cat([m.flatten(2) for m in maps], 2).numpy()
        finest = memory.semantic(levels[0]).flatten(2).numpy() if has_semantic else None
    places = torch.cat([sine_positions(height, width, WIDTH) for height, width in SIZES]).numpy()
    assert found.shape == (2, 7 + (SEMANTIC if has_semantic else 0), WIDTH)
    for image in range(2):
        best = class_logits[image].numpy().max(0)
        rows = [projected[image, :, cell] + places[cell] for cell in sorted(np.argsort(-best)[:7])]
        if finest is not None:
            spots = semantic_logits[image].flatten(1).numpy().argmax(1)
            rows += [finest[image, :, spot] + places[spot] for spot in spots]
        np.testing.assert_allclose(found[image], rows, rtol=1e-5, atol=1e-5)


def test_fewer_cells_than_asked_for_are_all_of_them() -> None:
    levels, class_logits, semantic_logits = some_outputs()
    memory = memory_of(300)
    assert memory(levels, class_logits, semantic_logits).shape == (2, CELLS + SEMANTIC, WIDTH)


def test_images_of_a_batch_choose_for_themselves() -> None:
    levels, class_logits, semantic_logits = some_outputs(3)
    memory = memory_of(7)
    together = memory(levels, class_logits, semantic_logits)
    for i in range(3):
        one = slice(i, i + 1)
        alone = memory([level[one] for level in levels], class_logits[one], semantic_logits[one])
        torch.testing.assert_close(alone, together[one])


def test_gradient_flows_to_the_chosen_features_and_not_through_the_choice() -> None:
    levels, class_logits, semantic_logits = some_outputs(1)
    inputs = [tensor.requires_grad_() for tensor in (*levels, class_logits, semantic_logits)]
    memory_of(7)(levels, class_logits, semantic_logits).sum().backward()
    assert all(tensor.grad is None for tensor in inputs[3:])
    grads = [level.grad for level in levels]
    assert all(grad is not None for grad in grads)
    touched = torch.cat([(grad != 0).any(1).flatten(1) for grad in grads if grad is not None], 1)[0]
    spots = semantic_logits.flatten(2).argmax(2)[0]
    assert set(touched.nonzero().flatten().tolist()) == {*best_cells(class_logits, 7)[0].tolist(), *spots.tolist()}


def test_a_margin_is_how_far_a_cell_is_above_the_best_left_out() -> None:
    logits = torch.tensor([[[4.0, -8.0, 3.0, 1.0, 2.5]]])
    torch.testing.assert_close(region_margins(logits, None, 2), torch.tensor([[1.5, 0.5]]) / 8)
    assert region_margins(logits, None, 5).tolist() == [[float("inf")] * 5]
    semantic = torch.tensor([[[[1.0, 4.0], [3.0, -5.0]], [[2.0, 2.0], [0.0, 0.0]]]])
    torch.testing.assert_close(region_margins(logits, semantic, 2), torch.tensor([[1.5 / 8, 0.5 / 8, 0.2, 0.0]]))
    assert region_margins(logits, semantic[:, :, :1, :1], 5).tolist() == [[float("inf")] * 7]


@pytest.mark.parametrize("seed", range(5))
def test_less_noise_than_half_of_a_margin_leaves_a_region_where_it_is_in_order(seed: int) -> None:
    _, class_logits, semantic_logits = some_outputs(4, seed)
    margins = region_margins(class_logits, semantic_logits, 7)
    generator = torch.Generator().manual_seed(seed + 50)
    size = 0.04

    def noisy(logits: Tensor) -> Tensor:
        scale = logits.flatten(1).abs().amax(1).view(-1, *[1] * (logits.ndim - 1))
        return logits + (torch.rand(logits.shape, generator=generator) * 2 - 1) * size * scale

    before, after = best_cells(class_logits, 7), best_cells(noisy(class_logits), 7)
    spots, moved = (logits.flatten(2).argmax(2) for logits in (semantic_logits, noisy(semantic_logits)))
    for i in range(4):
        sure = before[i][margins[i, :7] > 2 * size].tolist()
        assert [cell for cell in after[i].tolist() if cell in sure] == sure
        certain = margins[i, 7:] > 2 * size
        assert torch.equal(spots[i][certain], moved[i][certain])
