"""What is true and how near a prediction comes to it: data sets, drawn scenes and scores; no torch."""

from typing import TYPE_CHECKING

from ..runtime.environment.lazy import lazily

if TYPE_CHECKING:
    from .dataset.check import DatasetCheck, check_dataset
    from .dataset.coco import CocoDataset
    from .dataset.opening import open_dataset
    from .evaluator import Evaluation, ScoreOptions, evaluate
    from .labelling import LabelOptions, LabelSummary, label
    from .scenes.scene_files import write_scenes
    from .scenes.scene_videos import write_videos
    from .scores import Scores

__getattr__, __dir__ = lazily(
    __name__,
    {
        ".dataset.check": ("DatasetCheck", "check_dataset"),
        ".dataset.coco": ("CocoDataset",),
        ".dataset.opening": ("open_dataset",),
        ".evaluator": ("Evaluation", "ScoreOptions", "evaluate"),
        ".labelling": ("LabelOptions", "LabelSummary", "label"),
        ".scenes.scene_files": ("write_scenes",),
        ".scenes.scene_videos": ("write_videos",),
        ".scores": ("Scores",),
    },
    "bench",
)
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]  # the names above
