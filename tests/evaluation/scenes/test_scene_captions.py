"""Captions are written true, and judged by what the image shows rather than by how they are put."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from yolor_edge.evaluation.scenes.scene_captions import (
    GROUNDS,
    SHAPES,
    SKIES,
    SceneFacts,
    SceneObject,
    caption_facts,
    check_caption,
    relation_between,
    write_captions,
)
from yolor_edge.runtime.errors import DatasetError

STAR = SceneObject("star", "red", 900.0, (20, 120, 80, 180), "grass")
CIRCLE = SceneObject("circle", "blue", 400.0, (180, 130, 210, 160), "grass")
HEART = SceneObject("heart", "pink", 300.0, (100, 10, 130, 40), "cloudy sky")
PICTURE = SceneFacts((STAR, CIRCLE, HEART), "grass", "cloudy sky")
ALONE = SceneFacts((STAR,), "grass", "cloudy sky")
ALOFT = SceneFacts((HEART,), "grass", "cloudy sky")


@pytest.mark.parametrize(
    "caption",
    [
        "a red star left of a small blue circle on grass",
        "A red star, left of a small blue circle on grass.",
        "the red star lies on the grass to the left of the blue circle under a cloudy sky",
        "there is a red star left of a blue circle",
        "a red star below a pink heart in a cloudy sky",  # any true relation will do
    ],
)
def test_a_true_caption_passes(caption: str) -> None:
    facts = check_caption(caption, PICTURE)
    assert (facts.names_largest, facts.states_true_relation) == (True, True)


@pytest.mark.parametrize(
    ("caption", "names_largest"),
    [
        ("a red star right of a blue circle on grass", True),
        ("a red star above a blue circle on grass", True),  # not the axis on which they lie apart
        ("a red star left of a green circle", True),  # nothing green here
        ("a red star left of a red star", True),  # an object is not beside itself
        ("a red star left of a blue circle on sand", True),
        ("a red star left of a blue circle in a cloudy sky", True),
        ("a red star left of a blue circle on grass under a night sky", True),
        ("a red star below a pink heart above grass", True),  # the star is not above the grass
        ("a blue circle left of a red star", False),
        ("a red star on grass under a cloudy sky", True),  # true, but relates no two of the three objects
        ("a red star on grass", True),
        ("a red star", True),
        ("a red star left of a", True),  # cut short
        ("a red star star left of a blue circle", True),  # not a sentence
        ("left of on grass a", False),
        ("", False),
    ],
)
def test_a_caption_that_says_something_untrue_fails(caption: str, names_largest: bool) -> None:
    facts = check_caption(caption, PICTURE)
    assert (facts.names_largest, facts.states_true_relation) == (names_largest, False)


def test_true_of_another_object_names_another() -> None:
    facts = check_caption("a blue circle right of a red star on grass", PICTURE)
    assert (facts.names_largest, facts.states_true_relation) == (False, True)


@pytest.mark.parametrize(
    ("caption", "picture", "right"),
    [
        ("a red star on grass under a cloudy sky", ALONE, True),
        ("a red star on grass", ALONE, True),
        ("a red star under a cloudy sky", ALONE, True),
        ("a red star", ALONE, False),  # says nothing of where
        ("a red star on water", ALONE, False),
        ("a red star in a cloudy sky", ALONE, False),
        ("a red star on grass under a clear sky", ALONE, False),
        ("a red star left of a blue circle", ALONE, False),
        ("a blue circle on grass", ALONE, False),
        ("a pink heart in a cloudy sky above grass", ALOFT, True),
        ("a pink heart over the grass", ALOFT, True),
        ("a pink heart on grass", ALOFT, False),
        ("a pink heart in a cloudy sky above sand", ALOFT, False),
    ],
)
def test_a_single_object_is_related_to_ground_and_sky(caption: str, picture: SceneFacts, right: bool) -> None:
    assert check_caption(caption, picture).states_true_relation is right


def test_small_is_at_most_six_tenths_of_the_largest() -> None:
    caption = "a red star left of a small blue circle"
    for area, right in ((540.0, True), (541.0, False)):
        picture = replace(PICTURE, objects=(STAR, replace(CIRCLE, area=area)))
        assert check_caption(caption, picture).states_true_relation is right


def test_one_of_two_alike_objects_is_enough() -> None:
    picture = replace(PICTURE, objects=(STAR, replace(CIRCLE, box=(0, 0, 10, 10)), CIRCLE))
    assert check_caption("a red star left of a blue circle", picture).states_true_relation


def test_relation_is_along_the_longer_axis() -> None:
    def at(x: float, y: float) -> SceneObject:
        return replace(STAR, box=(x, y, x + 10, y + 10))

    assert relation_between(at(0, 0), at(30, 20)) == ("left of", 30, 20)
    assert relation_between(at(30, 0), at(0, 20)) == ("right of", 30, 20)
    assert relation_between(at(0, 0), at(20, 30)) == ("above", 30, 20)
    assert relation_between(at(0, 30), at(20, 0)) == ("below", 30, 20)


def test_nothing_is_beside_what_shares_its_centre() -> None:
    picture = replace(PICTURE, objects=(STAR, replace(CIRCLE, box=STAR.box)))
    captions = [f"a red star {word} a blue circle" for word in ("left of", "right of", "above", "below")]
    assert not any(check_caption(caption, picture).states_true_relation for caption in captions)


@pytest.mark.parametrize("first", [STAR, replace(STAR, place="cloudy sky"), replace(STAR, color="orange")])
@pytest.mark.parametrize("second", [None, CIRCLE, HEART, replace(CIRCLE, area=800.0)])
def test_written_captions_are_five_and_true(first: SceneObject, second: SceneObject | None) -> None:
    objects = (first,) if second is None else (first, second)
    picture = replace(PICTURE, objects=objects)
    captions = write_captions(picture)
    assert len(set(captions)) == 5
    for caption in captions:
        facts = check_caption(caption, picture)
        assert (caption, facts.names_largest, facts.states_true_relation) == (caption, True, True)


def test_the_sentence_of_the_brief() -> None:
    assert write_captions(PICTURE)[0] == "a red star left of a small blue circle on grass"


def test_no_object_no_caption() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        write_captions(replace(PICTURE, objects=()))


@dataclass
class Truth:
    """The fields that are read of `train.coco.Truth`."""

    image_id: int
    boxes: np.ndarray | None
    class_ids: np.ndarray | None
    areas: np.ndarray | None
    attributes: list[dict[str, Any]] | None
    stuff: np.ndarray | None

    def semantic_map(self) -> np.ndarray | None:
        return self.stuff


SEMANTIC_NAMES = SHAPES + GROUNDS + SKIES


def truth_of_two() -> Truth:
    semantic_map = np.full((100, 120), SEMANTIC_NAMES.index("night sky"), np.uint8)
    semantic_map[50:] = SEMANTIC_NAMES.index("snow")
    boxes = np.array([[80, 30, 110, 70], [10, 60, 40, 100]], np.float32)
    for (x1, y1, x2, y2), shape in zip(boxes.astype(int), ("ring", "cross"), strict=True):
        semantic_map[y1:y2, x1:x2] = SEMANTIC_NAMES.index(shape)
    class_ids = np.array([SHAPES.index("ring"), SHAPES.index("cross")])
    colors: list[dict[str, Any]] = [{"color": "green"}, {"color": "brown"}]
    return Truth(3, boxes, class_ids, np.array([500.0, 700.0], np.float32), colors, semantic_map)


def test_a_truth_is_read_by_area_not_by_order() -> None:
    caption = "a brown cross left of a green ring on snow under a night sky"
    facts = caption_facts(caption, truth_of_two(), SHAPES, SEMANTIC_NAMES)
    assert (facts.names_largest, facts.states_true_relation) == (True, True)
    facts = caption_facts("a green ring in a night sky", truth_of_two(), SHAPES, SEMANTIC_NAMES)
    assert (facts.names_largest, facts.states_true_relation) == (False, False)


@pytest.mark.parametrize("missing", ["boxes", "class_ids", "areas", "attributes", "stuff"])
def test_a_data_set_without_what_is_needed_is_refused(missing: str) -> None:
    truth = replace(truth_of_two(), **{missing: None})
    with pytest.raises(DatasetError, match=r"image 3: .* expected a data set written by `yolor-edge scenes`"):
        caption_facts("a red star", truth, SHAPES, SEMANTIC_NAMES)


def test_a_box_without_a_colour_is_refused() -> None:
    truth = replace(truth_of_two(), attributes=[{"color": "red"}, {}])
    with pytest.raises(DatasetError, match="a colour each"):
        caption_facts("a red star", truth, SHAPES, SEMANTIC_NAMES)
