"""Scores of a graph with what they are made of, image by image, so that two graphs can be told apart from noise.

A score of 20 images says little about the next 20. So the images are drawn again with replacement, the same for both
graphs (paired bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993), and what a task loses is an
interval. Matches of detections are kept by image, so that a draw costs no more than a sum over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...evaluation.caption_scores import common_length
from ...evaluation.caption_tokens import plain_words
from ...evaluation.dataset.coco import CocoDataset
from ...evaluation.dataset.truth import Truth
from ...evaluation.evaluator import SCORE_THRESHOLD, shared_tasks
from ...evaluation.scores import Predictions
from ...runtime.bundle.spec import ModelSpec
from ...runtime.errors import UsageError
from ...runtime.model import Model
from ...runtime.progress import Count
from ...runtime.results import Result

METRIC_OF_TASK = {"boxes": "box AP", "masks": "mask AP", "semantic": "mIoU", "caption": "CIDEr"}
DEFAULT_MAX_DROP = 0.01
MaxDrop = float | Mapping[str, float]
"""Largest drop of every score, or of the scores of tasks by name; others may drop by `DEFAULT_MAX_DROP`."""

_FIELDS = {"box AP": "box_ap", "mask AP": "mask_ap", "mIoU": "miou", "CIDEr": "cider"}
"""What `evaluation.scores` calls them."""
_DRAWS = 200
_CONFIDENCE = 0.95
_SAME_OBJECT = 0.5  # IoU from which a detection of one graph is that of the other
_FEWEST = 2  # images that can be drawn differently

Answer = Literal["within", "beyond", "cannot be told"]


def allowed_drops(max_drop: MaxDrop) -> dict[str, float]:
    """The largest drop of each score, by the names in `METRIC_OF_TASK`."""
    given = dict.fromkeys(METRIC_OF_TASK, max_drop) if isinstance(max_drop, (int, float)) else dict(max_drop)
    return {metric: float(given.get(task, DEFAULT_MAX_DROP)) for task, metric in METRIC_OF_TASK.items()}


def check_max_drop(max_drop: MaxDrop) -> None:
    """Refuse a budget that makes no sense.

    Raises:
        UsageError: Naming the task or the number.
    """
    given = {"": max_drop} if isinstance(max_drop, (int, float)) else max_drop
    for task, value in given.items():
        if task and task not in METRIC_OF_TASK:
            raise UsageError(
                f"<max_drop>: there is no task {task!r}; the tasks are {', '.join(METRIC_OF_TASK)}", argument="max_drop"
            )
        if not value >= 0:
            of = f" of {task}" if task else ""
            raise UsageError(f"<max_drop>{of} must not be negative, got {value}", argument="max_drop")


@dataclass(frozen=True)
class Verdict:
    """Whether a score lost more than it may, as far as the images can tell.

    Attributes:
        drop: What it lost on these images; negative where it gained.
        low, high: Between these the drop lies for 95 of 100 draws of as many images.
        max_drop: What is allowed.
        images: How many were scored.
        answer: "within" and "beyond" where the whole interval is, else "cannot be told".
        needed: About how many images would tell; None where it is told, or none would.
    """

    drop: float
    low: float
    high: float
    max_drop: float
    images: int
    answer: Answer
    needed: int | None = None

    def __str__(self) -> str:
        interval = f"the drop lies in {self.low:+.4f} .. {self.high:+.4f}"
        if self.answer != "cannot be told":
            return f"{self.answer} {self.max_drop:g}: {interval} ({self.images} images)"
        needs = "" if self.needed is None else f"; needs about {self.needed}"
        return f"cannot be told on {self.images} images: {interval}{needs}"


@dataclass(frozen=True)
class Agreement:
    """How far a graph's answers are those of fp32, whatever the truth is; None where there is nothing to compare.

    Attributes:
        kept: Detections above the bundle's thresholds.
        kept_in_fp32: Those of fp32.
        precision: Share of `kept` that fp32 keeps too, of the same class and with an IoU of 0.5 or more.
        recall: Share of `kept_in_fp32` that the graph keeps too.
        captions: Share of captions that are word by word the same.
        tokens: Share of words that both captions have in the same order: twice the longest common subsequence over
            both lengths, over all images.
    """

    kept: int | None = None
    kept_in_fp32: int | None = None
    precision: float | None = None
    recall: float | None = None
    captions: float | None = None
    tokens: float | None = None


class ImageScores(Mapping[str, float]):
    """Scores by the names in `METRIC_OF_TASK`, as far as there is truth for them, and what they are made of.

    Args:
        spec: Of the model: names of classes, and the thresholds that it ships with.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._predictions = Predictions(spec.class_names, spec.semantic_names)
        self._captions: list[list[str]] = []
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.int32]] | None] = []
        self._values: dict[str, float] | None = None
        self._draws: dict[str, NDArray[np.float64]] | None = None

    def add(self, truth: Truth, result: Result) -> None:
        """Take the result for one image: everything above a score of `SCORE_THRESHOLD`."""
        self._predictions.add(truth, result)
        self._kept.append(None)
        if result.boxes is not None and result.scores is not None and result.class_ids is not None:
            above = result.scores > self._spec.thresholds.score
            self._kept[-1] = (result.boxes[above], result.class_ids[above])
        if truth.captions and result.caption is not None:
            self._captions.append(plain_words(result.caption.text))

    @property
    def images(self) -> int:
        return len(self._kept)

    def __getitem__(self, name: str) -> float:
        return self._finished()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._finished())

    def __len__(self) -> int:
        return len(self._finished())

    def drawn(self, name: str) -> NDArray[np.float64]:
        """A score for each of the same random draws of images, (draws,); NaN where a draw has no truth for it."""
        if self._draws is None:
            draws = np.random.default_rng(0).multinomial(self.images, [1 / self.images] * self.images, _DRAWS)
            self._draws = self._resampled(draws)
        return self._draws[name]

    def verdict(self, name: str, other: ImageScores, max_drop: float) -> Verdict:
        """Whether `other`, scored on the same images, loses no more than `max_drop` of a score."""
        drop = self[name] - other[name]
        drops = self.drawn(name) - other.drawn(name)
        drops = drops[np.isfinite(drops)]
        low, high = drop, drop
        if len(drops):
            tail = 50 * (1 - _CONFIDENCE)
            low, high = (float(value) for value in np.percentile(drops, [tail, 100 - tail]))
        return verdict_of(drop, low, high, max_drop, self.images)

    def agreement(self, other: ImageScores) -> Agreement:
        """How far the answers of `other` are these, which are those of fp32."""
        pairs = [(a, b) for a, b in zip(self._kept, other._kept, strict=True) if a is not None and b is not None]
        kept_in_fp32, kept = (sum(len(one[i][0]) for one in pairs) for i in (0, 1))
        same = sum(_same_objects(a, b) for a, b in pairs)
        words = list(zip(self._captions, other._captions, strict=True))
        length = sum(len(a) + len(b) for a, b in words)
        return Agreement(
            kept=kept if pairs else None,
            kept_in_fp32=kept_in_fp32 if pairs else None,
            precision=same / kept if kept else None,
            recall=same / kept_in_fp32 if kept_in_fp32 else None,
            captions=sum(a == b for a, b in words) / len(words) if words else None,
            tokens=sum(2 * common_length(a, b) for a, b in words) / length if length else None,
        )

    def _finished(self) -> Mapping[str, float]:
        if self._values is None:
            found = self._resampled(np.ones((1, self.images), np.int64)) if self.images else {}
            self._values = {name: float(value[0]) for name, value in found.items() if np.isfinite(value[0])}
        return self._values

    def _resampled(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        found = self._predictions.resampled(weights)
        return {name: found[field] for name, field in _FIELDS.items() if field in found}


def score_images(
    model: Model, dataset: CocoDataset, progress: Count | None = None, limit: int | None = None
) -> ImageScores:
    """Predict the images of a data set and score the answers, as `evaluation.evaluator.score_model` does."""
    tasks = shared_tasks(model, dataset)
    found = ImageScores(model.spec)
    total = min(limit or len(dataset), len(dataset))
    for index in range(total):
        truth = dataset[index]
        found.add(truth, model.predict(dataset.read(truth), tasks, score_threshold=SCORE_THRESHOLD))
        if progress is not None:
            progress("scoring", index + 1, total)
    return found


def verdict_of(drop: float, low: float, high: float, max_drop: float, images: int) -> Verdict:
    """The answer that an interval gives."""
    if images >= _FEWEST and high <= max_drop:
        return Verdict(drop, low, high, max_drop, images, "within")
    if images >= _FEWEST and low > max_drop:
        return Verdict(drop, low, high, max_drop, images, "beyond")
    # An interval shrinks with the root of the images; it has to become as narrow as the way to what is allowed is.
    away = abs(max_drop - drop)
    half = max(high - drop, drop - low)
    needed = None
    if away > 1e-6 and images >= _FEWEST:
        exact = images * (half / away) ** 2
        digits = 10 ** max(0, len(str(int(exact))) - 2)
        needed = max(images + 1, math.ceil(exact / digits) * digits)
    return Verdict(drop, low, high, max_drop, images, "cannot be told", needed)


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """What is known of an agreement, rounded."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(agreement).items()
        if value is not None
    }


def _same_objects(
    a: tuple[NDArray[np.float32], NDArray[np.int32]], b: tuple[NDArray[np.float32], NDArray[np.int32]]
) -> int:
    """How many detections of two lists of boxes (N, 4) and class ids (N,) are the same, each of one other at most."""
    (boxes, classes), (others, other_classes) = a, b
    if not len(boxes) or not len(others):
        return 0
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod((corners[1] - corners[0]).clip(0), axis=2)
    sizes = [np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (boxes, others)]
    overlap = shared / np.maximum(sizes[0][:, None] + sizes[1][None, :] - shared, 1e-12)
    overlap[classes[:, None] != other_classes[None, :]] = 0
    same = 0
    while overlap.size and (best := overlap.argmax()) is not None:
        row, column = np.unravel_index(best, overlap.shape)
        if overlap[row, column] < _SAME_OBJECT:
            break
        overlap[row, :] = 0
        overlap[:, column] = 0
        same += 1
    return same
