"""A network that is a list of layers: what an imported checkpoint holds, and what every official variant becomes.

A layer is a small dictionary with its name, its operation, the names of the layers it reads and the arguments of the
operation; the image is called `image`. The operations are few and plain (`OPERATIONS`), so that a variant which nobody
listed needs no code of its own. What stands for the heads says which layers hold raw predictions and how they are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.bundle.spec import BoxCoding, CaptionSpec, ScoreCoding, Thresholds
from ...runtime.errors import UsageError
from ...runtime.images.preprocess import PreprocessRule
from .config import TASKS, Task, check_input_size
from .gated_captioner import GatedCaptioner, GatedDecoder
from .regions import region_margins

IMAGE = "image"
# IoU of the families' own evaluation.
_IOU = {"yolov9": 0.7, "generalist": 0.7}
Layer = dict[str, Any]
Activation = str | Sequence[Any] | None


@dataclass(frozen=True)
class LayersConfig:
    """A network as a list of layers, with the meaning of its outputs.

    Attributes:
        name: What the network calls itself in bundles and reports.
        family: Where it comes from: "yolov7", "yolor", "yolov9", "generalist".
        layers: In the order in which they are computed.
        boxes: How boxes and scores are read: `coding` "anchors" (`levels`, `anchors` in pixels, `mask_coefficients`) or
            "dfl" (`bins`, `classes`: layers of each level; `reg_max`), and the `strides` of the levels.
        masks: `coefficients`, layers of each level (None where anchors hold them), and the layer `prototypes`.
        semantic: The layer of the semantic logits.
        caption: Of the captioner: its arguments and the layers it reads (`gated_captioner`).
        class_names: (C,).
        category_ids: (C,) COCO's ids where the classes are COCO's, else 1, 2, ...
        semantic_names: (S,), one for each channel of the semantic logits.
        semantic_category_ids: (S,).
        vocabulary: Words of the captions by id; empty and repeated ones occur.
        input_size: (height, width) the family trains at.
        preprocess: How an image is brought to the input: `pad_value`, `stride_multiple`, `rounding`.
        left_out: Tasks whose answers are not given, see `with_tasks`.
    """

    name: str
    family: str
    layers: tuple[Layer, ...]
    boxes: dict[str, Any]
    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    masks: dict[str, Any] | None = None
    semantic: str | None = None
    caption: dict[str, Any] | None = None
    category_ids: tuple[int, ...] = ()
    semantic_names: tuple[str, ...] = ()
    semantic_category_ids: tuple[int, ...] = ()
    vocabulary: tuple[str, ...] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, tuple(value))
        names = {IMAGE}
        for layer in self.layers:
            name, kind = layer.get("name"), layer.get("type")
            if not isinstance(name, str) or "." in name or name in names:
                raise UsageError(f"layer {name!r} has no name of its own")
            if kind not in OPERATIONS:
                raise UsageError(f"layer {name} has the type {kind!r}; known are {', '.join(OPERATIONS)}")
            missing = [source for source in layer["from"] if source not in names]
            if missing or not layer["from"]:
                raise UsageError(
                    f"layer {name} reads {', '.join(missing) or 'nothing'}; no layer before it is called so"
                )
            names.add(name)
        for words, ids in (("class_names", "category_ids"), ("semantic_names", "semantic_category_ids")):
            count = len(getattr(self, words))
            if not getattr(self, ids):
                object.__setattr__(self, ids, tuple(range(1, count + 1)))
            if len(getattr(self, ids)) != count:
                raise UsageError(f"{count} {words} but {len(getattr(self, ids))} {ids}")
        unknown = [name for name in self.outputs if name not in names]
        if unknown:
            raise UsageError(f"the heads read {', '.join(unknown)}, which no layer is called")

    @property
    def outputs(self) -> list[str]:
        """Names of the layers that the heads read."""
        boxes, masks, caption, heads = self.boxes, self.masks or {}, self.caption or {}, self.heads
        names = [*boxes.get("classes", ())] if "boxes" in heads else []
        if "boxes" in self.tasks:
            names += [*boxes.get("levels", ()), *boxes.get("bins", ())]
        names += [*(masks.get("coefficients") or ()), *([masks["prototypes"]] if masks else ())]
        names += [self.semantic] if self.semantic and "semantic" in heads else []
        if caption:
            names += [*caption["levels"], caption["grid"], caption["semantic_features"]]
        return list(dict.fromkeys(names))

    @property
    def tasks(self) -> tuple[Task, ...]:
        found = {"boxes": True, "masks": self.masks, "semantic": self.semantic, "caption": self.caption}
        return tuple(task for task in TASKS if found[task] and task not in self.left_out)

    @property
    def heads(self) -> tuple[Task, ...]:
        """The heads that are computed: those of the tasks, and those that captions choose their regions by."""
        return tuple(task for task in TASKS if task in self.tasks or (self.caption and task in ("boxes", "semantic")))

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.boxes["strides"])

    @property
    def box_coding(self) -> BoxCoding:
        return "xyxy" if self.boxes["coding"] == "anchors" else "dfl"

    def regions_at(self, input_size: tuple[int, int]) -> int:
        """How many region vectors the memory of an image of `input_size` (height, width) ends with."""
        if not self.caption:
            return 0
        cells = sum((input_size[0] // stride) * (input_size[1] // stride) for stride in self.strides)
        return min(self.caption["regions"], cells) + self.caption["semantic_regions"]

    @property
    def caption_spec(self) -> CaptionSpec | None:
        """The words of the captions and the network's own search for them."""
        if not self.caption:
            return None
        return CaptionSpec(
            self.vocabulary,
            pad_id=self.caption["padding"],
            bos_id=self.caption["begin"],
            eos_id=self.caption["end"],
            max_length=self.caption["max_length"],
            text="bert",
            beam_size=self.caption["beam_size"],
            length_penalty=0.0,
            finished="stay",
        )

    @property
    def score_coding(self) -> ScoreCoding:
        return "probabilities" if self.boxes["coding"] == "anchors" else "logits"

    @property
    def reg_max(self) -> int:
        return self.boxes.get("reg_max", 16)

    @property
    def box_count(self) -> int | None:
        """Boxes an image where a cell may have several."""
        if self.boxes["coding"] != "anchors":
            return None
        height, width = self.input_size
        levels = zip(self.strides, self.boxes["anchors"], strict=True)
        return sum((height // stride) * (width // stride) * len(anchors) for stride, anchors in levels)

    @property
    def axes(self) -> dict[str, int]:
        """How long the axes are that the tensor contract has letters for."""
        caption, axes = self.caption, {}
        if self.masks:
            axes["K"] = self._shape(self.masks["prototypes"])[0]
        if caption:
            (height, width), stride = self.input_size, int(self._shape(caption["grid"])[1])
            axes["L"] = (height // stride) * (width // stride) + self.regions_at(self.input_size)
            axes |= {"D": caption["width"], "layers": caption["decoder_layers"], "heads": caption["heads"]}
            axes["d"] = caption["width"] // caption["heads"]
        return axes

    @property
    def semantic_stride(self) -> int:
        return int(self._shape(self.semantic)[1]) if self.semantic else 8

    @property
    def preprocess_rule(self) -> PreprocessRule:
        rule = self.preprocess
        return PreprocessRule(self.input_size, rule.get("pad_value", 114), rounding=rule.get("rounding", "half_even"))

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(iou=_IOU.get(self.family, 0.65))

    def with_tasks(self, tasks: Sequence[Task]) -> LayersConfig:
        """The part of this network that does only `tasks`, with what their answers depend on."""
        if "masks" in tasks and "boxes" not in tasks:
            raise UsageError("the task masks needs the task boxes: a mask belongs to a box")
        caption = self.caption if "caption" in tasks else None
        smaller = dataclasses.replace(
            self,
            masks=self.masks if "masks" in tasks else None,
            semantic=self.semantic if caption or "semantic" in tasks else None,
            caption=caption,
            left_out=tuple(task for task in self.tasks if task not in tasks),
        )
        needed = set(smaller.outputs)
        for layer in reversed(self.layers):
            if layer["name"] in needed:
                needed.update(layer["from"])
        layers = tuple(layer for layer in self.layers if layer["name"] in needed)
        return dataclasses.replace(smaller, layers=layers)

    def with_input_size(self, size: tuple[int, int]) -> LayersConfig:
        """This network for images of `size` (height, width).

        Raises:
            UsageError: If a side is not a multiple of the largest stride, or more than 8192.
        """
        multiple = self.preprocess.get("stride_multiple", max(self.strides))
        return dataclasses.replace(self, input_size=check_input_size(size, multiple))

    def _shape(self, wanted: str) -> tuple[int, Fraction]:
        """Channels of a layer's output, and pixels of the image from one of its cells to the next."""
        found = {IMAGE: (3, Fraction(1))}
        for layer in self.layers:
            channels, stride = found[layer["from"][0]]
            kind = layer["type"]
            if kind in ("conv", "max_pool", "average_pool"):
                stride *= layer.get("stride", 1)
            elif kind == "rep_conv":
                first = layer["branches"][0]
                channels, stride = first["out"], stride * first.get("stride", 1)
            elif kind == "upsample":
                stride /= Fraction(layer["scale"])
            elif kind == "resize_like":
                stride = found[layer["from"][1]][1]
            elif kind == "concat":
                channels = sum(found[source][0] for source in layer["from"])
            elif kind == "slice":
                channels = layer["stop"] - layer["start"]
            elif kind == "reorg":
                channels, stride = 4 * channels, 2 * stride
            elif kind in ("attention", "attention_values"):
                channels = layer["heads"] * layer["value_width"]
            found[layer["name"]] = layer.get("out", channels), stride
            if layer["name"] == wanted:
                break
        return found[wanted]

    def facts(self) -> dict[str, Any]:
        """What the network is, in plain values."""
        return {
            "name": self.name,
            "family": self.family,
            "tasks": list(self.tasks),
            "classes": len(self.class_names),
            "semantic_classes": len(self.semantic_names),
            "words": len(self.vocabulary),
            "strides": list(self.strides),
            "box_coding": self.box_coding,
            "score_coding": self.score_coding,
            "layers": len(self.layers),
        }

    def summary(self) -> str:
        """The same in a line for people."""
        counts = {"classes": self.class_names, "semantic classes": self.semantic_names, "words": self.vocabulary}
        told = [f"{len(names)} {what}" for what, names in counts.items() if names]
        codings = f"boxes as {self.box_coding}, scores as {self.score_coding}"
        strides = ", ".join(map(str, self.strides))
        return f"{self.name} ({self.family}): {', '.join(self.tasks)}; {', '.join(told)}; strides {strides}; {codings}"

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value not in (None, (), {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayersConfig:
        names = {item.name for item in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UsageError(f"a network of layers has no field {', '.join(unknown)}; written by a newer yolor-edge?")
        return cls(**values)


def make_activation(which: Activation) -> nn.Module:
    """The activation that a layer names: None, a name, or a name with its slope."""
    name, *arguments = [which] if isinstance(which, str) or which is None else list(which)
    made = {
        None: nn.Identity,
        "silu": nn.SiLU,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "hardswish": nn.Hardswish,
        "mish": nn.Mish,
        "gelu": nn.GELU,
        "elu": nn.ELU,
        "sigmoid": nn.Sigmoid,
        "relu6": nn.ReLU6,
    }
    if name not in made:
        raise UsageError(f"the activation {name!r} is not known")
    return made[name](*arguments)


class ConvLayer(nn.Module):
    """Convolution, batch norm where `norm` gives its epsilon, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer["in"],
            layer["out"],
            layer["kernel"],
            layer.get("stride", 1),
            layer.get("padding", 0),
            layer.get("dilation", 1),
            layer.get("groups", 1),
            layer.get("bias", False),
        )
        eps = layer.get("norm")
        self.norm = nn.BatchNorm2d(layer["out"], eps, 0.03) if eps is not None else None
        self.activation = make_activation(layer.get("activation"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.activation(x if self.norm is None else self.norm(x))


class RepConvLayer(nn.Module):
    """Branches of one input, added up before the activation: convolutions, and batch norms of the input itself."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvLayer(branch) if "kernel" in branch else NormLayer(branch) for branch in layer["branches"]
        )
        self.activation = make_activation(layer.get("activation"))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [branch(x) for branch in self.branches]
        for other in others:
            first = first + other
        return self.activation(first)


class NormLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(layer["out"], layer["norm"], 0.03)
        self.activation = make_activation(layer.get("activation"))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x))


class ActivationLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.activation = make_activation(layer.get("activation"))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


class VectorLayer(nn.Module):
    """Implicit knowledge: a learned vector, added to every cell or multiplied with it."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.multiplies = layer["type"] == "multiply_vector"
        self.vector = nn.Parameter(torch.full((1, layer["out"], 1, 1), float(self.multiplies)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.vector if self.multiplies else x + self.vector


class PoolLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        kind = nn.MaxPool2d if layer["type"] == "max_pool" else nn.AvgPool2d
        self.pool = kind(layer["kernel"], layer.get("stride", 1), layer.get("padding", 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class UpsampleLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.scale, self.mode = layer["scale"], layer.get("mode", "nearest")
        self.align_corners = layer.get("align_corners", False) if self.mode == "bilinear" else None

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(self.scale), mode=self.mode, align_corners=self.align_corners)


class ResizeLikeLayer(nn.Module):
    """The first input at the size of the second, nearest neighbour."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        if x.shape[2:] == like.shape[2:]:
            return x
        return F.interpolate(x, size=(like.shape[2], like.shape[3]), mode="nearest")


class ConcatLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


class AddLayer(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = inputs
        for other in others:
            first = first + other
        return first


class SliceLayer(nn.Module):
    """Channels `start` to `stop`."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.start, self.stop = layer["start"], layer["stop"]

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.stop]


class ReorgLayer(nn.Module):
    """Every second row and column side by side: (B, c, h, w) to (B, 4 c, h / 2, w / 2)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, :, ::2], x[:, :, 1::2]
        return torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), 1)


class AttentionLayer(nn.Module):
    """Attention of every cell to all cells; the input holds for each head queries, keys and values in this order."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.heads, self.key_width, self.value_width = layer["heads"], layer["key_width"], layer["value_width"]
        self.scale = layer["scale"]

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """(B, heads, width, cells) of queries, keys and values."""
        parts = x.flatten(2).unflatten(1, (self.heads, 2 * self.key_width + self.value_width))
        return parts.split((self.key_width, self.key_width, self.value_width), 2)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.split(x)
        weights = ((queries.transpose(2, 3) @ keys) * self.scale).softmax(3)
        seen = values @ weights.transpose(2, 3)
        return seen.flatten(1, 2).unflatten(2, (x.shape[2], x.shape[3]))


class AttentionValuesLayer(AttentionLayer):
    """The values of an attention as a map, heads one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.split(x)[2].flatten(1, 2).unflatten(2, (x.shape[2], x.shape[3]))


OPERATIONS: dict[str, type[nn.Module]] = {
    "conv": ConvLayer,
    "rep_conv": RepConvLayer,
    "norm": NormLayer,
    "activation": ActivationLayer,
    "add_vector": VectorLayer,
    "multiply_vector": VectorLayer,
    "max_pool": PoolLayer,
    "average_pool": PoolLayer,
    "upsample": UpsampleLayer,
    "resize_like": ResizeLikeLayer,
    "concat": ConcatLayer,
    "add": AddLayer,
    "slice": SliceLayer,
    "reorg": ReorgLayer,
    "attention": AttentionLayer,
    "attention_values": AttentionValuesLayer,
}


class LayerNetwork(nn.Module):
    """Computes the layers of a `LayersConfig` and the contract's raw heads.

    `forward` takes images (B, 3, H, W), float32 RGB in 0..1, sides multiples of the largest stride, and returns

    - with anchors: `class_scores` (B, C, N), probabilities with the objectness multiplied in, and `boxes` (B, 4, N),
      corners in pixels of the input; cells by level, anchor, row, column;
    - with dfl: `class_logits` (B, C, N), and `box_bins` (B, 4 * reg_max, N), sides left, top, right, bottom; cells by
      level, row, column;
    - `mask_coefficients` (B, K, N), `prototypes` (B, K, H / 4, W / 4) and `semantic_logits` (B, S, h, w);
    - `caption_memory` (B, cells + regions, D): the encoded grid, then the regions.
    """

    def __init__(self, config: LayersConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({layer["name"]: OPERATIONS[layer["type"]](layer) for layer in config.layers})
        self.decoding = (
            AnchorDecoding(config.boxes, len(config.class_names)) if config.boxes["coding"] == "anchors" else None
        )
        self.captioner = (
            GatedCaptioner(config.caption, config.regions_at(config.input_size)) if config.caption else None
        )
        kept = {*config.outputs}
        last: dict[str, int] = {}
        for index, layer in enumerate(config.layers):
            last.update(dict.fromkeys(layer["from"], index))
        # What no later layer and no head reads is let go, layer by layer.
        self._done: list[list[str]] = [[] for _ in config.layers]
        for name, index in last.items():
            if name not in kept:
                self._done[index].append(name)

    @property
    def caption_decoder(self) -> GatedDecoder:
        """What writes the captions from `caption_memory`."""
        if self.captioner is None:
            raise ValueError("this network writes no captions")
        return self.captioner.decoder

    def memory_positions(self, input_size: tuple[int, int]) -> Tensor:
        """(L, D) zeros: the captioner is told nothing of where its memory lies."""
        assert self.config.caption is not None
        grid = (input_size[0] // 32) * (input_size[1] // 32)
        return torch.zeros(grid + self.config.regions_at(input_size), self.config.caption["width"])

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of the layers that the heads read, by name."""
        values = {IMAGE: images}
        for layer, done in zip(self.config.layers, self._done, strict=True):
            name = layer["name"]
            values[name] = self.layers[name](*[values[source] for source in layer["from"]])
            for source in done:
                values.pop(source, None)
        return values

    def raw_levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The head's tensors as the official code returns them, level by level.

        With anchors (B, anchors, h, w, 5 + C + K); with dfl (B, 4 * reg_max + C, h, w).
        """
        boxes = self.config.boxes
        if boxes["coding"] == "dfl":
            pairs = zip(boxes["bins"], boxes["classes"], strict=True)
            return [torch.cat((features[bins], features[classes]), 1) for bins, classes in pairs]
        counts = [len(level) for level in boxes["anchors"]]
        return [
            features[name].unflatten(1, (count, -1)).permute(0, 1, 3, 4, 2)
            for name, count in zip(boxes["levels"], counts, strict=True)
        ]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.heads(self.features(images))

    def heads(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The contract's raw heads of the tasks from the layers' outputs."""
        config, outputs, silent = self.config, {}, {}
        if self.decoding is not None and "boxes" in config.tasks:
            scores, boxes, coefficients = self.decoding([features[name] for name in config.boxes["levels"]])
            outputs |= {"class_scores": scores, "boxes": boxes}
            if config.masks and not config.masks.get("coefficients"):
                outputs["mask_coefficients"] = coefficients
        elif "boxes" in config.heads and self.decoding is None:
            silent["class_logits"] = _joined([features[name] for name in config.boxes["classes"]])
            if "boxes" in config.tasks:
                outputs |= silent
                outputs["box_bins"] = _joined([features[name] for name in config.boxes["bins"]])
        if config.masks:
            if config.masks.get("coefficients"):
                outputs["mask_coefficients"] = _joined([features[name] for name in config.masks["coefficients"]])
            outputs["prototypes"] = features[config.masks["prototypes"]]
        if config.semantic:
            silent["semantic_logits"] = features[config.semantic]
            if "semantic" in config.tasks:
                outputs["semantic_logits"] = features[config.semantic]
        if self.captioner is not None and config.caption:
            outputs["caption_memory"] = self.captioner.memory(
                [features[name] for name in config.caption["levels"]],
                silent["class_logits"],
                features[config.caption["grid"]],
                features[config.caption["semantic_features"]],
                silent["semantic_logits"],
            )
        return outputs

    def region_margins(self, images: Tensor) -> Tensor | None:
        """How clear the choice of the regions of `images` is, see `regions.region_margins`; None without regions."""
        config = self.config
        if config.caption is None or config.semantic is None:
            return None
        features = self.features(images)
        logits = _joined([features[name] for name in config.boxes["classes"]])
        return region_margins(logits, features[config.semantic], config.caption["regions"])


class AnchorDecoding(nn.Module):
    """Scores, boxes and mask coefficients from the maps of anchor heads.

    It stands in the exported graph: where a box is depends on its anchor and cell, which are constants there.
    """

    def __init__(self, boxes: Mapping[str, Any], classes: int) -> None:
        super().__init__()
        self.levels = list(zip(boxes["strides"], boxes["anchors"], strict=True))
        self.known = 5 + classes

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, N), (B, 4, N) and (B, K, N) of maps (B, anchors * (5 + C + K), h, w), in rising stride."""
        parts = [self._level(raw, *level) for raw, level in zip(levels, self.levels, strict=True)]
        scores, boxes, coefficients = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        return scores, boxes, coefficients

    def _level(self, raw: Tensor, stride: int, anchors: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor, Tensor]:
        height, width = raw.shape[2:]
        own: dict[str, Any] = {"dtype": raw.dtype, "device": raw.device}
        rows, columns = torch.meshgrid(torch.arange(height, **own), torch.arange(width, **own), indexing="ij")
        corner = (torch.stack((columns, rows)).flatten(1) - 0.5) * stride  # (2, cells), of where a centre may lie
        sizes = torch.tensor(anchors, **own)[..., None] * 2  # (anchors, 2, 1)
        raw = raw.flatten(2).unflatten(1, (len(anchors), -1))  # (B, anchors, 5 + C + K, cells)
        place, size = raw[:, :, :2].sigmoid(), raw[:, :, 2:4].sigmoid()
        known = raw[:, :, 4 : self.known].sigmoid()
        centre, half = place * (2 * stride) + corner, size * size * sizes
        boxes = torch.cat((centre - half, centre + half), 2)
        parts = known[:, :, 1:] * known[:, :, :1], boxes, raw[:, :, self.known :]
        scores, boxes, coefficients = (part.transpose(1, 2).flatten(2) for part in parts)
        return scores, boxes, coefficients


def _joined(levels: Sequence[Tensor]) -> Tensor:
    """(B, c, h_i, w_i) maps as (B, c, N), level after level, rows first."""
    return torch.cat([level.flatten(2) for level in levels], 2)
