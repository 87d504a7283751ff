"""Results drawn on their images."""

from .options import TWO_PANELS, DrawOptions
from .panels import draw

__all__ = ["TWO_PANELS", "DrawOptions", "draw"]
