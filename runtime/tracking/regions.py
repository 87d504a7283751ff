"""Lines and zones in the image, and who crosses them: counts in and out by class, on top of track ids."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ..arguments import described
from ..errors import UsageError
from ..results import Result

Direction = Literal["in", "out"]
Anchor = Literal["centre", "bottom"]

# A point nearer to a border than this share of its box is on neither side yet, so that a box that trembles there is
# not counted again and again.
_MARGIN = 0.05
_MOST_REMEMBERED = 10_000  # tracks


@dataclass(frozen=True)
class Line:
    """From one point to another, in pixels of the image.

    Who looks along it from its first point sees "in" as from left to right: across a line that is drawn from the left
    of the image to its right, "in" is down.

    Attributes:
        points: ((x1, y1), (x2, y2)).
        name: Of the line; "" to have it numbered.

    Raises:
        UsageError: If it is not two different points.
    """

    points: tuple[tuple[float, float], ...]
    name: str = ""

    kind = "line"

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _checked(self.kind, self.points))
        if len(self.points) != 2 or self.points[0] == self.points[1]:
            raise UsageError(f"<line> must be two different points, got {_text(self.points)}", argument="line")

    @classmethod
    def of_text(cls, text: str) -> Line:
        """ "x1,y1,x2,y2" or "NAME=x1,y1,x2,y2" as a line.

        Raises:
            UsageError: If it is none.
        """
        return cls(*_parsed("line", text))

    def distance(self, point: NDArray[np.float64]) -> float:
        """Pixels from the line without ends, above 0 on the side that is "in"."""
        (x1, y1), (x2, y2) = self.points
        return ((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)) / float(np.hypot(x2 - x1, y2 - y1))

    def is_crossed(self, before: NDArray[np.float64], now: NDArray[np.float64]) -> bool:
        """Whether a way that changes the side goes through the line, not past its ends."""
        step, along = now - before, np.subtract(self.points[1], self.points[0])
        turned = along[0] * step[1] - along[1] * step[0]
        if turned == 0:
            return False
        to_line = before - np.array(self.points[0])
        share = (to_line[0] * step[1] - to_line[1] * step[0]) / turned
        return bool(0 <= share <= 1)


@dataclass(frozen=True)
class Zone:
    """A polygon in pixels of the image, which may have dents; closed by itself.

    Attributes:
        points: At least three, ((x1, y1), (x2, y2), (x3, y3), ...).
        name: Of the zone; "" to have it numbered.

    Raises:
        UsageError: If it has fewer than three points, or no area.
    """

    points: tuple[tuple[float, float], ...]
    name: str = ""

    kind = "zone"

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _checked(self.kind, self.points))
        x, y = np.array(self.points, float).reshape(-1, 2).T
        if len(self.points) < 3 or np.dot(x, np.roll(y, -1)) == np.dot(y, np.roll(x, -1)):
            raise UsageError(
                f"<zone> must be at least three points around an area, got {_text(self.points)}", argument="zone"
            )

    @classmethod
    def of_text(cls, text: str) -> Zone:
        """ "x1,y1,x2,y2,x3,y3,..." or "NAME=x1,y1,..." as a zone.

        Raises:
            UsageError: If it is none.
        """
        return cls(*_parsed("zone", text))

    def distance(self, point: NDArray[np.float64]) -> float:
        """Pixels from the border, above 0 inside."""
        start = np.array(self.points, float)
        end = np.roll(start, -1, axis=0)
        side, to_point = end - start, point - start
        lengths = np.maximum((side**2).sum(axis=1), 1e-12)
        share = np.clip((side * to_point).sum(axis=1) / lengths, 0, 1)
        nearest = float(np.hypot(*(to_point - share[:, None] * side).T).min())
        # A ray to the right crosses the border an odd number of times from inside.
        spans = (start[:, 1] > point[1]) != (end[:, 1] > point[1])
        heights = np.where(spans, side[:, 1], 1.0)
        crossed = spans & (point[0] < start[:, 0] + (point[1] - start[:, 1]) * side[:, 0] / heights)
        return nearest if np.count_nonzero(crossed) % 2 else -nearest

    def is_crossed(self, before: NDArray[np.float64], now: NDArray[np.float64]) -> bool:
        """Every change of side is."""
        return True


Region = Line | Zone


class Crossing(NamedTuple):
    """An object has crossed a line, or come into a zone or left it.

    Attributes:
        region: Name of the line or zone.
        kind: "line" or "zone".
        direction: "in" or "out".
        track_id: Of the object.
        class_id: Of the object in this frame.
        class_name: Of that class.
    """

    region: str
    kind: str
    direction: Direction
    track_id: int
    class_id: int
    class_name: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return dict(self._asdict())


@dataclass
class _Watched:
    """One region and what was seen of it. `sides` holds for a track which side it was on last, and where."""

    region: Region
    name: str
    counts: dict[Direction, dict[str, int]] = field(default_factory=lambda: {"in": {}, "out": {}})
    sides: OrderedDict[int, tuple[bool, NDArray[np.float64]]] = field(default_factory=OrderedDict)
    now: int = 0


class RegionCounter:
    """Counts the tracked objects of one camera that cross lines, and go into zones and out of them.

    An object is where its anchor is. It is counted once it is clearly on the other side, by a twentieth of its box's
    shorter side; an object that appears inside a zone has not gone in.

    Args:
        regions: Lines and zones in pixels of the images.
        anchor: What stands for a box: "centre", or "bottom", the middle of its lower edge.

    Raises:
        UsageError: If two regions have one name, or an argument is not as described.
    """

    def __init__(self, regions: Sequence[Region], anchor: Anchor = "centre"):
        check_regions(regions, anchor)
        self._anchor = anchor
        self._watched = []
        numbers = {"line": 0, "zone": 0}
        for region in regions:
            numbers[region.kind] += 1
            self._watched.append(_Watched(region, region.name or f"{region.kind} {numbers[region.kind]}"))

    def update(self, result: Result) -> list[Crossing]:
        """Take the result of the next frame, with `track_ids`; who has crossed what since the one before.

        Raises:
            UsageError: If the result is without track ids.
        """
        if result.boxes is None or result.track_ids is None:
            raise UsageError("lines and zones need track ids; give Tracker.update's results, or stream with track=True")
        boxes = result.boxes.astype(float)
        points = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)], axis=1)
        if self._anchor == "bottom":
            points[:, 1] = boxes[:, 3]
        margins = _MARGIN * np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        found = [one for one in result if one.track_id is not None]
        events = []
        for watched in self._watched:
            watched.now = 0
            for one in found:
                direction = self._step(watched, one.track_id or 0, points[one.index], float(margins[one.index]))
                if direction is not None:
                    counts = watched.counts[direction]
                    counts[one.name] = counts.get(one.name, 0) + 1
                    kind = watched.region.kind
                    events.append(Crossing(watched.name, kind, direction, one.track_id or 0, one.class_id, one.name))
                watched.now += watched.sides[one.track_id or 0][0]
            while len(watched.sides) > _MOST_REMEMBERED:
                watched.sides.popitem(last=False)
        return events

    @staticmethod
    def _step(watched: _Watched, track_id: int, point: NDArray[np.float64], margin: float) -> Direction | None:
        """Note where a track is; the direction in which it has crossed the region, if it has."""
        distance = watched.region.distance(point)
        is_in = distance > 0
        before = watched.sides.get(track_id)
        if before is not None:
            watched.sides.move_to_end(track_id)
            if is_in != before[0] and abs(distance) < margin:
                return None
        watched.sides[track_id] = (is_in, point)
        if before is None or is_in == before[0] or not watched.region.is_crossed(before[1], point):
            return None
        return "in" if is_in else "out"

    def counts(self) -> dict[str, dict[str, Any]]:
        """For each region by name: "in" and "out", each a count by class name, and for a zone "now", the tracked
        objects that are in it in the last frame.
        """
        told: dict[str, dict[str, Any]] = {}
        for watched in self._watched:
            told[watched.name] = {way: dict(counts) for way, counts in watched.counts.items()}
            if watched.region.kind == "zone":
                told[watched.name]["now"] = watched.now
        return told

    def labels(self) -> list[tuple[Region, str]]:
        """Each region with a short text of its name and its counts, for drawings."""
        return [
            (watched.region, f"{watched.name}: {text}")
            for watched, text in zip(self._watched, self._texts(), strict=True)
        ]

    def summary(self) -> str:
        """One line for people."""
        return "; ".join(text for _, text in self.labels())

    def _texts(self) -> list[str]:
        texts = []
        for watched in self._watched:
            parts = [f"{sum(watched.counts[way].values())} {way}" for way in get_args(Direction)]
            texts.append(", ".join(parts + ([f"{watched.now} now"] if watched.region.kind == "zone" else [])))
        return texts


def check_regions(regions: Collection[Region], anchor: object = "centre") -> None:
    """Refuse what is no line or zone, and two of one name.

    Raises:
        UsageError: Saying what it is.
    """
    names = set()
    for region in regions:
        if not isinstance(region, Line | Zone):
            raise UsageError(f"<regions> must be lines and zones, got {described(region)}", argument="regions")
        if region.name and region.name in names:
            raise UsageError(f"two lines or zones are called {region.name!r}; give each a name of its own")
        names.add(region.name)
    if anchor not in get_args(Anchor):
        raise UsageError(f"<anchor> must be one of {', '.join(get_args(Anchor))}, got {anchor!r}", argument="anchor")


def _parsed(kind: str, text: str) -> tuple[tuple[tuple[float, float], ...], str]:
    name, separator, numbers = text.rpartition("=")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if not values or len(values) % 2 or (separator and not name.strip()):
        wanted = "x1,y1,x2,y2" if kind == "line" else "x1,y1,x2,y2,x3,y3,..."
        raise UsageError(f"<{kind}> must be {wanted} or NAME={wanted}, got {text!r}", argument=kind)
    return tuple(zip(values[::2], values[1::2], strict=True)), name.strip()


def _checked(kind: str, points: Any) -> tuple[tuple[float, float], ...]:
    """The points as numbers, whatever sequence they came in."""
    try:
        values: NDArray[np.float64] = np.array(points, float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise UsageError(f"<{kind}> must be points (x, y) of finite numbers, got {str(points)[:60]}", argument=kind)
    return tuple((x, y) for x, y in values.tolist())


def _text(points: Sequence[tuple[float, float]]) -> str:
    return ",".join(f"{x:g},{y:g}" for x, y in points)
