"""The language of the drawn scenes: captions written from a scene's facts, and captions judged against them.

Writing and judging share one description of an image, `SceneFacts`, which is read from nothing but the truth
of a data set (boxes, areas, colours, semantic map). So a caption is judged the same whoever wrote it, and
whichever reader loaded the data. What the words mean:

- "left of", "right of", "above", "below" tell of box centres, along the axis on which they are further apart.
- "on GROUND" and "in a SKY" speak of what lies under the bottom edge of the object.
- "under a SKY" is true of objects that are on the ground, "above GROUND" of objects that are in the sky.
- "small" is an object of at most `SMALL_AT_MOST` of the area of the image's largest object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...runtime.errors import DatasetError

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
GROUNDS = ("grass", "sand", "water", "snow", "pavement")
SKIES = ("clear sky", "cloudy sky", "sunset sky", "night sky")
RELATIONS = ("left of", "right of", "above", "below")

# An object is called small up to the first ratio; the judge lets it pass up to the second, because a reader
# who cannot measure should not be failed at the border.
SMALL_IS_WRITTEN_UP_TO = 0.5
SMALL_AT_MOST = 0.6


class SceneTruth(Protocol):
    """What is read of an image's truth; `train.coco.Truth` has it."""

    @property
    def image_id(self) -> int: ...
    @property
    def boxes(self) -> np.ndarray | None: ...
    @property
    def class_ids(self) -> np.ndarray | None: ...
    @property
    def areas(self) -> np.ndarray | None: ...
    @property
    def attributes(self) -> Sequence[Mapping[str, Any] | None] | None: ...
    def semantic_map(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class SceneObject:
    """One object: `area` in visible pixels, `box` xyxy in image pixels, `place` a ground or sky."""

    shape: str
    color: str
    area: float
    box: tuple[float, float, float, float]
    place: str | None

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the middle of the box, in image pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class SceneFacts:
    """An image in words: objects by falling visible area, and the stuff seen (None where there is none)."""

    objects: tuple[SceneObject, ...]
    ground: str | None
    sky: str | None


@dataclass(frozen=True)
class CaptionFacts:
    """What a caption gets right.

    names_largest: the first object it names has the shape and colour of the largest object by visible area.
    states_true_relation: it is a sentence of this language, every statement of it is true, and it relates two
        objects of the image, or, where the image has a single object, that object to ground or sky.
    """

    names_largest: bool
    states_true_relation: bool


def scene_facts(
    boxes: np.ndarray,
    areas: Sequence[float] | np.ndarray,
    shapes: Sequence[str],
    colors: Sequence[str],
    semantic_map: np.ndarray,
    semantic_names: Sequence[str],
) -> SceneFacts:
    """Describe an image from its truth.

    Args:
        boxes: (N, 4), xyxy in image pixels. N may be 0.
        areas: (N,), visible pixels.
        shapes: N names.
        colors: N names.
        semantic_map: (H, W) uint8, indices into `semantic_names`, 255 where unknown.
        semantic_names: Names of things and stuff; those in `GROUNDS` and `SKIES` are looked for.
    """
    counts = np.bincount(semantic_map.ravel(), minlength=256)
    ground = _most_seen(counts, semantic_names, GROUNDS)
    sky = _most_seen(counts, semantic_names, SKIES)
    objects = [
        SceneObject(
            shape,
            color,
            float(area),
            (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            _place_of(box, semantic_map, semantic_names),
        )
        for box, area, shape, color in zip(boxes, areas, shapes, colors, strict=True)
    ]
    objects.sort(key=lambda thing: -thing.area)
    return SceneFacts(tuple(objects), ground, sky)


def facts_from_truth(truth: SceneTruth, class_names: Sequence[str], semantic_names: Sequence[str]) -> SceneFacts:
    """Describe an image of a data set that `yolor-edge scenes` wrote.

    Args:
        truth: The image's truth, with `attributes` holding one {"color": ...} per box.
        class_names: Of the data set, indexed by `truth.class_ids`.
        semantic_names: Of the data set, indexed by the semantic map.

    Raises:
        DatasetError: If the truth has no boxes, colours or semantic map: it is not a drawn scene.
    """
    attributes = truth.attributes
    semantic_map = truth.semantic_map()
    if (
        truth.boxes is None
        or truth.class_ids is None
        or truth.areas is None
        or semantic_map is None
        or attributes is None
    ):
        raise DatasetError(_not_a_scene(truth))
    colors = [str((entry or {}).get("color", "")) for entry in attributes]
    if len(colors) != len(truth.boxes) or not all(colors):
        raise DatasetError(_not_a_scene(truth))
    shapes = [class_names[int(class_id)] for class_id in truth.class_ids]
    return scene_facts(truth.boxes, truth.areas, shapes, colors, semantic_map, semantic_names)


def relation_between(subject: SceneObject, other: SceneObject) -> tuple[str, float, float]:
    """Where `subject` lies as seen from `other`.

    Returns:
        relation: One of `RELATIONS`, along the axis on which the centres lie further apart (x if equal).
        along: Distance of the centres on that axis, in pixels, at least 0.
        across: Their distance on the other axis.
    """
    dx = subject.center[0] - other.center[0]
    dy = subject.center[1] - other.center[1]
    if abs(dx) >= abs(dy):
        return ("left of" if dx < 0 else "right of"), abs(dx), abs(dy)
    return ("above" if dy < 0 else "below"), abs(dy), abs(dx)


def write_captions(facts: SceneFacts) -> tuple[str, ...]:
    """Five captions of an image, each naming its largest object first, all true by the rules of this module.

    With two objects or more the largest is related to the second largest; a single one to its ground and sky.

    Raises:
        ValueError: If the image has no object, or lacks ground or sky.
    """
    if not facts.objects or facts.ground is None or facts.sky is None:
        raise ValueError("a caption needs at least one object, a ground and a sky")
    if len(facts.objects) == 1:
        return _captions_of_one(facts, facts.objects[0], facts.ground, facts.sky)
    return _captions_of_two(facts, facts.objects[0], facts.objects[1], facts.ground, facts.sky)


def caption_facts(
    caption: str, truth: SceneTruth, class_names: Sequence[str], semantic_names: Sequence[str]
) -> CaptionFacts:
    """Judge a caption against the truth of a drawn scene; see `CaptionFacts` for what counts.

    Raises:
        DatasetError: If the truth is not that of a drawn scene.
    """
    return check_caption(caption, facts_from_truth(truth, class_names, semantic_names))


def check_caption(caption: str, facts: SceneFacts) -> CaptionFacts:
    """Judge a caption against an image's facts. Case, punctuation and runs of spaces do not matter."""
    text = " ".join(re.findall(r"[a-z0-9']+", caption.lower()))
    named = _FIRST_NAMED.search(text)
    names_largest = False
    if named and facts.objects:
        largest = max(thing.area for thing in facts.objects)
        names_largest = any(
            thing.area == largest and (thing.color, thing.shape) == named.groups() for thing in facts.objects
        )
    sentence = _SENTENCE.fullmatch(text)
    return CaptionFacts(names_largest, sentence is not None and _is_true(sentence, facts))


# ---------------------------------------------------------------------------------------------------- reading


def _one_of(words: Sequence[str]) -> str:
    return "(?:" + "|".join(words) + ")"


def _object_pattern(name: str) -> str:
    return (
        rf"(?:a|an|the) (?P<{name}_small>small )?"
        rf"(?P<{name}_color>{_one_of(COLORS)}) (?P<{name}_shape>{_one_of(SHAPES)})"
    )


def _place_pattern(name: str) -> str:
    on_ground = rf" on (?:the )?(?P<{name}_ground>{_one_of(GROUNDS)})"
    in_sky = rf" in (?:a|the) (?P<{name}_sky>{_one_of(SKIES)})"
    return f"(?:{on_ground}|{in_sky})?"


_FIRST_NAMED = re.compile(rf"\b({_one_of(COLORS)}) ({_one_of(SHAPES)})\b")
_SENTENCE = re.compile(
    r"(?:there is )?"
    + _object_pattern("subject")
    + r"(?: is| lies)?"
    + _place_pattern("subject")
    + r"(?: is| lies)?"
    + rf"(?: (?:to the )?(?P<relation>{_one_of(RELATIONS)}) "
    + _object_pattern("other")
    + _place_pattern("other")
    + r")?"
    + rf"(?: (?:under|below) (?:a|the) (?P<under>{_one_of(SKIES)})"
    + rf"| (?:above|over) (?:the )?(?P<over>{_one_of(GROUNDS)}))?"
)


def _is_true(sentence: re.Match[str], facts: SceneFacts) -> bool:
    """Whether some object, or pair of objects, of the image makes everything in the sentence true."""
    said = sentence.groupdict()
    subjects = [thing for thing in facts.objects if _fits(thing, "subject", said, facts)]
    if said["relation"] is None:
        says_where = any(said[part] for part in ("subject_ground", "subject_sky", "under", "over"))
        return len(facts.objects) == 1 and says_where and any(_setting_fits((one,), said, facts) for one in subjects)
    others = [thing for thing in facts.objects if _fits(thing, "other", said, facts)]
    return any(
        one is not other and _is_related(one, said["relation"], other) and _setting_fits((one, other), said, facts)
        for one in subjects
        for other in others
    )


def _is_related(subject: SceneObject, relation: str, other: SceneObject) -> bool:
    found, along, _ = relation_between(subject, other)
    return found == relation and along > 0


def _fits(thing: SceneObject, role: str, said: Mapping[str, str | None], facts: SceneFacts) -> bool:
    if (thing.color, thing.shape) != (said[f"{role}_color"], said[f"{role}_shape"]):
        return False
    if said[f"{role}_small"] and thing.area > SMALL_AT_MOST * facts.objects[0].area:
        return False
    place = said[f"{role}_ground"] or said[f"{role}_sky"]
    return place is None or place == thing.place


def _setting_fits(things: Sequence[SceneObject], said: Mapping[str, str | None], facts: SceneFacts) -> bool:
    if said["under"]:
        return said["under"] == facts.sky and all(thing.place in GROUNDS for thing in things)
    if said["over"]:
        return said["over"] == facts.ground and all(thing.place in SKIES for thing in things)
    return True


# ---------------------------------------------------------------------------------------------------- writing


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _at(place: str | None, article: bool = False) -> str:
    """The place with its preposition; `article` asks for "the"."""
    if place in SKIES:
        return f"in the {place}" if article else f"in {_a(str(place))}"
    return f"on the {place}" if article else f"on {place}"


def _captions_of_one(facts: SceneFacts, thing: SceneObject, ground: str, sky: str) -> tuple[str, ...]:
    name, place = f"{thing.color} {thing.shape}", thing.place
    if place in SKIES:
        near, far = f"above {ground}", f"over the {ground}"
    else:
        near, far = f"under {_a(sky)}", f"below the {sky}"
    return (
        f"{_a(name)} {_at(place)} {near}",
        f"{_a(name)} is {_at(place)} {near}",
        f"{_a(name)} {_at(place)}",
        f"there is {_a(name)} {_at(place, article=True)}",
        f"the {name} lies {_at(place, article=True)} {far}",
    )


def _captions_of_two(
    facts: SceneFacts, thing: SceneObject, other: SceneObject, ground: str, sky: str
) -> tuple[str, ...]:
    relation = relation_between(thing, other)[0]
    long_relation = f"to the {relation}" if relation.endswith(" of") else relation
    small = "small " if other.area <= SMALL_IS_WRITTEN_UP_TO * thing.area else ""
    name, second = f"{thing.color} {thing.shape}", f"{small}{other.color} {other.shape}"
    together = thing.place == other.place
    if not together:
        setting = ""
    elif thing.place in SKIES:
        setting = f" above {ground}"
    else:
        setting = f" under {_a(sky)}"
    first_place = "" if together else f" {_at(thing.place)}"
    return (
        f"{_a(name)}{first_place} {relation} {_a(second)} {_at(other.place)}",
        f"{_a(name)} is {relation} {_a(second)} {_at(other.place)}{setting}",
        f"{_a(name)} {_at(thing.place)} {relation} {_a(second)}",
        f"there is {_a(name)} {long_relation} {_a(second)} {_at(other.place, article=True)}",
        f"the {name} lies {_at(thing.place, article=True)} {long_relation} the {second}{setting}",
    )


# ---------------------------------------------------------------------------------------------------- looking


def _most_seen(counts: np.ndarray, semantic_names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The name among `wanted` with most pixels; None if none of them has any."""
    seen = [(int(counts[index]), name) for index, name in enumerate(semantic_names) if name in wanted]
    count, name = max(seen, default=(0, ""))
    return name if count > 0 else None


def _place_of(box: np.ndarray, semantic_map: np.ndarray, semantic_names: Sequence[str]) -> str | None:
    """The ground or sky that most of the nearest stuff pixels around the bottom edge of the box belong to."""
    height, width = semantic_map.shape
    left, bottom, right = int(box[0]), int(np.ceil(box[3])), int(np.ceil(box[2]))
    stuff = [index for index, name in enumerate(semantic_names) if name in GROUNDS or name in SKIES]
    reach = 4
    while stuff:
        # At the lower border of the image nothing is left below the object: what is beside its foot counts.
        top = min(bottom, height - 4)
        around = semantic_map[max(0, top) : bottom + reach, max(0, left - reach) : right + reach]
        counts = np.bincount(around.ravel(), minlength=256)[stuff]
        if counts.any():
            return semantic_names[stuff[int(counts.argmax())]]
        if reach >= max(height, width):
            return None
        reach *= 2
    return None


def _not_a_scene(truth: SceneTruth) -> str:
    return (
        f"image {truth.image_id}: has no boxes with a colour each, or no semantic map, so captions cannot be "
        "judged; expected a data set written by `yolor-edge scenes`"
    )
