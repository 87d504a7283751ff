"""The validation split of a run, and which images of it are scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ..evaluation.dataset.coco import CocoDataset
from ..evaluation.dataset.opening import open_validation
from ..evaluation.dataset.truth import Truth
from ..evaluation.evaluator import Evaluation
from ..runtime.results import Result
from .network.any_network import AnyConfig, AnyNetwork
from .scoring import score_network


class Validation:
    """What a run is scored on.

    Args:
        whole: The split.
        most: Images that validations before the end score.

    Attributes:
        whole: The split.
        some: The images that every validation scores, so that their scores can be compared.
    """

    def __init__(self, whole: CocoDataset, most: int) -> None:
        self.whole = whole
        self.some = whole if len(whole) <= most else evenly_spread(whole, most)

    @property
    def is_partial(self) -> bool:
        return len(self.some) < len(self.whole)

    @classmethod
    def of(cls, dataset: CocoDataset, network: AnyConfig, most: int) -> Validation | None:
        """The validation split beside a training split, opened and checked before hours are spent; None without one.

        Raises:
            DatasetError: If it cannot be read, or has other classes than the network.
        """
        whole = open_validation(dataset)
        if whole is None:
            return None
        whole.require_classes(
            network.class_names if "boxes" in network.tasks and "boxes" in whole.tasks else None,
            network.semantic_names if "semantic" in network.tasks and "semantic" in whole.tasks else None,
        )
        return cls(whole, most) if any(task in whole.tasks for task in network.tasks) else None

    def score(
        self,
        network: AnyNetwork,
        on_image: Callable[[int, Truth, Result], None] | None = None,
        is_whole: bool = False,
    ) -> Evaluation:
        """Score a network on the images that every validation scores, or on the whole split."""
        return score_network(network, self.whole if is_whole else self.some, on_image)


class _Images:
    """Some of the images of a data set; all else is the data set's own."""

    def __init__(self, dataset: CocoDataset, indices: list[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Truth:
        return self._dataset[self._indices[index]]

    def __getattr__(self, name: str) -> Any:
        if name == "_dataset":  # asked for while a copy is being made
            raise AttributeError(name)
        return getattr(self._dataset, name)


def evenly_spread(dataset: CocoDataset, count: int) -> CocoDataset:
    """`count` images of a data set, or all, always the same ones: the first, the last and others evenly between."""
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()
    return cast(CocoDataset, _Images(dataset, indices))
