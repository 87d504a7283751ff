"""Who crosses lines, and goes into zones and out: each once, by class and direction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import Line, RegionCounter, Zone
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.results import Result

from .sequences import result_of

SQUARE = (100, 100, 200, 100, 200, 200, 100, 200)


def zone(*numbers: float, name: str = "") -> Zone:
    return Zone(tuple(zip(numbers[::2], numbers[1::2], strict=True)), name)


def at(*places: tuple[float, float], ids: list[int] | None = None, class_ids: list[int] | None = None) -> Result:
    """Boxes of 20 x 40 with these centres; ids from 1 on."""
    boxes = [[x - 10, y - 20, x + 10, y + 20] for x, y in places]
    numbers = list(range(1, len(places) + 1)) if ids is None else ids
    return replace(result_of(boxes, class_ids=class_ids), track_ids=np.array(numbers, np.int64))


def walk(counter: RegionCounter, *places: tuple[float, float]) -> list[tuple[str, str]]:
    """What happens while one object goes from place to place."""
    return [(one.region, one.direction) for place in places for one in counter.update(at(place))]


def test_a_line_from_left_to_right_counts_what_comes_down_as_in() -> None:
    counter = RegionCounter([Line(((0, 100), (200, 100)))])
    assert walk(counter, (50, 60), (50, 90), (50, 110)) == [("line 1", "in")]
    assert walk(counter, (50, 130), (50, 60)) == [("line 1", "out")]
    assert counter.counts() == {"line 1": {"in": {"car": 1}, "out": {"car": 1}}}
    assert counter.summary() == "line 1: 1 in, 1 out"
    turned = RegionCounter([Line(((200, 100), (0, 100)))])
    assert walk(turned, (50, 60), (50, 110)) == [("line 1", "out")]


def test_a_line_ends_at_its_ends() -> None:
    counter = RegionCounter([Line(((0, 100), (200, 100)))])
    assert walk(counter, (250, 60), (250, 140), (150, 140)) == []
    assert walk(counter, (150, 60)) == [("line 1", "out")]
    slanted = RegionCounter([Line(((0, 0), (100, 100)))])
    assert walk(slanted, (80, 20), (20, 80)) == [("line 1", "in")]


def test_who_trembles_on_a_line_is_not_counted_again() -> None:
    counter = RegionCounter([Line(((0, 100), (200, 100)))])
    places = [(50.0, 100 + (-1) ** i * 0.8) for i in range(20)]
    assert walk(counter, (50, 60), *places, (50, 102), *places, (50, 98)) == [("line 1", "in"), ("line 1", "out")]


def test_classes_and_objects_are_counted_apart() -> None:
    counter = RegionCounter([Line(((0, 100), (600, 100)), "gate")])
    assert counter.update(at((50, 60), (150, 140), (250, 60), class_ids=[0, 1, 1])) == []
    events = counter.update(at((50, 140), (150, 60), (250, 140), class_ids=[0, 1, 1]))
    assert [tuple(one) for one in events] == [
        ("gate", "line", "in", 1, 0, "car"),
        ("gate", "line", "out", 2, 1, "person"),
        ("gate", "line", "in", 3, 1, "person"),
    ]
    assert events[0].to_json() == {
        "region": "gate",
        "kind": "line",
        "direction": "in",
        "track_id": 1,
        "class_id": 0,
        "class_name": "car",
    }
    assert counter.counts() == {"gate": {"in": {"car": 1, "person": 1}, "out": {"person": 1}}}


def test_objects_without_an_id_are_not_counted() -> None:
    counter = RegionCounter([Line(((0, 100), (200, 100)))])
    for y in (60, 140):
        assert counter.update(at((50, y), ids=[-1])) == []


def test_a_zone_counts_who_comes_goes_and_is_there() -> None:
    counter = RegionCounter([zone(*SQUARE, name="yard"), Line(((0, 300), (600, 300)))])
    assert counter.update(at((150, 150), (50, 150))) == []  # the first was inside from the beginning
    assert counter.counts()["yard"] == {"in": {}, "out": {}, "now": 1}
    assert [one[:4] for one in counter.update(at((150, 150), (110, 150)))] == [("yard", "zone", "in", 2)]
    assert counter.counts()["yard"] == {"in": {"car": 1}, "out": {}, "now": 2}
    assert [one[:4] for one in counter.update(at((250, 150), (110, 150)))] == [("yard", "zone", "out", 1)]
    assert counter.labels()[0][1] == "yard: 1 in, 1 out, 1 now"
    assert counter.update(at()) == []
    assert counter.counts()["yard"]["now"] == 0


def test_a_zone_may_have_dents() -> None:
    dented = zone(0, 0, 300, 0, 300, 300, 200, 300, 200, 100, 100, 100, 100, 300, 0, 300)
    inside = [(50, 250), (250, 250), (150, 50)]
    outside = [(150, 200), (350, 50), (-10, 50), (150, 301)]
    assert [dented.distance(np.array(point, float)) > 0 for point in inside + outside] == [True] * 3 + [False] * 4
    assert dented.distance(np.array([150.0, 200.0])) == -50
    assert dented.distance(np.array([150.0, 70.0])) == 30


def test_the_anchor_stands_for_the_box() -> None:
    for anchor, expected in (("centre", []), ("bottom", [("line 1", "in")])):
        counter = RegionCounter([Line(((0, 100), (200, 100)))], anchor)  # type: ignore[arg-type]
        assert walk(counter, (50, 70), (50, 90)) == expected


def test_text_is_parsed() -> None:
    assert Line.of_text("gate=0,300,640,300.5") == Line(((0, 300), (640, 300.5)), "gate")
    assert Zone.of_text("0,0,10,0,10,10") == zone(0, 0, 10, 0, 10, 10)
    for kind, text, message in (
        (Line, "0,0,10", r"line must be x1,y1,x2,y2 or NAME=x1,y1,x2,y2, got '0,0,10'"),
        (Line, "0,0,10,x", "line must be x1,y1"),
        (Line, "=0,0,10,1", "line must be x1,y1"),
        (Line, "5,5,5,5", "line must be two different points, got 5,5,5,5"),
        (Line, "0,0,1,1,2,2", "line must be two different points"),
        (Line, "0,0,1,nan", "line must be points .* of finite numbers"),
        (Zone, "0,0,10,10", "zone must be at least three points around an area, got 0,0,10,10"),
        (Zone, "0,0,1,1,2,2", "zone must be at least three points around an area"),
        (Zone, "", "zone must be x1,y1"),
    ):
        with pytest.raises(UsageError, match=message):
            kind.of_text(text)


def test_arguments_that_make_no_sense_are_refused() -> None:
    line = Line(((0, 100), (200, 100)), "gate")
    with pytest.raises(UsageError, match="two lines or zones are called 'gate'"):
        RegionCounter([line, zone(*SQUARE, name="gate")])
    wrong: Any = "gate"
    with pytest.raises(UsageError, match="regions must be lines and zones, got 'g'"):
        RegionCounter(wrong)
    with pytest.raises(UsageError, match="anchor must be one of centre, bottom, got 'top'"):
        RegionCounter([line], wrong.replace("gate", "top"))
    with pytest.raises(UsageError, match="lines and zones need track ids"):
        RegionCounter([line]).update(result_of([]))
