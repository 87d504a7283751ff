"""The whole pipeline: one image in, four answers out, through whichever backend runs the graphs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from .backends import open_graphs
from .backends.base import Array, Graph, TensorInfo
from .bundle import Bundle, ModelSpec
from .captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from .errors import BackendError, BundleError, UsageError
from .images import read_image
from .native_captioning import NativeCaptionDecoder
from .preprocess import Letterbox, preprocess
from .results import Caption, InstanceMasks, Result
from .spec import Thresholds
from .vision import by_rising_cell, map_to_image, run_one

OUTPUTS_OF_TASK = {
    "boxes": ("class_logits", "box_bins"),
    "masks": ("mask_coefficients", "prototypes"),
    "semantic": ("semantic_logits",),
    "caption": ("caption_memory",),
}
# What may write captions: the extension with weights in a precision, or the bundle's graphs.
CAPTION_DECODERS = {"native": "fp32", "native-int8": "int8", "graph": None}
MAX_CANDIDATES = 30000
MASK_STRIDE = 4
SEMANTIC_STRIDE = 8


class Model:
    """A network ready to answer. Threads may share it where the backend's graphs allow it; ONNX Runtime's do.

    Args:
        spec: What the model is.
        graphs: "vision", and with the caption task "caption_prefill" and "caption_step". They are closed with
            it.
        caption_decoder: Writes the captions instead of the graphs, which may be missing then.

    Raises:
        BundleError: If a graph is missing or its inputs or outputs do not fit the spec; every complaint at
            once.
    """

    def __init__(
        self, spec: ModelSpec, graphs: Mapping[str, Graph], caption_decoder: NativeCaptionDecoder | None = None
    ):
        complaints = spec.complaints() + _graph_complaints(spec, graphs, caption_decoder)
        if complaints:
            raise BundleError(f"{spec.name}: {'; '.join(complaints)}; export the model again")
        self.spec = spec
        self._graphs = dict(graphs)
        self._of_thread = threading.local()
        self._caption_decoder: CaptionWriter | None = caption_decoder
        if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
            prefill, step = graphs["caption_prefill"], graphs["caption_step"]
            self._caption_decoder = CaptionDecoder(spec.caption, prefill, step)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphs; the model cannot predict afterwards. Closing twice is harmless."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs = {}

    def predict(
        self,
        image: NDArray[np.uint8] | str | os.PathLike[str],
        tasks: Collection[str] | None = None,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
        caption: CaptionOptions | None = None,
    ) -> Result:
        """Answer for one image.

        Args:
            image: (h, w, 3) uint8 in BGR order as OpenCV reads it, (h, w) grey, or the path of a picture.
            tasks: Which answers to give, of "boxes", "masks", "semantic", "caption"; None for all the model
                has. "masks" brings "boxes" along, whose rows they belong to.
            score_threshold: Boxes score above this; None for the model's default.
            iou_threshold: Of two boxes of one class that overlap more, the lower-scored goes; None for the
                default.
            max_detections: Most boxes; None for the model's default.
            class_agnostic: Let boxes of different classes suppress each other too.
            caption: How to search for the caption; None for the defaults.

        Returns:
            The answers, in pixels of the image passed in.

        Raises:
            UsageError: If an argument is not as described. It is a ValueError as well.
            ImageError: If `image` is a path that cannot be read as a picture.
            BackendError: If the network cannot run, or the model is closed.
        """
        stages = _Stopwatch()
        chosen = self.spec.choose_tasks(tasks)
        limits = _limits(self.spec.thresholds, score_threshold, iou_threshold, max_detections)
        search = caption or CaptionOptions()
        if "caption" in chosen and self.spec.caption is not None:
            search.checked_length(self.spec.caption)
        if isinstance(image, str | os.PathLike):
            image = read_image(image)
            stages.lap("decode")
        _check_image(image)
        if not self._graphs:
            raise BackendError(f"{self.spec.name}: the model is closed")

        tensor, letterbox = preprocess(image, self.spec.preprocess, out=self._input_tensor())
        stages.lap("preprocess")
        wanted = [name for task in chosen for name in outputs_of(self.spec, task)]
        heads = run_one(self._graphs["vision"], tensor[np.newaxis], wanted)
        stages.lap("network")

        answers: dict[str, Any] = {}
        if "boxes" in chosen:
            found, columns = self._boxes(heads, letterbox, limits, class_agnostic)
            answers.update(found)
            stages.lap("boxes")
            if "masks" in chosen:
                answers["masks"] = _masks(heads, columns, found["boxes"], letterbox)
                stages.lap("masks")
        if "semantic" in chosen:
            answers["semantic_map"] = _semantic_map(heads, letterbox)
            stages.lap("semantic")
        if "caption" in chosen:
            answers["caption"], times = self._caption(heads["caption_memory"], search)
            stages.lap("caption")
            stages.ms.update(times)
        return Result(
            image_size=letterbox.image_size,
            class_names=self.spec.class_names,
            semantic_names=self.spec.semantic_names,
            category_ids=self.spec.category_ids,
            timings_ms=stages.finished(),
            **answers,
        )

    def _input_tensor(self) -> NDArray[np.float32]:
        """This thread's memory for the network's input: written anew in every call, read by no one after it."""
        tensor = getattr(self._of_thread, "tensor", None)
        if tensor is None:
            tensor = self._of_thread.tensor = np.empty((3, *self.spec.input_size), np.float32)
        return tensor

    def _boxes(
        self, heads: Mapping[str, Array], letterbox: Letterbox, limits: Thresholds, class_agnostic: bool
    ) -> tuple[dict[str, Array], Array]:
        """Boxes, scores and class ids in pixels of the image, and the column of the heads that each came from."""
        logits, bins, cells, order = heads["class_logits"][0], heads["box_bins"][0], None, None
        if self.spec.graph.top_k is not None:
            logits, bins, cells, order = by_rising_cell(heads)
        boxes, scores, class_ids, columns = _native.decode_boxes(
            logits,
            bins,
            strides=list(self.spec.strides),
            input_size=self.spec.input_size,
            score_threshold=limits.score,
            iou_threshold=limits.iou,
            max_detections=limits.max_detections,
            max_candidates=MAX_CANDIDATES,
            class_agnostic=class_agnostic,
            cells=cells,
        )
        if order is not None:
            columns = order[columns]
        boxes = letterbox.boxes_to_image(boxes)
        # A box that lay in the padding has nothing left of it inside the image.
        is_visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        found = {
            "boxes": boxes[is_visible],
            "scores": scores[is_visible],
            "class_ids": class_ids[is_visible],
        }
        return found, columns[is_visible]

    def _caption(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, dict[str, float]]:
        """The caption, and its own stages by name."""
        if self._caption_decoder is None:  # the constructor has checked that a caption task has its decoder
            raise BackendError(f"{self.spec.name}: has no caption decoder")
        caption, times = self._caption_decoder.write(memory, options)
        return caption, {
            "caption_first_token": times.first_token_ms,
            "caption_per_token": times.per_token_ms,
            "caption_tokens": times.tokens,
        }


def load(
    bundle: Bundle | str | os.PathLike[str],
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
    caption_decoder: str | None = None,
) -> Model:
    """Open a bundle and make its network ready to answer.

    Args:
        bundle: A bundle folder as written by `yolor-edge export`, or one already opened.
        backend: What runs the graphs.
        precision: Of the graphs: "fp32", "fp16" or "int8", as far as the bundle holds them.
        threads: CPU threads; None for as many as this process may run on. The native caption decoder uses one.
        caption_decoder: What writes captions: "native", the extension with float32 weights; "native-int8", the
            same with int8 weights, faster and now and then of another word; "graph", the backend with the bundle's
            decoder graphs. None for "native" where the bundle holds its weights, else "graph".

    Returns:
        The model; a context manager that closes it.

    Raises:
        BundleError: If the folder is not a whole and unaltered bundle.
        UsageError: If the backend is unknown, or the bundle lacks the precision or the caption decoder.
        BackendError: If the backend is not installed or refuses a graph.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    native = _native_caption_decoder(opened, caption_decoder)
    graphs = open_graphs(opened, backend, precision, threads, None if native is None else ("vision",))
    try:
        return Model(opened.spec, graphs, native)
    except BundleError as error:
        for graph in graphs.values():
            graph.close()
        raise BundleError(f"{opened.path}: {error}") from error


def _native_caption_decoder(bundle: Bundle, choice: str | None) -> NativeCaptionDecoder | None:
    """The decoder to use instead of the graphs, or None.

    Raises:
        UsageError: If there is no such choice, or the bundle lacks its weights.
        BundleError: If the weights do not fit.
    """
    if choice is not None and choice not in CAPTION_DECODERS:
        raise UsageError(f"caption_decoder must be one of {', '.join(CAPTION_DECODERS)}, got {choice!r}")
    if bundle.spec.caption is None or "caption" not in bundle.spec.tasks:
        return None
    precision = CAPTION_DECODERS[choice or "native"]
    if precision is None or (choice is None and precision not in bundle.caption_weights):
        return None
    if precision not in bundle.caption_weights:
        raise UsageError(
            f'{bundle.path}: holds no caption weights in {precision}; load with caption_decoder="graph" or export again'
        )
    return NativeCaptionDecoder(bundle.spec.caption, bundle.path / bundle.caption_weights[precision])


class _Stopwatch:
    """Milliseconds of each stage since the one before, and of all together."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._started = self._lap_started = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self.ms[stage] = (now - self._lap_started) / 1e6
        self._lap_started = now

    def finished(self) -> dict[str, float]:
        self.ms["total"] = (time.perf_counter_ns() - self._started) / 1e6
        return self.ms


def outputs_of(spec: ModelSpec, task: str) -> tuple[str, ...]:
    """The outputs of the vision graph that the answer to `task` is made of."""
    if task == "boxes" and spec.graph.top_k is not None:
        return (*OUTPUTS_OF_TASK[task], "cells")
    if task == "semantic" and spec.graph.semantic_map:
        return ("semantic_map",)
    return OUTPUTS_OF_TASK[task]


def _semantic_map(heads: Mapping[str, Array], letterbox: Letterbox) -> NDArray[np.uint8]:
    if "semantic_map" in heads:
        return map_to_image(heads["semantic_map"][0], letterbox)
    return _native.semantic_argmax(
        heads["semantic_logits"][0], letterbox.image_size, letterbox.geometry, SEMANTIC_STRIDE
    )


def _masks(
    heads: Mapping[str, Array], columns: Array, boxes: NDArray[np.float32], letterbox: Letterbox
) -> InstanceMasks:
    coefficients = np.ascontiguousarray(heads["mask_coefficients"][0][:, columns].T)  # (N, K)
    crops = _native.mask_crops(
        heads["prototypes"][0], coefficients, boxes, letterbox.image_size, letterbox.geometry, MASK_STRIDE
    )
    return InstanceMasks(crops, letterbox.image_size)


def _limits(default: Thresholds, score: float | None, iou: float | None, detections: int | None) -> Thresholds:
    """The thresholds of one call: what was passed, else the model's.

    Raises:
        UsageError: If one is out of range.
    """
    limits = Thresholds(
        default.score if score is None else score,
        default.iou if iou is None else iou,
        default.max_detections if detections is None else detections,
    )
    complaints = limits.complaints()
    if complaints:
        raise UsageError("; ".join(complaints))
    return limits


def _check_image(image: object) -> None:
    """Refuse anything but a uint8 picture.

    Raises:
        UsageError: Saying what it is instead.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(f"image must be a numpy array or the path of a picture, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise UsageError(f"image must be uint8 with values 0 to 255, got {image.dtype}")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise UsageError(f"image must have shape (height, width, 3) in BGR order or (height, width), got {image.shape}")
    if image.size == 0:
        raise UsageError(f"image must have at least one pixel, got shape {image.shape}")


def _graph_complaints(
    spec: ModelSpec, graphs: Mapping[str, Graph], caption_decoder: NativeCaptionDecoder | None
) -> list[str]:
    """Where the graphs' inputs and outputs do not fit the spec, in words; axes left free are not judged."""
    height, width = spec.input_size
    classes, semantic, batch = len(spec.class_names), len(spec.semantic_names), spec.graph.batch
    columns = spec.graph.top_k or spec.cells
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_logits": (batch, classes, columns),
        "box_bins": (batch, 4 * spec.reg_max, columns),
        "mask_coefficients": (batch, None, columns),
        "cells": (batch, columns),
        "prototypes": (batch, None, height // MASK_STRIDE, width // MASK_STRIDE),
        "semantic_logits": (batch, semantic, height // SEMANTIC_STRIDE, width // SEMANTIC_STRIDE),
        "semantic_map": (batch, height, width),
        "caption_memory": (batch, None, None),
    }
    outputs = {name: shapes[name] for task in spec.tasks if task in OUTPUTS_OF_TASK for name in outputs_of(spec, task)}
    if caption_decoder is not None:
        outputs["caption_memory"] = (batch, caption_decoder.dims.memory, caption_decoder.dims.width)
    found = _part_complaints("vision", graphs, {"images": (batch, 3, height, width)}, outputs)
    if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
        words = len(spec.caption.vocabulary)
        cache = {"present_keys": (None,) * 5, "present_values": (None,) * 5}
        cross = {"cross_keys": (None,) * 5, "cross_values": (None,) * 5}
        past = {"past_keys": (None,) * 5, "past_values": (None,) * 5}
        log_probs = {"log_probs": (None, words)}
        memory = {"caption_memory": (None, None, None), "tokens": (None,)}
        found += _part_complaints("caption_prefill", graphs, memory, {**log_probs, **cross, **cache})
        found += _part_complaints("caption_step", graphs, {"tokens": (None,), **past, **cross}, {**log_probs, **cache})
    return found


def _part_complaints(
    part: str,
    graphs: Mapping[str, Graph],
    inputs: Mapping[str, tuple[int | None, ...]],
    outputs: Mapping[str, tuple[int | None, ...]],
) -> list[str]:
    graph = graphs.get(part)
    if graph is None:
        return [f"there is no {part!r} graph"]
    found = [f"{part} has an unknown input {name!r}" for name in graph.inputs if name not in inputs]
    for kind, expected, present in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
        for name, shape in expected.items():
            if name not in present:
                found.append(f"{part} has no {kind} {name!r}")
            elif not _fits(shape, present[name]):
                wanted = ", ".join("any" if axis is None else str(axis) for axis in shape)
                found.append(f"{part} {kind} {name!r} has shape {present[name].shape}, expected ({wanted})")
    return found


def _fits(shape: tuple[int | None, ...], info: TensorInfo) -> bool:
    return len(shape) == len(info.shape) and all(
        want is None or isinstance(got, str) or want == got for want, got in zip(shape, info.shape, strict=True)
    )
