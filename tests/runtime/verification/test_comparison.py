"""How close is close enough in fp16 and in int8; that fp32 has to be the same is shown in test_verify.py."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.results import InstanceMasks, Result
from yolor_edge.runtime.verification.comparison import (
    DEFAULT_TOLERANCES,
    FP16,
    REPORTED,
    TOGETHER,
    ResultTolerances,
    Tolerances,
    captions_check,
    compare,
    compare_results,
    tolerances_from_json,
)
from yolor_edge.runtime.verification.golden import Answers

SIZE = (40, 60)
BOXES = np.array([[0, 0, 20, 20], [30, 10, 50, 30], [5, 5, 15, 35]], np.float32)
SCORES = (0.9, 0.8, 0.26)


def answers(
    scores: tuple[float, ...] = SCORES,
    boxes: NDArray[np.float32] = BOXES,
    class_ids: tuple[int, ...] = (0, 1, 1),
    side: int = 10,
    wrong_pixels: int = 0,
    head: float = 1.0,
    captions: dict[str, tuple[int, ...]] | None = None,
    **fields: Any,
) -> Answers:
    """Answers about an image of 40 x 60 with up to three boxes; every mask is a square of `side`."""
    count = len(scores)
    semantic = np.zeros(SIZE, np.uint8)
    semantic.ravel()[:wrong_pixels] = 1
    result = Result(
        SIZE,
        boxes=boxes[:count],
        scores=np.array(scores, np.float32),
        class_ids=np.array(class_ids[:count], np.int32),
        masks=InstanceMasks([(5, 5, np.ones((side, side), np.uint8))] * count, SIZE),
        semantic_map=semantic,
    )
    heads = {"class_logits": np.array([[[10.0, head]]], np.float32)}
    said = {"greedy": (5, 6, 7), "beam": (5, 8)} if captions is None else captions
    found = Answers(np.zeros((4, 4, 3), np.uint8), heads, result, said)
    own = {name: fields.pop(name) for name in ("pixels", "heads") if name in fields}
    return dataclasses.replace(found, **own, result=dataclasses.replace(result, **fields))


def failed(found: Answers, tolerances: Tolerances, threshold: float = 0.25) -> list[str]:
    checks = compare("x", answers(), found, tolerances, threshold)
    return [check.stage for check in checks if not check.passed]


# Which tolerances count.


def test_every_precision_has_its_tolerances() -> None:
    assert list(DEFAULT_TOLERANCES) == ["fp32", "fp16", "int8"]
    assert tolerances_from_json("fp32", {}) == Tolerances()
    assert tolerances_from_json("fp16", {}) == FP16
    assert tolerances_from_json("int8", {}) == ResultTolerances()


def test_what_a_bundle_says_wins_and_the_rest_is_usual() -> None:
    assert tolerances_from_json("fp16", {"head": 0.1}) == dataclasses.replace(FP16, head=0.1)
    assert tolerances_from_json("int8", {"boxes": 0.5}) == ResultTolerances(boxes=0.5)
    for precision, tolerances in DEFAULT_TOLERANCES.items():
        written = json.loads(json.dumps(dataclasses.asdict(tolerances)))
        assert tolerances_from_json(precision, written) == tolerances


# fp16.


@pytest.mark.parametrize(
    ("found", "stages"),
    [
        (answers(head=1.19), []),
        (answers(head=1.21), ["class_logits"]),
        (answers(scores=(0.9, 0.785, 0.26)), []),
        (answers(scores=(0.9, 0.775, 0.26)), ["boxes"]),
        (answers(boxes=BOXES + np.array([0, 0, 0.5, 0], np.float32)), []),
        (answers(boxes=BOXES + np.array([0, 0, 2, 0], np.float32)), ["boxes"]),
        (answers(wrong_pixels=24), []),
        (answers(wrong_pixels=25), ["semantic map"]),
        (answers(side=9), ["masks"]),
        (answers(captions={"greedy": (9, 6, 7), "beam": ()}), []),
    ],
)
def test_fp16_may_be_off_a_little(found: Answers, stages: list[str]) -> None:
    assert failed(found, FP16) == stages


def test_in_fp16_a_box_at_the_threshold_may_come_or_go() -> None:
    without = answers(scores=SCORES[:2])
    assert failed(without, FP16, threshold=0.25) == []
    assert failed(without, FP16, threshold=0.2) == ["boxes"]
    assert failed(without, Tolerances(), threshold=0.25) == ["boxes"], "not in fp32"
    assert [check.stage for check in compare("x", without, answers(), FP16, 0.25) if not check.passed] == []


def test_in_fp32_a_box_at_the_threshold_may_come_or_go_by_rounding() -> None:
    without, lowest = answers(scores=SCORES[:2]), float(SCORES[2])
    assert failed(without, Tolerances(), threshold=lowest - 5e-5) == []
    assert failed(without, Tolerances(), threshold=lowest - 5e-4) == ["boxes"]


def test_in_fp16_half_of_the_captions_have_to_be_the_same() -> None:
    other = answers(captions={"greedy": (9, 6, 7), "beam": (5, 8)})
    neither = answers(captions={"greedy": (9, 6, 7), "beam": (1,)})
    rows = [check for check in compare("x", answers(), neither, FP16) if check.stage.startswith("caption")]
    assert [(check.measured, check.allowed, check.passed) for check in rows] == [
        ("differs from token 1 on, 3 tokens", REPORTED, True),
        ("differs from token 1 on, 1 tokens, not 2", REPORTED, True),
    ]
    for found, passes in ((answers(), True), (other, True), (neither, False)):
        check = captions_check([(answers(), found)], FP16)
        assert check is not None
        assert (check.golden, check.stage, check.passed) == (TOGETHER, "captions", passes)
    both = captions_check([(answers(), neither), (answers(), answers())], FP16)
    assert both is not None and both.measured == "2 of 4 the same" and both.passed
    assert captions_check([(answers(captions={}), answers(captions={}))], FP16) is None


# int8.


def judged(*found: Answers, tolerances: ResultTolerances | None = None) -> tuple[dict[str, str], list[str]]:
    """What is told about all images together, and what failed, of images that are expected to be all the same."""
    pairs = {f"image {i}": (answers(), one) for i, one in enumerate(found)}
    checks = compare_results(pairs, tolerances or ResultTolerances())
    together = {check.stage: check.measured for check in checks if check.golden == TOGETHER}
    return together, [f"{check.golden}: {check.stage}" for check in checks if not check.passed]


def test_int8_is_judged_over_all_images_together() -> None:
    together, failures = judged(answers(), answers(scores=SCORES[:1], head=4.0, side=9))
    assert together == {
        "boxes": "84.4% matched (4 boxes)",
        "masks": "median IoU 1.0000",
        "semantic map": "1.00000 same",
        "captions": "4 of 4 the same",
    }
    assert failures == [f"{TOGETHER}: boxes"]
    assert judged(answers(), answers(scores=SCORES[:1]), tolerances=ResultTolerances(boxes=0.75))[1] == []


def test_in_int8_distances_are_told_and_decide_nothing() -> None:
    far = answers(head=9.0, captions={"greedy": (), "beam": (1, 2, 3)})
    checks = compare_results({"x": (answers(), far)}, ResultTolerances())
    assert all(check.passed for check in checks)
    told = {check.stage: (check.measured, check.allowed) for check in checks if check.golden == "x"}
    assert told["class_logits"] == ("8.0e-01 at (0, 0, 1)", REPORTED)
    assert told["caption (greedy)"] == ("differs from token 1 on, 0 tokens, not 3", REPORTED)


def test_in_int8_a_box_at_the_threshold_weighs_little() -> None:
    assert judged(answers(scores=SCORES[:2]))[1] == []
    assert judged(answers(scores=SCORES[1:], boxes=BOXES[1:], class_ids=(1, 1)))[1] == [f"{TOGETHER}: boxes"]


@pytest.mark.parametrize(
    ("found", "failures"),
    [
        (answers(class_ids=(1, 1, 1)), [f"{TOGETHER}: boxes"]),
        (answers(side=9), [f"{TOGETHER}: masks"]),
        (answers(wrong_pixels=120), []),
        (answers(wrong_pixels=121), [f"{TOGETHER}: semantic map"]),
        (answers(head=np.nan), ["image 0: class_logits"]),
        (answers(head=np.inf), ["image 0: class_logits"]),
        (answers(heads={}), ["image 0: class_logits"]),
        (answers(pixels=np.ones((4, 4, 3), np.uint8)), ["image 0: pixels"]),
        (answers(captions={"greedy": (5, 6, 7)}), ["image 0: caption (beam)"]),
        (answers(masks=None), ["image 0: masks", f"{TOGETHER}: masks"]),
        (answers(semantic_map=None), ["image 0: semantic map", f"{TOGETHER}: semantic map"]),
    ],
)
def test_what_int8_must_not_do(found: Answers, failures: list[str]) -> None:
    assert judged(found)[1] == failures


def test_images_without_a_box_say_nothing_against_int8() -> None:
    nothing = answers(scores=())
    checks = compare_results({"x": (nothing, nothing)}, ResultTolerances())
    assert all(check.passed for check in checks)
    assert {check.stage: check.measured for check in checks}["boxes"] == "nothing to compare"


def test_a_share_of_what_is_allowed_is_a_number_that_json_holds() -> None:
    for found in (answers(head=np.nan), answers(heads={}), answers(boxes=BOXES * np.nan)):
        for check in compare("x", answers(), found, FP16):
            json.dumps(dataclasses.asdict(check), allow_nan=False)
            assert check.used <= 1 or not check.passed or check.allowed == REPORTED
