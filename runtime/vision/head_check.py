"""Looking for NaN and infinity in what a network gives: a sign of fp16 that overflows, or of weights that are broken.

Whatever is decoded from such numbers looks like an answer, or like an image with nothing in it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from ..backends.base import Array
from ..bundle.spec import ModelSpec

_HALF_INFINITY = 0x7C00
# On a device, whose heads stay there, the first image is looked at and then one of so many.
_SELDOM = 100


class HeadCheck:
    """Counts images whose heads are not finite, and warns about the first; for all contexts of a model.

    Args:
        spec: Of the model.

    Attributes:
        images: Those found so far.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.images = 0
        self._name = spec.name
        self._scores = spec.score_head if "boxes" in spec.tasks else ""
        self._lock = threading.Lock()
        self._turn = 0

    def look(self, heads: Mapping[str, Array]) -> None:
        """Look at the scores of an image, and at one of its other heads in turn."""
        others = [name for name in heads if name != self._scores]
        with self._lock:
            self._turn += 1
            chosen = [self._scores] if self._scores in heads else []
            chosen += others[self._turn % len(others) :][:1] if others else []
        self._judge(heads, chosen)

    def is_due(self) -> bool:
        """Whether the image at hand is one of those to bring the heads of to the host."""
        with self._lock:
            self._turn += 1
            return self._turn % _SELDOM == 1

    def look_at_all(self, heads: Mapping[str, Array]) -> None:
        """Look at all heads of an image."""
        self._judge(heads, heads)

    def _judge(self, heads: Mapping[str, Array], names: Iterable[str]) -> None:
        broken = next((name for name in names if not is_finite(heads[name])), None)
        if broken is None:
            return
        with self._lock:
            self.images += 1
            is_first = self.images == 1
        if is_first:
            warnings.warn(
                f"{self._name}: the output {broken!r} holds NaN or infinity, so the answers for this image are wrong "
                "(Model.not_finite counts such images); use fp32, or export fp16 with such images as --calibration",
                RuntimeWarning,
                stacklevel=2,
            )


def is_finite(head: Array) -> bool:
    """Whether a head holds neither NaN nor infinity; whole numbers always do."""
    if head.dtype == np.float16:  # numpy compares bits of halves many times as fast as halves
        return not head.size or int((head.view(np.uint16) & 0x7FFF).max()) < _HALF_INFINITY
    if head.dtype.kind != "f" or not head.size:
        return True
    return bool(np.isfinite(head.max())) and bool(np.isfinite(head.min()))  # either of them is NaN if one number is
