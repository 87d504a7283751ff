"""The whole pipeline: one image in, four answers out, through whichever backend runs the graphs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import missing_engines
from .backends import BACKENDS, open_graphs
from .backends.base import Graph, ReportingGraph
from .bundle import Bundle, ModelSpec
from .captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from .device_choices import chosen_caption_decoder
from .errors import BackendError, BundleError, UsageError
from .graph_contract import graph_complaints
from .images import read_image
from .missing_engines import EngineBuilder
from .native_captioning import NativeCaptionDecoder
from .open_vision import open_vision
from .results import Caption, Result
from .slots import Request, Slot, Vision

# What may write captions: the extension with weights in a precision, or the bundle's graphs.
CAPTION_DECODERS = {"native": "fp32", "native-int8": "int8", "graph": None}


class Model:
    """A network ready to answer. Threads may share it where the backend's graphs allow it; ONNX Runtime's do.

    Args:
        spec: What the model is.
        graphs: "vision", and with the caption task "caption_prefill" and "caption_step". They are closed with
            it.
        caption_decoder: Writes the captions instead of the graphs, which may be missing then.
        post_processing: See `load`.

    Raises:
        BundleError: If a graph is missing or its inputs or outputs do not fit the spec; every complaint at
            once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        graphs: Mapping[str, Graph],
        caption_decoder: NativeCaptionDecoder | None = None,
        post_processing: str | None = None,
    ):
        complaints = spec.complaints() + graph_complaints(spec, graphs, caption_decoder)
        if complaints:
            raise BundleError(f"{spec.name}: {'; '.join(complaints)}; export the model again")
        self.spec = spec
        self._graphs = dict(graphs)
        self._vision: Vision = open_vision(spec, graphs["vision"], post_processing)
        self._is_closed = False
        self._of_thread = threading.local()
        self._caption_decoder: CaptionWriter | None = caption_decoder
        if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
            prefill, step = graphs["caption_prefill"], graphs["caption_step"]
            self._caption_decoder = CaptionDecoder(spec.caption, prefill, step)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def facts(self) -> dict[str, dict[str, str]]:
        """What a report should say of the parts that run on a device: engine, device, how they are launched."""
        return {part: dict(g.facts) for part, g in self._graphs.items() if isinstance(g, ReportingGraph)}

    def close(self) -> None:
        """Free the graphs; the model cannot predict afterwards. Closing twice is harmless."""
        self._is_closed = True
        self._vision.close()
        for graph in self._graphs.values():
            graph.close()

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
        request = Request.of(
            self.spec,
            tasks,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            caption=caption,
        )
        if isinstance(image, str | os.PathLike):
            image = read_image(image)
            stages.lap("decode")
        check_image(image)
        if self._is_closed:
            raise BackendError(f"{self.spec.name}: the model is closed")
        slot = self._slot_of_thread()
        slot.prepare(image)
        stages.lap("preprocess")
        slot.infer(request.tasks)
        stages.lap("network")
        answers = slot.finish(request, stages.lap)
        if "caption" in request.tasks:
            answers["caption"], times = self._caption(slot.caption_memory, request.caption)
            stages.lap("caption")
            stages.ms.update(times)
        return self._result((image.shape[0], image.shape[1]), answers, stages.finished())

    def _slot_of_thread(self) -> Slot:
        """This thread's memory for a picture, kept from call to call."""
        slot = getattr(self._of_thread, "slot", None)
        if slot is None:
            slot = self._of_thread.slot = self._vision.slot()
        return slot

    def _result(self, image_size: tuple[int, int], answers: Mapping[str, Any], timings_ms: dict[str, float]) -> Result:
        return Result(
            image_size=image_size,
            class_names=self.spec.class_names,
            semantic_names=self.spec.semantic_names,
            category_ids=self.spec.category_ids,
            timings_ms=timings_ms,
            **answers,
        )

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
    build_if_missing: EngineBuilder | None = None,
    post_processing: str | None = None,
) -> Model:
    """Open a bundle and make its network ready to answer.

    Args:
        bundle: A bundle folder as written by `yolor-edge export`, or one already opened.
        backend: What runs the graphs.
        precision: Of the graphs: "fp32", "fp16" or "int8", as far as the bundle holds them.
        threads: CPU threads; None for as many as this process may run on. The native caption decoder uses one.
        caption_decoder: What writes captions: "native", the extension with float32 weights; "native-int8", the
            same with int8 weights, faster and now and then of another word; "graph", the backend with the bundle's
            decoder graphs. None for what `benchmarks.caption_choice` found fastest on this GPU, else "native" where
            the bundle holds its weights, else "graph".
        build_if_missing: Builds the engines that a TensorRT backend needs and that are not there; without it, nothing
            is built.
        post_processing: What letterboxes pictures and turns heads into answers: "gpu", CUDA kernels beside the graph,
            or "cpu"; None for "gpu" with the TensorRT backends and "cpu" with the others. Answers are the same.

    Returns:
        The model; a context manager that closes it.

    Raises:
        BundleError: If the folder is not a whole and unaltered bundle.
        UsageError: If the backend is unknown, or the bundle lacks the precision or the caption decoder.
        BackendError: If the backend is not installed or refuses a graph.
        EngineMismatchError: If the backend runs engines and there is none that fits.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    caption_decoder = _caption_decoder_choice(opened, backend, precision, caption_decoder)
    native = _native_caption_decoder(opened, caption_decoder)
    parts = None if native is None else ("vision",)
    if build_if_missing is not None:
        missing_engines.build_if_missing(opened, backend, precision, parts or tuple(opened.graphs), build_if_missing)
    graphs = open_graphs(opened, backend, precision, threads, parts)
    try:
        return Model(opened.spec, graphs, native, post_processing)
    except BaseException as error:
        for graph in graphs.values():
            graph.close()
        if isinstance(error, BundleError):
            raise BundleError(f"{opened.path}: {error}") from error
        raise


def needed_parts(bundle: Bundle, backend: str, precision: str, caption_decoder: str | None = None) -> tuple[str, ...]:
    """The parts of a bundle whose graphs or engines `load` opens, told the same.

    Raises:
        UsageError: If there is no such caption decoder, or the bundle lacks its weights.
    """
    choice = _caption_decoder_choice(bundle, backend, precision, caption_decoder)
    return tuple(bundle.graphs) if _native_caption_decoder(bundle, choice) is None else ("vision",)


def _caption_decoder_choice(bundle: Bundle, backend: str, precision: str, asked: str | None) -> str | None:
    """What was asked for, else what was measured to be fastest here."""
    entry = BACKENDS.get(backend)  # one that is unknown is told of when its graphs are opened
    if asked is not None or entry is None or not entry.flavour:
        return asked
    return chosen_caption_decoder(bundle, backend, bundle.choose_precision(precision, backend))


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


def check_image(image: object) -> None:
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
