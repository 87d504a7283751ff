"""What the outputs of a foreign detector mean: found by their shapes and by a look at their values on images.

A layout is written as words with commas between, each of which may be said instead of found: the form (`classes`,
`objectness`, `detections`, `pair`), the boxes (`xyxy`, `cxcywh`, `yxyx`), their units (`pixels`, `normalised`), the
scores (`probabilities`, `logits`), and `boxes=NAME` for the output that holds the boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...runtime.backends.base import Array
from ...runtime.bundle.tensors import MASK_STRIDE
from ...runtime.errors import UsageError

FORMS = {
    "classes": "boxes and classes in one output, 4 + C rows",
    "objectness": "boxes, objectness and classes in one output, 5 + C rows",
    "detections": "finished detections: x1 y1 x2 y2 score class",
    "pair": "boxes in one output, scores in another",
}
_WORDS: dict[str, tuple[str, ...]] = {
    "form": tuple(FORMS),
    "coding": ("xyxy", "cxcywh", "yxyx"),
    "units": ("pixels", "normalised"),
    "scores": ("probabilities", "logits"),
}
# With fewer boxes than this their order of corners says nothing.
_FEW = 8
_MOST_TOLD = 6
# Boxes in pixels reach further than this, those in shares of the image do not.
_LARGEST_SHARE = 2.0
_FAR = 32.0
# What a user says of the boxes is refused where more of them than this contradict it.
_LARGEST_ODD_SHARE = 0.1


@dataclass(frozen=True)
class Said:
    """The words of a layout; None where it is to be found."""

    form: str | None = None
    coding: str | None = None
    units: str | None = None
    scores: str | None = None
    boxes: str | None = None

    @classmethod
    def of(cls, text: str | None) -> Said:
        """Read the words.

        Raises:
            UsageError: If one is unknown, or two contradict each other.
        """
        found: dict[str, str] = {}
        for word in (text or "").split(","):
            word = word.strip()
            kind = "boxes" if word.startswith("boxes=") else next((k for k, w in _WORDS.items() if word in w), None)
            if not word and text is None:
                continue
            if kind is None or kind in found:
                known = "; ".join("|".join(words) for words in _WORDS.values())
                why = f"{word!r} contradicts {found[kind]!r}" if kind else f"unknown word {word!r}"
                raise UsageError(f"<layout>: {why}; the words are {known}; boxes=OUTPUT", argument="layout")
            found[kind] = word.removeprefix("boxes=")
        return cls(**found)


@dataclass(frozen=True)
class Slot:
    """Rows of an output: `begin` to `end` along `axis` of a tensor (B, a, b), or of (B, a, 1, b) where `is_4d`."""

    tensor: str
    axis: int
    begin: int
    end: int
    is_4d: bool = False

    def rows(self, values: Mapping[str, Array]) -> Array:
        """(B, end - begin, N)."""
        array = values[self.tensor]
        array = array[:, :, 0] if self.is_4d else array
        return (array if self.axis == 1 else array.transpose(0, 2, 1))[:, self.begin : self.end]


@dataclass(frozen=True)
class Layout:
    """Where the parts of the answer are, and how they are coded.

    Attributes:
        form: One of `FORMS`.
        boxes, class_scores: Rows that hold them; of "detections" `class_scores` is the one score.
        objectness: Row to multiply into the scores.
        class_ids: Row with the class of a detection.
        coefficients: Rows with the weights of the prototypes.
        prototypes: Output that holds those.
        coding, units, scores: See the module; one of the words each.
        classes: How many there are.
        count: Boxes per image.
        size: (height, width) of the input.
    """

    form: str
    boxes: Slot
    class_scores: Slot
    classes: int
    count: int
    size: tuple[int, int]
    objectness: Slot | None = None
    class_ids: Slot | None = None
    coefficients: Slot | None = None
    prototypes: str | None = None
    coding: str = "xyxy"
    units: str = "pixels"
    scores: str = "probabilities"

    @property
    def score_coding(self) -> str:
        """Of the rewired graph: an objectness can only be multiplied into probabilities."""
        return "logits" if self.scores == "logits" and self.objectness is None else "probabilities"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The outputs that are read."""
        slots = (self.boxes, self.class_scores, self.objectness, self.class_ids, self.coefficients)
        names = [slot.tensor for slot in slots if slot is not None]
        return tuple(dict.fromkeys([*names, *([self.prototypes] if self.prototypes else [])]))

    def words(self) -> str:
        """As `--layout` takes it."""
        found = [self.form, self.coding, self.units, *([] if self.form == "detections" else [self.scores])]
        return ",".join([*found, f"boxes={self.boxes.tensor}"])

    def decode(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The raw heads of the contract, computed here from the outputs as they are, (B, rows, N) float32 each."""
        boxes = self.boxes.rows(values).astype(np.float32)
        if self.coding == "cxcywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
        elif self.coding == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.units == "normalised":
            height, width = self.size
            boxes = boxes * np.array([width, height, width, height], np.float32)[:, None]
        scores = self.class_scores.rows(values).astype(np.float32)
        if self.class_ids is not None:
            ids = self.class_ids.rows(values)
            scores = np.where(ids == np.arange(self.classes)[:, None], scores, 0).astype(np.float32)
        if self.objectness is not None:
            pair = [scores, self.objectness.rows(values).astype(np.float32)]
            if self.scores == "logits":
                pair = [1 / (1 + np.exp(-part)) for part in pair]
            scores = pair[0] * pair[1]
        name = "class_logits" if self.score_coding == "logits" else "class_scores"
        heads = {name: scores, "boxes": boxes}
        if self.coefficients is not None and self.prototypes is not None:
            heads["mask_coefficients"] = self.coefficients.rows(values).astype(np.float32)
            heads["prototypes"] = values[self.prototypes].astype(np.float32)
        return heads


def recognise(
    values: Mapping[str, Array],
    classes: int,
    size: tuple[int, int],
    said: Said,
) -> Layout:
    """Find the one layout that shapes and values allow.

    Args:
        values: Outputs on a few images, those images along axis 0.
        classes: How many names of classes there are.
        size: (height, width) of the input.
        said: What is not to be found but taken as said.

    Raises:
        UsageError: If there is none or more than one, with what was looked at and how to choose.
    """
    found, reasons = candidates(values, classes, size, said)
    if len(found) == 1:
        return found[0]
    outputs = ", ".join(f"{name} {value.shape}" for name, value in [*values.items()][:_MOST_TOLD])
    outputs += f" and {len(values) - _MOST_TOLD} more" if len(values) > _MOST_TOLD else ""
    if found:
        ways = " or ".join(one.words() for one in found)
        raise UsageError(
            f"its outputs ({outputs}) can be read in {len(found)} ways; choose one with <layout>: {ways}",
            argument="layout",
        )
    tried = "; ".join(reasons[:_MOST_TOLD]) or f"none has the rows that {classes} classes need"
    raise UsageError(
        f"no head for {classes} classes among its outputs ({outputs}): {tried}{_fitting(values)}; correct "
        "<classes>, say how to read them with <layout>, or export the network without its own post-processing",
        argument=("classes", "layout", "images"),
    )


def candidates(
    values: Mapping[str, Array], classes: int, size: tuple[int, int], said: Said
) -> tuple[list[Layout], list[str]]:
    """Every layout that shapes and values allow, and why others of the right shape were not taken."""
    found: list[Layout] = []
    reasons: list[str] = []
    for draft in _drafts(values, classes, size):
        if said.form not in (None, draft.form) or said.boxes not in (None, draft.boxes.tensor):
            continue
        judged = _judged(draft, values, said)
        if isinstance(judged, str):
            reasons.append(f"{draft.boxes.tensor} as {draft.form}: {judged}")
        else:
            found += judged
    return found, reasons


def _fitting(values: Mapping[str, Array]) -> str:
    """How many classes the likely outputs would fit."""
    rows = {name: min(value.shape[1:]) for name, value in values.items() if value.ndim == 3}
    told = [f"{n} fits {k - 4} classes, or {k - 5} with an objectness" for n, k in rows.items() if k > 5]
    return f" ({'; '.join(told)})" if 0 < len(told) <= 2 else ""


def _drafts(values: Mapping[str, Array], classes: int, size: tuple[int, int]) -> Iterator[Layout]:
    """Layouts that the shapes allow; what the values decide is left as it is by default."""
    at = {name: v for name, v in values.items() if v.dtype.kind == "f" and v.ndim == 4 and min(v.shape[2:]) > 1}
    fitting = [name for name, v in at.items() if tuple(v.shape[2:]) == tuple(side // MASK_STRIDE for side in size)]
    prototypes = fitting[0] if len(fitting) == 1 else None
    masks = at[prototypes].shape[1] if prototypes else 0
    flat: dict[str, tuple[int, int, bool]] = {}
    for name, value in values.items():
        if value.dtype.kind == "f" and value.ndim == 3:
            flat[name] = value.shape[1], value.shape[2], False
        elif value.dtype.kind == "f" and value.ndim == 4 and value.shape[2] == 1 and name != prototypes:
            flat[name] = value.shape[1], value.shape[3], True
    whole = [
        ("classes", 4 + classes, 4, 4 + classes),
        ("objectness", 5 + classes, 5, 5 + classes),
        ("detections", 6, 4, 5),
    ]
    for name, (a, b, is_4d) in flat.items():
        for axis, (form, rows, first, last) in itertools.product((1, 2), whole):
            held, count = (a, b) if axis == 1 else (b, a)
            if held != rows + masks or (form == "detections" and axis == 1) or (axis == 1 and a == b):
                continue

            def slot(begin: int, end: int, name: str = name, axis: int = axis, is_4d: bool = is_4d) -> Slot:
                return Slot(name, axis, begin, end, is_4d)

            yield Layout(
                form,
                slot(0, 4),
                slot(first, last),
                classes,
                count,
                size,
                slot(4, 5) if form == "objectness" else None,
                slot(5, 6) if form == "detections" else None,
                slot(rows, rows + masks) if masks else None,
                prototypes,
            )
    for (name, (a, b, is_4d)), axis in itertools.product(flat.items(), (1, 2)):
        held, count = (a, b) if axis == 1 else (b, a)
        if held != 4:
            continue
        boxes = Slot(name, axis, 0, 4, is_4d)
        scores = list(_partners(flat, count, classes, (name,)))
        for one in scores:
            taken = (name, one.tensor)
            weights = list(_partners(flat, count, masks, taken)) if masks else []
            if masks and len(weights) != 1:
                continue
            yield Layout(
                "pair",
                boxes,
                one,
                classes,
                count,
                size,
                coefficients=weights[0] if weights else None,
                prototypes=prototypes if weights else None,
            )


def _partners(
    flat: Mapping[str, tuple[int, int, bool]], count: int, rows: int, taken: tuple[str, ...]
) -> Iterator[Slot]:
    """Other outputs with as many boxes and so many rows."""
    for name, (a, b, is_4d) in flat.items():
        if name not in taken and (a, b) in ((rows, count), (count, rows)):
            yield Slot(name, 1 if (a, b) == (rows, count) and a != b else 2, 0, rows, is_4d)


def _judged(draft: Layout, values: Mapping[str, Array], said: Said) -> list[Layout] | str:
    """The draft with what its values show, in every way that they allow; or why it cannot be."""
    boxes = draft.boxes.rows(values).astype(np.float64)
    scores = draft.class_scores.rows(values)
    if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        return "holds values that are no numbers"
    if draft.form == "detections":
        ids = draft.class_ids.rows(values) if draft.class_ids is not None else scores
        if (ids != np.rint(ids)).any() or ids.min() < -1 or ids.max() >= draft.classes:
            return f"its last column is no class from 0 to {draft.classes - 1}"
        if _is_outside(scores):
            return "its fifth column is no probability"
        boxes = boxes.transpose(0, 2, 1)[scores[:, 0] > 0].T[np.newaxis]  # empty rows only fill up
    elif draft.form != "pair" and draft.classes == 2 - (draft.form == "objectness"):
        last = scores[:, -1]
        if values[draft.boxes.tensor].shape[2] == 6 and (last == np.rint(last)).all():
            return "its last column holds whole numbers"
    if draft.form == "objectness" and draft.boxes.axis == 1 and said.form is None:
        return "rows before boxes are unusual for it; say layout objectness if it is so"
    parts = [scores, *([draft.objectness.rows(values)] if draft.objectness is not None else [])]
    found_scores = "logits" if any(_is_outside(part) for part in parts) else "probabilities"
    if said.scores == "probabilities" and found_scores == "logits":
        return "its scores are no probabilities"
    draft = replace(draft, scores=said.scores or found_scores)
    reach = float(np.abs(boxes).max(initial=0))
    units = said.units or ("pixels" if reach > _LARGEST_SHARE else "normalised")
    if reach == 0 and said.units is None:
        return "it finds nothing on these images, so its boxes tell nothing; give <images> with objects"
    if units == "normalised" and reach > _FAR:
        return f"its boxes reach to {reach:.4g}, so they are no shares of the image"
    scale = np.array(draft.size[::-1] if units == "pixels" else (1, 1), np.float64)
    if said.coding and boxes.size and not _can_be(said.coding, boxes, scale):
        return f"its boxes are not {said.coding}: some would have a negative size"
    codings = [said.coding] if said.coding else _codings(boxes, scale, draft.form)
    if not codings:
        return "its first four rows are neither corners nor centre and size"
    return [replace(draft, units=units, coding=coding) for coding in codings]


def _is_outside(scores: Array) -> bool:
    return bool(scores.min(initial=0) < -1e-4 or scores.max(initial=0) > 1 + 1e-3)


def _can_be(coding: str, boxes: Array, scale: Array) -> bool:
    """Whether (B, 4, N) boxes read this way have a width and a height; nearly all, as networks do not promise it."""
    first, second = boxes[:, :2], boxes[:, 2:]
    sides = second if coding == "cxcywh" else second - first
    return bool((sides >= -1e-3 * scale[:, None]).mean() > 1 - _LARGEST_ODD_SHARE)


def _codings(boxes: Array, scale: Array, form: str) -> list[str]:
    """How (B, 4, N) boxes can be coded; `scale` is the (width, height) of the image in their units."""
    first, second = boxes[:, :2], boxes[:, 2:]
    slack = 1e-3 * scale[:, None]
    is_corners = bool((second >= first - slack).all())
    is_size = bool((second >= -slack).all())
    if form == "detections":  # by convention, and too few to tell
        return ["xyxy"] if is_corners else ["cxcywh"] if is_size else []
    if not is_corners:
        return ["cxcywh"] if is_size else []
    # Where the left corner goes the right one goes too; a width has little to do with where the centre is.
    if boxes[:, 0].size < _FEW:
        return ["xyxy", "cxcywh"]
    together = float(np.mean([_correlation(boxes[i, k], boxes[i, k + 2]) for i in range(len(boxes)) for k in (0, 1)]))
    return ["xyxy"] if together > 0.5 else ["cxcywh"] if together < 0.2 else ["xyxy", "cxcywh"]


def _correlation(a: Array, b: Array) -> float:
    """Of two rows; between the two answers where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.35
