"""What the study of fine-tuning makes of two curves."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from yolor_edge.benchmarks.studies.fine_tuning import compare, plot


def curve(*scores: float) -> list[dict[str, float]]:
    return [{"step": 10 * (i + 1), "box_ap": score} for i, score in enumerate(scores)]


def test_the_share_of_steps_for_the_highest_score_of_both() -> None:
    answer = compare(curve(0.0, 0.1, 0.3, 0.5, 0.4), curve(0.2, 0.5, 0.6))
    assert (answer["box_ap"], answer["steps_from_nothing"], answer["steps_fine_tuned"]) == (0.5, 40, 20)
    assert (answer["share"], answer["best"]) == (0.5, {"from nothing": 0.5, "fine-tuned": 0.6})
    lower = compare(curve(0.1, 0.3, 0.45, 0.5), curve(0.4))
    assert (lower["box_ap"], lower["share"]) == (0.4, 0.333)


def test_the_picture_has_both_curves() -> None:
    curves = {"from nothing": curve(0.0, 0.1, 0.3), "fine-tuned": curve(0.2)}
    root = ElementTree.fromstring(plot(curves, 0.3))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 1]
