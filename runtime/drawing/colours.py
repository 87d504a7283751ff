"""Colours of classes in drawings: those of grass, sky and water are as one knows them, all others far apart."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .lettering import Colour

# RGB of what has a colour of its own, by names as COCO's stuff, ADE20K, Cityscapes and this repository's scenes have
# them, without the words in `_QUALIFIERS`.
_NATURAL: dict[str, tuple[int, int, int]] = {
    "grass": (106, 168, 79),
    "field": (170, 175, 90),
    "hill": (132, 142, 86),
    "tree": (39, 98, 52),
    "forest": (30, 80, 45),
    "bush": (74, 124, 60),
    "plant": (92, 140, 70),
    "vegetation": (60, 112, 62),
    "leaves": (110, 150, 50),
    "moss": (112, 128, 50),
    "flower": (214, 112, 160),
    "sky": (135, 190, 235),
    "cloudy sky": (182, 196, 212),
    "clouds": (200, 208, 218),
    "sunset sky": (240, 150, 90),
    "night sky": (40, 50, 105),
    "fog": (205, 210, 214),
    "water": (52, 120, 190),
    "sea": (30, 95, 165),
    "river": (72, 140, 200),
    "lake": (60, 130, 178),
    "sand": (225, 200, 140),
    "beach": (232, 210, 160),
    "snow": (240, 244, 250),
    "ice": (200, 228, 240),
    "road": (95, 95, 105),
    "street": (100, 100, 108),
    "pavement": (152, 146, 152),
    "sidewalk": (165, 158, 165),
    "gravel": (166, 156, 140),
    "dirt": (140, 100, 65),
    "ground": (150, 115, 80),
    "earth": (135, 98, 68),
    "mud": (105, 75, 50),
    "rock": (130, 125, 118),
    "stone": (138, 132, 124),
    "mountain": (120, 110, 105),
    "wood": (165, 120, 75),
}
_QUALIFIERS = frozenset({"other", "merged", "clear", "blue"})
# Sum over the channels, of 765, that two colours of one map differ by at least, where that can be had.
_APART = 60


def distinct_colour(index: int, is_background: bool = False) -> Colour:
    """A BGR colour for class `index`, always the same: strong for objects, muted for what lies behind them.

    Neighbours in number are far apart in hue.
    """
    hue = (0.02 + index * 0.618033988749895) % 1.0  # the golden ratio spreads hues evenly
    if is_background:
        saturation, value = (0.50, 0.34, 0.62)[index % 3], (0.72, 0.92, 0.52)[(index // 3) % 3]
    else:
        saturation, value = (0.85, 0.65, 0.95)[index % 3], (1.0, 0.92, 0.82)[(index // 3) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def natural_colour(name: str) -> Colour | None:
    """The BGR colour that one expects of something called so; None where there is none."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in _QUALIFIERS]
    known = _NATURAL.get(" ".join(words))
    if known is None:
        return None
    red, green, blue = known
    return blue, green, red


def object_colour(
    class_id: int,
    class_names: Sequence[str],
    semantic_names: Sequence[str],
    palette: Sequence[tuple[int, int, int]] | None,
) -> Colour:
    """BGR: the palette's where the class is a semantic one as well, else a strong one of its own."""
    name = class_names[class_id]
    if palette is not None and name in semantic_names:
        red, green, blue = palette[semantic_names.index(name)]
        return blue, green, red
    return distinct_colour(class_id)


def semantic_colours(
    class_names: Sequence[str], semantic_names: Sequence[str], palette: Sequence[tuple[int, int, int]] | None
) -> NDArray[np.uint8]:
    """(256, 3) uint8 BGR, a colour per semantic class.

    The palette's where there is one; else those of objects for classes of objects, the natural one for the first class
    that has it, and for all others muted ones apart from these.
    """
    class_id_of = {name: i for i, name in enumerate(class_names)}
    table = np.zeros((256, 3), np.uint8)
    given: dict[int, Colour] = {}
    for i, name in enumerate(semantic_names[:256]):
        natural = natural_colour(name)
        if palette is not None and i < len(palette):
            red, green, blue = palette[i]
            given[i] = (blue, green, red)
        elif name in class_id_of:
            given[i] = distinct_colour(class_id_of[name])
        elif natural is not None and natural not in given.values():
            given[i] = natural
    taken = np.array(list(given.values()), int).reshape(-1, 3)
    for i in range(min(256, len(semantic_names))):
        table[i] = given[i] if i in given else _apart(i, taken)
    return table


def _apart(index: int, taken: NDArray[np.int_]) -> Colour:
    """A muted colour for class `index` that is not near any of those taken."""
    for turn in range(8):
        colour = distinct_colour(index + 97 * turn, is_background=True)
        if not len(taken) or np.abs(taken - colour).sum(axis=1).min() >= _APART:
            return colour
    return distinct_colour(index, is_background=True)
