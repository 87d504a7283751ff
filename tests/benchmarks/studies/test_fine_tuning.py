"""What the study of fine-tuning makes of two curves."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from yolor_edge.benchmarks.studies.fine_tuning import compare, plot


def curve(*scores: float) -> list[dict[str, float]]:
    return [{"step": 10 * (i + 1), "box_ap": score} for i, score in enumerate(scores)]


def test_the_share_of_steps_for_the_best_score_of_training_from_nothing() -> None:
    answer = compare(curve(0.0, 0.1, 0.3, 0.5, 0.4), curve(0.2, 0.5))
    assert answer == {"box_ap": 0.5, "steps_from_nothing": 40, "steps_fine_tuned": 20, "share": 0.5}
    never = compare(curve(0.1, 0.5), curve(0.2, 0.4))
    assert (never["steps_fine_tuned"], never["share"]) == (None, None)


def test_the_picture_has_both_curves() -> None:
    curves = {"from nothing": curve(0.0, 0.1, 0.3), "fine-tuned": curve(0.2)}
    root = ElementTree.fromstring(plot(curves, 0.3))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 1]
