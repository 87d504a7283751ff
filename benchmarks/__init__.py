"""Latency reports: `bench` measures a bundle, `compare` tells two reports apart. The studies run from a clone."""

from typing import TYPE_CHECKING

from ..runtime.environment.lazy import lazily

if TYPE_CHECKING:
    from .report.benchmark import bench
    from .report.comparison import Comparison, compare
    from .report.measure import WarmUp
    from .report.report import Report

__getattr__, __dir__ = lazily(
    __name__,
    {
        ".report.benchmark": ("bench",),
        ".report.comparison": ("Comparison", "compare"),
        ".report.measure": ("WarmUp",),
        ".report.report": ("Report",),
    },
    "bench",
)
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
