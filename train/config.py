"""What a network is and how it is trained, as two frozen dataclasses that travel as JSON."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..runtime.bundle.graph_options import LARGEST_TOP_K
from ..runtime.errors import UsageError

Size = Literal["n", "s", "m", "l"]
Task = Literal["boxes", "masks", "semantic", "caption"]
SIZES: tuple[Size, ...] = get_args(Size)
TASKS: tuple[Task, ...] = get_args(Task)
Captioner = Literal["catr", "grit"]
CAPTIONERS: dict[Captioner, dict[str, Any]] = {
    "catr": {"caption_regions": 0, "caption_output_layers": 3},
    "grit": {"caption_regions": 300, "caption_output_layers": 1},
}
"""Kinds of caption decoder: what each asks of `NetworkConfig`."""
MOST_COUNTED = 1_000_000
"""Beyond what any count in the settings can mean."""
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
        caption_output_layers: Linear layers from a word's vector to the next word: 3 or 1.
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
    caption_output_layers: int = 3
    silent_tasks: tuple[Task, ...] = ()

    strides = (8, 16, 32)

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
        for name, allowed, words in (
            ("caption_regions", range(LARGEST_TOP_K + 1), f"a whole number from 0 to {LARGEST_TOP_K}"),
            ("caption_output_layers", (1, 3), "1 or 3"),
        ):
            value = getattr(self, name)
            if type(value) is not int or value not in allowed:
                raise UsageError(f"<{name}> must be {words}, got {value!r}", argument=name)
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
    def plan(self) -> SizePlan:
        return SIZE_PLANS[self.size]

    @property
    def heads(self) -> tuple[Task, ...]:
        """The heads that are computed: those of the tasks, and the silent ones."""
        return tuple(task for task in TASKS if task in (*self.tasks, *self.silent_tasks))

    @property
    def captioner(self) -> str:
        """Which of `CAPTIONERS` it has, or in words what it has else."""
        chosen = {"caption_regions": self.caption_regions, "caption_output_layers": self.caption_output_layers}
        for name, values in CAPTIONERS.items():
            if values == chosen:
                return name
        return ", ".join(f"{name}={value}" for name, value in chosen.items())

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

    def to_json(self) -> dict[str, Any]:
        """Every field but those that came with the gated decoder and are not in use: older versions know none."""
        values = dataclasses.asdict(self)
        newer = ("caption_regions", "caption_output_layers", "silent_tasks")
        usual = {field.name: field.default for field in dataclasses.fields(self) if field.name in newer}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NetworkConfig:
        return cls(**_known_fields(cls, values))


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. Every field can be set with `--set name=value`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images a step.
        learning_rate: Peak rate of AdamW, one for all parameters.
        weight_decay: Applied to weights of two and more axes, not to norms, biases and implicit vectors.
        warmup: Share of all steps with a linearly rising rate; a cosine to `final_rate` times the peak follows.
        final_rate: Rate at the end, relative to the peak.
        clip_norm: Largest norm of the whole gradient.
        ema_decay: Ceiling of the decay of the weight average; it starts low, as (1 + step) / (10 + step).
        amp: "auto" uses bfloat16 or float16 where the device computes it natively, "off" float32.
        augment: "asymmetric" sees a strong view for the dense tasks and a weak one for the caption; "none" one weak
            view for all.
        mosaic: Probability that a strong view is made of four pictures.
        mixup: Probability that a strong view is mixed with another one.
        flip: Probability that a strong view is mirrored, left to right.
        scale_range: The strong view's zoom lies within 1 - scale_range and 1 + scale_range.
        translate: The strong view's shift, as a share of the input.
        color: Strength of the strong view's change in hue, saturation and value (relative to 0.015, 0.7, 0.4).
        plain_epochs: The last epochs go without mosaic and mixup, as the true images look.
        box_gain: Weight of the loss of boxes by their overlap with the truth.
        class_gain: Weight of the loss of classes.
        dfl_gain: Weight of the loss of boxes by the distribution of each side (distribution focal loss).
        mask_gain: Weight of the loss of instance masks.
        semantic_gain: Weight of the semantic map's cross-entropy.
        dice_gain: Weight of the semantic map's Dice loss.
        caption_gain: Weight of the loss of captions.
        label_smoothing: Of the caption's cross-entropy.
        captions_per_image: Captions of an image used in one step (chosen at random when there are more).
        minimum_word_count: Rarer words of the training captions are read as `<unk>`.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Of weights, order and augmentation.
        device: "auto" takes the GPU if there is one.
        weights: Number format of the checkpoint's matrices and kernels; vectors stay float32.
        validate_every: Epochs between validations on the `val` split; 0 only at the end, if there is one.
        save_every: Epochs between writes of the state that a resume starts from.
    """

    epochs: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    final_rate: float = 0.01
    clip_norm: float = 10.0
    ema_decay: float = 0.9998
    amp: Literal["auto", "off"] = "auto"
    augment: Literal["asymmetric", "none"] = "asymmetric"
    mosaic: float = 0.75
    mixup: float = 0.1
    flip: float = 0.5
    scale_range: float = 0.5
    translate: float = 0.1
    color: float = 1.0
    plain_epochs: int = 10
    box_gain: float = 7.5
    class_gain: float = 0.5
    dfl_gain: float = 1.5
    mask_gain: float = 5.0
    semantic_gain: float = 1.0
    dice_gain: float = 0.5
    caption_gain: float = 1.0
    label_smoothing: float = 0.1
    captions_per_image: int = 5
    minimum_word_count: int = 1
    workers: int = 2
    seed: int = 0
    device: str = "auto"
    weights: Literal["float32", "float16"] = "float32"
    validate_every: int = 0
    save_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "captions_per_image", "save_every", "minimum_word_count"):
            if getattr(self, name) < 1:
                raise UsageError(f"<{name}> must be at least 1, got {getattr(self, name)}", argument=name)
            if getattr(self, name) > MOST_COUNTED:
                raise UsageError(f"<{name}> must be at most {MOST_COUNTED}, got {getattr(self, name)}", argument=name)
        for name in (
            "warmup",
            "final_rate",
            "mosaic",
            "mixup",
            "flip",
            "ema_decay",
            "label_smoothing",
            "translate",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"<{name}> must lie within 0 and 1, got {getattr(self, name)}", argument=name)
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"<{name}> must be greater than 0, got {getattr(self, name)}", argument=name)
        if not 0 <= self.scale_range < 1:
            raise UsageError(f"<scale_range> must lie within 0 and 1, got {self.scale_range}", argument="scale_range")
        for name in ("workers", "validate_every", "plain_epochs", "weight_decay", "color", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"<{name}> must not be negative, got {getattr(self, name)}", argument=name)
        for name, most in (("workers", 256), ("seed", (1 << 63) - 1)):
            if getattr(self, name) > most:
                raise UsageError(f"<{name}> must be at most {most}, got {getattr(self, name)}", argument=name)
        for name, choices in (
            ("amp", ("auto", "off")),
            ("augment", ("asymmetric", "none")),
            ("weights", ("float32", "float16")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"<{name}> must be one of {', '.join(choices)}, got {getattr(self, name)!r}", argument=name
                )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        return cls(**_known_fields(cls, values))

    def with_settings(self, settings: list[str]) -> TrainConfig:
        """A copy with `name=value` texts applied.

        Raises:
            UsageError: If a name is unknown or a value has the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for setting in settings:
            name, separator, text = setting.partition("=")
            if not separator:
                raise UsageError(
                    f"<settings> {setting}: expected NAME=VALUE, such as batch_size=8", argument="settings"
                )
            if name not in fields:
                meant = _meant(name, fields)
                raise UsageError(
                    f"<settings> {setting}: there is no setting {name!r}{meant}; docs/settings.md lists all of them, "
                    "yolor-edge train --help the options",
                    argument="settings",
                )
            current = getattr(self, name)
            try:
                if isinstance(current, bool):
                    changes[name] = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
                else:
                    changes[name] = type(current)(text)
            except (ValueError, KeyError):
                raise UsageError(
                    f"<settings> {setting}: expected a {type(current).__name__}", argument="settings"
                ) from None
        return dataclasses.replace(self, **changes)


def _meant(name: str, known: Iterable[str]) -> str:
    """ ", perhaps ..." with the names closest to one that is not known: by initials, as a part, by spelling."""
    known = list(known)
    close = [one for one in known if "".join(word[0] for word in one.split("_")) == name]
    close += [one for one in known if len(name) > 2 and (name in one or one in name)]
    close += difflib.get_close_matches(name, known)
    best = list(dict.fromkeys(close))[:3]
    return f", perhaps {' or '.join(best)}" if best else ""


def check_input_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return `size` (height, width) if a network can take it.

    Raises:
        UsageError: If a side is not a multiple of 32 within 32 and 8192.
    """
    if len(size) != 2 or any(side % 32 or not 32 <= side <= 8192 for side in size):
        raise UsageError(
            f"<input_size> must be two multiples of 32 within 32 and 8192, got {'x'.join(map(str, size))}",
            argument="input_size",
        )
    return size


def _known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise UsageError(f"{cls.__name__} has no field {', '.join(unknown)}; written by a newer yolor-edge?")
    return values
