"""An image of what each kernel costs against the number of objects and the size of the image, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

PANEL = (380, 300)
"""Width and height of the axes of one panel, in pixels."""
MARGIN_LEFT, MARGIN_TOP, PANEL_STEP = 64, 44, 600
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


@dataclass(frozen=True)
class Panel:
    """Curves over one quantity, both axes logarithmic.

    Attributes:
        title: Above the axes.
        ticks: (value, label) of the marks on the x axis, rising.
        curves: For each kernel its (x, milliseconds), by rising x.
    """

    title: str
    ticks: Sequence[tuple[float, str]]
    curves: Mapping[str, Sequence[tuple[float, float]]]


def plot(points: Sequence[Mapping[str, Any]], title: str) -> str:
    """An SVG of the points that `kernels.curves` measures; times of 0 are left out."""
    objects = [point for point in points if "objects" in point]
    pictures = [point for point in points if "picture" in point]
    by_objects = [(point["objects"], str(point["objects"]), point) for point in objects]
    by_size = [
        (point["picture"][0] * point["picture"][1] / 1e6, f"{point['picture'][1]}x{point['picture'][0]}", point)
        for point in pictures
    ]
    panels = [
        Panel(name, [(x, label) for x, label, _ in measured], _curves_of([(x, point) for x, _, point in measured]))
        for name, measured in (("number of objects", by_objects), ("size of the image", by_size))
        if measured
    ]
    times = [time for panel in panels for curve in panel.curves.values() for _, time in curve]
    low = 10.0 ** math.floor(math.log10(min(times)))
    high = max(10.0 ** math.ceil(math.log10(max(times))), 10 * low)
    width, height = PANEL_STEP * len(panels) + 20, MARGIN_TOP + PANEL[1] + 70
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        lines += _drawn(panel, MARGIN_LEFT + PANEL_STEP * number, low, high)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curves_of(measured: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, list[tuple[float, float]]]:
    names = dict.fromkeys(name for _, point in measured for name in point["median_ms"])
    return {
        name: [(x, point["median_ms"][name]) for x, point in measured if point["median_ms"].get(name, 0) > 0]
        for name in names
    }


def _drawn(panel: Panel, left: int, low: float, high: float) -> list[str]:
    """The elements of one panel whose axes begin at x = `left`, for times from `low` to `high`."""
    width, height = PANEL
    first, last = panel.ticks[0][0], panel.ticks[-1][0]

    def at(x: float, time: float) -> tuple[float, float]:
        along = math.log(x / first) / math.log(last / first) if last > first else 0.5
        up = math.log(time / low) / math.log(high / low)
        return round(left + 10 + along * (width - 20), 1), round(MARGIN_TOP + height * (1 - up), 1)

    bottom = MARGIN_TOP + height
    lines = [f'<rect x="{left}" y="{MARGIN_TOP}" width="{width}" height="{height}" fill="none" stroke="#888"/>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = at(first, 10.0**power)[1]
        lines.append(f'<path d="M{left} {y}h{width}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g} ms</text>')
    for value, label in panel.ticks:
        x = at(value, low)[0]
        lines.append(f'<path d="M{x} {bottom}v5" stroke="#888"/>')
        lines.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>')
    lines.append(f'<text x="{left + width / 2}" y="{bottom + 40}" text-anchor="middle">{escape(panel.title)}</text>')
    ranked = sorted(panel.curves.items(), key=lambda curve: -curve[1][-1][1] if curve[1] else 0.0)
    for number, (name, curve) in enumerate(ranked):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, time) for x, time in curve]
        path = " ".join(f"{x},{y}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        y = MARGIN_TOP + 14 + 18 * number
        lines.append(f'<path d="M{left + width + 8} {y - 4}h14" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="{left + width + 26}" y="{y}">{escape(name)}</text>')
    return lines
