"""Colours of classes: nature's own where a name is known, apart from each other, and the palette's before all."""

from __future__ import annotations

import numpy as np
import pytest
from yolor_edge.runtime.drawing.colours import distinct_colour, natural_colour, object_colour, semantic_colours


@pytest.mark.parametrize(
    ("name", "strongest"),
    [("grass", "green"), ("tree-merged", "green"), ("Sky-other-merged", "blue"), ("clear sky", "blue")],
)
def test_what_is_known_looks_like_it(name: str, strongest: str) -> None:
    colour = natural_colour(name)
    assert colour is not None
    assert ("blue", "green", "red")[int(np.argmax(colour))] == strongest


def test_snow_is_bright_the_night_is_dark_and_a_road_is_grey() -> None:
    snow, night, road = (natural_colour(name) for name in ("snow", "night sky", "road"))
    assert snow is not None and night is not None and road is not None
    assert min(snow) > 200 > 120 > max(night)
    assert max(road) - min(road) < 20


@pytest.mark.parametrize("name", ["", "snowboard", "water bottle", "night stand", "sand castle", "other", "???"])
def test_other_names_have_no_colour_of_nature(name: str) -> None:
    assert natural_colour(name) is None


def test_all_classes_of_a_map_differ() -> None:
    names = ["circle", "sky", "clear sky", "grass", "water", *(f"stuff {i}" for i in range(60)), "snow", "sky-other"]
    colours = semantic_colours(["circle"], names, None)[: len(names)].tolist()
    assert len({tuple(colour) for colour in colours}) == len(names)
    assert tuple(colours[0]) == distinct_colour(0)
    assert tuple(colours[1]) == natural_colour("sky")
    natural = np.array([natural_colour(name) for name in ("sky", "grass", "water", "snow")])
    for colour in colours[5:65]:
        assert np.abs(natural - colour).sum(axis=1).min() >= 60


def test_a_palette_comes_first() -> None:
    palette = [(1, 2, 3), (4, 5, 6)]
    assert semantic_colours(["star"], ["grass", "star"], palette)[:2].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert object_colour(0, ["star"], ["grass", "star"], palette) == (6, 5, 4)
    assert object_colour(0, ["star"], ["grass", "star"], None) == distinct_colour(0)
    assert semantic_colours([], [f"{i}" for i in range(300)], None).shape == (256, 3)
