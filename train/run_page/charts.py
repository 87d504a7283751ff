"""Charts as inline SVG, which take their colours from the page, so that they suit a light and a dark one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Curve = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24
_COLOURS = 8
"""How many of `--c0`, `--c1` ... the page's style has."""
_MOST_DOTS = 60


def line_chart(
    curves: Mapping[str, Curve],
    low: float | None = None,
    high: float | None = None,
    x_label: str = "epoch",
    mark: tuple[float, str] | None = None,
    is_percent_x: bool = False,
) -> str:
    """An SVG of curves over one quantity, with a legend if there are several.

    Args:
        curves: By name the (x, y) of each, by rising x; values that are not finite are left out.
        low, high: Ends of the y axis; None for those of the curves.
        x_label: Below the x axis.
        mark: An x to draw a line at, and what it is.
        is_percent_x: The x axis goes from 0 to 1.
    """
    shown = {name: [p for p in curve if math.isfinite(p[1])] for name, curve in curves.items()}
    points = [point for curve in shown.values() for point in curve]
    if not points:
        return '<p class="none">nothing yet</p>'
    first, last = (0.0, 1.0) if is_percent_x else (min(x for x, _ in points), max(x for x, _ in points))
    bottom = min(y for _, y in points) if low is None else low
    top = max(y for _, y in points) if high is None else high
    ticks = y_ticks(bottom, top)
    bottom, top = min(bottom, ticks[0]), max(top, ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        along = (x - first) / (last - first) if last > first else 0.5
        up = (y - bottom) / (top - bottom)
        width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + along * width, 1), round(_TOP + (1 - up) * height, 1)

    lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(", ".join(curves))} by {x_label}">']
    for tick in ticks:
        y = at(first, tick)[1]
        lines.append(f'<path class="grid" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"/>')
        lines.append(f'<text x="{_LEFT - 5}" y="{y + 3.5}" text-anchor="end">{_short(tick)}</text>')
    base = HEIGHT - _BOTTOM
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if is_percent_x else x_ticks(first, last)
    for tick in marks:
        x = at(tick, bottom)[0]
        lines.append(f'<text x="{x}" y="{base + 13}" text-anchor="middle">{tick:g}</text>')
    lines.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>')
    if mark is not None and first <= mark[0] <= last:
        x = at(mark[0], bottom)[0]
        lines.append(f'<path class="mark" d="M{x} {_TOP}V{base}"><title>{escape(mark[1])}</title></path>')
    for number, (name, curve) in enumerate(shown.items()):
        places = [at(*point) for point in curve]
        colour = f"var(--c{number % _COLOURS})"
        path = " ".join(f"{x},{y}" for x, y in places)
        pen = f'stroke="{colour}" stroke-width="{3 if number == 0 and len(shown) > 2 else 1.8}"'
        lines.append(f'<polyline points="{path}" {pen}><title>{escape(name)}</title></polyline>')
        if len(curve) <= _MOST_DOTS:
            for (x, y), (place, value) in zip(places, curve, strict=True):
                told = f"{name}, {x_label} {place:g}: {value:.5g}"
                lines.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"><title>{escape(told)}</title></circle>')
    lines.append("</svg>")
    if len(shown) > 1:
        lines.append(key({name: number for number, name in enumerate(shown)}))
    return "\n".join(lines)


def key(colours: Mapping[str, int]) -> str:
    """The names of curves beside their colours, by number."""
    items = "".join(
        f'<li><i style="background:var(--c{number % _COLOURS})"></i>{escape(name)}</li>'
        for name, number in colours.items()
    )
    return f'<ul class="key">{items}</ul>'


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A table of counts [truth][prediction], each cell as strong as its share of the row."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(row))
        cells = []
        for j, count in enumerate(row):
            kind = "right" if i == j else "wrong"
            title = f"{count} of {sum(row)} {name} taken for {names[j]}"
            cells.append(
                f'<td class="{kind}" style="--share:{round(100 * count / total)}%" title="{escape(title)}">'
                f"{count or ''}</td>"
            )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="wide"><table class="heat"><thead><tr><td></td>' + head + "</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def bars(values: Mapping[str, Sequence[float | None]], columns: Sequence[str]) -> str:
    """A table with a bar for each value, all in 0..1; None leaves a cell empty."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    rows = []
    for name, row in values.items():
        cells = "".join(
            "<td></td>"
            if value is None
            else f'<td><span class="bar" style="--share:{round(100 * value, 1)}%">{value:.3f}</span></td>'
            for value in row
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<table class="bars"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def y_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, `most` or a few fewer or more of them."""
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(start, end + 1)]


def _short(value: float) -> str:
    """A number in few letters: 0.25, 7.5e-4."""
    text = f"{value:.6g}"
    return text if len(text) <= 6 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")


def x_ticks(first: float, last: float, most: int = 6) -> list[float]:
    """Whole numbers within the ends, the first and the last among them."""
    count = round(last - first)
    if count < most:
        return [first + i for i in range(count + 1)]
    step = -(-count // (most - 1))
    inner = [first + i for i in range(step, count, step) if count - i > step / 2]
    return [first, *inner, last]
