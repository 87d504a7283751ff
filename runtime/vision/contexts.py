"""One image on its way through a model: what it is asked for, and the memory and stages it passes.

A `Vision` is the part of a network from pixels to boxes, masks and semantic map, wherever it is computed. It gives
contexts. An execution context holds the memory of one image in flight, and its stages are called in their order; by
one thread at a time, not always the same. Several contexts of one vision may be at work at once, which is what a
stream overlaps; where the network takes one image at a time, they take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.spec import ModelSpec, Thresholds
from ..captions.captioning import CaptionOptions
from ..errors import UsageError
from ..images.preprocess import KernelLayout
from ..options import PredictOptions
from .head_check import HeadCheck


@dataclass(frozen=True)
class Request:
    """What a call asks of a model, checked and with the model's defaults filled in.

    Attributes:
        tasks: In the order of the spec, "boxes" with "masks".
        limits: Of the boxes.
        class_agnostic: Let boxes of different classes suppress each other too.
        caption: How to search for the caption.
    """

    tasks: tuple[str, ...]
    limits: Thresholds
    class_agnostic: bool
    caption: CaptionOptions

    @classmethod
    def of(cls, spec: ModelSpec, options: PredictOptions = PredictOptions()) -> Request:
        """What `options` mean for a model.

        Raises:
            UsageError: If an option makes no sense, or asks for a task that the model does not have.
        """
        tasks = tuple(spec.choose_tasks(options.tasks))
        limits = Thresholds(
            spec.thresholds.score if options.score_threshold is None else options.score_threshold,
            spec.thresholds.iou if options.iou_threshold is None else options.iou_threshold,
            spec.thresholds.max_detections if options.max_detections is None else options.max_detections,
        )
        complaints = limits.complaints()
        if complaints:
            raise UsageError("; ".join(f"<{name}> {what}" for name, what in complaints.items()), tuple(complaints))
        search = options.caption or CaptionOptions()
        if "caption" in tasks and spec.caption is not None:
            search = search.for_model(spec.caption)
        return cls(tasks, limits, options.class_agnostic, search)


class ExecutionContext(Protocol):
    """The memory of one image in flight. Stages: `prepare`, `infer`, `finish`; then the next image."""

    @property
    def caption_memory(self) -> NDArray[np.float32]:
        """(1, L, D) float32 in host memory, from `infer` on and only until the next `prepare`; asked for by "caption".

        Raises:
            BackendError: If computing it failed.
        """
        ...

    def prepare(self, image: NDArray[np.uint8], layout: KernelLayout = "bgr") -> None:
        """Take an image, as `kernel_view` gives it, into the network's input; it is not looked at later.

        Raises:
            BackendError: If the device cannot hold it.
        """
        ...

    def infer(self, tasks: tuple[str, ...]) -> None:
        """Run the network as far as these tasks need; a device may still be at work when this returns.

        Raises:
            BackendError: If it fails.
        """
        ...

    def finish(self, request: Request, lap: Callable[[str], None]) -> dict[str, Any]:
        """The answers but for the caption, by the names of `Result`, in pixels of the image; owned by the caller.

        Args:
            request: With no task that `infer` was not told of.
            lap: Called with "boxes", "masks", "semantic" whenever that stage is done.

        Raises:
            BackendError: If computing them failed.
        """
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Vision(Protocol):
    """From pixels to boxes, masks, semantic map and caption memory.

    Attributes:
        processing: "gpu" where the kernels before and after the graph run there, else "cpu".
        check: Looks at the network's outputs.
    """

    processing: ClassVar[str]
    check: HeadCheck

    def context(self) -> ExecutionContext:
        """Memory for one more image in flight.

        Raises:
            BackendError: If the device has none left, or the model is closed.
        """
        ...

    def close(self) -> None:
        """Free everything; contexts are of no use afterwards. Closing twice is harmless."""
        ...
