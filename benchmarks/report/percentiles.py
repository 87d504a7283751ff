"""Figures from samples, each only where there are enough of them, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RULE = (
    "A percentile p is the smallest sample that at least p of the samples do not exceed (the median is the "
    "mean of the middle two where their number is even). It is given only where at least one sample can lie "
    'beyond it: p90 needs 10 samples, p95 20, p99 100, p99.9 1000; below that the table says "too few '
    'samples". The interval behind it holds the true percentile with 95 % confidence (from order statistics, '
    "samples taken as independent); an open end means that the samples do not bound it on that side."
)
PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
NOISY_SPREAD = 0.10
SLOW_FACTOR = 1.5


@dataclass(frozen=True)
class Percentile:
    """One percentile of some samples.

    Attributes:
        value: None where there are too few samples.
        low, high: Ends of the 95 % confidence interval; None where it is open on that side.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Summary:
    """What is said about the samples of one stage, in the samples' own unit.

    Attributes:
        count: How many samples.
        percentiles: By share, for those in `PERCENTILES`.
    """

    count: int
    mean: float
    minimum: float
    maximum: float
    percentiles: dict[float, Percentile]

    @property
    def median(self) -> float:
        value = self.percentiles[0.5].value
        return math.nan if value is None else value

    @property
    def jitter(self) -> float | None:
        """p99 less median; None where p99 is not known."""
        high = self.percentiles[0.99].value
        return None if high is None else high - self.median


def needed_samples(share: float) -> int:
    """How many samples a percentile needs before it is given."""
    return 1 if share <= 0.5 else round(1 / (1 - share))


def summarize(samples: Sequence[float]) -> Summary | None:
    """Mean, extremes and percentiles of `samples`; None where there are none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        minimum=ordered[0],
        maximum=ordered[-1],
        percentiles={share: percentile(ordered, share) for share in PERCENTILES},
    )


def percentile(ordered: Sequence[float], share: float) -> Percentile:
    """The percentile at `share` (0..1) of samples that are sorted already, with its interval; see `RULE`."""
    count = len(ordered)
    if count < needed_samples(share) or count == 0:
        return Percentile(None)
    if share == 0.5:
        value = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    else:
        value = ordered[math.ceil(share * count - 1e-9) - 1]
    low, high = interval_ranks(count, share)
    return Percentile(value, ordered[low] if low is not None else None, ordered[high] if high is not None else None)


def interval_ranks(count: int, share: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Indices of the sorted samples between which a percentile lies with the given confidence.

    The number of samples below the true percentile is binomial, whatever the samples' distribution; each end
    leaves out at most half of what confidence permits.

    Returns:
        The lower and the upper index; None where no sample bounds that side.

    Source: David and Nagaraja, Order Statistics, section 7.1.
    """
    tail = (1 - confidence) / 2
    low: int | None = None
    high: int | None = None
    below = 0.0  # probability of at most k samples below the percentile
    for k in range(count + 1):
        below += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(share)
            + (count - k) * math.log1p(-share)
        )
        if below <= tail:
            low = k
        if below >= 1 - tail:
            high = k if k < count else None
            break
    return low, high


@dataclass(frozen=True)
class Spread:
    """How steady repeated runs on the same image were.

    Attributes:
        deviation: Half the distance from the 16th to the 84th percentile of the runs, each divided by the median of
            its picture: the standard deviation where they are normal, but blind to the few in `slow_runs`. None below
            10 runs.
        slow_runs: Positions of the runs that took more than `SLOW_FACTOR` times the median of their image.
        runs: How many were judged: those of images with at least 3 runs.
    """

    deviation: float | None
    slow_runs: tuple[int, ...]
    runs: int

    @property
    def is_noisy(self) -> bool:
        return self.deviation is not None and self.deviation > NOISY_SPREAD


def spread_of(samples: Sequence[float], groups: Sequence[int]) -> Spread:
    """Judge `samples`, of which those with the same entry in `groups` should be equal.

    Source: psf/pyperf warns at the same spread of 10 % and at an extreme 50 % off.
    """
    members: dict[int, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    ratios: list[float] = []
    slow: list[int] = []
    for positions in members.values():
        if len(positions) < 3:
            continue
        own = percentile(sorted(samples[i] for i in positions), 0.5).value
        if not own:
            continue
        for i in positions:
            ratios.append(samples[i] / own)
            if ratios[-1] > SLOW_FACTOR:
                slow.append(i)
    if len(ratios) < 10:
        return Spread(None, tuple(sorted(slow)), len(ratios))
    ordered = sorted(ratios)
    low, high = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.16, 0.84))
    return Spread((high - low) / 2, tuple(sorted(slow)), len(ratios))
