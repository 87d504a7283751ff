"""What a network is: a frozen dataclass that travels as JSON in the checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ...runtime.bundle.graph_options import LARGEST_TOP_K
from ...runtime.bundle.spec import BoxCoding, CaptionSpec, ScoreCoding, Thresholds
from ...runtime.errors import UsageError
from ...runtime.images.preprocess import PreprocessRule

Size = Literal["n", "s", "m", "l"]
Task = Literal["boxes", "masks", "semantic", "caption"]
SIZES: tuple[Size, ...] = get_args(Size)
TASKS: tuple[Task, ...] = get_args(Task)
Captioner = Literal["catr", "grit"]
CAPTIONERS: dict[Captioner, dict[str, Any]] = {
    "catr": {"caption_regions": 0},
    "grit": {"caption_regions": 300},
}
"""Kinds of caption decoder: what each asks of `NetworkConfig`."""
LONGEST_CAPTION = 40
PROTOTYPE_STRIDE = 4
"""Input pixels a side of a prototype cell; the truth of masks and semantic map is prepared at this resolution."""


@dataclass(frozen=True)
class SizePlan:
    """The numbers of one network size; the plan they fill in is the same for all (network.md, "Layer plan").

    Attributes:
        width: Channels relative to size `l`.
        convs_per_tap: 3x3 convolutions between two taps of an ELAN block, which has two taps.
        box_width: Least channels of the box branches.
        class_width: Most channels of the class branches (they never need more than twice the classes).
        prototype_width: Channels inside the prototype branch.
        semantic_width: Channels inside the semantic branch.
        caption_width: Width of the text decoder, also of the memory it attends to.
        caption_layers: Decoder layers.
        caption_heads: Attention heads of a layer.
        caption_feed_forward: Width inside a layer's feed-forward part.
    """

    width: float
    convs_per_tap: int
    box_width: int
    class_width: int
    prototype_width: int
    semantic_width: int
    caption_width: int
    caption_layers: int
    caption_heads: int
    caption_feed_forward: int


SIZE_PLANS: dict[Size, SizePlan] = {
    "n": SizePlan(0.25, 1, 32, 64, 48, 48, 128, 3, 4, 512),
    "s": SizePlan(0.5, 1, 64, 96, 128, 64, 192, 4, 6, 768),
    "m": SizePlan(0.75, 2, 64, 128, 192, 64, 256, 6, 8, 1024),
    "l": SizePlan(1.0, 2, 64, 128, 256, 64, 256, 6, 8, 2048),
}


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes the shapes and the meaning of a network's weights.

    Attributes:
        size: One of `n`, `s`, `m`, `l`.
        tasks: The heads it has, in the order of `TASKS`. `masks` needs `boxes`.
        class_names: (C,) names of the things that boxes and masks are for.
        category_ids: (C,) the data set's own id of each class.
        semantic_names: (S,) names of the classes of the semantic map; at most 255, since a map is uint8.
        semantic_category_ids: (S,) the data set's own id of each semantic class.
        vocabulary: Words of the captions, special tokens first.
        input_size: (height, width) the network was trained at; multiples of 32.
        prototypes: Number of mask prototypes, K.
        reg_max: Bins of the distance distribution a box side is read from.
        caption_positions: Longest caption, in tokens.
        name: What the network calls itself in bundles and reports.
        caption_regions: Most cells that captions look at beside the grid, chosen by their class logits; the decoder's
            layers are gated then, and classes of the semantic map add one region each. 0 for plain layers.
        silent_tasks: Heads that are computed because regions are chosen by them, and not given: only a part of a
            network that was trained whole has any, see `with_tasks`.
    """

    size: Size
    tasks: tuple[Task, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    semantic_names: tuple[str, ...] = ()
    semantic_category_ids: tuple[int, ...] = ()
    vocabulary: tuple[str, ...] = ()
    input_size: tuple[int, int] = (640, 640)
    prototypes: int = 32
    reg_max: int = 16
    caption_positions: int = 128
    name: str = "yolor-edge"
    caption_regions: int = 0
    silent_tasks: tuple[Task, ...] = ()

    # What every network of our own plan has alike, and an imported one says for itself.
    strides = (8, 16, 32)
    box_coding: ClassVar[BoxCoding] = "dfl"
    score_coding: ClassVar[ScoreCoding] = "logits"
    box_count: ClassVar[int | None] = None
    semantic_stride: ClassVar[int] = 8
    thresholds: ClassVar[Thresholds] = Thresholds()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if self.size not in SIZES:
            raise UsageError(f"<size> must be one of {', '.join(SIZES)}, got {self.size!r}", argument="size")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise UsageError(
                f"<tasks> must be some of {', '.join(TASKS)}, got {', '.join(self.tasks) or 'none'}", argument="tasks"
            )
        object.__setattr__(self, "tasks", tuple(task for task in TASKS if task in self.tasks))
        self._check_captioner()
        if "masks" in self.tasks and "boxes" not in self.tasks:
            raise UsageError("the task masks needs the task boxes: a mask belongs to a box")
        if "boxes" in self.tasks and not self.class_names:
            raise UsageError("the task boxes needs at least one class name")
        if len(self.class_names) != len(self.category_ids):
            raise UsageError(f"{len(self.class_names)} class names but {len(self.category_ids)} category ids")
        if "semantic" in self.tasks and not 1 <= len(self.semantic_names) <= 255:
            raise UsageError(f"the task semantic needs 1 to 255 class names, got {len(self.semantic_names)}")
        if "caption" in self.tasks and len(self.vocabulary) < 5:
            raise UsageError(f"the task caption needs a vocabulary, got {len(self.vocabulary)} entries")
        check_input_size(self.input_size)

    def _check_captioner(self) -> None:
        regions = self.caption_regions
        if type(regions) is not int or not 0 <= regions <= LARGEST_TOP_K:
            raise UsageError(
                f"<caption_regions> must be a whole number from 0 to {LARGEST_TOP_K}, got {regions!r}",
                argument="caption_regions",
            )
        if any(task not in ("boxes", "semantic") or task in self.tasks for task in self.silent_tasks):
            raise UsageError(
                f"<silent_tasks> must be of boxes, semantic, and none of the tasks, got {', '.join(self.silent_tasks)}",
                argument="silent_tasks",
            )
        if self.caption_regions and "caption" in self.tasks and "boxes" not in self.heads:
            raise UsageError(
                "caption_regions, which the captioner grit has, needs the task boxes: regions are its likeliest cells"
            )

    @property
    def preprocess_rule(self) -> PreprocessRule:
        return PreprocessRule(self.input_size)

    @property
    def caption_spec(self) -> CaptionSpec | None:
        if "caption" not in self.tasks:
            return None
        return CaptionSpec(self.vocabulary, max_length=min(LONGEST_CAPTION, self.caption_positions - 1))

    @property
    def axes(self) -> dict[str, int]:
        """How long the axes are that the tensor contract has letters for."""
        (height, width), plan = self.input_size, self.plan
        return {
            "K": self.prototypes,
            "L": (height // 32) * (width // 32) + self.regions_at(self.input_size),
            "D": plan.caption_width,
            "layers": plan.caption_layers,
            "heads": plan.caption_heads,
            "d": plan.caption_width // plan.caption_heads,
        }

    @property
    def plan(self) -> SizePlan:
        return SIZE_PLANS[self.size]

    @property
    def heads(self) -> tuple[Task, ...]:
        """The heads that are computed: those of the tasks, and the silent ones."""
        return tuple(task for task in TASKS if task in (*self.tasks, *self.silent_tasks))

    @property
    def captioner(self) -> str:
        """Which of `CAPTIONERS` it has, or in words what it has else."""
        for name, values in CAPTIONERS.items():
            if values["caption_regions"] == self.caption_regions:
                return name
        return f"caption_regions={self.caption_regions}"

    def regions_at(self, input_size: tuple[int, int]) -> int:
        """How many region vectors the memory of an image of `input_size` (height, width) ends with."""
        if not self.caption_regions or "caption" not in self.tasks:
            return 0
        cells = sum((input_size[0] // stride) * (input_size[1] // stride) for stride in self.strides)
        return min(self.caption_regions, cells) + (len(self.semantic_names) if "semantic" in self.heads else 0)

    def with_tasks(self, tasks: Sequence[Task]) -> NetworkConfig:
        """The part of this network that does only `tasks`, with what their answers depend on."""
        inner: tuple[Task, ...] = ("boxes", "semantic") if self.caption_regions and "caption" in tasks else ()
        silent = tuple(task for task in inner if task in self.heads and task not in tasks)
        return dataclasses.replace(self, tasks=tuple(tasks), silent_tasks=silent)

    def with_input_size(self, size: tuple[int, int]) -> NetworkConfig:
        """This network for images of `size` (height, width), multiples of 32."""
        return dataclasses.replace(self, input_size=check_input_size(size))

    def to_json(self) -> dict[str, Any]:
        """Every field but those that came with the gated decoder and are not in use: older versions know none."""
        values = dataclasses.asdict(self)
        newer = ("caption_regions", "silent_tasks")
        usual = {field.name: field.default for field in dataclasses.fields(self) if field.name in newer}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NetworkConfig:
        return cls(**known_fields(cls, values))


def check_input_size(size: tuple[int, int], multiple: int = 32) -> tuple[int, int]:
    """Return `size` (height, width) if a network whose largest stride is `multiple` can take it.

    Raises:
        UsageError: If a side is not a multiple of that up to 8192.
    """
    if len(size) != 2 or any(side % multiple or not multiple <= side <= 8192 for side in size):
        raise UsageError(
            f"<input_size> must be two multiples of {multiple} within {multiple} and 8192, "
            f"got {'x'.join(map(str, size))}",
            argument="input_size",
        )
    return size


def known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """`values`, all of which must be fields of `cls`.

    Raises:
        UsageError: If one is not.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise UsageError(f"{cls.__name__} has no field {', '.join(unknown)}; written by a newer yolor-edge?")
    return values
