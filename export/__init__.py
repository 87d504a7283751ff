"""Export: from a checkpoint to a bundle, each conversion checked against the previous one; and TensorRT engines."""

from typing import TYPE_CHECKING

from ..runtime.environment.lazy import lazily

if TYPE_CHECKING:
    from .adopting.adopt import adopt
    from .engines.to_tensorrt import BuiltEngine, build_engines
    from .parity.stage_diff import Diff, diff
    from .precision.precisions import PrecisionOptions
    from .quantised_training import plan_quantisation
    from .to_onnx import export_bundle

__getattr__, __dir__ = lazily(
    __name__,
    {
        ".adopting.adopt": ("adopt",),
        ".engines.to_tensorrt": ("BuiltEngine", "build_engines"),
        ".parity.stage_diff": ("Diff", "diff"),
        ".precision.precisions": ("PrecisionOptions",),
        ".quantised_training": ("plan_quantisation",),
        ".to_onnx": ("export_bundle",),
    },
    "export",
)
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
