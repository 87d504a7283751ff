"""The whole pipeline: one image in, four answers out, through whichever backend runs the graphs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Mapping
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .arguments import check_count, check_path, check_text
from .backends import missing_engines
from .backends.base import Graph, ReportingGraph
from .backends.missing_engines import EngineBuilder
from .backends.registry import BACKENDS, backend_name, open_graphs
from .bundle.bundle import Bundle, ModelSpec
from .bundle.device_choices import chosen_caption_decoder
from .bundle.tensors import graph_complaints
from .captions.captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from .captions.native_captioning import NativeCaptionDecoder
from .errors import BackendError, BundleError, UsageError
from .execution.parts import ModelParts, SlotPool, Stopwatch
from .images.image_files import check_image, read_image
from .images.preprocess import PixelLayout
from .results import Result
from .stream.stream import Stream, StreamOptions, StreamSource
from .vision.contexts import Request
from .vision.open_vision import check_post_processing, open_vision

# What may write captions: the extension with weights in a precision, or the bundle's graphs.
CAPTION_DECODERS = {"native": "fp32", "native-int8": "int8", "graph": None}


class Model:
    """A network ready to answer. Threads may share it: each call at a time has memory of its own for its picture.

    A model works only in the process that loaded it, not in a fork. An interrupted call (Ctrl-C) leaves it usable.

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
        captions: CaptionWriter | None = caption_decoder
        if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
            captions = CaptionDecoder(spec.caption, graphs["caption_prefill"], graphs["caption_step"])
        vision = open_vision(spec, graphs["vision"], post_processing)
        parts = dict(graphs)

        def free() -> None:
            vision.close()
            if isinstance(captions, CaptionDecoder):
                captions.close()
            for graph in parts.values():
                graph.close()

        def facts() -> dict[str, dict[str, str]]:
            return {part: dict(g.facts) for part, g in parts.items() if isinstance(g, ReportingGraph)}

        self._own(ModelParts(spec, vision, captions, free, facts))

    @classmethod
    def of(cls, parts: ModelParts) -> Model:
        """A model of these parts, which are freed with the last model of them."""
        model = cls.__new__(cls)
        model._own(parts)
        return model

    def _own(self, parts: ModelParts) -> None:
        parts.shared.hold()
        self.spec = parts.spec
        self._parts = parts
        self._slots = SlotPool(parts)
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._is_closed = False

    def __repr__(self) -> str:
        height, width = self.spec.input_size
        state = ", closed" if self._is_closed else ""
        return f"Model({self.spec.name!r}, {', '.join(self.spec.tasks)}, input {width}x{height}{state})"

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def facts(self) -> dict[str, dict[str, str]]:
        """What a report should say of the parts that run on a device: engine, device, how they are launched."""
        return self._parts.facts()

    @property
    def post_processing(self) -> str:
        """Where pictures are letterboxed and heads turned into answers: "gpu" or "cpu"."""
        return self._parts.post_processing

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"{self.spec.name}: a model can be neither pickled nor copied; load it in each worker process, and use "
            "clone() within this one"
        )

    def close(self) -> None:
        """Stop the model's streams and let go of the graphs; it cannot predict afterwards. Closing twice is harmless.

        Graphs are freed when the last of the model and its clones is closed, and no call in another thread is at work
        any more. In a fork of the process that loaded the model nothing is freed.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if not self._parts.home.is_here:
            return
        for stream in list(self._streams):
            stream.end_with_model(f"{self.spec.name}: the model was closed while its stream ran")
        self._slots.close()
        self._parts.shared.let_go()

    def clone(self) -> Model:
        """Another model of the same network, for another camera or thread.

        It shares weights, sessions or engine, and the caption decoder's mapped weights, and has the memory for its
        pictures to itself. It is closed for itself; what is shared lives until the last is closed.

        Raises:
            UsageError: In a fork of the process that loaded the model.
            BackendError: If the model is closed.
        """
        self._check_usable()
        return Model.of(self._parts)

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
        layout: PixelLayout = "interleaved",
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
            layout: What the bytes of an array mean: "interleaved" as above, which is "bgr" or "grey"; "rgb", (h, w, 3);
                "bgra" or "rgba", (h, w, 4), whose fourth is not looked at; or the bytes of a camera as they come,
                narrow-range BT.601: "nv12", (h * 3 / 2, w), or "yuyv", (h, w, 2), of even lengths. All are converted on
                the way into the network, without a copy of the picture.

        Returns:
            The answers, in pixels of the image passed in.

        Raises:
            UsageError: If an argument is not as described, or this is a fork of the process that loaded the model. It
                is a ValueError as well.
            ImageError: If `image` is a path that cannot be read as a picture.
            BackendError: If the network cannot run, or the model is closed.
        """
        stages = Stopwatch()
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
            if layout not in ("interleaved", "bgr"):
                raise UsageError(f"{os.fspath(image)}: a file has no layout {layout!r}; pass its pixels as an array")
            image = read_image(image)
            stages.lap("decode")
        check_image(image, layout)
        self._check_usable()
        with self._parts.shared.held(), self._slots.lent() as slot:
            return self._parts.answer(slot, image, request, stages, layout=layout)

    def stream(
        self,
        source: StreamSource,
        tasks: Collection[str] | None = None,
        *,
        in_flight: int = 2,
        drop: str = "auto",
        caption_every: int | str = 1,
        wait_for_captions: bool | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
        caption: CaptionOptions | None = None,
        layout: PixelLayout = "interleaved",
    ) -> Stream:
        """Answer for every picture of a source, in order, with reading, network and captions side by side.

        Args:
            source: Whatever `open_source` takes; a `Source`; or any iterable of pictures of any sizes: as arrays,
                (h, w, 3) uint8 BGR or (h, w) grey; as paths; or as `Frame`s, whose times and names come back with the
                answers. An item that is none of these, or cannot be read, is an answer with an error.
            tasks: As for `predict`, like the arguments not named here.
            in_flight: Pictures worked on at once, each with its own memory on the device. With 1 a picture takes as
                long as with `predict`, and only reading runs beside it; more raise the pictures per second.
            drop: What happens when pictures come faster than answers: "oldest" leaves out the oldest that is waiting,
                "none" lets the source wait, "auto" is "oldest" for what is live (a camera or an address) and "none" for
                files and iterables.
            caption_every: Caption every so many pictures, or those that show another scene than the one captioned last
                ("scene-change", see `SceneChange`). Others carry the last caption, see `Answer`.
            wait_for_captions: Whether the answer of a captioned picture waits for its caption. Otherwise a caption is
                written beside the pictures that follow, and comes with the first of them that finds it done; one whose
                turn comes while another is being written waits for it, and is left out if a later one waits too. None
                to wait where every picture is captioned or none may be dropped.
            layout: Of the pictures of an iterable, as for `predict`; sources that are opened have their own.

        Returns:
            An iterator over `Answer`; a context manager that stops it.

        Raises:
            UsageError: If an argument is not as described, or nothing is at the source. It is a ValueError as well.
            ImageError: If a video or camera cannot be opened.
            BackendError: If the model is closed.
        """
        request = Request.of(
            self.spec,
            tasks,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            caption=caption,
        )
        options = StreamOptions(in_flight, drop, caption_every, wait_for_captions, layout)
        self._check_usable()
        stream = Stream(self._parts, self._slots, source, request, options)
        self._streams.add(stream)
        return stream

    def _check_usable(self) -> None:
        self._parts.home.check()
        if self._is_closed:
            raise BackendError(f"{self.spec.name}: the model is closed")


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
            decoder graphs. None for what `yolor-edge build` found fastest on this GPU, else "native" where
            the bundle holds its weights, else "graph".
        build_if_missing: Builds the engines that a TensorRT backend needs and that are not there; without it, nothing
            is built.
        post_processing: What letterboxes pictures and turns heads into answers: "gpu", CUDA kernels beside the graph,
            or "cpu"; None for "gpu" with the TensorRT backends and "cpu" with the others. Answers are the same.

    Returns:
        The model; a context manager that closes it.

    Raises:
        BundleError: If the folder is not a whole and unaltered bundle.
        UsageError: If the backend is unknown or cannot have the post-processing asked for, or the bundle lacks the
            precision or the caption decoder.
        BackendError: If the backend is not installed or refuses a graph.
        EngineMismatchError: If the backend runs engines and there is none that fits.
    """
    check_text("backend", backend)
    check_text("precision", precision)
    check_count("threads", threads, or_none=True)
    check_text("caption_decoder", caption_decoder, or_none=True)
    check_text("post_processing", post_processing, or_none=True)
    if not isinstance(bundle, Bundle):
        check_path("bundle", bundle)
    backend = backend_name(backend)
    check_post_processing(backend, post_processing)
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


def caption_decoder_name(bundle: Bundle, backend: str, precision: str, caption_decoder: str | None = None) -> str:
    """Of `CAPTION_DECODERS`, the one that `load`, told the same, has captions written by."""
    choice = _caption_decoder_choice(bundle, backend, precision, caption_decoder)
    return choice or ("native" if CAPTION_DECODERS["native"] in bundle.caption_weights else "graph")


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
