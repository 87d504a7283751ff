"""Scores of a model on a data set, through the one pipeline that ships."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..runtime.captions.captioning import CaptionOptions
from ..runtime.errors import UsageError
from ..runtime.model import Model
from ..runtime.model import load as open_model
from ..runtime.options import LoadOptions
from ..runtime.progress import Count
from ..runtime.results import Result
from .dataset.coco import CocoDataset
from .dataset.truth import Truth
from .scenes.scene_captions import caption_facts
from .scores import Scores, score_dataset, table_line

# Average precision integrates over all scores, so next to no box may be cut off beforehand.
SCORE_THRESHOLD = 0.001


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

    def table(self) -> str:
        lines = [self.scores.table()]
        if self.facts is not None:
            lines.append(self.facts.table())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

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
    data: str | os.PathLike[str],
    split: str | None = None,
    limit: int | None = None,
    *,
    load: LoadOptions = LoadOptions(),
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
) -> Evaluation:
    """Score a bundle on a data set in COCO's layout, without torch; `train.evaluate_checkpoint` scores a checkpoint.

    Args:
        bundle: Folder of a bundle.
        data: Folder of the data set.
        split: By default the first split whose name starts with "val", or the only one.
        limit: Score only the first images.
        load: How the bundle is opened.
        caption: How captions are searched for.
        progress: Called with images done and images in all.

    Raises:
        UsageError: If `limit` is not positive, or something is asked for that the bundle lacks.
        BundleError: If it is no bundle.
        DatasetError: If the data set cannot be read, or has other classes than the bundle.
    """
    dataset = CocoDataset.open(data, split=split, role="val")
    with open_model(bundle, options=load) as model:
        return score_model(model, dataset, limit, caption, progress, str(bundle))


def shared_tasks(model: Model, dataset: CocoDataset) -> list[str]:
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
    model: Model,
    dataset: CocoDataset,
    limit: int | None = None,
    caption: CaptionOptions | None = None,
    progress: Count | None = None,
    name: str = "",
    on_image: Callable[[int, Truth, Result], None] | None = None,
) -> Evaluation:
    """Score an opened model; see `evaluate`, and `score_dataset` for `on_image`."""
    if limit is not None and limit < 1:
        raise UsageError(f"<limit> must be at least 1, got {limit}", argument="limit")
    spec = model.spec
    tasks = shared_tasks(model, dataset)
    total = min(limit or len(dataset), len(dataset))
    judged: list[tuple[bool, bool]] = []
    # What a caption says of a scene is judged by its objects and its map, so both have to be there.
    is_scenes = dataset.info.get("description") == "yolor-edge scenes" and {"boxes", "semantic"} <= dataset.tasks
    has_facts = "caption" in tasks and is_scenes

    def take(done: int, truth: Truth, result: Result) -> None:
        if has_facts and result.caption is not None:
            facts = caption_facts(result.caption.text, truth, dataset.class_names, dataset.semantic_names)
            judged.append((facts.names_largest, facts.states_true_relation))
        if on_image is not None:
            on_image(done, truth, result)
        if progress is not None:
            progress("scoring", done, total)

    scores = score_dataset(
        dataset,
        lambda image: model.predict(image, tasks, score_threshold=SCORE_THRESHOLD, caption=caption),
        take,
        limit=total,
    )
    facts = None
    if judged:
        named, related = (sum(column) / len(judged) for column in zip(*judged, strict=True))
        facts = CaptionFacts(len(judged), named, related)
    return Evaluation(name or spec.name, str(dataset.root), dataset.split, scores, facts)
