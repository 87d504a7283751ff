"""Scores of a model on a data set, through the one pipeline that ships."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..runtime.arguments import check_count
from ..runtime.bundle.spec import ModelSpec
from ..runtime.captions.captioning import CaptionOptions
from ..runtime.errors import UsageError
from ..runtime.model import Model
from ..runtime.model import load as open_model
from ..runtime.options import LoadOptions
from ..runtime.progress import Count
from ..runtime.results import Result
from .dataset.coco import CocoDataset
from .dataset.opening import Data, open_dataset
from .dataset.truth import Truth
from .prediction_files import PredictionFiles, require_new_folder
from .scenes.scene_captions import caption_facts
from .score_table import class_table, table_line
from .scores import RESAMPLES, Scores, score_dataset

# Average precision integrates over all scores, so next to no box may be cut off beforehand.
SCORE_THRESHOLD = 0.001


@dataclass(frozen=True)
class ScoreOptions:
    """What is asked of an evaluation beside the scores.

    Attributes:
        resamples: Draw the images anew so often for the 95 % intervals of the main scores; 0 gives none.
        boundary_ignore: Also give the mIoU without the pixels that lie so near, in pixels, to a border between classes
            of the truth, where labels are uncertain; 0 does not.
        save_predictions: A new folder for the predictions in COCO's results format.
        draw_worst: A new folder for drawings of the images with the most misses.
        worst: How many to draw.

    Raises:
        UsageError: If a value is not as described.
    """

    resamples: int = RESAMPLES
    boundary_ignore: int = 0
    save_predictions: str | os.PathLike[str] | None = None
    draw_worst: str | os.PathLike[str] | None = None
    worst: int = 20

    def __post_init__(self) -> None:
        for name, least in (("resamples", 0), ("boundary_ignore", 0), ("worst", 1)):
            check_count(name, getattr(self, name))
            if getattr(self, name) < least:
                raise UsageError(f"<{name}> must be at least {least}, got {getattr(self, name)}", argument=name)

    def require_new_folders(self) -> None:
        """Refuse folders that hold something already, before anything is predicted.

        Raises:
            UsageError: Naming the folder.
        """
        for name in ("save_predictions", "draw_worst"):
            if getattr(self, name) is not None:
                require_new_folder(getattr(self, name), name)


PLAIN = ScoreOptions(resamples=0)
"""The scores alone."""


@runtime_checkable
class BatchPredictor(Protocol):
    """What answers like a `Model`, and takes `batch` images at once."""

    spec: ModelSpec
    batch: int

    def predict_many(
        self,
        images: Sequence[np.ndarray],
        tasks: Sequence[str],
        *,
        score_threshold: float,
        caption: CaptionOptions | None,
    ) -> list[Result]:
        """A result for each of at most `batch` images, (height, width, 3) uint8 BGR of any sizes."""
        ...


@dataclass(frozen=True)
class CaptionFacts:
    """What captions of scenes say, held against the truth.

    Attributes:
        images: Captions judged.
        names_largest: Share that names shape and colour of the largest object.
        states_true_relation: Share that states a spatial relation, and a true one.
    """

    images: int
    names_largest: float
    states_true_relation: float

    def table(self) -> str:
        shares = f"largest object named {self.names_largest:.1%}  true relation stated {self.states_true_relation:.1%}"
        return table_line("caption", self.images, shares)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split; `facts` only where the data set is made of scenes."""

    model: str
    data: str
    split: str
    scores: Scores
    facts: CaptionFacts | None

    def table(self, brief: bool = False) -> str:
        """The scores for a terminal; see `Scores.table`."""
        lines = [self.scores.table(brief)]
        if self.facts is not None:
            lines.append(self.facts.table())
        return "\n".join(lines)

    def class_table(self) -> str:
        """A line a class; empty if nothing is known by class."""
        return class_table(vars(self.scores))

    def __str__(self) -> str:
        """One line a task."""
        return self.table(brief=True)

    def to_json(self) -> dict[str, Any]:
        facts = None if self.facts is None else asdict(self.facts)
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "scores": self.scores.to_json(),
            "caption_facts": facts,
        }


def evaluate(
    bundle: str | os.PathLike[str],
    data: Data,
    split: str | None = None,
    limit: int | None = None,
    *,
    load: LoadOptions = LoadOptions(),
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    options: ScoreOptions = ScoreOptions(),
) -> Evaluation:
    """Score a bundle on a data set, without torch; `train.evaluate_checkpoint` scores a checkpoint.

    Args:
        bundle: Folder of a bundle.
        data: Folder of the data set, or several that are put together.
        split: By default the first split whose name starts with "val", or the only one.
        limit: Score only the first images.
        load: How the bundle is opened.
        caption: How captions are searched for.
        progress: Called with images done and images in all.
        options: Intervals, files and drawings.

    Raises:
        UsageError: If `limit` is not positive, a folder to write is there already, or something is asked for that the
            bundle lacks.
        BundleError: If it is no bundle.
        DatasetError: If the data set cannot be read, or has other classes than the bundle.
    """
    options.require_new_folders()
    dataset = open_dataset(data, split, "val")
    with open_model(bundle, options=load) as model:
        return score_model(model, dataset, limit, caption, progress, str(bundle), options)


def shared_tasks(model: Model | BatchPredictor, dataset: CocoDataset) -> list[str]:
    """The tasks that a model answers and a data set has truth for, with the same classes on both sides.

    Raises:
        UsageError: If there is none.
        DatasetError: If the classes differ.
    """
    spec = model.spec
    tasks = [task for task in spec.tasks if task in dataset.tasks]
    if not tasks:
        raise UsageError(
            f"{dataset.root} ({dataset.split}): has truth for {', '.join(sorted(dataset.tasks))}, "
            f"the model answers {', '.join(spec.tasks)}; nothing to score"
        )
    dataset.require_classes(
        spec.class_names if "boxes" in tasks else None, spec.semantic_names if "semantic" in tasks else None
    )
    return tasks


def score_model(
    model: Model | BatchPredictor,
    dataset: CocoDataset,
    limit: int | None = None,
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    name: str = "",
    options: ScoreOptions = PLAIN,
    on_image: Callable[[int, Truth, Result], None] | None = None,
) -> Evaluation:
    """Score an opened model; see `evaluate`, and `score_dataset` for `on_image`."""
    if limit is not None and limit < 1:
        raise UsageError(f"<limit> must be at least 1, got {limit}", argument="limit")
    options.require_new_folders()
    spec = model.spec
    tasks = shared_tasks(model, dataset)
    total = min(limit or len(dataset), len(dataset))
    judged: list[tuple[bool, bool]] = []
    # What a caption says of a scene is judged by its objects and its map, so both have to be there.
    is_scenes = dataset.info.get("description") == "yolor-edge scenes" and {"boxes", "semantic"} <= dataset.tasks
    has_facts = "caption" in tasks and is_scenes

    def predict(images: list[np.ndarray]) -> list[Result]:
        if isinstance(model, BatchPredictor):
            return model.predict_many(images, tasks, score_threshold=SCORE_THRESHOLD, caption=caption)
        return [model.predict(image, tasks, score_threshold=SCORE_THRESHOLD, caption=caption) for image in images]

    with contextlib.ExitStack() as stack:
        observers = []
        if options.save_predictions is not None:
            observers.append(stack.enter_context(PredictionFiles(options.save_predictions, dataset)))
        worst = None
        if options.draw_worst is not None:
            from .worst_misses import WorstMisses  # here, since drawing needs more of OpenCV than scoring does

            worst = WorstMisses(options.draw_worst, dataset, options.worst, spec.thresholds.score)
            observers.append(worst)

        def take(done: int, truth: Truth, result: Result) -> None:
            if has_facts and result.caption is not None:
                facts = caption_facts(result.caption.text, truth, dataset.class_names, dataset.semantic_names)
                judged.append((facts.names_largest, facts.states_true_relation))
            for one in observers:
                one.add(truth, result)
            if on_image is not None:
                on_image(done, truth, result)
            if progress is not None:
                progress("scoring", done, total)

        scores = score_dataset(
            dataset,
            predict,
            take,
            limit=total,
            batch=model.batch if isinstance(model, BatchPredictor) else 1,
            boundary_ignore=options.boundary_ignore,
            resamples=options.resamples,
        )
        if worst is not None:
            worst.write()
    facts = None
    if judged:
        named, related = (sum(column) / len(judged) for column in zip(*judged, strict=True))
        facts = CaptionFacts(len(judged), named, related)
    return Evaluation(name or spec.name, str(dataset.root), dataset.split, scores, facts)
