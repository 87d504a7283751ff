"""Training: the network, its losses and the loop. Importing this package imports no torch."""

from typing import TYPE_CHECKING

from ..runtime.environment.lazy import lazily

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .config import TrainConfig
    from .importing import import_checkpoint
    from .labelling import label_by_checkpoint
    from .loop import fit, resume
    from .network.config import NetworkConfig
    from .network.cost import inspect_network
    from .scoring import evaluate_checkpoint

__getattr__, __dir__ = lazily(
    __name__,
    {
        ".checkpoint": ("Checkpoint",),
        ".config": ("TrainConfig",),
        ".importing": ("import_checkpoint",),
        ".labelling": ("label_by_checkpoint",),
        ".loop": ("fit", "resume"),
        ".network.config": ("NetworkConfig",),
        ".network.cost": ("inspect_network",),
        ".scoring": ("evaluate_checkpoint",),
    },
    "train",
)
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
