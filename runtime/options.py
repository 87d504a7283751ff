"""What a caller chooses, as values that are handed on whole: how a bundle is opened, and what is asked of an image.

>>> LoadOptions(backend="openvino", precision="int8").backend
'openvino'
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from .arguments import check_count, check_flag, check_names, check_number, check_text, described
from .captions.captioning import CaptionOptions
from .errors import UsageError

Options = TypeVar("Options")  # a frozen dataclass


@dataclass(frozen=True)
class LoadOptions:
    """How `load` opens a bundle.

    Attributes:
        backend: What runs the graphs, a name from `backends.registry.BACKENDS`; or "auto", the fastest that is
            installed.
        precision: Of the graphs: "fp32", "fp16" or "int8" as far as the bundle holds them; or "auto", the fastest of
            those that were scored. What is fastest on this machine is measured once, in some seconds, and kept in the
            bundle's cache.
        threads: CPU threads; None for as many as this process may run on. The native caption decoder uses one.
        caption_decoder: What writes captions: "native", the extension with float32 weights; "native-int8", the same
            with int8 weights, faster, captions can differ slightly; "graph", the backend with the bundle's decoder
            graphs. None for what was measured to be fastest on this GPU, else "native" where the bundle holds its
            weights, else "graph".
        processing: What letterboxes images and decodes heads: "gpu", CUDA kernels beside the graph, or "cpu"; None
            for "gpu" with the TensorRT backends and "cpu" with the others. Results are the same.

    Raises:
        UsageError: If an option is of the wrong type.
    """

    backend: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None
    caption_decoder: str | None = None
    processing: str | None = None

    def __post_init__(self) -> None:
        check_text("backend", self.backend)
        check_text("precision", self.precision)
        check_count("threads", self.threads, or_none=True)
        check_text("caption_decoder", self.caption_decoder, or_none=True)
        check_text("processing", self.processing, or_none=True)


@dataclass(frozen=True)
class PredictOptions:
    """What is asked of each image; None is the model's own default.

    Attributes:
        tasks: Of "boxes", "masks", "semantic", "caption"; None for all the model has. "masks" brings "boxes" along.
        score_threshold: Boxes score above this.
        iou_threshold: Of two boxes of one class that overlap more, the lower-scored goes.
        max_detections: Most boxes of an image.
        class_agnostic: Let boxes of different classes suppress each other too.
        caption: How to search for the caption.

    Raises:
        UsageError: If an option is of the wrong type.
    """

    tasks: Collection[str] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    class_agnostic: bool = False
    caption: CaptionOptions | None = None

    def __post_init__(self) -> None:
        check_names("tasks", self.tasks)
        check_number("score_threshold", self.score_threshold, or_none=True)
        check_number("iou_threshold", self.iou_threshold, or_none=True)
        check_count("max_detections", self.max_detections, or_none=True)
        check_flag("class_agnostic", self.class_agnostic)
        if self.caption is None:
            return
        if not isinstance(self.caption, CaptionOptions):
            raise UsageError(
                f"<caption> must be CaptionOptions or None, got {described(self.caption)}; "
                "<tasks> says whether to write one",
                argument=("caption", "tasks"),
            )
        _check_search(self.caption)


def chosen(options: Options, **given: object) -> Options:
    """`options` with those that were given in place of its own; None is not given.

    Raises:
        UsageError: If one is of the wrong type.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(options, **changes) if changes else options  # type: ignore[arg-type]


def _check_search(options: CaptionOptions) -> None:
    """Refuse options of another type than their default; whether the numbers make sense is for the search to say."""
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name == "forbidden_words":
            check_names(one.name, value)
        elif isinstance(one.default, int) or one.name in ("beam_size", "max_length"):
            check_count(one.name, value, or_none=one.default is None)
        elif isinstance(one.default, float) or one.name in ("length_penalty", "budget_ms"):
            check_number(one.name, value, or_none=one.default is None)
