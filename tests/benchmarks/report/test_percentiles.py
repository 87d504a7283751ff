"""Percentiles against their definition, their confidence by simulation, and when they are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from yolor_edge.benchmarks.report.percentiles import (
    PERCENTILES,
    interval_ranks,
    needed_samples,
    percentile,
    spread_of,
    summarize,
)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 20, 99, 100, 101, 1000, 1003])
def test_a_percentile_is_the_smallest_sample_that_enough_do_not_exceed(share: float, count: int) -> None:
    samples = sorted(np.random.default_rng(count).random(count).tolist())
    found = percentile(samples, share)
    if count < needed_samples(share):
        assert found.value is None
        assert found.low is None
        return
    if share == 0.5:
        assert found.value == pytest.approx(float(np.median(samples)))
        return
    assert found.value in samples
    assert sum(x <= found.value for x in samples) >= share * count - 1e-9
    assert sum(x < found.value for x in samples) < share * count


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (0.9, 10), (0.95, 20), (0.99, 100), (0.999, 1000)])
def test_how_many_samples_a_percentile_needs(share: float, count: int) -> None:
    assert needed_samples(share) == count
    assert percentile(list(range(count)), share).value is not None
    assert share == 0.5 or percentile(list(range(count - 1)), share).value is None


def test_the_interval_of_a_median_is_the_one_in_the_tables() -> None:
    # Ranks 40 and 61 of 100 counted from 1, as printed in tables of the sign test.
    assert interval_ranks(100, 0.5) == (39, 60)
    assert interval_ranks(3, 0.5) == (None, None)
    assert interval_ranks(100, 0.99)[1] is None


@pytest.mark.parametrize(("share", "count"), [(0.5, 40), (0.9, 150), (0.99, 1000)])
def test_the_interval_holds_the_truth_often_enough(share: float, count: int) -> None:
    low, high = interval_ranks(count, share)
    assert low is not None
    assert high is not None
    samples = np.sort(np.random.default_rng(0).random((4000, count)), axis=1)  # uniform: the percentile is share
    inside = (samples[:, low] <= share) & (share <= samples[:, high])
    assert inside.mean() > 0.945


def test_a_summary_has_every_figure() -> None:
    found = summarize([float(x) for x in range(1000, 0, -1)])
    assert found is not None
    assert (found.count, found.minimum, found.maximum, found.mean) == (1000, 1, 1000, 500.5)
    assert found.median == 500.5
    assert found.percentiles[0.9].value == 900
    assert found.percentiles[0.999].value == 999
    assert found.jitter == 990 - 500.5
    assert set(found.percentiles) == set(PERCENTILES)
    assert summarize([]) is None
    short = summarize([1.0, 2.0])
    assert short is not None
    assert short.jitter is None


def test_spread_compares_runs_of_the_same_picture_only() -> None:
    groups = [0, 1] * 10
    steady = [10.0, 100.0] * 10
    assert spread_of(steady, groups).deviation == 0
    assert not spread_of(steady, groups).is_noisy
    noisy = [time * (1.4 if i % 3 == 0 else 1) for i, time in enumerate(steady)]
    found = spread_of(noisy, groups)
    assert found.is_noisy
    assert found.slow_runs == ()
    outlier = [*steady[:-1], 200.0]
    assert spread_of(outlier, groups).slow_runs == (19,)


def test_spread_is_not_judged_from_too_few_runs() -> None:
    assert spread_of([1.0, 9.0], [0, 0]).deviation is None
    assert spread_of([1.0] * 30, list(range(30))).deviation is None
    assert spread_of([], []).deviation is None
    assert not math.isnan(spread_of([0.0] * 12, [0] * 12).runs)
