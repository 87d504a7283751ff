"""How good predictions are: box and mask AP, semantic IoU, BLEU, CIDEr, over the images with that truth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..runtime.bundle.tokenizer import normalise
from ..runtime.results import Result
from .caption_scores import bleu, cider
from .dataset.coco import CocoDataset
from .dataset.segmentations import Rle, rle_from_segmentation
from .dataset.truth import IGNORED, Truth


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation; None where the task has no truth or was not asked for.

    AP is COCO's: the mean over IoU 0.50 to 0.95, over classes with truth, at most 100 detections of a class
    in an image, crowds ignored; "small" is below 32 x 32 pixels, "large" above 96 x 96. Semantic scores come
    from one confusion matrix over all labelled pixels; `miou` is the mean over the classes that occur in the
    truth, `fwiou` weighs each by its pixels there. Captions are compared as lower-case words, no punctuation
    (`runtime.tokenizer.normalise`, not COCO's PTB tokenizer). All lie in 0..1, but CIDEr in 0..10.
    """

    images: int
    images_by_task: Mapping[str, int]
    box_ap: float | None = None
    box_ap50: float | None = None
    box_ap75: float | None = None
    box_ap_small: float | None = None
    box_ap_medium: float | None = None
    box_ap_large: float | None = None
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None
    mask_ap_small: float | None = None
    mask_ap_medium: float | None = None
    mask_ap_large: float | None = None
    miou: float | None = None
    fwiou: float | None = None
    pixel_accuracy: float | None = None
    bleu1: float | None = None
    bleu2: float | None = None
    bleu3: float | None = None
    bleu4: float | None = None
    cider: float | None = None
    box_ap_by_class: Mapping[str, float] = field(default_factory=dict)
    mask_ap_by_class: Mapping[str, float] = field(default_factory=dict)
    iou_by_class: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}

    def table(self) -> str:
        """One line per task that was scored, aligned for a terminal."""
        lines = []
        for task, columns in _TABLE.items():
            values = [(label, getattr(self, name)) for label, name in columns]
            if values[0][1] is not None:
                cells = "  ".join(f"{label} {'-' if v is None else format(v, '.3f'):<6}" for label, v in values)
                lines.append(table_line(task, self.images_by_task[task], cells))
        return "\n".join(lines) if lines else f"nothing to score in {self.images} images"


def table_line(what: str, images: int, cells: str) -> str:
    """A line of the table that `evaluate` prints."""
    return f"{what:<9}{images:>6} images  {cells}".rstrip()


_TABLE = {
    "boxes": (
        ("AP", "box_ap"),
        ("AP50", "box_ap50"),
        ("AP75", "box_ap75"),
        ("small", "box_ap_small"),
        ("medium", "box_ap_medium"),
        ("large", "box_ap_large"),
    ),
    "masks": (
        ("AP", "mask_ap"),
        ("AP50", "mask_ap50"),
        ("AP75", "mask_ap75"),
        ("small", "mask_ap_small"),
        ("medium", "mask_ap_medium"),
        ("large", "mask_ap_large"),
    ),
    "semantic": (("mIoU", "miou"), ("FWIoU", "fwiou"), ("pixel accuracy", "pixel_accuracy")),
    "caption": (("BLEU-4", "bleu4"), ("CIDEr", "cider"), ("BLEU-1", "bleu1")),
}


def score_dataset(
    dataset: CocoDataset,
    predict: Callable[[np.ndarray], Result],
    on_image: Callable[[int, Truth, Result], None] | None = None,
    limit: int | None = None,
) -> Scores:
    """Predict every image of `dataset` and score the answers.

    Args:
        dataset: Its classes must be the predictor's; `dataset.require_classes` checks that.
        predict: From a (height, width, 3) uint8 BGR image to its `Result`, `Model.predict` for one.
        on_image: Called after each image with how many are done, its truth and its result.
        limit: Score only the first images.
    """
    predictions = Predictions(dataset.class_names, dataset.semantic_names)
    for index in range(min(limit or len(dataset), len(dataset))):
        truth = dataset[index]
        result = predict(dataset.read(truth))
        predictions.add(truth, result)
        if on_image is not None:
            on_image(index + 1, truth, result)
    return predictions.finish()


class Predictions:
    """Collects results beside their truth, one image at a time, and scores them at the end.

    An image counts for a task when it has that truth and the result has that answer.

    Args:
        class_names: The classes that `class_ids` of truth and results index.
        semantic_names: The classes that the semantic maps index.
    """

    def __init__(self, class_names: Sequence[str], semantic_names: Sequence[str] = ()) -> None:
        self._class_names = tuple(class_names)
        self._semantic_names = tuple(semantic_names)
        self._images = 0
        self._boxes = _Detections()
        self._masks = _Detections()
        self._semantic_images = 0
        self._confusion = np.zeros((len(semantic_names), len(semantic_names)), np.int64)  # [truth, prediction]
        self._references: list[list[str]] = []
        self._candidates: list[str] = []

    def add(self, truth: Truth, result: Result) -> None:
        """Take the result for the image of `truth`.

        Raises:
            ValueError: If the result is of another image size, or names a class that does not exist.
        """
        if tuple(result.image_size) != truth.size:
            raise ValueError(f"image {truth.image_id} is {truth.size}, its result is of {result.image_size}")
        self._images += 1
        if truth.boxes is not None and result.boxes is not None:
            self._add_detections(truth, result)
        if result.semantic_map is not None:
            expected = truth.semantic_map()
            if expected is not None:
                self._add_semantic(truth.image_id, expected, result.semantic_map)
        if truth.captions and result.caption is not None:
            self._references.append([" ".join(normalise(text)) for text in truth.captions])
            self._candidates.append(" ".join(normalise(result.caption.text)))

    def _add_detections(self, truth: Truth, result: Result) -> None:
        _check_ids(truth.image_id, "class_ids", result.class_ids, len(self._class_names))
        if truth.known_classes is not None and result.class_ids is not None:
            result = result[truth.known_classes[result.class_ids]]  # of others nobody labelled what is there
        self._boxes.add(truth, result, _box_shapes(truth.boxes), _box_shapes(result.boxes))
        if truth.rles is not None and result.masks is not None:
            wanted = [{"segmentation": rle} for rle in _with_rectangles(truth)]
            areas = result.masks.areas().tolist()
            found = [{"segmentation": r, "area": a} for r, a in zip(result.masks.rle(), areas, strict=True)]
            # A box without a mask is ignored, as a crowd: what is found on it is neither right nor wrong.
            crowd = ~truth.mask_known if truth.crowd is None else truth.crowd | ~truth.mask_known
            self._masks.add(replace(truth, crowd=crowd), result, wanted, found)

    def _add_semantic(self, image_id: int, expected: np.ndarray, predicted: np.ndarray) -> None:
        if predicted.shape != expected.shape:
            raise ValueError(f"image {image_id}: semantic_map must have shape {expected.shape}, got {predicted.shape}")
        _check_ids(image_id, "semantic_map", predicted, len(self._semantic_names))
        classes = len(self._semantic_names)
        known = expected != IGNORED
        pairs = expected[known].astype(np.int64) * classes + predicted[known]
        self._confusion += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        self._semantic_images += 1

    def finish(self) -> Scores:
        """The scores of everything added so far."""
        found: dict[str, Any] = {}
        found.update(_average_precision("box", self._boxes, "bbox", self._class_names))
        found.update(_average_precision("mask", self._masks, "segm", self._class_names))
        if self._confusion.any():
            found.update(_semantic_scores(self._confusion, self._semantic_names))
        if self._candidates:
            found.update(
                zip(
                    ("bleu1", "bleu2", "bleu3", "bleu4"),
                    bleu(self._references, self._candidates),
                    strict=True,
                )
            )
            found["cider"] = cider(self._references, self._candidates)
        return Scores(
            images=self._images,
            images_by_task={
                "boxes": len(self._boxes.images),
                "masks": len(self._masks.images),
                "semantic": self._semantic_images,
                "caption": len(self._candidates),
            },
            **found,
        )


def _with_rectangles(truth: Truth) -> list[Rle]:
    """The mask of each box, its rectangle where it has none."""
    rles: Sequence[Rle | None] = truth.rles or ()
    corners = np.zeros((0, 4)) if truth.boxes is None else truth.boxes
    return [
        rle_from_segmentation((np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64),), truth.size)
        if rle is None
        else rle
        for rle, (x1, y1, x2, y2) in zip(rles, corners, strict=True)
    ]


def _check_ids(image_id: int, name: str, ids: np.ndarray | None, count: int) -> None:
    if ids is not None and ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(f"image {image_id}: {name} must be in 0..{count - 1}, got {int(ids.min())}..{int(ids.max())}")


_Shape = dict[str, Any]


class _Detections:
    """Truth and detections of some images, as the annotation dictionaries that pycocotools scores."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, truth: Truth, result: Result, wanted: list[_Shape], found: list[_Shape]) -> None:
        """Add one image. A shape has "bbox" or "segmentation", and in `found` also the "area" of it."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "height": truth.size[0], "width": truth.size[1]})
        for shape, *fields in zip(wanted, *_lists(truth.class_ids, truth.crowd, truth.areas), strict=True):
            annotation = dict(zip(("category_id", "iscrowd", "area"), fields, strict=True))
            # pycocotools takes 0 for "no match", so ids start at 1.
            self.truth.append({**shape, **annotation, "id": len(self.truth) + 1, "image_id": image_id})
        for shape, *fields in zip(found, *_lists(result.class_ids, result.scores), strict=True):
            annotation = dict(zip(("category_id", "score"), fields, strict=True))
            self.found.append({**shape, **annotation, "id": len(self.found) + 1, "image_id": image_id, "iscrowd": 0})


def _lists(*columns: np.ndarray | None) -> list[list[Any]]:
    return [[] if column is None else column.tolist() for column in columns]


def _box_shapes(boxes: np.ndarray | None) -> list[_Shape]:
    """xyxy rows as COCO's [x, y, width, height], each with its area."""
    return [
        {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for x1, y1, x2, y2 in ([] if boxes is None else boxes.tolist())
    ]


def _average_precision(
    prefix: str, detections: _Detections, kind: Literal["bbox", "segm"], class_names: Sequence[str]
) -> dict[str, Any]:
    """COCO's six AP figures and the AP by class; {} where there is no object to find."""
    present = sorted({annotation["category_id"] for annotation in detections.truth})
    if not present:
        return {}
    categories = [{"id": class_id, "name": class_names[class_id]} for class_id in present]
    found = [one for one in detections.found if one["category_id"] in set(present)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by printing.
        evaluation = COCOeval(
            _coco_of(detections.images, detections.truth, categories),
            _coco_of(detections.images, found, categories),
            kind,
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    labels = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    figures: dict[str, Any] = {
        f"{prefix}_{label}": float(value) if value >= 0 else None
        for label, value in zip(labels, evaluation.stats[:6], strict=True)
    }
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, classes); -1: no truth
    figures[f"{prefix}_ap_by_class"] = {
        class_names[class_id]: float(precision[:, :, k].mean())
        for k, class_id in enumerate(present)
        if precision[:, :, k].min() >= 0
    }
    return figures


def _coco_of(images: list[_Shape], annotations: list[_Shape], categories: list[_Shape]) -> COCO:
    coco: Any = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def _semantic_scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """IoU over the classes in the truth, from (classes, classes) pixel counts [truth, prediction]."""
    right = np.diag(confusion).astype(np.float64)
    expected = confusion.sum(1)
    union = expected + confusion.sum(0) - right
    present = expected > 0
    iou = right[present] / union[present]
    share = expected[present] / expected.sum()
    return {
        "miou": float(iou.mean()),
        "fwiou": float((share * iou).sum()),
        "pixel_accuracy": float(right.sum() / expected.sum()),
        "iou_by_class": {names[i]: float(x) for i, x in zip(np.flatnonzero(present).tolist(), iou, strict=True)},
    }
