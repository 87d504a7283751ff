"""Which layers to put into float: the least FLOPs that bring every score back, in few scorings.

Noise is taken to add up over layers, and what a score loses to rise with the noise of its heads; how steeply, every
scoring tells anew. So each scoring is spent on the set that this picture holds for right, not on one layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

Layers = frozenset[str]
Used = Mapping[str, float]
"""By score, the part of its allowance that is used up: 1 is a drop as large as is allowed."""

# A step is to end somewhat inside the budget, and not to trust the picture beyond a tenth of the noise.
_AIM, _BOLDEST, _LEAST_STEP = 0.8, 0.1, 0.8
# What a further move costs beside its FLOPs: a branch of small layers goes together.
_MOVE = 0.002
# A layer goes back on trial where the picture has it use up to so many allowances.
_WORTH_A_TRIAL = 2.0


@dataclass(frozen=True)
class Costs:
    """What is known of the layers before anything is scored.

    Attributes:
        noise: For each layer and score, the noise that the layer brings to the score's heads.
        flops: For each layer, its share of all FLOPs.
        groups: Branches and stages: layers that may be moved as one.
    """

    noise: Mapping[str, Mapping[str, float]]
    flops: Mapping[str, float]
    groups: Collection[Layers] = ()

    def left(self, score: str, in_float: Collection[str]) -> float:
        """The noise that reaches a score with some layers in float."""
        return sum(noise.get(score, 0.0) for layer, noise in self.noise.items() if layer not in in_float)

    def cheapest(self, limits: Mapping[str, float], start: Layers = frozenset()) -> Layers:
        """`start` and the layers with next to the least FLOPs that bring the noise of every score under its limit."""
        chosen = start
        nothing = {score: 1e-12 * self.left(score, ()) for score in limits}
        moves = [frozenset([layer]) for layer in self.noise] + [group.intersection(self.noise) for group in self.groups]
        while True:
            excess = {score: self.left(score, chosen) - limit for score, limit in limits.items()}
            excess = {score: value for score, value in excess.items() if value > nothing[score]}
            best = max(moves, key=lambda move: self._worth(move - chosen, excess)) if excess else frozenset()
            if self._worth(best - chosen, excess) <= 0:
                break
            chosen |= best
        for layer in sorted(chosen - start, key=lambda name: -self.flops[name]):  # what later moves made needless
            if all(self.left(score, chosen - {layer}) <= limit for score, limit in limits.items()):
                chosen -= {layer}
        return chosen

    def _worth(self, move: Layers, excess: Mapping[str, float]) -> float:
        """How much of what is too much goes away, for what it costs."""
        if not move:
            return 0.0
        gone = {score: sum(self.noise[layer].get(score, 0.0) for layer in move) for score in excess}
        gain = sum(min(1.0, gone[score] / value) for score, value in excess.items())
        return gain / (sum(self.flops[layer] for layer in move) + _MOVE)


@dataclass
class Search:
    """A search under way.

    Args:
        costs: Of the layers.
        score: Gives what a set of layers in float uses up of each score's allowance.
        most: Scorings that it may take.
        start: Layers that are in float from the start; they go back as others do.
        patience: Scorings in which layers may prove not to go back, before no more are tried.

    Attributes:
        tries: What was scored, in order.
    """

    costs: Costs
    score: Callable[[Layers], Used]
    most: int
    start: Layers = frozenset()
    patience: int = 2
    tries: dict[Layers, Used] = field(default_factory=dict)

    def run(self) -> Layers | None:
        """The layers to put into float; None where no set that was tried is within the budget."""
        found = self._until_within()
        return None if found is None else self._given_back(found)

    def nearest(self) -> Layers:
        """Of what was tried, the set that comes nearest to the budget."""
        return min(self.tries, key=lambda layers: max(self.tries[layers].values(), default=0.0))

    def _until_within(self) -> Layers | None:
        limits: dict[str, float] = {}
        now = self.start
        while not self._is_within(now):
            if len(self.tries) >= self.most:
                return None
            for score, used in self.tries[now].items():
                if used > 1:
                    left = self.costs.left(score, now)
                    slope = self._slope(score, now)
                    aim = left - (used - _AIM) / slope if slope else left * _AIM / used
                    limits[score] = min(max(aim, _BOLDEST * left), _LEAST_STEP * left)
            following = self.costs.cheapest(limits, self.start)
            while following in self.tries and any(self.costs.left(score, following) > 0 for score in limits):
                limits = {score: limit * _LEAST_STEP for score, limit in limits.items()}
                if max(limits.values()) < 1e-12:
                    return None
                following = self.costs.cheapest(limits, self.start)
            if following in self.tries:
                return None
            now = following
        return now

    def _given_back(self, found: Layers) -> Layers:
        """`found` without the layers that can run in int8 after all."""
        refused: list[Layers] = []
        rise = self._rise(found)
        while found and len(self.tries) < self.most and len(refused) < self.patience:
            back = self._promising(found, refused, rise)
            if not back:
                break
            if self._is_within(found - back):
                found -= back
                continue
            refused.append(back)
            if len(back) > 1:
                rise = {score: 2 * slope for score, slope in rise.items()}
        return found

    def _rise(self, found: Layers) -> dict[str, float]:
        """Allowances used up per noise, for each score: what `found` saves in all."""
        rise = {}
        for score, used in self.tries[found].items():
            less = self.costs.left(score, self.start) - self.costs.left(score, found)
            rise[score] = max(0.0, (self.tries[self.start][score] - used) / less) if less else 0.0
        return rise

    def _promising(self, found: Layers, refused: Collection[Layers], rise: Mapping[str, float]) -> Layers:
        """The most FLOPs that should be able to go back; one layer or branch on trial where none should."""

        def expected(back: Layers) -> float:
            added = {score: sum(self.costs.noise[name].get(score, 0.0) for name in back) for score in rise}
            return max((used + rise[score] * added[score] for score, used in self.tries[found].items()), default=0.0)

        def flops(back: Layers) -> float:
            return sum(self.costs.flops[name] for name in back)

        def is_open(back: Layers) -> bool:
            return bool(back) and found - back not in self.tries and not any(back >= one for one in refused)

        together: Layers = frozenset()
        for name in sorted(found, key=lambda name: expected(frozenset([name])) / (self.costs.flops[name] + _MOVE)):
            if expected(together | {name}) <= 1 and not any(together | {name} >= one for one in refused):
                together |= {name}
        while together and not is_open(together):  # known to be too much
            together -= {max(together, key=lambda name: expected(frozenset([name])))}
        if together:
            return together
        moves = {frozenset([layer]) for layer in found} | {group & found for group in self.costs.groups}
        trials = [move for move in moves if is_open(move) and expected(move) <= _WORTH_A_TRIAL]
        return max(trials, key=lambda move: (flops(move) / expected(move), sorted(move)), default=frozenset())

    def _is_within(self, in_float: Layers) -> bool:
        if in_float not in self.tries:
            self.tries[in_float] = self.score(in_float)
        return all(used <= 1 for used in self.tries[in_float].values())

    def _slope(self, score: str, here: Layers) -> float:
        """Allowances used up per noise, from the two nearest tries with more or less noise than `here`."""
        left, used = self.costs.left(score, here), self.tries[here][score]
        slopes = []
        for other, values in self.tries.items():
            further = self.costs.left(score, other) - left
            if abs(further) > 1e-9 * (left + abs(further)) and not math.isinf(used - values[score]):
                slopes.append((abs(further), (values[score] - used) / further))
        nearest = [slope for _, slope in sorted(slopes)[:2]]
        return max(0.0, sum(nearest) / len(nearest)) if nearest else 0.0
