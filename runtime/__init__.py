"""The runtime: numpy, OpenCV and a native extension; no torch.

>>> from yolor_edge.runtime import load
>>> with load("bundles/demo") as model:  # doctest: +SKIP
...     result = model.predict("street.jpg")
...     print(result.caption.text, result.boxes, result.masks.full().shape, result.semantic_map.shape)
"""

from .bundle.bundle import Bundle, ModelSpec
from .captions.captioning import CaptionOptions
from .errors import (
    BackendError,
    BackendMissingError,
    BundleError,
    EngineBuildError,
    EngineMismatchError,
    ImageError,
    UsageError,
    YolorEdgeError,
)
from .images.image_files import read_image
from .images.preprocess import PixelLayout
from .model import Model, load
from .results import Caption, InstanceMasks, MaskCanvas, MaskCrop, Result
from .sources.capture import CameraOptions
from .sources.sources import Frame, Source, open_source
from .stream.scene_change import SceneChange
from .stream.stream import Stream
from .stream.stream_results import Answer, StreamStatistics

__all__ = [
    "Answer",
    "BackendError",
    "BackendMissingError",
    "Bundle",
    "BundleError",
    "CameraOptions",
    "Caption",
    "CaptionOptions",
    "EngineBuildError",
    "EngineMismatchError",
    "Frame",
    "ImageError",
    "InstanceMasks",
    "MaskCanvas",
    "MaskCrop",
    "Model",
    "ModelSpec",
    "PixelLayout",
    "Result",
    "SceneChange",
    "Source",
    "Stream",
    "StreamStatistics",
    "UsageError",
    "YolorEdgeError",
    "load",
    "open_source",
    "read_image",
]


def __dir__() -> list[str]:
    """The public names; modules are reached by importing them."""
    return list(__all__)
