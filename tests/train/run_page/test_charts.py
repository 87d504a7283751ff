"""Charts: round numbers along the axes, and curves that lie within them."""

from __future__ import annotations

import re

import pytest
from yolor_edge.train.run_page.charts import HEIGHT, WIDTH, bars, heat_map, line_chart, x_ticks, y_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 1e-3, [0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3]),
        (3.2, 17.1, [0.0, 5.0, 10.0, 15.0, 20.0]),
        (-3.0, 3.0, [-4.0, -2.0, 0.0, 2.0, 4.0]),
        (2.0, 2.0, [2.0, 2.05, 2.1, 2.15, 2.2]),
        (0.0, 0.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_numbers_beside_the_y_axis(low: float, high: float, ticks: list[float]) -> None:
    assert y_ticks(low, high) == pytest.approx(ticks)


def test_numbers_below_the_x_axis_are_epochs() -> None:
    assert x_ticks(1, 4) == [1, 2, 3, 4]
    assert x_ticks(1, 60) == [1, 13, 25, 37, 49, 60]
    assert x_ticks(3, 3) == [3]


def test_curves_lie_within_the_chart_and_names_are_escaped() -> None:
    curves = {"<a>": [(1.0, 0.5), (2.0, float("nan")), (3.0, 1.5)], "b": [(1.0, -2.0), (3.0, 0.0)]}
    drawn = line_chart(curves, mark=(3, "best & last"))
    points = re.findall(r'points="([^"]+)"', drawn)
    assert [len(line.split()) for line in points] == [2, 2]
    for x, y in re.findall(r"([\d.]+),([\d.]+)", " ".join(points)):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT
    assert "<a>" not in drawn and "&lt;a&gt;" in drawn and "best &amp; last" in drawn
    assert "<svg" not in line_chart({"a": []})


def test_tables_hold_the_numbers() -> None:
    drawn = heat_map(["cat", "nothing"], [[3, 1], [0, 0]])
    assert re.findall(r'class="(\w+)" style="--share:(\d+)%"[^>]*>(\d*)<', drawn) == [
        ("right", "75", "3"),
        ("wrong", "25", "1"),
        ("wrong", "0", ""),
        ("right", "0", ""),
    ]
    assert bars({"cat": [0.5, None]}, ["box", "mask"]).count('class="bar"') == 1
