"""The runtime: numpy, OpenCV and a native extension; no torch.

>>> from yolor_edge.runtime import load
>>> with load("bundles/demo") as model:  # doctest: +SKIP
...     result = model.predict("street.jpg")
...     print(result.caption.text, result.boxes, result.masks.full().shape, result.semantic_map.shape)
"""

from .bundle import Bundle, ModelSpec
from .captioning import CaptionOptions
from .capture import CameraOptions
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
from .images import read_image
from .model import Model, load
from .preprocess import PixelLayout
from .results import Caption, InstanceMasks, MaskCanvas, MaskCrop, Result
from .scene_change import SceneChange
from .sources import Frame, Source, open_source
from .stream import Stream
from .stream_answers import Answer, StreamStatistics

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
