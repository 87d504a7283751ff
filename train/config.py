"""How a network is trained: a frozen dataclass that travels as JSON with the run."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..runtime.errors import UsageError
from .network.config import TASKS, known_fields

MOST_COUNTED = 1_000_000
"""Beyond what any count in the settings can mean."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. Every field can be set with `--set name=value`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images that go through the network at once.
        accumulate: Batches a step: their gradients are added up, as of one batch of all their images. Batch statistics
            stay those of each, and so do the totals that predictions decide (class targets, Dice).
        learning_rate: Peak rate of AdamW, one for all parameters but those that were kept of a start.
        kept_rate: Rate of the tensors that a training with --from kept whole, relative to that of the others.
        weight_decay: Applied to weights of two and more axes, not to norms, biases and implicit vectors.
        warmup: Share of all steps with a linearly rising rate; a cosine to `final_rate` times the peak follows.
        final_rate: Rate at the end, relative to the peak.
        statistics_images: Images of the training split that the statistics of batch normalisation are taken from before
            the averaged weights are scored or written; 0 keeps the moving averages, which lag behind in short runs.
        clip_norm: Largest norm of the whole gradient.
        ema_decay: Ceiling of the decay of the weight average; it starts low, as (1 + step) / (10 + step).
        amp: "auto" uses bfloat16 or float16 where the device computes it natively, "off" float32.
        compile: Whether torch compiles backbone and neck, which needs a compiler and some minutes at the start.
        augment: "asymmetric" sees a strong view for the dense tasks and a weak one for the caption; "none" one weak
            view for all; "strong" one strong view for all, which shows less, more or mirrored what the caption says.
        mosaic: Probability that a strong view is made of four images.
        mixup: Probability that a strong view is mixed with another one.
        copy_paste: Probability that objects with masks are pasted into a strong view from another picture.
        flip: Probability that a strong view's picture is mirrored, left to right.
        flip_up_down: Probability that a strong view's picture is turned upside down in a mirror.
        scale_range: The strong view's zoom lies within 1 - scale_range and 1 + scale_range.
        translate: The strong view's shift, as a share of the input.
        rotate: The strong view's rotation lies within so many degrees to either side.
        shear: The strong view's shear lies within so many degrees to either side, in x and in y.
        perspective: The strong view's tilt: its scale changes by up to this share of itself from one side of
            the input to the other, at most 0.2.
        color: Strength of the strong view's change in hue, saturation and value (relative to 0.015, 0.7, 0.4).
        plain_epochs: The last epochs go without mosaic, copy-paste and mixup, as the true images look.
        caption_flip: Probability that the caption's view is mirrored, with "left" and "right" swapped in the words.
        balance: "fixed" weighs tasks by the gains below alone, "uncertainty" by learned variances too
            (arXiv 1705.07115).
        box_gain: Weight of the loss of boxes by their overlap with the truth.
        class_gain: Weight of the loss of classes.
        dfl_gain: Weight of the loss of boxes by the distribution of each side (distribution focal loss).
        mask_gain: Weight of the loss of instance masks.
        semantic_gain: Weight of the semantic map's cross-entropy.
        dice_gain: Weight of the semantic map's Dice loss.
        caption_gain: Weight of the loss of captions.
        distill: What is learnt from a --teacher: "all" that both have, or some of boxes, masks, semantic, caption.
        distill_class_gain: Weight of the loss of classes by the teacher's.
        distill_box_gain: Weight of the loss of boxes by the teacher's.
        distill_mask_gain: Weight of the loss of instance masks by the teacher's.
        distill_semantic_gain: Weight of the loss of the semantic map by the teacher's.
        distill_caption_gain: Weight of the loss of captions by what the teacher says after each word.
        distill_temperature: Softens distributions of teacher and student over bins, semantic classes and words.
        label_smoothing: Of the caption's cross-entropy.
        captions_per_image: Captions of an image used in one step (chosen at random when there are more).
        minimum_word_count: Rarer words of the training captions are read as `<unk>`.
        cache: "ram" keeps the decoded images in memory, once for all workers, "disk" in a file in the run's folder,
            "off" decodes them whenever they are needed.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Of weights, order and augmentation.
        device: "auto" takes the GPU if there is one.
        weights: Number format of the checkpoint's matrices and kernels; vectors stay float32.
        validate_every: Epochs between validations on the `val` split, if there is one; 0 only at the end.
        validate_images: Of a larger `val` split, validations score this many images, evenly spread; the last scores all
            of them too.
        patience: Epochs without a better score after which training stops; 0 never.
        samples_every: Epochs between drawings of predictions beside the truth; 0 draws none.
        save_every: Epochs between writes of the state that a resume starts from.
        least_share: Images of a task that less than this share of all images has truth for are drawn more often, up to
            5 times an epoch; 0 draws each once.
        check: The look at the data before the first step: "full" reads every image and map once (what was read is
            remembered for the next time) and draws labels.png, "fast" looks at the annotations alone, "off" at nothing.
        val_share: Share of the images held out for validation, where the data has no split for it; which they are is
            chosen by file name and seed, so that images added later move none.
    """

    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    kept_rate: float = 0.5
    weight_decay: float = 0.05
    warmup: float = 0.05
    final_rate: float = 0.01
    statistics_images: int = 256
    clip_norm: float = 10.0
    ema_decay: float = 0.9998
    amp: Literal["auto", "off"] = "auto"
    compile: bool = False
    augment: Literal["asymmetric", "strong", "none"] = "asymmetric"
    mosaic: float = 0.75
    mixup: float = 0.1
    copy_paste: float = 0.0
    flip: float = 0.5
    flip_up_down: float = 0.0
    scale_range: float = 0.5
    translate: float = 0.1
    rotate: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    color: float = 1.0
    plain_epochs: int = 10
    caption_flip: float = 0.0
    balance: Literal["fixed", "uncertainty"] = "fixed"
    box_gain: float = 7.5
    class_gain: float = 0.5
    dfl_gain: float = 1.5
    mask_gain: float = 5.0
    semantic_gain: float = 1.0
    dice_gain: float = 0.5
    caption_gain: float = 1.0
    distill: str = "all"
    distill_class_gain: float = 1.0
    distill_box_gain: float = 1.0
    distill_mask_gain: float = 5.0
    distill_semantic_gain: float = 0.5
    distill_caption_gain: float = 0.5
    distill_temperature: float = 2.0
    label_smoothing: float = 0.1
    captions_per_image: int = 5
    minimum_word_count: int = 1
    cache: Literal["off", "ram", "disk"] = "off"
    workers: int = 2
    seed: int = 0
    device: str = "auto"
    weights: Literal["float32", "float16"] = "float32"
    validate_every: int = 1
    validate_images: int = 500
    patience: int = 0
    samples_every: int = 10
    save_every: int = 1
    least_share: float = 0.25
    check: Literal["full", "fast", "off"] = "full"
    val_share: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "captions_per_image",
            "save_every",
            "minimum_word_count",
            "validate_images",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"<{name}> must be at least 1, got {getattr(self, name)}", argument=name)
            if getattr(self, name) > MOST_COUNTED:
                raise UsageError(f"<{name}> must be at most {MOST_COUNTED}, got {getattr(self, name)}", argument=name)
        for name in (
            "warmup",
            "kept_rate",
            "final_rate",
            "mosaic",
            "mixup",
            "copy_paste",
            "flip",
            "flip_up_down",
            "caption_flip",
            "ema_decay",
            "label_smoothing",
            "least_share",
            "translate",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"<{name}> must lie within 0 and 1, got {getattr(self, name)}", argument=name)
        unknown = [] if self.distill == "all" else [task for task in self.distill.split(",") if task not in TASKS]
        if unknown:
            raise UsageError(f"<distill> must be all, or some of {', '.join(TASKS)}, got {self.distill!r}", "distill")
        for name in ("learning_rate", "clip_norm", "distill_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"<{name}> must be greater than 0, got {getattr(self, name)}", argument=name)
        if not 0 <= self.scale_range < 1:
            raise UsageError(f"<scale_range> must lie within 0 and 1, got {self.scale_range}", argument="scale_range")
        for name, most in (("rotate", 180), ("shear", 45), ("perspective", 0.2)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"<{name}> must lie within 0 and {most}, got {getattr(self, name)}", argument=name)
        for name in (
            "workers",
            "validate_every",
            "patience",
            "samples_every",
            "plain_epochs",
            "weight_decay",
            "color",
            "seed",
            "statistics_images",
            *(f"distill_{part}_gain" for part in ("class", "box", "mask", "semantic", "caption")),
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"<{name}> must not be negative, got {getattr(self, name)}", argument=name)
        for name, most in (("workers", 256), ("seed", (1 << 63) - 1), ("statistics_images", MOST_COUNTED)):
            if getattr(self, name) > most:
                raise UsageError(f"<{name}> must be at most {most}, got {getattr(self, name)}", argument=name)
        for name, choices in (
            ("amp", ("auto", "off")),
            ("augment", ("asymmetric", "strong", "none")),
            ("cache", ("off", "ram", "disk")),
            ("balance", ("fixed", "uncertainty")),
            ("weights", ("float32", "float16")),
            ("check", ("full", "fast", "off")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"<{name}> must be one of {', '.join(choices)}, got {getattr(self, name)!r}", argument=name
                )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        return cls(**known_fields(cls, values))

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
                raise UsageError(
                    f"<settings> {setting}: there is no setting {name!r}{meant(name, fields)}; docs/settings.md lists "
                    "all of them, yolor-edge train --help the options",
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
                    f"<settings> {setting}: expected a value of type {type(current).__name__}", argument="settings"
                ) from None
        return dataclasses.replace(self, **changes)


def meanings() -> dict[str, str]:
    """What the docstring of `TrainConfig` says of each field, in the order of the fields.

    Raises:
        ValueError: If it does not say it of exactly these fields.
    """
    text = inspect.cleandoc(TrainConfig.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n {4}(?=[a-z_0-9, ]+: )", "\n" + text):
        names, separator, meaning = entry.strip().partition(": ")
        if separator:
            found.update({name.strip(): " ".join(meaning.split()) for name in names.split(",")})
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    if sorted(found) != sorted(fields):
        different = ", ".join(sorted(set(found) ^ set(fields)))
        raise ValueError(f"the docstring of TrainConfig and its fields differ in {different}")
    return {name: found[name] for name in fields}


def meant(name: str, known: Iterable[str]) -> str:
    """ ", perhaps ..." with the names closest to one that is not known: by initials, as a part, by spelling."""
    known = list(known)
    close = [one for one in known if "".join(word[0] for word in one.split("_")) == name]
    close += [one for one in known if len(name) > 2 and (name in one or one in name)]
    close += difflib.get_close_matches(name, known)
    best = list(dict.fromkeys(close))[:3]
    return f", perhaps {' or '.join(best)}" if best else ""
