"""The runtime: numpy, OpenCV and a native extension; no torch.

>>> from yolor_edge.runtime import load
>>> with load("bundles/demo") as model:  # doctest: +SKIP
...     result = model.predict("street.jpg")
...     print(result.caption.text, result.boxes, result.masks.full().shape, result.semantic_map.shape)
"""

from typing import TYPE_CHECKING

from .environment.lazy import lazily

if TYPE_CHECKING:
    from .bundle.bundle import Bundle
    from .bundle.facts import BundleFacts, inspect_bundle
    from .bundle.spec import ModelSpec
    from .captions.captioning import CaptionOptions
    from .diagnosis.examination import Diagnosis, doctor
    from .drawing import DrawOptions, draw
    from .errors import (
        BackendError,
        BackendMissingError,
        BundleError,
        EngineBuildError,
        EngineMismatchError,
        ImageError,
        UnavailableError,
        UsageError,
        YolorEdgeError,
    )
    from .images.image_files import read_image
    from .images.preprocess import PixelLayout
    from .model import Model, load
    from .options import LoadOptions, PredictOptions
    from .results import Caption, Detection, InstanceMasks, MaskCanvas, MaskCrop, Result
    from .runner.outputs import RunOptions
    from .runner.runner import RunLines, RunSummary, run
    from .sources.capture import CameraOptions
    from .sources.sources import Frame, Source, open_source
    from .stream.scene_change import SceneChange
    from .stream.stream import Stream, StreamOptions
    from .stream.stream_results import StreamResult, StreamStatistics
    from .tracking.regions import Crossing, Line, RegionCounter, Zone
    from .tracking.tracker import Track, Tracker, TrackerOptions
    from .verification.replay import Replay, Verification, verify, verify_everything

__getattr__, __dir__ = lazily(
    __name__,
    {
        ".bundle.bundle": ("Bundle",),
        ".bundle.facts": ("BundleFacts", "inspect_bundle"),
        ".bundle.spec": ("ModelSpec",),
        ".captions.captioning": ("CaptionOptions",),
        ".diagnosis.examination": ("Diagnosis", "doctor"),
        ".drawing": ("DrawOptions", "draw"),
        ".errors": (
            "BackendError",
            "BackendMissingError",
            "BundleError",
            "EngineBuildError",
            "EngineMismatchError",
            "ImageError",
            "UnavailableError",
            "UsageError",
            "YolorEdgeError",
        ),
        ".images.image_files": ("read_image",),
        ".images.preprocess": ("PixelLayout",),
        ".model": ("Model", "load"),
        ".options": ("LoadOptions", "PredictOptions"),
        ".results": ("Caption", "Detection", "InstanceMasks", "MaskCanvas", "MaskCrop", "Result"),
        ".runner.outputs": ("RunOptions",),
        ".runner.runner": ("RunLines", "RunSummary", "run"),
        ".sources.capture": ("CameraOptions",),
        ".sources.sources": ("Frame", "Source", "open_source"),
        ".stream.scene_change": ("SceneChange",),
        ".stream.stream": ("Stream", "StreamOptions"),
        ".stream.stream_results": ("StreamResult", "StreamStatistics"),
        ".tracking.regions": ("Crossing", "Line", "RegionCounter", "Zone"),
        ".tracking.tracker": ("Track", "Tracker", "TrackerOptions"),
        ".verification.replay": ("Replay", "Verification", "verify", "verify_everything"),
    },
)
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
