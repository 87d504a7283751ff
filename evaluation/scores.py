"""How good predictions are: boxes, masks, semantic and panoptic maps, captions, over the images with that truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..runtime.results import Result
from .caption_scores import bleu_counts, bleu_of, cider_by_image, rouge_l_by_image
from .caption_tokens import plain_words, ptb_words
from .dataset.coco import CocoDataset
from .dataset.segmentations import Rle, rle_from_segmentation
from .dataset.truth import PanopticMap, Truth
from .detection_scores import DetectionScores, Found, Objects
from .panoptic_scores import PanopticScores, Segments, merge, semantic_classes_of
from .score_table import score_table
from .semantic_scores import SemanticScores

RESAMPLES = 300
"""Times the images are drawn anew for an interval: its ends then vary by a tenth of its width from seed to seed."""


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation; None where the task has no truth or was not asked for.

    AP is COCO's: the mean over IoU 0.50 to 0.95, over classes with truth, at most 100 detections of a class in an
    image, crowds ignored; AR the recall reached with 1, 10 or 100 detections; "small" is below 32 x 32 pixels, "large"
    above 96 x 96. Semantic scores come from all labelled pixels; `miou` is the mean over the classes that occur in the
    truth, `fwiou` weighs each by its pixels there; `miou_off_borders` leaves out the pixels near borders of the truth,
    where that was asked for. PQ is that of the map which masks and semantic map make together. Captions are compared as
    lower-case words without punctuation (`caption_tokens.plain_words`); what ends in `_ptb` takes the words that COCO's
    own evaluation takes. All lie in 0..1, but CIDEr in 0..10.

    `intervals` holds, for the main scores, the two ends of the 95 % interval over images: the images are drawn anew,
    with replacement, and scored again (bootstrap percentiles; the word frequencies of CIDEr stay those of all images).
    """

    images: int
    images_by_task: Mapping[str, int]
    box_ap: float | None = None
    box_ap50: float | None = None
    box_ap75: float | None = None
    box_ap_small: float | None = None
    box_ap_medium: float | None = None
    box_ap_large: float | None = None
    box_ar1: float | None = None
    box_ar10: float | None = None
    box_ar100: float | None = None
    box_ar_small: float | None = None
    box_ar_medium: float | None = None
    box_ar_large: float | None = None
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None
    mask_ap_small: float | None = None
    mask_ap_medium: float | None = None
    mask_ap_large: float | None = None
    mask_ar1: float | None = None
    mask_ar10: float | None = None
    mask_ar100: float | None = None
    mask_ar_small: float | None = None
    mask_ar_medium: float | None = None
    mask_ar_large: float | None = None
    miou: float | None = None
    fwiou: float | None = None
    pixel_accuracy: float | None = None
    miou_off_borders: float | None = None
    pq: float | None = None
    sq: float | None = None
    rq: float | None = None
    pq_things: float | None = None
    sq_things: float | None = None
    rq_things: float | None = None
    pq_stuff: float | None = None
    sq_stuff: float | None = None
    rq_stuff: float | None = None
    bleu1: float | None = None
    bleu2: float | None = None
    bleu3: float | None = None
    bleu4: float | None = None
    cider: float | None = None
    rouge_l: float | None = None
    bleu1_ptb: float | None = None
    bleu2_ptb: float | None = None
    bleu3_ptb: float | None = None
    bleu4_ptb: float | None = None
    cider_ptb: float | None = None
    rouge_l_ptb: float | None = None
    box_ap_by_class: Mapping[str, float] = field(default_factory=dict)
    box_ar_by_class: Mapping[str, float] = field(default_factory=dict)
    mask_ap_by_class: Mapping[str, float] = field(default_factory=dict)
    mask_ar_by_class: Mapping[str, float] = field(default_factory=dict)
    iou_by_class: Mapping[str, float] = field(default_factory=dict)
    pq_by_class: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}
        found["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        return found

    def table(self, brief: bool = False) -> str:
        """The scores by task, aligned for a terminal; in brackets the intervals.

        Args:
            brief: Give one line a task.
        """
        lines = score_table(vars(self), self.images_by_task, self.intervals, brief)
        return lines or f"nothing to score in {self.images} images"


def score_dataset(
    dataset: CocoDataset,
    predict: Callable[[list[np.ndarray]], Sequence[Result]],
    on_image: Callable[[int, Truth, Result], None] | None = None,
    limit: int | None = None,
    *,
    batch: int = 1,
    boundary_ignore: int = 0,
    resamples: int = 0,
) -> Scores:
    """Predict every image of `dataset` and score the answers.

    Args:
        dataset: Its classes must be the predictor's; `dataset.require_classes` checks that.
        predict: From (height, width, 3) uint8 BGR images, at most `batch` of any sizes, to a `Result` each.
        on_image: Called after each image with how many are done, its truth and its result.
        limit: Score only the first images.
        batch: Images to predict at once; those after them are read meanwhile.
        boundary_ignore: See `Predictions`.
        resamples: See `Predictions.finish`.
    """
    predictions = Predictions(dataset.class_names, dataset.semantic_names, boundary_ignore)
    total = min(limit or len(dataset), len(dataset))

    def read(begin: int) -> list[tuple[Truth, np.ndarray]]:
        truths = [dataset[index] for index in range(begin, min(begin + batch, total))]
        return [(truth, dataset.read(truth)) for truth in truths]

    done = 0
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0)
        for begin in range(0, total, batch):
            pairs = ahead.result()
            ahead = reader.submit(read, begin + batch)
            results = predict([image for _, image in pairs])
            for (truth, _), result in zip(pairs, results, strict=True):
                predictions.add(truth, result)
                done += 1
                if on_image is not None:
                    on_image(done, truth, result)
    return predictions.finish(resamples)


class Predictions:
    """Collects results beside their truth, one image at a time, and scores them at the end.

    An image counts for a task when it has that truth and the result has that answer. What is kept of an image is what
    it adds to the scores, neither masks nor maps: some 60 bytes a detection.

    Args:
        class_names: The classes that `class_ids` of truth and results index.
        semantic_names: The classes that the semantic maps index. Those that `class_names` has too are the things.
        boundary_ignore: Also score semantic maps without the pixels so near to a border of the truth; 0 does not.
    """

    def __init__(
        self, class_names: Sequence[str], semantic_names: Sequence[str] = (), boundary_ignore: int = 0
    ) -> None:
        self._class_names = tuple(class_names)
        self._semantic_names = tuple(semantic_names)
        self._images = 0
        # Which images, counted from 0, have truth and an answer for a score.
        self._places: dict[str, list[int]] = {name: [] for name in ("box_ap", "mask_ap", "miou", "cider")}
        self._boxes = DetectionScores(class_names)
        self._masks = DetectionScores(class_names)
        self._semantic = SemanticScores(semantic_names)
        self._off_borders = SemanticScores(semantic_names, boundary_ignore) if boundary_ignore else None
        self._to_semantic = semantic_classes_of(class_names, semantic_names)
        self._things = {one for one in self._to_semantic if one is not None}
        self._panoptic = PanopticScores(semantic_names, self._things)
        self._references: list[tuple[str, ...]] = []
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
        if result.semantic_map is not None and truth.semantic is not None:
            self._add_maps(truth, result)
        if truth.captions and result.caption is not None:
            self._places["cider"].append(self._images - 1)
            self._references.append(truth.captions)
            self._candidates.append(result.caption.text)

    def _add_detections(self, truth: Truth, result: Result) -> None:
        assert truth.boxes is not None and truth.class_ids is not None
        assert truth.crowd is not None and truth.areas is not None
        assert result.boxes is not None and result.class_ids is not None and result.scores is not None
        _check_ids(truth.image_id, "class_ids", result.class_ids, len(self._class_names))
        if truth.known_classes is not None:
            result = result[truth.known_classes[result.class_ids]]  # of others nobody labelled what is there
            assert result.boxes is not None and result.class_ids is not None and result.scores is not None
        wanted = truth.annotated_boxes
        if wanted is None:
            wanted = _with_sizes(truth.boxes)
        found = _with_sizes(result.boxes)
        answers = result.class_ids, result.scores
        truths = Objects(wanted, truth.class_ids, truth.crowd, truth.areas)
        self._places["box_ap"].append(self._images - 1)
        self._boxes.add(truths, Found(found, *answers, found[:, 2] * found[:, 3]))
        if truth.rles is not None and result.masks is not None:
            # A box without a mask is ignored, as a crowd: what is found on it is neither right nor wrong.
            crowd = truth.crowd | ~truth.mask_known
            truths = Objects(_with_rectangles(truth), truth.class_ids, crowd, truth.areas)
            self._places["mask_ap"].append(self._images - 1)
            self._masks.add(truths, Found(result.masks, *answers, result.masks.areas()))

    def _add_maps(self, truth: Truth, result: Result) -> None:
        assert truth.semantic is not None and result.semantic_map is not None
        segments = None
        if isinstance(truth.semantic, PanopticMap):
            expected, segments = truth.semantic.read_segments(truth.size)
        else:
            expected = truth.semantic.read(truth.size)
        predicted = result.semantic_map
        if predicted.shape != expected.shape:
            raise ValueError(
                f"image {truth.image_id}: semantic_map must have shape {expected.shape}, got {predicted.shape}"
            )
        _check_ids(truth.image_id, "semantic_map", predicted, len(self._semantic_names))
        self._places["miou"].append(self._images - 1)
        self._semantic.add(expected, predicted)
        if self._off_borders is not None:
            self._off_borders.add(expected, predicted)
        if (
            isinstance(truth.semantic, PanopticMap)
            and segments is not None
            and result.masks is not None
            and self._things
        ):
            panoptic = truth.semantic
            crowds = [number for number, one in enumerate(panoptic.listed, 1) if one in panoptic.crowds]
            wanted = Segments(segments, [panoptic.classes[one] for one in panoptic.listed], crowds)
            self._panoptic.add(wanted, merge(result, self._to_semantic, self._things))

    def resampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Box AP, mask AP, mIoU and CIDEr as if each image were there several times, by the names of `Scores`.

        Args:
            weights: (resamples, images) integers: how often each image is taken, in the order they were added.

        Returns:
            (resamples,) float64 for each score that has truth; NaN where none of it was taken.
        """
        scores: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "box_ap": self._boxes.resampled_ap,
            "mask_ap": self._masks.resampled_ap,
            "miou": self._semantic.resampled_miou,
        }
        if self._candidates:
            wanted = [[" ".join(plain_words(text)) for text in texts] for texts in self._references]
            cider = cider_by_image(wanted, [" ".join(plain_words(text)) for text in self._candidates])
            scores["cider"] = lambda taken: taken @ cider / np.where(taken.any(1), taken.sum(1), np.nan)
        return {name: score(weights[:, self._places[name]]) for name, score in scores.items() if self._places[name]}

    def finish(self, resamples: int = 0, seed: int = 0) -> Scores:
        """The scores of everything added so far.

        Args:
            resamples: Draw the images anew so often for the intervals; 0 gives none.
            seed: Of these draws.
        """
        found: dict[str, Any] = {
            **self._boxes.figures("box"),
            **self._masks.figures("mask"),
            **self._semantic.figures(),
            **self._panoptic.figures(),
        }
        if self._off_borders is not None:
            found["miou_off_borders"] = self._off_borders.figures().get("miou")
        resampled: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
            "box_ap": (self._boxes.images, self._boxes.resampled_ap),
            "mask_ap": (self._masks.images, self._masks.resampled_ap),
            "miou": (self._semantic.images, self._semantic.resampled_miou),
            "pq": (self._panoptic.images, self._panoptic.resampled_pq),
        }
        if self._candidates:
            for suffix, words in (("", plain_words), ("_ptb", ptb_words)):
                captions = _CaptionScores(self._references, self._candidates, words)
                found.update({f"{name}{suffix}": value for name, value in captions.figures().items()})
                resampled.update(
                    {f"{name}{suffix}": (len(self._candidates), f) for name, f in captions.resampled.items()}
                )
        intervals = {}
        for name, (images, score) in resampled.items():
            if resamples and found.get(name) is not None:
                low, high = np.nanpercentile(score(_drawn(images, resamples, seed)), [2.5, 97.5])
                intervals[name] = (float(low), float(high))
        return Scores(
            images=self._images,
            images_by_task={
                "boxes": self._boxes.images,
                "masks": self._masks.images,
                "semantic": self._semantic.images,
                "panoptic": self._panoptic.images,
                "caption": len(self._candidates),
            },
            intervals=intervals,
            **found,
        )


class _CaptionScores:
    """BLEU, CIDEr and ROUGE-L in one kind of words.

    Args:
        references: The true captions of each image.
        candidates: The caption to score of each image.
        words: What a caption's words are.
    """

    def __init__(
        self, references: Sequence[Sequence[str]], candidates: Sequence[str], words: Callable[[str], list[str]]
    ) -> None:
        wanted = [[" ".join(words(text)) for text in texts] for texts in references]
        answers = [" ".join(words(text)) for text in candidates]
        self._bleu = bleu_counts(wanted, answers)
        self._cider = cider_by_image(wanted, answers)
        self._rouge = rouge_l_by_image(wanted, answers)
        self.resampled: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "bleu4": lambda weights: bleu_of(weights @ self._bleu)[:, 3],
            "cider": lambda weights: weights @ self._cider / len(answers),
            "rouge_l": lambda weights: weights @ self._rouge / len(answers),
        }

    def figures(self) -> dict[str, float]:
        """The scores by name."""
        bleu = bleu_of(self._bleu.sum(0)).tolist()
        scores = {f"bleu{order}": value for order, value in enumerate(bleu, 1)}
        return {**scores, "cider": float(self._cider.mean()), "rouge_l": float(self._rouge.mean())}


def _drawn(images: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, images) int64, how often each image is drawn when as many are drawn as there are."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(resamples)])


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


def _with_sizes(boxes: np.ndarray) -> np.ndarray:
    """xyxy rows as x, y, width, height in float64."""
    found = boxes.astype(np.float64).reshape(-1, 4)
    found[:, 2:] -= found[:, :2]
    return found


def _check_ids(image_id: int, name: str, ids: np.ndarray | None, count: int) -> None:
    if ids is not None and ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(f"image {image_id}: {name} must be in 0..{count - 1}, got {int(ids.min())}..{int(ids.max())}")
