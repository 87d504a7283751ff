"""The runtime: numpy, OpenCV and a native extension; no torch.

>>> from yolor_edge.runtime import load
>>> with load("bundles/demo") as model:  # doctest: +SKIP
...     result = model.predict("street.jpg")
...     print(result.caption.text, result.boxes, result.masks.full().shape, result.semantic_map.shape)
"""

from .bundle import Bundle, ModelSpec
from .captioning import CaptionOptions
from .errors import BackendError, BundleError, ImageError, UsageError, YolorEdgeError
from .images import read_image
from .model import Model, load
from .results import Caption, InstanceMasks, Result
from .sources import Frame
from .stream import Stream
from .stream_answers import Answer, StreamStatistics

__all__ = [
    "Answer",
    "BackendError",
    "Bundle",
    "BundleError",
    "Caption",
    "CaptionOptions",
    "Frame",
    "ImageError",
    "InstanceMasks",
    "Model",
    "ModelSpec",
    "Result",
    "Stream",
    "StreamStatistics",
    "UsageError",
    "YolorEdgeError",
    "load",
    "read_image",
]
