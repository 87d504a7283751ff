"""The search for layers to put into float, with stand-ins for noise and scores."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from yolor_edge.export.precision.search import Costs, Layers, Search, Used

COUNT = 94
NEEDED = ("stem.0", "boxes.0.0", "boxes.0.1", "classes.0.0", "classes.0.1")
NAMES = (*NEEDED, *(f"backbone.{i}" for i in range(COUNT - len(NEEDED))))
FLOPS = dict(zip(NAMES, (0.0176, 0.0234, 0.0117, 0.0469, 0.0469), strict=False))
FLOPS |= dict.fromkeys(NAMES[len(NEEDED) :], (1 - sum(FLOPS.values())) / (COUNT - len(NEEDED)))


def costs(seed: int = 0, groups: Collection[Layers] = ()) -> Costs:
    """The five bring most of the noise to the boxes; all others together a tenth of theirs."""
    rng = np.random.default_rng(seed)
    noise = {
        name: {"box AP": float(value), "mIoU": 1.0} for name, value in zip(NAMES, rng.random(COUNT) / 400, strict=True)
    }
    for name in NEEDED:
        noise[name]["box AP"] = 0.5 + float(rng.random())
    return Costs(noise, FLOPS, groups)


def prefix_search(ranking: list[str], needed: Collection[str], most: int) -> int:
    """Scorings that a search over the first 0, 1, 2, 4, ... layers of a ranking takes, with bisection."""
    last = max(ranking.index(name) for name in needed) + 1
    tried = {0}
    counts = [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]
    above = next(count for count in counts if tried.add(count) or count >= last)
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        tried.add(middle)
        below, above = (below, middle) if middle >= last else (middle, above)
    return len(tried)


@pytest.mark.parametrize("seed", range(5))
def test_five_of_94_are_found_in_a_third_of_the_scorings_of_a_prefix_search(seed: int) -> None:
    def score(in_float: Layers) -> Used:
        return {"box AP": sum(1.5 for name in NEEDED if name not in in_float), "mIoU": 0.5}

    search = Search(costs(seed), score, most=8)
    assert search.run() == set(NEEDED)
    # As measured: at places 1, 26, 32, 40 and 72 of the old ranking, of which the first 40 had to go.
    ranking = list(NAMES[5:])
    for name, place in zip(NEEDED, (1, 26, 32, 40, 38), strict=True):
        ranking.insert(place - 1, name)
    before = prefix_search(ranking, NEEDED[:4], COUNT // 2)
    assert before == 13
    assert len(search.tries) <= before / 3


def test_what_the_ranking_wrongly_blames_goes_back() -> None:
    """Two layers as noisy as the five do no harm."""
    blamed = costs()
    for name in ("backbone.7", "backbone.8"):
        blamed.noise[name]["box AP"] = 1.0  # type: ignore[index]
    search = Search(
        blamed,
        lambda in_float: {"box AP": 0.3 + sum(1.5 for name in NEEDED if name not in in_float)},
        most=16,
        patience=9,
    )
    assert search.run() == set(NEEDED)
    assert frozenset(NEEDED) in search.tries


def test_a_branch_of_small_layers_moves_as_one() -> None:
    branch = frozenset(f"branch.{i}" for i in range(6))
    noise = {name: {"box AP": 1.0} for name in branch} | {"big": {"box AP": 5.0}}
    flops = dict.fromkeys(branch, 0.001) | {"big": 0.5}
    assert Costs(noise, flops, [branch]).cheapest({"box AP": 5.5}) == branch


def test_no_more_scorings_than_allowed() -> None:
    search = Search(costs(), lambda in_float: {"box AP": 5.0}, most=4)
    assert search.run() is None
    assert len(search.tries) <= 4
    assert search.nearest() in search.tries


def test_within_from_the_start_takes_one_scoring() -> None:
    search = Search(costs(), lambda in_float: {"box AP": 0.9}, most=4)
    assert search.run() == frozenset() and len(search.tries) == 1
