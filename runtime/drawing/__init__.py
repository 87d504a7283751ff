"""Everything in this room draws with OpenCV, which is asked for before any of it is imported."""

from ..environment.opencv import require_opencv

require_opencv()
