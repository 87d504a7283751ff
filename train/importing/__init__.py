"""Official checkpoints of the YOLO family come in. Importing this package imports no torch."""

from typing import TYPE_CHECKING

from ...runtime.environment.lazy import lazily

if TYPE_CHECKING:
    from .importer import import_checkpoint

__getattr__, __dir__ = lazily(__name__, {".importer": ("import_checkpoint",)}, "train")
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
