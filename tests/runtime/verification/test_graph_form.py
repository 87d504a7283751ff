"""Regions of the memory held against the network's: another close choice is no difference, a wrong vector is one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.verification.comparison import FP16, Tolerances, compare_heads
from yolor_edge.runtime.verification.graph_form import regions_in_place

Floats = NDArray[np.float32]
GRID, CHOSEN, CELLS, CLASSES, WIDTH = 6, 8, 30, 3, 16
SEMANTIC, FINEST = 2, (3, 4)
REGIONS = CHOSEN + SEMANTIC
TOLERANCES = Tolerances()


def network_of(
    logits: Floats, semantic: Floats, features: Floats, grid: Floats, *, has_semantic: bool = True
) -> tuple[dict[str, Floats], Floats]:
    """What a network with these logits (B, C, N) and (B, S, h, w) gives, and the margins of its choice (B, R)."""
    best = logits.max(1)
    chosen = np.sort(np.argsort(-best, axis=1, kind="stable")[:, :CHOSEN], axis=1)
    left_out = -np.sort(-best, axis=1)[:, CHOSEN : CHOSEN + 1]
    margins = (np.take_along_axis(best, chosen, 1) - left_out) / np.abs(logits).max((1, 2))[:, np.newaxis]
    heads = {"class_logits": logits}
    if has_semantic:
        heads["semantic_logits"] = semantic
        flat = semantic.reshape(*semantic.shape[:2], -1)
        chosen = np.concatenate([chosen, flat.argmax(2)], 1)
        ahead = np.diff(np.sort(flat, axis=2)[..., -2:], axis=2)[..., 0]
        margins = np.concatenate([margins, ahead / np.abs(flat).max((1, 2))[:, np.newaxis]], 1)
    regions = np.take_along_axis(features, chosen[..., np.newaxis], 1)
    return {**heads, "caption_memory": np.concatenate([grid, regions], 1)}, margins


Parts = tuple[Floats, Floats, Floats, Floats]


@pytest.fixture
def parts() -> Parts:
    """Logits, features of all cells and the grid of two images; in the first the last cell chosen is a close choice."""
    rng = np.random.default_rng(3)
    ranks = np.stack([rng.permutation(CELLS) for _ in range(2)])
    logits = np.repeat((-0.2 * ranks)[:, np.newaxis].astype(np.float32), CLASSES, axis=1)
    logits[0, :, ranks[0] == CHOSEN] = -0.2 * (CHOSEN - 1) - 1e-5
    semantic = rng.permuted(np.arange(2.0 * SEMANTIC * 12).reshape(2, SEMANTIC, 12), axis=2)
    features = rng.normal(0, 1, (2, CELLS, WIDTH)).astype(np.float32)
    grid = rng.normal(0, 1, (2, GRID, WIDTH)).astype(np.float32)
    return logits, semantic.reshape(2, SEMANTIC, *FINEST).astype(np.float32), features, grid


def flipped(logits: Floats) -> Floats:
    """The same logits within rounding, of which another cell of the first image is among the best."""
    order = np.argsort(-logits[0, 0])
    changed = logits.copy()
    changed[0, :, order[CHOSEN]] += 2e-5
    return changed


def test_the_same_choice_is_compared_vector_by_vector(parts: Parts) -> None:
    expected, margins = network_of(*parts)
    checks = {c.stage: c for c in compare_heads("a", expected, expected, TOLERANCES, margins)}
    assert checks["caption_memory"].passed
    assert checks["caption_memory"].measured == "0.0e+00 at (0, 0, 0)"
    placed, close = regions_in_place(expected, expected, margins, 1e-3)
    assert close == 0
    np.testing.assert_array_equal(placed, expected["caption_memory"])


def test_another_close_choice_passes_and_is_told(parts: Parts) -> None:
    logits, *others = parts
    expected, margins = network_of(*parts)
    found, _ = network_of(flipped(logits), *others)
    assert np.abs(found["caption_memory"] - expected["caption_memory"]).max() > 1
    [check] = [c for c in compare_heads("a", expected, found, TOLERANCES, margins) if c.stage == "caption_memory"]
    assert check.passed
    assert check.measured.endswith(", 1 of 20 regions a close choice")
    # Without margins, as for a network without regions, it is a difference like any other.
    [check] = [c for c in compare_heads("a", expected, found, TOLERANCES) if c.stage == "caption_memory"]
    assert not check.passed


def test_where_logits_are_not_given_the_tolerance_says_what_is_close(parts: Parts) -> None:
    logits, *others = parts
    expected, margins = network_of(*parts)
    found, _ = network_of(flipped(logits), *others)
    captions = {"caption_memory": found["caption_memory"]}
    for known in (expected, {"caption_memory": expected["caption_memory"]}):
        _, close = regions_in_place(captions, known, margins, 1e-3)
        assert close == 1
        _, close = regions_in_place(captions, known, margins, FP16.head)
        assert close > 1


def test_a_network_without_a_semantic_head(parts: Parts) -> None:
    logits, *others = parts
    expected, margins = network_of(logits, *others, has_semantic=False)
    found, _ = network_of(flipped(logits), *others, has_semantic=False)
    assert all(check.passed for check in compare_heads("a", expected, found, TOLERANCES, margins))


@pytest.mark.parametrize("region", range(REGIONS))
def test_a_wrong_region_is_found_whichever_it_is(parts: Parts, region: int) -> None:
    """In the image where a region has changed places, too: all but the close choice have to be there."""
    logits, *others = parts
    expected, margins = network_of(*parts)
    found, _ = network_of(flipped(logits), *others)
    for image in np.flatnonzero(margins[:, region] > 1e-4):
        wrong = {name: value.copy() for name, value in found.items()}
        regions = wrong["caption_memory"][image, GRID:]
        row = np.abs(regions - expected["caption_memory"][image, GRID + region]).max(1).argmin()
        regions[row] += 0.1
        [check] = [c for c in compare_heads("a", expected, wrong, TOLERANCES, margins) if c.stage == "caption_memory"]
        assert not check.passed


def test_regions_in_another_order_are_a_difference(parts: Parts) -> None:
    expected, margins = network_of(*parts)
    turned = {**expected, "caption_memory": expected["caption_memory"].copy()}
    turned["caption_memory"][1, GRID:] = turned["caption_memory"][1, GRID:][::-1]
    [check] = [c for c in compare_heads("a", expected, turned, TOLERANCES, margins) if c.stage == "caption_memory"]
    assert not check.passed


def test_a_wrong_grid_is_a_difference(parts: Parts) -> None:
    expected, margins = network_of(*parts)
    wrong = {**expected, "caption_memory": expected["caption_memory"].copy()}
    wrong["caption_memory"][0, 2, 5] += 0.1
    [check] = [c for c in compare_heads("a", expected, wrong, TOLERANCES, margins) if c.stage == "caption_memory"]
    assert not check.passed
    assert check.measured.endswith("at (0, 2, 5)")


def test_what_is_no_number_fails_even_in_a_close_choice(parts: Parts) -> None:
    expected, margins = network_of(*parts)
    wrong = {**expected, "caption_memory": expected["caption_memory"].copy()}
    wrong["caption_memory"][0, GRID + int(np.argmin(margins[0]))] = np.nan
    margins = np.zeros_like(margins)
    [check] = [c for c in compare_heads("a", expected, wrong, TOLERANCES, margins) if c.stage == "caption_memory"]
    assert not check.passed


def test_a_memory_of_another_shape_is_told_as_such(parts: Parts) -> None:
    expected, margins = network_of(*parts)
    short = {**expected, "caption_memory": expected["caption_memory"][:, 1:]}
    [check] = [c for c in compare_heads("a", expected, short, TOLERANCES, margins) if c.stage == "caption_memory"]
    assert (check.passed, check.measured) == (False, f"shape (2, {GRID + REGIONS - 1}, {WIDTH})")
