"""What a model is apart from its weights: tasks, input, names, vocabulary, thresholds."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import BundleError, UsageError
from ..images.preprocess import PreprocessRule
from .graph_options import GraphOptions
from .json_files import JsonReader
from .tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, TextRule, Tokenizer, vocabulary_complaints

TASKS = ("boxes", "masks", "semantic", "caption")


# The head that holds the boxes, and the one that holds the scores, by how they are coded.
BOX_HEADS = {"dfl": "box_bins", "ltrb": "box_distances", "xyxy": "boxes"}
SCORE_HEADS = {"logits": "class_logits", "probabilities": "class_scores"}
BoxCoding = Literal["dfl", "ltrb", "xyxy"]
ScoreCoding = Literal["logits", "probabilities"]
Finished = Literal["leave", "stay"]
FINISHED: tuple[Finished, ...] = ("leave", "stay")
MOST_DETECTIONS = 1_000_000  # more than the candidates that are ever looked at


@dataclass(frozen=True)
class Thresholds:
    """Defaults for turning box logits into boxes.

    Attributes:
        score: A class is a candidate where its sigmoid is above this; in [0, 1).
        iou: Of two boxes of one class the lower-scored goes when their IoU is above this; in [0, 1].
        max_detections: Boxes kept per image.
    """

    score: float = 0.25
    iou: float = 0.65
    max_detections: int = 300

    def complaints(self) -> dict[str, str]:
        """What is wrong with the values, by the argument of `Model.predict`: "must be ..."; empty if nothing is."""
        found = {}
        if not 0 <= self.score < 1:
            found["score_threshold"] = f"must be in [0, 1), got {self.score}"
        if not 0 <= self.iou <= 1:
            found["iou_threshold"] = f"must be in [0, 1], got {self.iou}"
        if not 1 <= self.max_detections <= MOST_DETECTIONS:
            found["max_detections"] = f"must be from 1 to {MOST_DETECTIONS}, got {self.max_detections}"
        return found


@dataclass(frozen=True)
class CaptionSpec:
    """The caption decoder's words, its limits and its own search.

    Attributes:
        vocabulary: Every token in id order.
        pad_id: Id of the token that fills up.
        unk_id: Id of the token for words that are not in the vocabulary.
        bos_id: Id of the token that is fed first.
        eos_id: Id of the token that ends a sentence.
        max_length: Most tokens the decoder can write, eos included.
        text: How text and tokens become each other, one of `tokenizer.TEXT_RULES`.
        beam_size: Sentences the search keeps, where `CaptionOptions` does not say.
        length_penalty: As in `CaptionOptions`, where that does not say.
        finished: What becomes of a sentence that has ended. "leave": it leaves the beam and the next best go on, until
            none can become better; pad, unk and bos are never written. "stay": it keeps its place in the beam at no
            further cost, and the search goes on for `max_length` tokens; any token may be written.
    """

    vocabulary: tuple[str, ...]
    pad_id: int = PAD_ID
    unk_id: int = UNK_ID
    bos_id: int = BOS_ID
    eos_id: int = EOS_ID
    max_length: int = 30
    text: TextRule = "words"
    beam_size: int = 3
    length_penalty: float = 1.0
    finished: Finished = "leave"

    @property
    def special_ids(self) -> tuple[int, int, int, int]:
        """Of pad, unk, bos and eos."""
        return self.pad_id, self.unk_id, self.bos_id, self.eos_id

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.vocabulary, self.text, self.special_ids)

    def complaints(self) -> list[str]:
        """Everything in it that makes no sense, in words; empty if nothing does."""
        found = vocabulary_complaints(self.vocabulary, self.text, self.special_ids)
        if self.max_length < 1:
            found.append(f"the caption's max_length must be at least 1, got {self.max_length}")
        if not 1 <= self.beam_size <= len(self.vocabulary):
            found.append(
                f"the caption's beam_size must be from 1 to {len(self.vocabulary)} (words), got {self.beam_size}"
            )
        if not (math.isfinite(self.length_penalty) and self.length_penalty >= 0):
            found.append(f"the caption's length_penalty must be a number of at least 0, got {self.length_penalty}")
        if self.finished not in FINISHED:
            found.append(f"the caption's finished must be one of {', '.join(FINISHED)}, got {self.finished!r}")
        return found


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that is not a weight.

    Attributes:
        name: What to call it, for people.
        tasks: Those of `TASKS` that it answers; "masks" needs "boxes".
        preprocess: How an image becomes the network's input.
        strides: Pixels of input per cell, one per level of the box head.
        box_coding: How the graph says boxes, one of `BOX_HEADS`: as distributions over distances, as distances in
            strides, or as corners in pixels of the input.
        score_coding: How it says scores, one of `SCORE_HEADS`: as logits or as probabilities.
        reg_max: Bins per side of a box, where `box_coding` is "dfl".
        box_count: Boxes per image of the graph where `box_coding` is "xyxy", which may have any number a cell; None
            else, for one a cell.
        semantic_stride: Pixels of the input from one point of the semantic logits to the next.
        class_names: Things, by class id.
        category_ids: For each class its id in the data set.
        semantic_names: Semantic classes, by id in the semantic map; at most 255.
        semantic_category_ids: For each semantic class its id in the data set.
        palette: RGB per semantic class for drawing, or None to have colours chosen.
        caption: The caption decoder's words, or None without the caption task.
        thresholds: Defaults for boxes.
        graph: What the vision graph does beside the network.
    """

    name: str
    tasks: tuple[str, ...]
    preprocess: PreprocessRule
    strides: tuple[int, ...] = (8, 16, 32)
    box_coding: BoxCoding = "dfl"
    score_coding: ScoreCoding = "logits"
    reg_max: int = 16
    box_count: int | None = None
    semantic_stride: int = 8
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    semantic_names: tuple[str, ...] = ()
    semantic_category_ids: tuple[int, ...] = ()
    palette: tuple[tuple[int, int, int], ...] | None = None
    caption: CaptionSpec | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    graph: GraphOptions = field(default_factory=GraphOptions)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input, in pixels."""
        return self.preprocess.input_size

    @property
    def cells(self) -> int:
        """Boxes of the box head over all levels before any are chosen: the N of the raw heads."""
        if self.box_count is not None:
            return self.box_count
        height, width = self.input_size
        return sum((height // stride) * (width // stride) for stride in self.strides)

    @property
    def box_head(self) -> str:
        """The output of the vision graph that says where the boxes are."""
        return BOX_HEADS[self.box_coding]

    @property
    def score_head(self) -> str:
        """The output of the vision graph that says how likely each class is."""
        return SCORE_HEADS[self.score_coding]

    def choose_tasks(self, tasks: Collection[str] | None) -> tuple[str, ...]:
        """The tasks to do, in the order of `TASKS`: for None all that the model has; "masks" brings "boxes".

        Raises:
            UsageError: If a task is unknown or not one of this model's.
        """
        if tasks is None:
            return self.tasks
        wanted = {tasks} if isinstance(tasks, str) else set(tasks)
        for task in sorted(wanted):
            if task not in TASKS:
                meant = next((f", perhaps {name!r}" for name in TASKS if task and (name in task or task in name)), "")
                raise UsageError(f"unknown task {task!r}{meant}; the tasks are {', '.join(TASKS)}", argument="tasks")
            if task not in self.tasks:
                raise UsageError(f"{self.name}: has no {task!r} task, it has {', '.join(self.tasks)}", argument="tasks")
        if not wanted:
            raise UsageError(
                f"no task asked for; name some of {', '.join(self.tasks)}, or leave out <tasks> for all",
                argument="tasks",
            )
        if "masks" in wanted:
            wanted.add("boxes")
        return tuple(task for task in TASKS if task in wanted)

    def complaints(self) -> list[str]:
        """Everything in the spec that contradicts itself, in words; empty if nothing does."""
        found = []
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            found.append(f"unknown tasks {', '.join(map(repr, unknown))}, known are {', '.join(TASKS)}")
        if not self.tasks:
            found.append("no tasks")
        if "masks" in self.tasks and "boxes" not in self.tasks:
            found.append('the task "masks" needs "boxes"')
        if "boxes" in self.tasks and not self.class_names:
            found.append('the task "boxes" needs class_names')
        if "semantic" in self.tasks and not 1 <= len(self.semantic_names) <= 255:
            found.append(f'the task "semantic" needs 1 to 255 semantic_names, got {len(self.semantic_names)}')
        if "caption" in self.tasks and self.caption is None:
            found.append('the task "caption" needs a vocabulary under "caption"')
        for names, ids in (("class_names", "category_ids"), ("semantic_names", "semantic_category_ids")):
            if len(getattr(self, names)) != len(getattr(self, ids)):
                found.append(f"{len(getattr(self, names))} {names} but {len(getattr(self, ids))} {ids}")
        if self.palette is not None:
            if len(self.palette) != len(self.semantic_names):
                found.append(f"{len(self.palette)} colours in the palette for {len(self.semantic_names)} names")
            if any(len(rgb) != 3 or not all(0 <= part <= 255 for part in rgb) for rgb in self.palette):
                found.append("every colour of the palette must be three numbers from 0 to 255")
        if not self.strides or any(stride < 1 for stride in self.strides):
            found.append(f"strides must be positive, got {list(self.strides)}")
        elif any(side < 1 or side % max(self.strides) for side in self.input_size):
            found.append(f"the input size {list(self.input_size)} must be a multiple of {max(self.strides)}")
        for field_name, known in (("box_coding", BOX_HEADS), ("score_coding", SCORE_HEADS)):
            if getattr(self, field_name) not in known:
                found.append(f"{field_name} must be one of {', '.join(known)}, got {getattr(self, field_name)!r}")
        if (self.box_count is not None) != (self.box_coding == "xyxy"):
            found.append(f"box_count goes with the box_coding xyxy, got {self.box_count} with {self.box_coding}")
        elif self.box_count is not None and not 1 <= self.box_count < 2**31:
            found.append(f"box_count must be at least 1, got {self.box_count}")
        if self.semantic_stride < 1 or any(side % self.semantic_stride for side in self.input_size):
            found.append(
                f"semantic_stride must divide the input size {list(self.input_size)}, got {self.semantic_stride}"
            )
        if self.reg_max < 1:
            found.append(f"reg_max must be at least 1, got {self.reg_max}")
        if self.caption is not None:
            found += self.caption.complaints()
        wrong = {} if found else self.graph_complaints()
        return found + [f"{name} {what}" for name, what in {**wrong, **self.thresholds.complaints()}.items()]

    def graph_complaints(self) -> dict[str, str]:
        """What keeps the vision graph from being as `graph` says, by the option at fault; empty if nothing does."""
        return self.graph.complaints(self.tasks, self.input_size, self.cells, len(self.semantic_names))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; `from_json` reads them back as an equal spec."""
        rule = self.preprocess
        caption = self.caption
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "preprocess": {
                "input_size": list(rule.input_size),
                "resize": "letterbox, bilinear, half-pixel centres, aspect kept, padding centred",
                "pad_value": rule.pad_value,
                "channel_order": rule.channel_order,
                "scale": rule.scale,
                "rounding": rule.rounding,
            },
            "strides": list(self.strides),
            "box_coding": self.box_coding,
            "score_coding": self.score_coding,
            "reg_max": self.reg_max,
            "box_count": self.box_count,
            "semantic_stride": self.semantic_stride,
            "class_names": list(self.class_names),
            "category_ids": list(self.category_ids),
            "semantic_names": list(self.semantic_names),
            "semantic_category_ids": list(self.semantic_category_ids),
            "palette": None if self.palette is None else [list(rgb) for rgb in self.palette],
            "thresholds": {
                "score": self.thresholds.score,
                "iou": self.thresholds.iou,
                "max_detections": self.thresholds.max_detections,
            },
            "graph": {
                "batch": self.graph.batch,
                "top_k": self.graph.top_k,
                "semantic_map": self.graph.semantic_map,
            },
            "caption": None
            if caption is None
            else {
                "max_length": caption.max_length,
                "pad_id": caption.pad_id,
                "unk_id": caption.unk_id,
                "bos_id": caption.bos_id,
                "eos_id": caption.eos_id,
                "text": caption.text,
                "beam_size": caption.beam_size,
                "length_penalty": caption.length_penalty,
                "finished": caption.finished,
                "vocabulary": list(caption.vocabulary),
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            BundleError: If keys are missing, of the wrong type or contradict each other; every complaint at
                once.
        """
        reader = JsonReader(data, "model")
        rule = reader.section("preprocess")
        thresholds = reader.section("thresholds")
        input_size = rule.integers("input_size", count=2)
        palette = None
        if reader.present("palette"):
            colours = reader.get("palette", list, [])
            palette = tuple(reader.tuple_of(rgb, int, "palette") for rgb in colours)
        caption = None
        if reader.present("caption"):
            words = reader.section("caption")
            caption = CaptionSpec(
                words.strings("vocabulary"),
                *(words.get(key, int, i) for i, key in enumerate(("pad_id", "unk_id", "bos_id", "eos_id"))),
                max_length=words.get("max_length", int, 1),
                text=words.get("text", str, "words"),  # pyright: ignore[reportArgumentType]
                beam_size=words.get("beam_size", int, 1),
                length_penalty=words.get("length_penalty", float, 0.0),
                finished=words.get("finished", str, "leave"),  # pyright: ignore[reportArgumentType]
            )
            reader.complaints += words.complaints
        fields: dict[str, Any] = {
            "name": reader.get("name", str, ""),
            "tasks": reader.strings("tasks"),
            "strides": reader.integers("strides"),
            "box_coding": reader.get("box_coding", str, "dfl"),
            "score_coding": reader.get("score_coding", str, "logits"),
            "reg_max": reader.get("reg_max", int, 1),
            "box_count": reader.get("box_count", int, 1) if reader.present("box_count") else None,
            "semantic_stride": reader.get("semantic_stride", int, 1),
            "class_names": reader.strings("class_names"),
            "category_ids": reader.integers("category_ids"),
            "semantic_names": reader.strings("semantic_names"),
            "semantic_category_ids": reader.integers("semantic_category_ids"),
        }
        pad_value = rule.get("pad_value", int, 114)
        channel_order = rule.get("channel_order", str, "RGB")
        scale = rule.get("scale", float, 1.0)
        rounding = rule.get("rounding", str, "half_up") if rule.present("rounding") else "half_up"
        limits = Thresholds(
            thresholds.get("score", float, 0.0),
            thresholds.get("iou", float, 0.0),
            thresholds.get("max_detections", int, 1),
        )
        graph = GraphOptions()
        if reader.present("graph"):  # which bundles written before there were options do not have
            built_in = reader.section("graph")
            graph = GraphOptions(
                *(built_in.get(key, int, 1) if built_in.present(key) else None for key in ("batch", "top_k")),
                semantic_map=built_in.get("semantic_map", bool, False),
            )
            reader.complaints += built_in.complaints
        complaints = reader.complaints + rule.complaints + thresholds.complaints
        if not complaints:
            try:
                preprocess = PreprocessRule(
                    (input_size[0], input_size[1]),
                    pad_value=pad_value,
                    channel_order=channel_order,  # pyright: ignore[reportArgumentType]
                    scale=scale,
                    rounding=rounding,  # pyright: ignore[reportArgumentType]
                )
            except ValueError as error:
                raise BundleError(f"preprocess: {error}") from error
            spec = cls(
                preprocess=preprocess, palette=palette, caption=caption, thresholds=limits, graph=graph, **fields
            )
            complaints = spec.complaints()
            if not complaints:
                return spec
        raise BundleError("; ".join(complaints))
