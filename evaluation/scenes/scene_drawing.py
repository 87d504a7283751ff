"""Drawing one scene: ground under a sky, coloured shapes on and above it, and what each pixel shows.

A scene depends on nothing but the seed, its index and its size. Lengths below are for an image of 224 x 288
and grow with the image; colours are RGB, 0 to 255; the image comes out BGR, as OpenCV writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .scene_captions import COLORS, GROUNDS, SHAPES, SKIES, SceneFacts, relation_between, scene_facts, write_captions

STUFF = GROUNDS + SKIES

# Chosen apart from each other and from every ground and sky below.
OBJECT_RGB = {
    "red": (205, 22, 30),
    "orange": (255, 132, 8),
    "yellow": (255, 226, 28),
    "green": (14, 158, 52),
    "blue": (22, 52, 214),
    "purple": (122, 36, 176),
    "pink": (255, 118, 190),
    "brown": (104, 58, 28),
}

# How many degrees a shape may turn either way and still go by its name: a square on its tip is a diamond.
MAX_TURN = {
    "circle": 0.0,
    "square": 12.0,
    "triangle": 180.0,
    "star": 180.0,
    "diamond": 8.0,
    "cross": 18.0,
    "ring": 0.0,
    "heart": 25.0,
}

SMALLEST, LARGEST = 24.0, 110.0  # length of a shape's longer side
LEAST_VISIBLE_AREA = 200.0
LEAST_VISIBLE_SHARE = 0.35
LEAST_LEAD = 1.2  # visible area of the largest object over the second's, and of the second's over the third's
LEAST_DISTANCE = 24.0  # between the centres of the two largest, along the axis of their relation
LEAST_DOMINANCE = 1.5  # of that distance over the one on the other axis
OBJECT_COUNT_SHARES = (0.18, 0.26, 0.22, 0.16, 0.1, 0.08)  # of images with 1, 2, ... 6 objects

Texture = Callable[[np.random.Generator, np.ndarray, int, int, float], np.ndarray]


@dataclass(frozen=True)
class Scene:
    """A drawn image and its truth.

    image: (H, W, 3) uint8, BGR.
    instance_map: (H, W) uint8: 0 for stuff, i + 1 where object i is what one sees.
    stuff_map: (H, W) uint8: what lies behind the objects, an index into `STUFF`.
    shapes, colors: The name of each object's shape and colour, in the order of drawing, hindmost first.
    captions: Five sentences, all true.
    """

    image: np.ndarray
    instance_map: np.ndarray
    stuff_map: np.ndarray
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Placed:
    """An object and the patch it covers: `coverage` (h, w) float32, 0 to 1, its corner at (top, left)."""

    shape: str
    color: str
    points: list[np.ndarray]  # outlines in patch pixels, the first filled and the others cut out
    coverage: np.ndarray
    top: int
    left: int
    on_ground: bool

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.coverage.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def draw_scene(seed: int, index: int, size: tuple[int, int] = (224, 288), shapes: Sequence[str] = SHAPES) -> Scene:
    """Draw scene `index` of the endless series that `seed` names.

    Args:
        seed: At least 0.
        index: At least 0.
        size: (height, width) in pixels.
        shapes: Those that its objects are chosen from, some of `SHAPES`.
    """
    rng = np.random.default_rng([seed, index])
    height, width = size
    unit = min(height / 224, width / 288)
    ground = int(rng.integers(len(GROUNDS)))
    sky = int(rng.integers(len(SKIES)))
    horizon = _draw_horizon(rng, GROUNDS[ground], height, width)
    rows = np.arange(height, dtype=np.float32)[:, None]
    ground_coverage = np.clip(rows + 1 - horizon[None, :], 0, 1)  # share of each pixel below the horizon
    stuff_map = np.where(ground_coverage >= 0.5, ground, len(GROUNDS) + sky).astype(np.uint8)
    placed, facts = _lay_out(rng, horizon, stuff_map, size, unit, shapes)

    canvas = _draw_stuff(rng, ground, sky, horizon, ground_coverage, unit)
    _draw_objects(rng, canvas, placed, unit)
    _light(rng, canvas)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(1.0, 3.5))
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)[..., ::-1]
    return Scene(
        np.ascontiguousarray(image),
        _instance_map(placed, size),
        stuff_map,
        tuple(thing.shape for thing in placed),
        tuple(thing.color for thing in placed),
        write_captions(facts),
    )


def visible_boxes(instance_map: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and areas of what one sees of each object.

    Args:
        instance_map: (H, W) uint8, as in `Scene`.
        count: Number of objects, N.

    Returns:
        boxes: (N, 4) float32, xyxy in pixels; zeros for an object that is nowhere seen.
        areas: (N,) int64, in pixels.
    """
    areas = np.bincount(instance_map.ravel(), minlength=count + 1)[1 : count + 1]
    boxes = np.zeros((count, 4), np.float32)
    for index in range(count):
        mask = (instance_map == index + 1).view(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        boxes[index] = (left, top, left + width, top + height)
    return boxes, areas


@dataclass(frozen=True)
class MovingShape:
    """A shape in one frame of a sequence: its `centre` (x, y) and longer `side` in pixels, its `turn` in radians.

    The number names its tint and its grain, so that it looks the same in every frame.
    """

    number: int
    shape: str
    color: str
    centre: tuple[float, float]
    side: float
    turn: float


@dataclass(frozen=True)
class DrawnShapes:
    """Where shapes came to lie.

    owners: (H, W) uint16: i + 1 where shape i is what one sees, else 0.
    boxes: x1, y1, x2, y2 of each whole shape as far as it lies in the image; empty ones are beyond it.
    areas: Pixels of each whole shape, those beyond the image too.
    """

    owners: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    areas: list[float]


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Some ground below some sky: (H, W, 3) float32, RGB."""
    height, width = size
    ground, sky = int(rng.integers(len(GROUNDS))), int(rng.integers(len(SKIES)))
    horizon = _draw_horizon(rng, GROUNDS[ground], height, width)
    coverage = np.clip(np.arange(height, dtype=np.float32)[:, None] + 1 - horizon[None, :], 0, 1)
    return _draw_stuff(rng, ground, sky, horizon, coverage, min(height / 224, width / 288))


def draw_moving_shapes(canvas: np.ndarray, shapes: Sequence[MovingShape], seed: list[int], unit: float) -> DrawnShapes:
    """Paint shapes into `canvas` (H, W, 3) float32, RGB, hindmost first, and say where they are."""
    size = canvas.shape[0], canvas.shape[1]
    owners = np.zeros(size, np.uint16)
    boxes: list[tuple[int, int, int, int]] = []
    areas = []
    for i, one in enumerate(shapes):
        turn = one.turn % (2 * math.radians(MAX_TURN[one.shape]) + 1e-9) - math.radians(MAX_TURN[one.shape])
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        points = [outline @ rotation * one.side + one.centre for outline in _OUTLINES[one.shape]]
        low, high = points[0].min(axis=0), points[0].max(axis=0)
        corner = np.floor(low).astype(int) - 2
        extent = np.ceil(high - low).astype(int) + 5
        placed = _rasterised(one.shape, one.color, [p - corner for p in points], corner, extent, size, False)
        areas.append(_FILL[one.shape] * one.side**2)
        if not placed.coverage.size:
            boxes.append((0, 0, 0, 0))
            continue
        _draw_objects(np.random.default_rng([*seed, one.number]), canvas, [placed], unit)
        inside = placed.coverage >= 0.5
        owners[placed.window][inside] = i + 1
        left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
        left, top = left + placed.left, top + placed.top
        boxes.append((left, top, left + width, top + height))
    return DrawnShapes(owners, boxes, areas)


# ----------------------------------------------------------------------------------------------------- layout


def _lay_out(
    rng: np.random.Generator,
    horizon: np.ndarray,
    stuff_map: np.ndarray,
    size: tuple[int, int],
    unit: float,
    known: Sequence[str],
) -> tuple[list[_Placed], SceneFacts]:
    """Place objects until the image can be told in words without a doubt: see `_is_clear`."""
    count = 1 + int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES))
    for attempt in range(400):
        if attempt % 40 == 39:
            count = max(1, count - 1)  # a crowd that will not fit; a single object always does
        placed = _try_layout(rng, count, horizon, size, unit, known)
        if placed is None:
            continue
        instance_map = _instance_map(placed, size)
        boxes, areas = visible_boxes(instance_map, len(placed))
        full = np.array([np.count_nonzero(thing.coverage >= 0.5) for thing in placed])
        if (areas < LEAST_VISIBLE_SHARE * full).any() or (areas < _least_area(unit)).any():
            continue
        semantic_map = np.where(instance_map > 0, len(STUFF), stuff_map).astype(np.uint8)
        shapes, colors = [thing.shape for thing in placed], [thing.color for thing in placed]
        facts = scene_facts(boxes, areas, shapes, colors, semantic_map, STUFF)
        if _is_clear(facts, placed, unit):
            return placed, facts
    raise RuntimeError(f"no layout found for an image of {size[0]} x {size[1]}")  # not reached for the sizes allowed


def _is_clear(facts: SceneFacts, placed: list[_Placed], unit: float) -> bool:
    """Whether sizes lead by `LEAST_LEAD`, the two largest are clearly related and all stand where put."""
    if facts.ground is None or facts.sky is None:
        return False
    meant = {(thing.color, thing.shape): thing.on_ground for thing in placed}
    if any((thing.place in GROUNDS) != meant[thing.color, thing.shape] for thing in facts.objects):
        return False
    if len(facts.objects) == 1:
        return True
    first, second = facts.objects[:2]
    if first.area < LEAST_LEAD * second.area:
        return False
    if len(facts.objects) > 2 and second.area < LEAST_LEAD * facts.objects[2].area:
        return False
    _, along, across = relation_between(first, second)
    return along >= max(6.0, LEAST_DISTANCE * unit) and along >= LEAST_DOMINANCE * across


def _least_area(unit: float) -> float:
    return max(60.0, LEAST_VISIBLE_AREA * min(1.0, unit * unit))


def _try_layout(
    rng: np.random.Generator,
    count: int,
    horizon: np.ndarray,
    size: tuple[int, int],
    unit: float,
    known: Sequence[str],
) -> list[_Placed] | None:
    """Objects of falling size at random places, or None if some found no room.

    How the second lies from the first is drawn beforehand, so that all four relations come up about as often.
    """
    names = rng.choice(len(known) * len(COLORS), count, replace=False)  # no two alike
    relation = int(rng.integers(4))
    smallest, largest = max(SMALLEST * unit, 11.0), max(LARGEST * unit, 28.0)
    placed: list[_Placed] = []
    centers: list[tuple[float, float]] = []
    for name, area in zip(names, _target_areas(rng, count, smallest, largest), strict=True):
        shape, color = known[int(name) % len(known)], COLORS[int(name) // len(known)]
        side = float(np.clip(math.sqrt(area / _FILL[shape]), smallest, largest))
        turn = math.radians(float(rng.uniform(-1, 1)) * MAX_TURN[shape])
        cosine, sine = math.cos(turn), math.sin(turn)
        rotation = np.array([[cosine, sine], [-sine, cosine]])
        points = [outline @ rotation * side for outline in _OUTLINES[shape]]
        low, high = points[0].min(axis=0), points[0].max(axis=0)
        for _ in range(12):
            spot = _random_spot(rng, high - low, horizon, size, unit)
            if spot is None:
                continue
            x, y, on_ground = spot
            if len(centers) == 1 and not _lies(relation, centers[0], (x, y)):
                continue
            corner = np.floor((x, y) - (high - low) / 2).astype(int) - 2
            moved = [outline - (low + high) / 2 + (x, y) - corner for outline in points]
            extent = np.ceil(high - low).astype(int) + 5
            placed.append(_rasterised(shape, color, moved, corner, extent, size, on_ground))
            centers.append((x, y))
            break
        else:
            return None
    return [placed[int(index)] for index in rng.permutation(count)]


def _target_areas(rng: np.random.Generator, count: int, smallest: float, largest: float) -> list[float]:
    """Area in pixels of each object before any covers another, the first two leading clearly."""
    least = 0.6 * smallest * smallest
    first = float(rng.uniform(0.3, 1.0)) ** 2 * largest * largest * 0.6
    second = max(first * float(rng.uniform(0.25, 0.78)), least)
    rest = [float(rng.uniform(0.28, 0.8)) * second for _ in range(count - 2)]
    return [first, second, *rest][:count]


def _random_spot(
    rng: np.random.Generator, extent: np.ndarray, horizon: np.ndarray, size: tuple[int, int], unit: float
) -> tuple[float, float, bool] | None:
    """Centre (x, y) for an object of the given (width, height) and whether it is on the ground; or None.

    Its foot keeps away from the horizon, so that nobody can doubt on which side of it the object is.
    """
    height, width = size
    on_ground = bool(rng.random() < 0.68)
    if extent[0] >= width - 4:
        return None
    x = float(rng.uniform(2 + extent[0] / 2, width - 2 - extent[0] / 2))
    near = horizon[max(0, int(x - extent[0] / 2)) : int(x + extent[0] / 2) + 1]
    highest_foot = float(extent[1]) + 3
    if on_ground:
        highest_foot = max(highest_foot, float(near.max()) + 12 * unit + 4)
        lowest_foot = height - 3.0
    else:
        lowest_foot = float(near.min()) - 8 * unit - 6
    if highest_foot > lowest_foot:
        return None
    return x, float(rng.uniform(highest_foot, lowest_foot)) - float(extent[1]) / 2, on_ground


def _lies(relation: int, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether the step from `first` to `second` points right, left, down or up (0 to 3) and clearly so."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    along, across = ((dx, dy), (-dx, dy), (dy, dx), (-dy, dx))[relation]
    return along > LEAST_DOMINANCE * 1.1 * abs(across)


def _rasterised(
    shape: str,
    color: str,
    points: list[np.ndarray],
    corner: np.ndarray,
    extent: np.ndarray,
    size: tuple[int, int],
    on_ground: bool,
) -> _Placed:
    """Rasterise outlines; the patch is cut at the borders of the image."""
    coverage = _filled(points, int(extent[1]), int(extent[0]))
    left, top = int(corner[0]), int(corner[1])
    cut_left, cut_top = max(0, -left), max(0, -top)
    coverage = coverage[cut_top : max(cut_top, size[0] - top), cut_left : max(cut_left, size[1] - left)]
    moved = [outline - (cut_left, cut_top) for outline in points]
    return _Placed(shape, color, moved, coverage, top + cut_top, left + cut_left, on_ground)


def _filled(points: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Share of each pixel inside the first outline and outside the others: (height, width) float32."""
    fine = _fineness(height, width)
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    for number, outline in enumerate(points):
        cv2.fillPoly(canvas, [_fine_points(outline, fine)], 0 if number else 255, shift=4)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _fineness(height: int, width: int) -> int:
    return 4 if max(height, width) <= 200 else 2


def _fine_points(outline: np.ndarray, fine: int) -> np.ndarray:
    """Points in OpenCV's fixed point (4 fraction bits), whose origin is the centre of the first pixel."""
    return np.rint((outline * fine - 0.5) * 16).astype(np.int32)


def _instance_map(placed: list[_Placed], size: tuple[int, int]) -> np.ndarray:
    instance_map = np.zeros(size, np.uint8)
    for number, thing in enumerate(placed, start=1):
        instance_map[thing.window][thing.coverage >= 0.5] = number
    return instance_map


# ----------------------------------------------------------------------------------------------------- shapes


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def _round(radius: float) -> np.ndarray:
    angles = np.arange(96) * (2 * np.pi / 96)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    angles = np.arange(10) * (np.pi / 5) - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.where(np.arange(10) % 2, 0.23, 0.54)[:, None]


def _heart() -> np.ndarray:
    t = np.arange(96) * (2 * np.pi / 96)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y + 2.5], axis=1) / 32


def _cross(arm: float = 0.17) -> np.ndarray:
    a, b = arm, 0.5
    return _polygon(
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    )


# Outlines about the origin with a longer side of about 1; y points down.
_OUTLINES: dict[str, list[np.ndarray]] = {
    "circle": [_round(0.5)],
    "square": [_polygon((-0.47, -0.47), (0.47, -0.47), (0.47, 0.47), (-0.47, 0.47))],
    "triangle": [_polygon((0.0, -0.55), (0.5, 0.36), (-0.5, 0.36))],
    "star": [_star()],
    "diamond": [_polygon((0.0, -0.56), (0.38, 0.0), (0.0, 0.56), (-0.38, 0.0))],
    "cross": [_cross()],
    "ring": [_round(0.5), _round(0.27)],
    "heart": [_heart()],
}


def _area(outlines: list[np.ndarray]) -> float:
    first, *holes = (cv2.contourArea(outline.astype(np.float32)) for outline in outlines)
    return float(first - sum(holes))


_FILL = {shape: _area(outlines) for shape, outlines in _OUTLINES.items()}  # area at a longer side of 1


# --------------------------------------------------------------------------------------------------- textures


def _noise(rng: np.random.Generator, height: int, width: int, cell_height: float, cell_width: float) -> np.ndarray:
    """Smooth noise about 0, deviation about 1, with bumps of the given size in pixels: (H, W) float32."""
    rows = max(2, math.ceil(height / max(cell_height, 1.0)) + 1)
    columns = max(2, math.ceil(width / max(cell_width, 1.0)) + 1)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    if rows >= height and columns >= width:
        return coarse[:height, :width]
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def _tinted(rng: np.random.Generator, rgb: tuple[int, int, int], spread: float = 7.0) -> np.ndarray:
    """The colour, a little lighter or darker and a little off its hue: (3,) float32."""
    color = np.array(rgb, np.float32) * np.float32(rng.uniform(0.92, 1.07))
    return color + rng.uniform(-spread, spread, 3).astype(np.float32)


def _colored(color: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: the colour times 1 + brightness."""
    return (1 + brightness)[..., None] * color


def _blend(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(H, W, 3): `above` where `share` (H, W) is 1, `below` where it is 0."""
    return below + (above - below) * share[..., None]


def _grass(rng: np.random.Generator, depth: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    blades = _noise(rng, height, width, 4 * unit, 1.3 * unit) * (0.06 + 0.1 * depth)
    patches = _noise(rng, height, width, 14 * unit, 30 * unit) * 0.06
    image = _colored(_tinted(rng, (112, 136, 70)), blades + patches)
    dry = np.clip(_noise(rng, height, width, 20 * unit, 40 * unit) * 0.3, 0, 0.5)
    return _blend(image, np.array((150, 150, 84), np.float32), dry)


def _sand(rng: np.random.Generator, depth: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    rows = np.arange(height, dtype=np.float32)[:, None]
    bend = _noise(rng, height, width, 30 * unit, 46 * unit) * 1.6
    ripples = np.sin(rows / (unit * float(rng.uniform(2.2, 3.4))) + bend) * (0.015 + 0.03 * depth)
    grain = _noise(rng, height, width, 1, 1) * 0.035
    return _colored(_tinted(rng, (214, 190, 146)), ripples + grain + _noise(rng, height, width, 30, 60) * 0.02)


def _water(rng: np.random.Generator, depth: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    waves = _noise(rng, height, width, 2.4 * unit, 16 * unit) * (0.05 + 0.07 * depth)
    swell = _noise(rng, height, width, 7 * unit, 50 * unit) * 0.06
    image = _colored(_tinted(rng, (62, 132, 142)), waves + swell - 0.14 * depth)
    glints = np.clip(_noise(rng, height, width, 1.4 * unit, 9 * unit) - 1.7, 0, 1) * 0.8
    return _blend(image, np.array((206, 232, 230), np.float32), glints)


def _snow(rng: np.random.Generator, depth: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    drifts = np.clip(_noise(rng, height, width, 16 * unit, 60 * unit) * 0.35 + 0.15, 0, 1)
    image = _blend(_tinted(rng, (238, 241, 246), 3)[None, None], np.array((190, 204, 226), np.float32), drifts)
    return image + (_noise(rng, height, width, 1, 1) * 3)[..., None]


def _pavement(rng: np.random.Generator, depth: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    """Grey stones in staggered courses, in perspective: small at the horizon, large at the viewer."""
    stone_height = unit * float(rng.uniform(13, 18))
    stone_width = stone_height * float(rng.uniform(1.5, 2.0))
    nearness = 0.3 + 0.9 * depth.mean(axis=1, dtype=np.float32)[:, None]  # scale of each row
    course = np.cumsum(1 / (stone_height * nearness[:, 0])).astype(np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :] - np.float32(width * rng.uniform(0.3, 0.7))
    across = columns / (stone_width * nearness) + 0.5 * (np.floor(course) % 2)
    row, column = np.floor(course).astype(int), np.floor(across).astype(int)
    column -= int(column.min())
    shades = rng.standard_normal((int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32) * 0.055
    brightness = shades[row, column] + _noise(rng, height, width, 1, 1) * 0.025
    down, along = course - row, across - np.floor(across)
    edge = np.minimum(np.minimum(down, 1 - down) * stone_height, np.minimum(along, 1 - along) * stone_width) * nearness
    joints = np.clip(1.5 - edge / max(unit, 0.5), 0, 1) * (0.14 + 0.2 * depth)
    return _colored(_tinted(rng, (152, 146, 142), 5), brightness - joints)


def _gradient(top: np.ndarray, bottom: np.ndarray, height: int, width: int, reach: np.ndarray) -> np.ndarray:
    """(H, W, 3) from `top` to `bottom`, by the share (H, 1) of the way to the horizon."""
    return np.broadcast_to((top + (bottom - top) * reach[..., None]), (height, width, 3)).astype(np.float32)


def _clear_sky(rng: np.random.Generator, reach: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    image = _gradient(_tinted(rng, (98, 166, 230)), _tinted(rng, (190, 221, 244), 4), height, width, reach)
    return image + (_noise(rng, height, width, 40, 80) * 1.5)[..., None]


def _cloudy_sky(rng: np.random.Generator, reach: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    image = _gradient(_tinted(rng, (150, 162, 176), 4), _tinted(rng, (188, 194, 202), 4), height, width, reach)
    billows = _noise(rng, height, width, 22 * unit, 48 * unit) + 0.5 * _noise(rng, height, width, 9 * unit, 18 * unit)
    image = _blend(image, np.array((240, 241, 243), np.float32), np.clip(billows * 0.45 + 0.35, 0, 1))
    return image - (np.clip(-billows - 0.4, 0, 1) * 26)[..., None]


def _sunset_sky(rng: np.random.Generator, reach: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    image = _gradient(_tinted(rng, (118, 104, 140), 5), _tinted(rng, (246, 190, 140), 5), height, width, reach**1.3)
    streaks = np.clip(_noise(rng, height, width, 5 * unit, 70 * unit) * 0.5 - 0.1, 0, 0.6)
    return _blend(image, np.array((214, 150, 140), np.float32), streaks)


def _night_sky(rng: np.random.Generator, reach: np.ndarray, height: int, width: int, unit: float) -> np.ndarray:
    image = _gradient(_tinted(rng, (14, 18, 42), 3), _tinted(rng, (48, 56, 88), 4), height, width, reach).copy()
    count = int(rng.integers(40, 110))
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    image[rows, columns] += rng.uniform(60, 190, (count, 1)).astype(np.float32)
    return image


_GROUND_TEXTURES: dict[str, Texture] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "pavement": _pavement,
}
_SKY_TEXTURES: dict[str, Texture] = {
    "clear sky": _clear_sky,
    "cloudy sky": _cloudy_sky,
    "sunset sky": _sunset_sky,
    "night sky": _night_sky,
}


def _draw_horizon(rng: np.random.Generator, ground: str, height: int, width: int) -> np.ndarray:
    """Row at which the ground begins, for every column: (W,) float32. Only soft ground has hills."""
    base = height * float(rng.uniform(0.3, 0.6))
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    slope, swing, waves, phase = rng.uniform((-0.06, 0.0, 1.0, 0.0), (0.06, 0.025, 3.0, 2 * math.pi)).astype(np.float32)
    if ground in ("water", "pavement"):
        swing = np.float32(0)
    if ground == "water":
        slope = np.float32(0)
    return (base + height * (slope * x + swing * np.sin(x * waves * np.float32(2 * math.pi) + phase))).astype(
        np.float32
    )


def _draw_stuff(
    rng: np.random.Generator,
    ground: int,
    sky: int,
    horizon: np.ndarray,
    ground_coverage: np.ndarray,
    unit: float,
) -> np.ndarray:
    """Sky and ground, without objects: (H, W, 3) float32, RGB."""
    height, width = ground_coverage.shape
    top = int(horizon.min())
    sky_height = math.ceil(float(horizon.max())) + 1
    reach = np.clip(np.arange(sky_height, dtype=np.float32) / np.float32(horizon.mean()), 0, 1)[:, None]
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[:sky_height] = _SKY_TEXTURES[SKIES[sky]](rng, reach, sky_height, width, unit)
    ground_rows = height - top
    depth = np.broadcast_to(np.linspace(0, 1, ground_rows, dtype=np.float32)[:, None], (ground_rows, width))
    texture = _GROUND_TEXTURES[GROUNDS[ground]](rng, depth, ground_rows, width, unit)
    if SKIES[sky] == "night sky":
        texture = texture * np.array((0.74, 0.76, 0.84), np.float32)
    elif SKIES[sky] == "sunset sky":
        texture = texture * np.array((1.02, 0.95, 0.9), np.float32)
    canvas[top:] = _blend(canvas[top:], texture, ground_coverage[top:])
    return canvas


# ---------------------------------------------------------------------------------------------------- objects


def _draw_objects(rng: np.random.Generator, canvas: np.ndarray, placed: list[_Placed], unit: float) -> None:
    """Paint the objects into `canvas`, hindmost first, lit from one side, with shadows on the ground."""
    light = float(rng.uniform(-math.pi, 0))
    toward = np.array([math.cos(light), math.sin(light)], np.float32)
    for thing in placed:
        if thing.on_ground:
            _draw_shadow(canvas, thing, toward, unit)
        coverage = thing.coverage
        height, width = coverage.shape
        color = _object_color(rng, thing.color)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        shade = (x * toward[0] + y * toward[1]) * np.float32(rng.uniform(0.12, 0.26))
        grain = _noise(rng, height, width, 3.0 * unit, 3.0 * unit) * np.float32(rng.uniform(0.01, 0.04))
        rim = _rim(thing, unit)[..., None]
        paint = _colored(color, shade + grain)
        paint = paint * (1 - rim) + color * np.float32(0.58) * rim
        window = canvas[thing.window]
        window += (paint - window) * coverage[..., None]


def _object_color(rng: np.random.Generator, name: str) -> np.ndarray:
    color = np.array(OBJECT_RGB[name], np.float32) * np.float32(rng.uniform(0.93, 1.06))
    return color + rng.uniform(-8, 8, 3).astype(np.float32)


def _rim(thing: _Placed, unit: float) -> np.ndarray:
    """Share of each pixel of the patch that lies on the object's outline: (h, w) float32."""
    height, width = thing.coverage.shape
    fine = 2
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    lines = [_fine_points(outline, fine) for outline in thing.points]
    thickness = max(2, round(3.2 * fine * min(unit, 4.0)))
    cv2.polylines(canvas, lines, True, 255, thickness=thickness, shift=4)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _draw_shadow(canvas: np.ndarray, thing: _Placed, toward: np.ndarray, unit: float) -> None:
    """Darken what lies behind and below the object, away from the light."""
    height, width = canvas.shape[:2]
    blur = max(3, int(7 * unit) | 1)
    shift_x, shift_y = round(-4 * unit * float(toward[0])), round(3 * unit)
    padded = cv2.copyMakeBorder(thing.coverage, blur, blur, blur, blur, cv2.BORDER_CONSTANT, value=0.0)
    shadow = cv2.blur(padded, (blur, blur)) * np.float32(0.3)
    top, left = thing.top - blur + shift_y, thing.left - blur + shift_x
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + shadow.shape[0]), min(width, left + shadow.shape[1])
    if y1 > y0 and x1 > x0:
        canvas[y0:y1, x0:x1] *= 1 - shadow[y0 - top : y1 - top, x0 - left : x1 - left, None]


def _light(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Brighten one side of the image and darken the other."""
    height, width = canvas.shape[:2]
    across, down = rng.uniform(-0.09, 0.09, 2).astype(np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * across
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * down
    canvas *= (1 + x + y)[..., None] * np.float32(rng.uniform(0.93, 1.06))
