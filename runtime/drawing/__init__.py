"""Results drawn on their images, with OpenCV, which is asked for before any of this room is imported."""

from ..environment.opencv import require_opencv

require_opencv()

from .options import TWO_PANELS, DrawnRegion, DrawOptions  # noqa: E402
from .panels import draw  # noqa: E402

__all__ = ["TWO_PANELS", "DrawOptions", "DrawnRegion", "draw"]
