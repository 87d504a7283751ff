"""Scoring in several processes that train together: each predicts its share, and all score the results of all.

The results are taken up in the order of the images, so that the scores are those of one process, and the same in each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.truth import Truth
from ..runtime.errors import YolorEdgeError
from ..runtime.model import Model
from ..runtime.results import Result
from . import distributed


def shared(model: Model, dataset: CocoDataset) -> tuple[Model, CocoDataset]:
    """A model and a data set to be scored in their place by all processes at once: every image once, in order."""
    return cast(Model, SharedModel(model, dataset)), cast(CocoDataset, _Unread(dataset))


class SharedModel:
    """Answers for the images of a data set, one after the other, whatever images it is given.

    Args:
        model: Of this process; one with `predict_many` is given its `batch` of images at once.
        dataset: Whose images this process reads as far as they are its share.

    Attributes:
        spec: The model's.
        batch: Images whose results are exchanged at once.
    """

    def __init__(self, model: Any, dataset: CocoDataset) -> None:
        self.spec = model.spec
        self.batch: int = getattr(model, "batch", 1) * distributed.size()
        self._model, self._dataset = model, dataset
        self._next = 0
        self._ready: deque[Result] = deque()

    def predict(self, image: np.ndarray, tasks: Sequence[str], **options: Any) -> Result:
        """The result for the next image; see `Model.predict`.

        Raises:
            YolorEdgeError: In all processes, if an image cannot be read or predicted in one.
        """
        if not self._ready:
            count = min(self.batch, len(self._dataset) - self._next)
            own = range(self._next, self._next + count)[distributed.share(count)]
            self._next += count
            for results in distributed.gathered(self._results(own, tasks, options)):
                if isinstance(results, str):
                    raise YolorEdgeError(results)
                self._ready.extend(results)
        return self._ready.popleft()

    def predict_many(self, images: Sequence[np.ndarray], tasks: Sequence[str], **options: Any) -> list[Result]:
        """The results for as many images as are given."""
        return [self.predict(image, tasks, **options) for image in images]

    def _results(self, indices: range, tasks: Sequence[str], options: dict[str, Any]) -> list[Result] | str:
        """Of some images; or what went wrong, since the other processes wait for an answer."""
        try:
            images = [self._dataset.read(self._dataset[index]) for index in indices]
            if hasattr(self._model, "predict_many"):
                return self._model.predict_many(images, tasks, **options) if images else []
            return [self._model.predict(image, tasks, **options) for image in images]
        except (YolorEdgeError, RuntimeError, MemoryError) as error:
            return str(error).partition("\n")[0] or type(error).__name__


class _Unread:
    """A data set whose images are not read here; all else is its own."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Truth:
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, truth: Truth) -> np.ndarray:
        return np.empty((0, 0, 3), np.uint8)
