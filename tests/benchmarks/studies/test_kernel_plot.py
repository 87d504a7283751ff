"""The image of what kernels cost: its curves lie where the numbers say."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from yolor_edge.benchmarks.studies.kernel_plot import MARGIN_TOP, PANEL, plot

SVG = "{http://www.w3.org/2000/svg}"


def drawn(points: list[dict[str, Any]]) -> ElementTree.Element:
    return ElementTree.fromstring(plot(points, 'Kernels <of> "us"'))


def test_curves_are_drawn_over_both_quantities() -> None:
    root = drawn(
        [
            {"objects": 1, "median_ms": {"boxes": 0.1, "masks": 0.5}},
            {"objects": 100, "median_ms": {"boxes": 1.0, "masks": 10.0}},
            {"picture": [10, 20], "median_ms": {"letterbox": 0.2}},
        ]
    )
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for word in ('Kernels <of> "us"', "number of objects", "size of the image", "20x10", "100", "boxes", "0.1 ms"):
        assert word in texts
    masks, boxes, letterbox = (line.get("points", "").split() for line in root.iter(f"{SVG}polyline"))
    assert (len(masks), len(boxes), len(letterbox)) == (2, 2, 1)
    (first_x, first_y), (last_x, last_y) = (map(float, place.split(",")) for place in boxes)
    assert (first_y, last_y) == (MARGIN_TOP + PANEL[1], MARGIN_TOP + PANEL[1] / 2)  # 0.1 and 1 of 0.1 to 10 ms
    assert last_x - first_x == PANEL[0] - 20


def test_times_of_nothing_are_left_out() -> None:
    root = drawn([{"objects": 1, "median_ms": {"boxes": 0.0}}, {"objects": 2, "median_ms": {"boxes": 0.3}}])
    (line,) = root.iter(f"{SVG}polyline")
    assert len(line.get("points", "").split()) == 1


@pytest.mark.parametrize("time", [1.0, 0.001, 123.0])
def test_one_time_alone(time: float) -> None:
    (line,) = drawn([{"objects": 3, "median_ms": {"boxes": time}}]).iter(f"{SVG}polyline")
    _, y = map(float, line.get("points", "").split(","))
    assert MARGIN_TOP <= y <= MARGIN_TOP + PANEL[1]
