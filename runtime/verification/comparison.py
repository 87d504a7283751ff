"""Two stages of the chain held against each other on one image: pixels, raw heads, boxes, masks, map, caption.

How close is close enough depends on the precision. fp32 differs from the network by rounding alone, so everything has
to be the same. fp16 rounds to 11 bits: every raw output stays close, a box that hovers at the score threshold may come
or go, and where two words are as likely the other one may be written. int8 moves raw outputs by a few percent of their
scale and can still be as accurate, so it is judged by its results, over all images together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Array
from ..bundle.spec import MOST_DETECTIONS, SCORE_HEADS
from ..images.preprocess import Letterbox
from ..model import Model
from ..results import Result
from ..vision.graph_outputs import map_to_image
from .golden import Answers, captions_of
from .graph_form import cells_check, in_form_of, regions_in_place, scores_in

# What stands under "allowed" where a figure is told and decides nothing.
REPORTED = "reported"
# What is measured where neither side found anything: that passes, and shows nothing.
NOTHING = "nothing to compare"
# Under "input" for a figure of all images together.
TOGETHER = "all inputs"
_WORST = 1e6
# Logits reach 20 and more, probabilities 1, and a sigmoid passes on at most a quarter of what logits are off: in all so
# many times as much of the scale.
_PROBABILITIES, _STEEPNESS = SCORE_HEADS["probabilities"], 5.0
# A box whose score is this near to the threshold may come or go by the rounding of fp32 alone.
_HOVERING = 1e-4
# The most of all boxes that may be absent because another one was kept in their place.
_RIVALS = 0.25
# How much less two boxes may overlap once they are clipped to the image: suppression sees them whole.
_CLIPPED = 0.25
# Of masks that may be further off where boxes may be borderline.
_ODD_MASKS = 0.1


@dataclass(frozen=True)
class Tolerances:
    """How far a stage may be from the one it is compared with, image by image.

    Attributes:
        head: Largest difference within a raw output, relative to that output's largest magnitude.
        box_iou: Least IoU of a box with its counterpart.
        score: Largest difference of a box's score.
        mask_iou: Least IoU of a mask with its counterpart.
        semantic: Least share of pixels with the same class.
        borderline: Boxes whose score is within this of the score threshold may have no counterpart. A quarter of all
            may always lack it by a close choice (`_has_rival`): of boxes that overlap and score alike, any may be kept.
            Above 0, one mask in ten may be further off, as those of a few pixels are.
        captions: Least share of captions with the same tokens, over all images and both searches; at 1 each has to be
            the same.
    """

    head: float = 1e-3
    box_iou: float = 0.99
    score: float = 5e-3
    mask_iou: float = 0.98
    semantic: float = 0.999
    borderline: float = 0.0
    captions: float = 1.0

    @classmethod
    def from_json(cls, values: Mapping[str, float], default: Tolerances | None = None) -> Tolerances:
        """Those named in `values`, the others from `default` (fp32 if None)."""
        return cls(**_numbers(default or cls(), values))


@dataclass(frozen=True)
class ResultTolerances:
    """What the results of int8 have to reach, over all images together.

    Raw outputs have only to be numbers, and captions are reported: neither distance in a tensor nor a synonym says that
    a task is done worse. A few images find an int8 graph that is broken; how accurate it is, `yolor-edge evaluate`
    tells.

    Attributes:
        boxes: Least share of boxes with a counterpart of the same class at IoU 0.5, each weighed by its score.
        borderline: Those without one whose score is within this of the score threshold do not count.
        mask_iou: Least median of the IoU of masks with their counterparts.
        semantic: Least share of pixels with the same class.
    """

    boxes: float = 0.9
    mask_iou: float = 0.85
    semantic: float = 0.95
    borderline: float = 0.05

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> ResultTolerances:
        """Those named in `values`, the others by default."""
        return cls(**_numbers(cls(), values))


FP16 = Tolerances(head=2e-2, box_iou=0.95, score=0.02, mask_iou=0.95, semantic=0.99, borderline=0.02, captions=0.5)
DEFAULT_TOLERANCES: Mapping[str, Tolerances | ResultTolerances] = {
    "fp32": Tolerances(),
    "fp16": FP16,
    "int8": ResultTolerances(),
}


def tolerances_from_json(precision: str, values: Mapping[str, float]) -> Tolerances | ResultTolerances:
    """What a bundle says about a precision, completed by what is usual.

    Raises:
        TypeError, ValueError: If a value is no number.
    """
    default = DEFAULT_TOLERANCES[precision]
    if isinstance(default, ResultTolerances):
        return ResultTolerances.from_json(values)
    return Tolerances.from_json(values, default)


def _numbers(default: Tolerances | ResultTolerances, values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(values.get(name, usual)) for name, usual in asdict(default).items()}


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, how far apart the two are, what was allowed.

    Attributes:
        golden: The image, or `TOGETHER`.
        stage: What was compared.
        measured: How far apart, in words.
        allowed: What is allowed, in words, or `REPORTED`.
        passed: Whether it is within that.
        used: How much of what is allowed was used: up to 1 passes.
    """

    golden: str
    stage: str
    measured: str
    allowed: str
    passed: bool
    used: float = 0.0


def compare(
    golden: str,
    expected: Answers,
    found: Answers,
    tolerances: Tolerances,
    score_threshold: float = 0.0,
    iou_threshold: float = 1.0,
    max_detections: int = MOST_DETECTIONS,
) -> list[Check]:
    """Hold every stage of `found` against `expected`.

    Args:
        golden: Names the image in the table.
        expected, found: The answers of two stages about it.
        tolerances: How far apart they may be. With `captions` below 1, a caption is only reported; see
            `captions_check`.
        score_threshold: Above which boxes score.
        iou_threshold: Above which a box suppresses another one of its class.
        max_detections: Boxes kept at most.
    """
    checks = [_same_pixels(golden, expected.pixels, found.pixels)]
    checks += compare_heads(golden, expected.heads, found.heads, tolerances, expected.region_margins)
    if expected.result.boxes is not None:
        checks += _same_objects(
            golden, expected.result, found.result, tolerances, score_threshold, iou_threshold, max_detections
        )
    semantic_map = expected.result.semantic_map
    if semantic_map is not None:
        if "semantic_map" in found.heads:
            # Such a graph is to take the network's map of the input to the image, not to interpolate there.
            of_input = in_form_of(found.heads, expected.heads)["semantic_map"][0]
            placed = found.letterbox or Letterbox.of(semantic_map.shape, of_input.shape)
            semantic_map = map_to_image(of_input, placed)
        checks.append(_same_map(golden, "semantic map", semantic_map, found.result.semantic_map, tolerances))
    checks += [
        _same_caption(golden, name, ids, found.captions.get(name), must=tolerances.captions >= 1)
        for name, ids in expected.captions.items()
    ]
    return checks


def compare_heads(
    golden: str,
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    tolerances: Tolerances,
    region_margins: Array | None = None,
) -> list[Check]:
    """Hold the outputs of a vision graph, in whatever form it gives them, against the raw heads of the network.

    Args:
        golden: Names the images in the table.
        expected, found: Outputs by name.
        tolerances: How far apart they may be.
        region_margins: (B, R) of a network whose captions look at regions: how clear the choice of each was.
    """
    checks: list[Check] = []
    for name, head in in_form_of(found, expected).items():
        if name == "caption_memory" and region_margins is not None and name in found:
            placed, close = regions_in_place(found, expected, region_margins, tolerances.head)
            check = _close_heads(golden, name, head, placed, tolerances)
            told = f", {close} of {region_margins.size} regions a close choice" if close else ""
            checks.append(replace(check, measured=f"{check.measured}{told}"))
        elif head.dtype == np.uint8:
            checks.append(_same_map(golden, name, head, found.get(name), tolerances))
        else:
            own = replace(tolerances, head=tolerances.head * _STEEPNESS) if name == _PROBABILITIES else tolerances
            check = _close_heads(golden, name, head, found.get(name), own)
            # The raw output of this name is not what the comparison of results calls so.
            checks.append(replace(check, stage="raw boxes") if name == "boxes" else check)
    scores = scores_in(expected)
    if "cells" in found and scores is not None:
        measured = cells_check(found["cells"], scores, tolerances.head)
        checks.append(Check(golden, "cells", *measured))
    return checks


def compare_captions(
    golden: str, expected: Mapping[str, tuple[int, ...]], model: Model, image: NDArray[np.uint8]
) -> list[Check]:
    """Hold the captions of `model`, whose decoder is the native one, against those expected by name of the search."""
    found = captions_of(model, image)
    return [_same_caption(golden, f"{name}, native", ids, found.get(name), must=True) for name, ids in expected.items()]


def captions_check(answers: Sequence[tuple[Answers, Answers]], tolerances: Tolerances) -> Check | None:
    """How many captions are the same over all images; None where there are none."""
    same = [found.captions.get(name) == ids for expected, found in answers for name, ids in expected.captions.items()]
    if not same:
        return None
    share = float(np.mean(same))
    measured, allowed = f"{sum(same)} of {len(same)} the same", f">= {tolerances.captions:.0%} the same"
    return Check(TOGETHER, "captions", measured, allowed, share >= tolerances.captions)


def compare_results(
    answers: Mapping[str, tuple[Answers, Answers]], tolerances: ResultTolerances, score_threshold: float = 0.0
) -> list[Check]:
    """Judge the results of int8: first every image for itself, reported, then all together.

    Args:
        answers: (expected, found) by image.
        tolerances: What they have to reach together.
        score_threshold: Above which boxes score.
    """
    loose = Tolerances(captions=0.0)
    checks = [
        _reported(check)
        for golden, (expected, found) in answers.items()
        for check in compare(golden, expected, found, loose)
    ]
    pairs = list(answers.values())
    if any(expected.result.boxes is not None for expected, _ in pairs):
        checks.append(_boxes_together(pairs, tolerances, score_threshold))
    if any(expected.result.masks is not None for expected, _ in pairs):
        checks.append(_masks_together(pairs, tolerances))
    if any(expected.result.semantic_map is not None for expected, _ in pairs):
        checks.append(_maps_together(pairs, tolerances))
    captions = captions_check(pairs, loose)
    return [*checks, replace(captions, allowed=REPORTED)] if captions is not None else checks


def _reported(check: Check) -> Check:
    """The same figure without a verdict; but pixels have to be the same, and what is absent or no number fails."""
    is_broken = check.stage == "pixels" or check.used >= _WORST
    return check if is_broken else replace(check, allowed=REPORTED, passed=True)


def _boxes_together(
    pairs: Iterable[tuple[Answers, Answers]], tolerances: ResultTolerances, score_threshold: float
) -> Check:
    matched = total = 0.0
    count = 0
    for expected, found in pairs:
        a, b = expected.result.scores, found.result.scores
        if a is None or b is None:
            return _failed(TOGETHER, "boxes", "absent", "all")
        matches = _pair_boxes(expected.result, found.result)
        matched += sum(float(a[i] + b[j]) for i, j, _ in matches)
        sides = ((a, {i for i, _, _ in matches}), (b, {j for _, j, _ in matches}))
        total += sum(
            float(score)
            for scores, known in sides
            for i, score in enumerate(scores)
            if i in known or score > score_threshold + tolerances.borderline
        )
        count += len(matches)
    share = matched / total if total else 1.0
    measured = f"{share:.1%} matched ({count} boxes)" if total else NOTHING
    allowed = f">= {tolerances.boxes:.0%}, by score"
    return Check(
        TOGETHER, "boxes", measured, allowed, bool(share >= tolerances.boxes), _used(1 - share, 1 - tolerances.boxes)
    )


def _masks_together(pairs: Iterable[tuple[Answers, Answers]], tolerances: ResultTolerances) -> Check:
    ious: list[float] = []
    for expected, found in pairs:
        if expected.result.masks is None or found.result.masks is None or found.result.boxes is None:
            return _failed(TOGETHER, "masks", "absent", "all")
        ious += _mask_ious(expected.result, found.result, _pair_boxes(expected.result, found.result))
    middle = float(np.median(ious)) if ious else 1.0
    measured, allowed = f"median IoU {middle:.4f}" if ious else NOTHING, f">= {tolerances.mask_iou}"
    return Check(
        TOGETHER, "masks", measured, allowed, middle >= tolerances.mask_iou, _used(1 - middle, 1 - tolerances.mask_iou)
    )


def _maps_together(pairs: Iterable[tuple[Answers, Answers]], tolerances: ResultTolerances) -> Check:
    same = pixels = 0
    for expected, found in pairs:
        a, b = expected.result.semantic_map, found.result.semantic_map
        if a is None or b is None or a.shape != b.shape:
            return _failed(TOGETHER, "semantic map", _shape_of(b), "the same shape")
        same += int(np.count_nonzero(a == b))
        pixels += a.size
    share = same / max(1, pixels)
    measured, allowed = f"{share:.5f} same", f">= {tolerances.semantic}"
    return Check(
        TOGETHER,
        "semantic map",
        measured,
        allowed,
        share >= tolerances.semantic,
        _used(1 - share, 1 - tolerances.semantic),
    )


def _used(distance: float, allowed: float) -> float:
    """`distance` as a share of what is allowed, a number that JSON can hold."""
    share = distance / allowed if allowed > 0 else (0.0 if distance <= 0 else _WORST)
    return min(share, _WORST) if share == share else _WORST


def _failed(golden: str, stage: str, measured: str, allowed: str) -> Check:
    return Check(golden, stage, measured, allowed, False, _WORST)


def _same_pixels(golden: str, expected: Array, found: Array) -> Check:
    if expected.shape != found.shape:
        return _failed(golden, "pixels", f"shape {found.shape}", f"shape {expected.shape}")
    worst = int(np.abs(expected.astype(np.int16) - found).max(initial=0))
    return Check(golden, "pixels", f"{worst} levels", "0 levels", worst == 0, _used(worst, 0))


def _same_map(golden: str, stage: str, expected: Array, found: Array | None, tolerances: Tolerances) -> Check:
    allowed = f">= {tolerances.semantic}"
    if found is None or found.shape != expected.shape:
        return _failed(golden, stage, _shape_of(found), f"shape {expected.shape}")
    agreement = float(np.mean(expected == found))
    used = _used(1 - agreement, 1 - tolerances.semantic)
    return Check(golden, stage, f"{agreement:.5f} same", allowed, agreement >= tolerances.semantic, used)


def _same_caption(
    golden: str, name: str, expected: tuple[int, ...], found: tuple[int, ...] | None, must: bool
) -> Check:
    stage, allowed = f"caption ({name})", "same" if must else REPORTED
    if found is None:
        return _failed(golden, stage, "absent", allowed)
    if found == expected:
        return Check(golden, stage, f"{len(expected)} tokens same" if expected else NOTHING, allowed, True)
    agreeing = [a == b for a, b in zip(expected, found, strict=False)]
    first = agreeing.index(False) if False in agreeing else len(agreeing)
    length = f"{len(found)} tokens" if len(found) == len(expected) else f"{len(found)} tokens, not {len(expected)}"
    return Check(golden, stage, f"differs from token {first + 1} on, {length}", allowed, not must, 2.0)


def _shape_of(found: Array | None) -> str:
    return "absent" if found is None else f"shape {found.shape}"


def _close_heads(golden: str, name: str, expected: Array, found: Array | None, tolerances: Tolerances) -> Check:
    if found is None or expected.shape != found.shape:
        return _failed(golden, name, _shape_of(found), f"shape {expected.shape}")
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, which fails below
        difference = np.abs(found.astype(np.float64) - expected)
    worst = float(difference.max(initial=0)) / scale
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), difference.shape))
    measured = f"{worst:.1e} at {place}"
    allowed = f"<= {tolerances.head:.0e} of its scale"
    # Written so that a NaN fails.
    return Check(golden, name, measured, allowed, bool(worst <= tolerances.head), _used(worst, tolerances.head))


def _same_objects(
    golden: str,
    expected: Result,
    found: Result,
    tolerances: Tolerances,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> list[Check]:
    if found.boxes is None or found.scores is None or found.class_ids is None:
        return [_failed(golden, "boxes", "absent", "all")]
    assert expected.boxes is not None and expected.scores is not None
    pairs = _pair_boxes(expected, found)
    count, other = len(expected.boxes), len(found.boxes)
    apart = {(i, j): abs(float(expected.scores[i] - found.scores[j])) for i, j, _ in pairs}
    near = [
        (i, j, iou) for i, j, iou in pairs if iou >= tolerances.box_iou and apart[i, j] <= tolerances.score
    ]  # written so that a NaN is not
    lowest = score_threshold + max(tolerances.borderline, _HOVERING)
    missed = [one for one in _lone(expected, found, pairs) if not one[0].scores[one[1]] <= lowest]
    told = ""
    if missed or len(near) < len(pairs):
        # What has no counterpart may have a rival that was kept in its place.
        lone = [one for one in _lone(expected, found, near) if not one[0].scores[one[1]] <= lowest]
        absent = {id(side): {i for owner, i, _ in lone if owner is side} for side in (expected, found)}
        if len(lone) <= _RIVALS * (count + other) and all(
            _has_rival(*one, absent[id(one[2])], tolerances, iou_threshold, max_detections) for one in lone
        ):
            missed, pairs, told = [], near, f", {len(lone)} a close choice"
    least_iou = min((iou for _, _, iou in pairs), default=1.0)
    # numpy's maximum, because it is NaN where one of the scores is.
    score = float(np.max([apart[i, j] for i, j, _ in pairs], initial=0.0))
    passed = bool(not missed and least_iou >= tolerances.box_iou and score <= tolerances.score)
    measured = f"{len(pairs)} of {count} matched, {other} found, IoU >= {least_iou:.4f}, score +- {score:.1e}{told}"
    if not count + other:
        measured = NOTHING
    most = "all but borderline ones" if tolerances.borderline else "all"
    allowed = f"{most}, IoU >= {tolerances.box_iou}, score +- {tolerances.score:.0e}"
    used = max(_used(1 - least_iou, 1 - tolerances.box_iou), _used(score, tolerances.score), 2.0 if missed else 0.0)
    checks = [Check(golden, "boxes", measured, allowed, passed, used)]
    if expected.masks is not None:
        allowed = f"IoU >= {tolerances.mask_iou}"
        if found.masks is None:
            return [*checks, _failed(golden, "masks", "absent", allowed)]
        ious = sorted(_mask_ious(expected, found, pairs))
        if not ious:
            return [*checks, Check(golden, "masks", NOTHING, allowed, True)]
        worst = ious[int(_ODD_MASKS * (len(ious) - 1))] if tolerances.borderline else ious[0]
        used = _used(1 - worst, 1 - tolerances.mask_iou)
        checks.append(Check(golden, "masks", f"IoU >= {worst:.4f}", allowed, worst >= tolerances.mask_iou, used))
    return checks


def _lone(expected: Result, found: Result, pairs: Sequence[tuple[int, int, float]]) -> list[tuple[Any, int, Any]]:
    """The boxes without a counterpart: (the side it is on, its row, the other side)."""
    sides = ((expected, found, {i for i, _, _ in pairs}), (found, expected, {j for _, j, _ in pairs}))
    lone: list[tuple[Any, int, Any]] = []
    for own, others, known in sides:
        assert own.boxes is not None
        lone += [(own, i, others) for i in range(len(own.boxes)) if i not in known]
    return lone


def _has_rival(
    own: Any,
    i: int,
    others: Any,
    absent: Collection[int],
    tolerances: Tolerances,
    iou_threshold: float,
    max_detections: int,
) -> bool:
    """Whether box `i` may have gone by a close choice: as many as may be before it, or a box that suppresses it.

    Of such a box something has to be close: its score to that of box `i`, their overlap to the threshold, or the choice
    that let it stand there and not on the side of box `i` (`absent`). A box that stands on both sides and overlaps far
    more than it may is no close choice.
    """
    alike = [
        _box_iou(own.boxes[i], box) for box, k in zip(own.boxes, own.class_ids, strict=True) if k == own.class_ids[i]
    ]
    if sum(iou >= tolerances.box_iou for iou in alike) > 1:  # one kept twice is no choice
        return False
    if len(others.boxes) == max_detections and own.scores[i] <= others.scores.min() + tolerances.score:
        return True
    for j in np.flatnonzero(others.class_ids == own.class_ids[i]):
        ahead = float(others.scores[j] - own.scores[i])
        overlap = _box_iou(own.boxes[i], others.boxes[j])
        is_clipped = _is_clipped(own.boxes[i], own) or _is_clipped(others.boxes[j], others)
        slack = _CLIPPED if is_clipped else 1 - tolerances.box_iou
        is_close = ahead <= tolerances.score or overlap <= iou_threshold + slack or j in absent
        if is_close and ahead >= -tolerances.score and overlap > iou_threshold - slack:
            return True
    return False


def _is_clipped(box: Array, result: Any) -> bool:
    height, width = result.image_size
    return bool(box[0] <= 0 or box[1] <= 0 or box[2] >= width or box[3] >= height)


def _mask_ious(expected: Result, found: Result, pairs: Sequence[tuple[int, int, float]]) -> list[float]:
    assert expected.masks is not None and found.masks is not None
    a, b = expected.masks.crops(), found.masks.crops()
    return [_mask_iou(a[i], b[j]) for i, j, _ in pairs]


def _pair_boxes(expected: Result, found: Result) -> list[tuple[int, int, float]]:
    """Pairs (i, j, IoU) of boxes of one class: for each expected box, by falling score, its best free counterpart."""
    assert expected.boxes is not None and expected.class_ids is not None
    assert found.boxes is not None and found.class_ids is not None
    free = set(range(len(found.boxes)))
    pairs = []
    for i, box in enumerate(expected.boxes):
        candidates = [j for j in free if found.class_ids[j] == expected.class_ids[i]]
        if candidates:
            ious = [_box_iou(box, found.boxes[j]) for j in candidates]
            best = int(np.argmax(ious))
            if ious[best] >= 0.5:
                free.discard(candidates[best])
                pairs.append((i, candidates[best], ious[best]))
    return pairs


def _box_iou(a: Array, b: Array) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - overlap
    return float(overlap / union) if union > 0 else 0.0


def _mask_iou(a: tuple[int, int, Array], b: tuple[int, int, Array]) -> float:
    """IoU of two masks, each a (y0, x0, crop) of `InstanceMasks`; 1 where both are empty."""
    (ay, ax, crop_a), (by, bx, crop_b) = a, b
    top, left = max(ay, by), max(ax, bx)
    bottom = min(ay + crop_a.shape[0], by + crop_b.shape[0])
    right = min(ax + crop_a.shape[1], bx + crop_b.shape[1])
    both = 0
    if top < bottom and left < right:
        shared = crop_a[top - ay : bottom - ay, left - ax : right - ax].astype(bool)
        both = np.count_nonzero(shared & crop_b[top - by : bottom - by, left - bx : right - bx].astype(bool))
    union = np.count_nonzero(crop_a) + np.count_nonzero(crop_b) - both
    return float(both / union) if union else 1.0
