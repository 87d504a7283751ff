"""Scores of a graph with what they are made of, image by image, so that two graphs can be told apart from noise.

A score of 20 images says little about the next 20. So the images are drawn again with replacement, the same for both
graphs (paired bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993), and what a task loses is an
interval. Matches of detections are kept by image, so that a draw costs no more than a sum over them.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...evaluation.caption_scores import cider_by_image
from ...evaluation.dataset.coco import CocoDataset
from ...evaluation.dataset.truth import IGNORED, Truth
from ...evaluation.evaluator import SCORE_THRESHOLD, shared_tasks
from ...runtime.bundle.spec import ModelSpec
from ...runtime.bundle.tokenizer import normalise
from ...runtime.errors import UsageError
from ...runtime.model import Model
from ...runtime.progress import Count
from ...runtime.results import Result

METRIC_OF_TASK = {"boxes": "box AP", "masks": "mask AP", "semantic": "mIoU", "caption": "CIDEr"}
DEFAULT_MAX_DROP = 0.01
MaxDrop = float | Mapping[str, float]
"""Largest drop of every score, or of the scores of tasks by name; others may drop by `DEFAULT_MAX_DROP`."""

_DRAWS = 200
_CONFIDENCE = 0.95
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
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
        class_names: Classes of the truth.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._boxes = _Matches()
        self._masks = _Matches()
        classes = len(spec.semantic_names)
        self._areas: list[NDArray[np.int64] | None] = []  # (3, classes): right, expected and found pixels
        self._classes = classes
        self._references: list[list[str]] = []
        self._captions: list[str] = []
        self._captioned: list[int] = []
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.int32]] | None] = []
        self._terms: dict[str, Callable[[NDArray[np.float64]], float]] | None = None
        self._values: dict[str, float] = {}
        self._drawn: dict[str, NDArray[np.float64]] = {}

    def add(self, truth: Truth, result: Result) -> None:
        """Take the result for one image: everything above a score of `SCORE_THRESHOLD`."""
        place = len(self._kept)
        self._kept.append(None)
        self._areas.append(None)
        if result.boxes is not None and result.scores is not None and result.class_ids is not None:
            above = result.scores > self._spec.thresholds.score
            self._kept[-1] = (result.boxes[above], result.class_ids[above])
            if truth.boxes is not None:
                self._boxes.add(place, truth, result, _boxes(truth.boxes), _boxes(result.boxes), "bbox")
            if truth.rles is not None and result.masks is not None:
                areas = result.masks.areas().tolist()
                found = [{"segmentation": r, "area": a} for r, a in zip(result.masks.rle(), areas, strict=True)]
                self._masks.add(place, truth, result, [{"segmentation": rle} for rle in truth.rles], found, "segm")
        if result.semantic_map is not None:
            expected = truth.semantic_map()
            if expected is not None:
                known = expected != IGNORED
                wanted, found_map = expected[known], result.semantic_map[known]
                counts = [
                    np.bincount(one, minlength=self._classes)
                    for one in (wanted[wanted == found_map], wanted, found_map)
                ]
                self._areas[-1] = np.stack(counts)
        if truth.captions and result.caption is not None:
            self._references.append([" ".join(normalise(text)) for text in truth.captions])
            self._captions.append(" ".join(normalise(result.caption.text)))
            self._captioned.append(place)

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
        self._finished()
        assert self._terms is not None
        if name not in self._drawn:
            draws = np.random.default_rng(0).multinomial(self.images, [1 / self.images] * self.images, _DRAWS)
            self._drawn[name] = np.array([self._terms[name](weights) for weights in draws.astype(np.float64)])
        return self._drawn[name]

    def verdict(self, name: str, other: ImageScores, max_drop: float) -> Verdict:
        """Whether `other`, scored on the same images, loses no more than `max_drop` of a score."""
        drop = self[name] - other[name]
        drops = self.drawn(name) - other.drawn(name)
        drops = drops[np.isfinite(drops)]
        low, high = drop, drop
        if len(drops):
            tail = 50 * (1 - _CONFIDENCE)
            low, high = (float(value) for value in np.percentile(drops, [tail, 100 - tail * 1.0]))
        return verdict_of(drop, low, high, max_drop, self.images)

    def agreement(self, other: ImageScores) -> Agreement:
        """How far the answers of `other` are these, which are those of fp32."""
        pairs = [(a, b) for a, b in zip(self._kept, other._kept, strict=True) if a is not None and b is not None]
        kept_in_fp32, kept = (sum(len(one[i][0]) for one in pairs) for i in (0, 1))
        same = sum(_same_objects(a, b) for a, b in pairs)
        words = [(a.split(), b.split()) for a, b in zip(self._captions, other._captions, strict=True)]
        length = sum(len(a) + len(b) for a, b in words)
        return Agreement(
            kept=kept if pairs else None,
            kept_in_fp32=kept_in_fp32 if pairs else None,
            precision=same / kept if kept else None,
            recall=same / kept_in_fp32 if kept_in_fp32 else None,
            captions=sum(a == b for a, b in words) / len(words) if words else None,
            tokens=sum(2 * _common(a, b) for a, b in words) / length if length else None,
        )

    def _finished(self) -> Mapping[str, float]:
        if self._terms is None:
            self._terms = self._all_terms()
            whole = np.ones(self.images)
            self._values = {name: term(whole) for name, term in self._terms.items()}
        return self._values

    def _all_terms(self) -> dict[str, Callable[[NDArray[np.float64]], float]]:
        """For each score with truth, its value where every image is there so many times, (images,)."""
        terms: dict[str, Callable[[NDArray[np.float64]], float]] = {}
        for name, matches in (("box AP", self._boxes), ("mask AP", self._masks)):
            if matches.has_truth:
                terms[name] = matches.finish(self.images)
        areas = np.stack(
            [np.zeros((3, self._classes)) if one is None else one for one in self._areas] or [np.zeros((3, 0))]
        )
        if areas.any():
            terms["mIoU"] = lambda weights: _mean_iou(np.tensordot(weights, areas, 1))
        if self._captions:
            scores, places = cider_by_image(self._references, self._captions), np.array(self._captioned)

            def mean_cider(weights: NDArray[np.float64]) -> float:
                taken = weights[places]
                return float(taken @ scores / taken.sum()) if taken.any() else math.nan

            terms["CIDEr"] = mean_cider
        return terms


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


class _Matches:
    """Detections of some images, each with what it found at every IoU threshold."""

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], int]]] = {}
        self._objects: dict[int, list[tuple[int, int]]] = {}  # by class: image, objects that must be found
        self.has_truth = False

    def add(
        self,
        place: int,
        truth: Truth,
        result: Result,
        wanted: Sequence[dict[str, Any]],
        found: Sequence[dict[str, Any]],
        kind: Literal["bbox", "segm"],
    ) -> None:
        """Match the detections of one image with its objects, as COCO does."""
        assert truth.class_ids is not None and truth.crowd is not None and truth.areas is not None
        assert result.class_ids is not None and result.scores is not None
        self.has_truth |= len(truth.class_ids) > 0
        classes = sorted({*truth.class_ids.tolist(), *result.class_ids.tolist()})
        if not classes:
            return
        facts = zip(truth.class_ids.tolist(), truth.crowd.tolist(), truth.areas.tolist(), strict=True)
        objects = [
            {**shape, "category_id": c, "iscrowd": int(crowd), "area": area, "id": n, "image_id": 1}
            for n, (shape, (c, crowd, area)) in enumerate(zip(wanted, facts, strict=True), 1)
        ]
        facts = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        detections = [
            {**shape, "category_id": c, "score": score, "id": n, "image_id": 1, "iscrowd": 0}
            for n, (shape, (c, score)) in enumerate(zip(found, facts, strict=True), 1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by printing.
            evaluation = COCOeval(_coco(truth, classes, objects), _coco(truth, classes, detections), kind)
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
        for class_id, matches in zip(classes, evaluation.evalImgs, strict=True):
            if matches is None:
                continue
            ignored = np.asarray(matches["dtIgnore"], bool).reshape(len(_IOUS), -1)
            hit = np.asarray(matches["dtMatches"]).reshape(len(_IOUS), -1) > 0
            scores = np.asarray(matches["dtScores"], np.float64)
            self._rows.setdefault(class_id, []).append((scores, hit & ~ignored, ~hit & ~ignored, place))
            must = int(np.count_nonzero(np.asarray(matches["gtIgnore"]) == 0))
            self._objects.setdefault(class_id, []).append((place, must))

    def finish(self, images: int) -> Callable[[NDArray[np.float64]], float]:
        """AP where every image is there so many times, (images,)."""
        by_class = []
        for class_id, objects in self._objects.items():
            counts = np.zeros(images)
            for place, must in objects:
                counts[place] += must
            if not counts.any():
                continue
            rows = self._rows[class_id]
            scores = np.concatenate([one[0] for one in rows])
            order = np.argsort(-scores, kind="mergesort")
            hit, wrong = (np.concatenate([one[i] for one in rows], axis=1)[:, order] for i in (1, 2))
            owner = np.repeat([one[3] for one in rows], [len(one[0]) for one in rows])[order]
            found = np.flatnonzero(hit.any(0))
            last = found[-1] + 1 if len(found) else 0  # behind the last object found, precision is read no more
            by_class.append(
                (counts, hit[:, :last].astype(np.float64), wrong[:, :last].astype(np.float64), owner[:last])
            )

        def average_precision(weights: NDArray[np.float64]) -> float:
            values = [_average(weights[owner], hit, wrong, weights @ counts) for counts, hit, wrong, owner in by_class]
            known = [value for value in values if value is not None]
            return float(np.mean(known)) if known else math.nan

        return average_precision


def _average(
    weights: NDArray[np.float64], hit: NDArray[np.float64], wrong: NDArray[np.float64], objects: float
) -> float | None:
    """Average precision of a class, over IoU thresholds: rows by falling score, (thresholds, rows)."""
    if objects <= 0:
        return None
    if not len(weights):
        return 0.0
    right = np.cumsum(hit * weights, axis=1)
    all_rows = right + np.cumsum(wrong * weights, axis=1)
    precision = right / (all_rows + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / objects
    total = 0.0
    for t in range(len(_IOUS)):
        place = np.searchsorted(recall[t], _RECALLS, side="left")
        total += best[t, place[place < len(weights)]].sum()
    return total / (len(_IOUS) * len(_RECALLS))


def _coco(truth: Truth, classes: Sequence[int], annotations: list[dict[str, Any]]) -> COCO:
    coco: Any = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": truth.size[0], "width": truth.size[1]}],
        "annotations": annotations,
        "categories": [{"id": class_id, "name": str(class_id)} for class_id in classes],
    }
    coco.createIndex()
    return coco


def _boxes(boxes: NDArray[np.floating]) -> list[dict[str, Any]]:
    """xyxy rows as COCO's [x, y, width, height], each with its area."""
    return [{"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)} for x1, y1, x2, y2 in boxes.tolist()]


def _mean_iou(areas: NDArray[np.float64]) -> float:
    """Over the classes in the truth, from (3, classes) right, expected and found pixels."""
    right, expected, found = areas
    present = expected > 0
    if not present.any():
        return math.nan
    return float((right[present] / (expected + found - right)[present]).mean())


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


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
