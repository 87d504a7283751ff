"""The whole pipeline: one image in, four answers out, through whichever backend runs the graphs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .arguments import check_path
from .backends.base import Graph, ReportingGraph
from .backends.fastest import AUTO, choose_fastest
from .backends.registry import BACKENDS, backend_name, open_graphs
from .backends.tensorrt import missing_engines
from .backends.tensorrt.missing_engines import EngineBuilder
from .bundle.bundle import Bundle, ModelSpec
from .bundle.device_choices import chosen_caption_decoder
from .captions.captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from .captions.native_captioning import NativeCaptionDecoder
from .errors import BackendError, BundleError, UsageError
from .execution.graph_check import graph_complaints
from .execution.parts import ContextPool, ModelParts, Stopwatch
from .images.image_files import check_image, read_image
from .images.preprocess import PixelLayout
from .options import LoadOptions, PredictOptions, chosen
from .progress import Say
from .results import Result
from .stream.stream import Stream, StreamOptions, StreamSource
from .tracking.tracker import TrackerOptions
from .vision.contexts import Request
from .vision.open_vision import check_processing, open_vision

# What may write captions: the extension with weights in a precision, or the bundle's graphs.
CAPTION_DECODERS = {"native": "fp32", "native-int8": "int8", "graph": None}


class Model:
    """A network ready to answer. Threads may share it: each call at a time has memory of its own for its image.

    A model works only in the process that loaded it, not in a fork. An interrupted call (Ctrl-C) leaves it usable.

    Args:
        spec: What the model is.
        graphs: "vision", and with the caption task "caption_prefill" and "caption_step". They are closed with
            it.
        caption_decoder: Writes the captions instead of the graphs, which may be missing then.
        processing: See `load`.

    Raises:
        BundleError: If a graph is missing or its inputs or outputs do not fit the spec; every complaint at
            once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        graphs: Mapping[str, Graph],
        caption_decoder: NativeCaptionDecoder | None = None,
        processing: str | None = None,
    ):
        complaints = spec.complaints() + graph_complaints(spec, graphs, caption_decoder)
        if complaints:
            raise BundleError(f"{spec.name}: {'; '.join(complaints)}; export the model again")
        captions: CaptionWriter | None = caption_decoder
        if caption_decoder is None and "caption" in spec.tasks and spec.caption is not None:
            captions = CaptionDecoder(spec.caption, graphs["caption_prefill"], graphs["caption_step"])
        vision = open_vision(spec, graphs["vision"], processing)
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
        parts.shared.acquire()
        self.spec = parts.spec
        self._parts = parts
        self._contexts = ContextPool(parts)
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
    def not_finite(self) -> int:
        """Images so far, of this model and its clones, for which the network gave NaN or infinity.

        Their answers are wrong. On a CPU the scores of each image are looked at and one of the other heads in turn, on
        a GPU all heads of one image in a hundred.
        """
        return self._parts.not_finite

    @property
    def names(self) -> dict[int, str]:
        """Class name by index; a dictionary, so that code written for other detectors reads it unchanged."""
        return dict(enumerate(self.spec.class_names))

    @property
    def processing(self) -> str:
        """Where images are letterboxed and heads turned into answers: "gpu" or "cpu"."""
        return self._parts.processing

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"{self.spec.name}: a model can be neither pickled nor copied; load it in each worker process, and use "
            "clone() within this one"
        )

    def close(self) -> None:
        """Stop the model's streams and released the graphs; it cannot predict afterwards. Closing twice is harmless.

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
        self._contexts.close()
        self._parts.shared.release()

    def clone(self) -> Model:
        """Another model of the same network, for another camera or thread.

        It shares weights, sessions or engine, and the caption decoder's mapped weights, and has the memory for its
        images to itself. It is closed for itself; what is shared lives until the last is closed.

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
        class_agnostic: bool | None = None,
        caption: CaptionOptions | None = None,
        layout: PixelLayout = "bgr",
        options: PredictOptions = PredictOptions(),
    ) -> Result:
        """Predict for one image.

        Args:
            image: (h, w, 3) uint8 in BGR order as OpenCV reads it, (h, w) grey, or the path of an image file.
            tasks, score_threshold, iou_threshold, max_detections, class_agnostic, caption: See `PredictOptions`.
            layout: What the bytes of an array mean: "bgr" as above; "rgb", (h, w, 3); "grey", (h, w);
                "bgra" or "rgba", (h, w, 4), whose fourth is not looked at; or the bytes of a camera as they come,
                narrow-range BT.601: "nv12", (h * 3 / 2, w), or "yuyv", (h, w, 2), of even lengths. All are converted on
                the way into the network, without a copy of the image.
            options: All of these as one value; what is given beside it goes before.

        Returns:
            The result, in pixels of the image passed in.

        Raises:
            UsageError: If an argument is not as described, or this is a fork of the process that loaded the model. It
                is a ValueError as well.
            ImageError: If `image` is a path that cannot be read as an image.
            BackendError: If the network cannot run, or the model is closed.
        """
        stages = Stopwatch()
        request = Request.of(
            self.spec,
            chosen(
                options,
                tasks=tasks,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                max_detections=max_detections,
                class_agnostic=class_agnostic,
                caption=caption,
            ),
        )
        if isinstance(image, str | os.PathLike):
            if layout != "bgr":
                raise UsageError(f"{os.fspath(image)}: a file has no layout {layout!r}; pass its pixels as an array")
            image = read_image(image)
            stages.lap("decode")
        check_image(image, layout)
        self._check_usable()
        with self._parts.shared.held(), self._contexts.acquired() as context:
            return self._parts.answer(context, image, request, stages, layout=layout)

    __call__ = predict

    def stream(
        self,
        source: StreamSource,
        tasks: Collection[str] | None = None,
        *,
        in_flight: int | None = None,
        drop: str | None = None,
        caption_every: int | str | None = None,
        wait_for_captions: bool | None = None,
        layout: PixelLayout | None = None,
        track: bool | TrackerOptions | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool | None = None,
        caption: CaptionOptions | None = None,
        options: PredictOptions = PredictOptions(),
        stream_options: StreamOptions = StreamOptions(),
    ) -> Stream:
        """Predict for every image of a source, in order, with reading, network and captions side by side.

        Args:
            source: Whatever `open_source` takes; a `Source`; or any iterable of images of any sizes: as arrays,
                (h, w, 3) uint8 BGR or (h, w) grey; as paths; or as `Frame`s, whose times and names come back with the
                results. An item that is none of these, or cannot be read, is a result with an error.
            in_flight, drop, caption_every, wait_for_captions, layout, track: See `StreamOptions`.
            tasks, score_threshold, iou_threshold, max_detections, class_agnostic, caption: See `PredictOptions`.
            options, stream_options: All of these as two values; what is given beside them goes before.

        Returns:
            An iterator over `StreamResult`; a context manager that stops it.

        Raises:
            UsageError: If an argument is not as described, or nothing is at the source. It is a ValueError as well.
            ImageError: If a video or camera cannot be opened.
            BackendError: If the model is closed.
        """
        asked = chosen(
            options,
            tasks=tasks,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            caption=caption,
        )
        how = chosen(
            stream_options,
            in_flight=in_flight,
            drop=drop,
            caption_every=caption_every,
            wait_for_captions=wait_for_captions,
            layout=layout,
            track=track,
        )
        request = Request.of(self.spec, asked)
        self._check_usable()
        stream = Stream(self._parts, self._contexts, source, request, how)
        self._streams.add(stream)
        return stream

    def _check_usable(self) -> None:
        self._parts.home.check()
        if self._is_closed:
            raise BackendError(f"{self.spec.name}: the model is closed")


def load(
    bundle: Bundle | str | os.PathLike[str],
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    caption_decoder: str | None = None,
    processing: str | None = None,
    *,
    options: LoadOptions = LoadOptions(),
    build_if_missing: EngineBuilder | None = None,
) -> Model:
    """Open a bundle and make its network ready.

    Args:
        bundle: A bundle folder as written by `yolor-edge export`, or one already opened.
        backend, precision, threads, caption_decoder, processing: See `LoadOptions`, which has the defaults.
        options: All of these as one value; what is given beside it goes before.
        build_if_missing: Builds the engines that a TensorRT backend needs and that are not there; without it, nothing
            is built.

    Returns:
        The model; a context manager that closes it.

    Raises:
        BundleError: If the folder is not a whole and unaltered bundle.
        UsageError: If the backend is unknown or cannot have the post-processing asked for, or the bundle lacks the
            precision or the caption decoder.
        BackendError: If the backend is not installed or refuses a graph.
        EngineMismatchError: If the backend runs engines and there is none that fits.
    """
    if isinstance(backend, LoadOptions):
        raise UsageError("backend must be text, got LoadOptions; hand them over as options=...", argument="backend")
    how = chosen(
        options,
        backend=backend,
        precision=precision,
        threads=threads,
        caption_decoder=caption_decoder,
        processing=processing,
    )
    if not isinstance(bundle, Bundle):
        check_path("bundle", bundle)
    check_processing(backend_name(how.backend), how.processing)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    how = with_fastest(opened, how)
    check_processing(how.backend, how.processing)
    native = _native_caption_decoder(opened, _caption_decoder_choice(opened, how))
    parts = None if native is None else ("vision",)
    if build_if_missing is not None:
        missing_engines.build_if_missing(
            opened, how.backend, how.precision, parts or tuple(opened.graphs), build_if_missing
        )
    graphs = open_graphs(opened, how.backend, how.precision, how.threads, parts)
    try:
        return Model(opened.spec, graphs, native, how.processing)
    except BaseException as error:
        for graph in graphs.values():
            graph.close()
        if isinstance(error, BundleError):
            raise BundleError(f"{opened.path}: {error}") from error
        raise


def with_fastest(bundle: Bundle, options: LoadOptions, say: Say | None = None) -> LoadOptions:
    """`options` with what is fastest on this machine in place of "auto".

    Args:
        bundle: Opened.
        options: As for `load`.
        say: Called with a line before it is measured, and with the outcome.

    Raises:
        UsageError: If the backend is unknown.
        BackendError: If nothing of what is installed runs the bundle.
    """
    options = replace(options, backend=backend_name(options.backend))
    if AUTO not in (options.backend, options.precision):
        return options
    found = choose_fastest(bundle, options.backend, options.precision, options.threads, say)
    if say is not None:
        say(found.line())
    return replace(options, backend=found.backend, precision=found.precision)


def needed_parts(bundle: Bundle, options: LoadOptions) -> tuple[str, ...]:
    """The parts of a bundle whose graphs or engines `load` opens, told the same; neither name is "auto".

    Raises:
        UsageError: If there is no such caption decoder, or the bundle lacks its weights.
    """
    choice = _caption_decoder_choice(bundle, options)
    return tuple(bundle.graphs) if _native_caption_decoder(bundle, choice) is None else ("vision",)


def caption_decoder_name(bundle: Bundle, options: LoadOptions) -> str:
    """Of `CAPTION_DECODERS`, the one that `load`, told the same, has captions written by."""
    choice = _caption_decoder_choice(bundle, options)
    return choice or ("native" if CAPTION_DECODERS["native"] in bundle.caption_weights else "graph")


def _caption_decoder_choice(bundle: Bundle, options: LoadOptions) -> str | None:
    """What was asked for, else what was measured to be fastest here."""
    entry = BACKENDS.get(options.backend)  # one that is unknown is told of when its graphs are opened
    if options.caption_decoder is not None or entry is None or not entry.flavour:
        return options.caption_decoder
    return chosen_caption_decoder(bundle, options.backend, options.precision)


def _native_caption_decoder(bundle: Bundle, choice: str | None) -> NativeCaptionDecoder | None:
    """The decoder to use instead of the graphs, or None.

    Raises:
        UsageError: If there is no such choice, or the bundle lacks its weights.
        BundleError: If the weights do not fit.
    """
    if choice is not None and choice not in CAPTION_DECODERS:
        raise UsageError(
            f"<caption_decoder> must be one of {', '.join(CAPTION_DECODERS)}, got {choice!r}",
            argument="caption_decoder",
        )
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
