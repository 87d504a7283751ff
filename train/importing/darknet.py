"""Darknet descriptions of YOLOR: the layers that the state dicts of its main branch belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import CheckpointError, UsageError
from .graph import Graph, Module
from .heads import Heads
from .pickle_machine import Record, StoredTensor

Section = dict[str, str]
EPS = 1e-4
MOST_SECTIONS = 4000
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "silu": ("SiLU", {}),
    "swish": ("SiLU", {}),
    "mish": ("Mish", {}),
    "leaky": ("LeakyReLU", {"negative_slope": 0.1}),
    "relu": ("ReLU", {}),
    "logistic": ("Sigmoid", {}),
    "linear": None,
}


def read_sections(path: Path) -> list[Section]:
    """The sections of a .cfg file, or of a JSON list of objects whose `kind` is the section's name.

    Raises:
        UsageError: If it is neither.
    """
    try:
        text = path.read_bytes()[: 16 << 20].decode("utf-8")
        if path.suffix == ".json":
            given = json.loads(text)
            if not isinstance(given, list) or not all(isinstance(item, dict) and "kind" in item for item in given):
                raise UsageError(f"{path}: is no list of sections, objects with a kind")
            return [{str(key): str(value) for key, value in item.items()} for item in given]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UsageError(f"{path}: cannot be read as a Darknet description ({reason})") from None
    sections: list[Section] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            sections.append({"kind": line[1:-1].strip()})
        elif line:
            key, equals, value = line.partition("=")
            if not equals or not sections:
                raise UsageError(f"{path}: line {number} is no key=value of a section: {line[:60]!r}")
            sections[-1][key.strip()] = value.strip()
    return sections


def build_darknet(
    sections: Sequence[Section], tensors: Mapping[str, StoredTensor], most_values: int = 1 << 31
) -> tuple[Graph, Heads]:
    """Layers and heads from a description and the state dict that belongs to it.

    Raises:
        CheckpointError: If a section is not known, or a tensor is missing or of another shape.
    """
    sections = [section for section in sections if section["kind"] not in ("net", "network")]
    if not sections or len(sections) > MOST_SECTIONS:
        raise UsageError(f"the Darknet description has {len(sections)} sections")
    unknown = [(index, s["kind"]) for index, s in enumerate(sections) if s["kind"] not in _SECTIONS]
    if unknown:
        listed = ", ".join(f"{kind} (layer {index})" for index, kind in unknown[:12])
        raise CheckpointError(f"has sections that are not known: {listed}")
    builder = _Builder(tensors, most_values)
    for index, section in enumerate(sections):
        builder.values.append(builder.build(index, section))
    if not builder.levels:
        raise CheckpointError("the Darknet description has no yolo section")
    for name in tensors:
        start, _, rest = name.partition(".")
        index = rest.partition(".")[0]
        if start == "module_list" and not (index.isdigit() and len(index) < 6 and int(index) < len(sections)):
            raise CheckpointError(f"has a tensor {name[:60]!r}, but the description has {len(sections)} layers")
    levels = sorted(builder.levels, key=lambda level: builder.graph.shapes[level[0]].stride)
    boxes = {
        "coding": "anchors",
        "strides": [int(builder.graph.shapes[name].stride) for name, _ in levels],
        "levels": [name for name, _ in levels],
        "anchors": [anchors for _, anchors in levels],
    }
    return builder.graph, Heads(boxes, builder.classes)


class _Builder:
    def __init__(self, tensors: Mapping[str, StoredTensor], most_values: int) -> None:
        self.graph = Graph(most_values)
        self.tensors = tensors
        self.values: list[str] = []
        self.vectors: dict[int, tuple[str, Module]] = {}
        self.levels: list[tuple[str, list[list[float]]]] = []
        self.classes = 0

    def number(self, index: int, section: Section, key: str, default: int | None = None) -> int:
        value = section.get(key, default)
        try:
            return int(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise CheckpointError(f"layer {index} ({section['kind']}): has {key} {value!r}") from None

    def numbers(self, index: int, section: Section, key: str) -> list[float]:
        try:
            return [float(item) for item in section[key].split(",")]
        except (KeyError, ValueError):
            raise CheckpointError(f"layer {index} ({section['kind']}): has {key} {section.get(key)!r:.60}") from None

    def source(self, index: int, link: float) -> str:
        place = int(link) if link >= 0 else index + int(link)
        if place == -1 and index == 0:
            return "image"
        if not 0 <= place < index or not self.values[place]:
            raise CheckpointError(f"layer {index}: reads layer {int(link)}, which gives no map before it")
        return self.values[place]

    def before(self, index: int) -> str:
        return self.source(index, -1)

    def build(self, index: int, section: Section) -> str:
        return _SECTIONS[section["kind"]](self, index, section)

    def convolutional(self, index: int, section: Section) -> str:
        size, place = self.number(index, section, "size"), f"layer {index}"
        padded = self.number(index, section, "pad", 0)
        state: dict[str, Any] = {
            "kernel_size": (size, size),
            "stride": self.number(index, section, "stride", 1),
            "padding": (size - 1) // 2 if padded else self.number(index, section, "padding", 0),
            "groups": self.number(index, section, "groups", 1),
            "out_channels": self.number(index, section, "filters"),
        }
        prefix = f"module_list.{index}."
        conv = Record("torch.nn.Conv2d", (), state)
        state["_parameters"] = {k: self.tensors.get(f"{prefix}Conv2d.{k}") for k in ("weight", "bias")}
        norm = None
        if self.number(index, section, "batch_normalize", 0):
            names = ("weight", "bias", "running_mean", "running_var")
            parts = {name: self.tensors.get(f"{prefix}BatchNorm2d.{name}") for name in names}
            norm = Module(
                Record("torch.nn.BatchNorm2d", (), {"_parameters": parts, "eps": EPS}), f"{place}.BatchNorm2d"
            )
        name = section.get("activation", "linear")
        if name not in _ACTIVATIONS:
            raise CheckpointError(f"{place}: has the activation {name!r:.40}, which is not known")
        which = _ACTIVATIONS[name]
        act = None if which is None else Module(Record(f"torch.nn.{which[0]}", (), which[1]), place)
        return self.graph.conv2d(Module(conv, f"{place}.Conv2d"), self.before(index), norm, act, place)

    def shortcut(self, index: int, section: Section) -> str:
        if section.get("weights_type", "none") != "none" or section.get("activation", "linear") != "linear":
            raise CheckpointError(f"layer {index} (shortcut): is weighted or has an activation, which is not supported")
        others = [self.source(index, link) for link in self.numbers(index, section, "from")]
        return self.graph.add(f"layer {index}", [self.before(index), *others])

    def route(self, index: int, section: Section) -> str:
        if "groups" in section:
            raise CheckpointError(f"layer {index} (route): takes groups of channels, which is not supported")
        sources = [self.source(index, link) for link in self.numbers(index, section, "layers")]
        return self.graph.concat(f"layer {index}", sources)

    def maxpool(self, index: int, section: Section) -> str:
        size, stride = self.number(index, section, "size"), self.number(index, section, "stride")
        if not 1 <= size <= 64 or not 1 <= stride <= 8 or (size % 2 == 0 and stride == 1):
            raise CheckpointError(f"layer {index} (maxpool): has size {size} and stride {stride}")
        return self.graph.max_pool(f"layer {index}", self.before(index), size, stride, (size - 1) // 2)

    def upsample(self, index: int, section: Section) -> str:
        scale = self.number(index, section, "stride")
        if scale not in (2, 4, 8):
            raise CheckpointError(f"layer {index} (upsample): has stride {scale}")
        return self.graph.upsample(f"layer {index}", self.before(index), scale)

    def reorg(self, index: int, section: Section) -> str:
        from .blocks import reorg

        return reorg(self.graph, f"layer {index}", self.before(index))

    def implicit(self, index: int, section: Section) -> str:
        vector = self.tensors.get(f"module_list.{index}.implicit")
        state = {"_parameters": {"implicit": vector}}
        self.vectors[index] = (section["kind"], Module(Record("models.Implicit", (), state), f"layer {index}"))
        return ""

    def channels(self, index: int, section: Section) -> str:
        multiplies = section["kind"] == "control_channels"
        link = self.number(index, section, "from")
        kind, vector = self.vectors.get(link if link >= 0 else index + link, ("", None))
        if vector is None or kind != ("implicit_mul" if multiplies else "implicit_add"):
            raise CheckpointError(f"layer {index} ({section['kind']}): reads layer {link}, which is no such vector")
        return self.graph.vector(vector, self.before(index), multiplies)

    def yolo(self, index: int, section: Section) -> str:
        source = self.before(index)
        sizes = np.array(self.numbers(index, section, "anchors"))
        mask = [int(item) for item in self.numbers(index, section, "mask")]
        classes = self.number(index, section, "classes")
        if sizes.size % 2 or not mask or not 0 <= min(mask) <= max(mask) < sizes.size // 2 or not (sizes > 0).all():
            raise CheckpointError(f"layer {index} (yolo): has anchors that do not fit its mask")
        if self.graph.channels(source) != len(mask) * (5 + classes) or classes < 1:
            raise CheckpointError(
                f"layer {index} (yolo): is given {self.graph.channels(source)} channels for {len(mask)} anchors and "
                f"{classes} classes"
            )
        if self.levels and classes != self.classes:
            raise CheckpointError(f"layer {index} (yolo): has {classes} classes, the one before it {self.classes}")
        self.classes = classes
        self.levels.append((source, sizes.reshape(-1, 2)[mask].tolist()))
        return source


_SECTIONS = {
    "convolutional": _Builder.convolutional,
    "shortcut": _Builder.shortcut,
    "route": _Builder.route,
    "maxpool": _Builder.maxpool,
    "upsample": _Builder.upsample,
    "reorg": _Builder.reorg,
    "implicit_add": _Builder.implicit,
    "implicit_mul": _Builder.implicit,
    "shift_channels": _Builder.channels,
    "control_channels": _Builder.channels,
    "yolo": _Builder.yolo,
}


def plan_of(name: str, tensors: Mapping[str, StoredTensor]) -> list[Section] | None:
    """The sections of an official description by its name; None where it is not known.

    A word is a section: `c` a convolution (`c2` of stride two), `s` a shortcut, `r` a route, `m` a pool, `u` an
    upsampling, `o` a reorg, `a` and `b` the vectors that `+` adds and `*` multiplies, `y` a head; `3xc` is three. Sizes
    and widths are those of the tensors.
    """
    name = name.replace("-", "_")
    found = _PLANS.get("yolor_p6" if name == "yolor_w6" else name)  # W6 is P6 with wider layers
    if found is None:
        return None
    anchors, text = found
    kinds = {"m": "maxpool", "u": "upsample", "o": "reorg", "a": "implicit_add", "b": "implicit_mul"}
    links = {"s": ("shortcut", "from"), "r": ("route", "layers"), "+": ("shift_channels", "from")}
    links["*"] = ("control_channels", "from")
    sections: list[Section] = []
    levels = 0
    for word in text.split():
        count, times, repeated = word.partition("x")
        letter, rest = (repeated[0], repeated[1:]) if times else (word[0], word[1:])
        for _ in range(int(count) if times else 1):
            index = len(sections)
            if letter == "c":
                weight = tensors.get(f"module_list.{index}.Conv2d.weight")
                out, _, size, _ = (0, 0, 1, 1) if weight is None or len(weight.shape) != 4 else weight.shape
                section = {"kind": "convolutional", "filters": str(out), "size": str(size), "pad": "1"}
                section["stride"] = rest or "1"
                if f"module_list.{index}.BatchNorm2d.weight" in tensors:
                    section |= {"batch_normalize": "1", "activation": "silu"}
            elif letter in links:
                kind, key = links[letter]
                section = {"kind": kind, key: rest}
            elif letter == "y":
                classes = int(sections[-2]["filters"]) // 3 - 5
                mask = ",".join(str(3 * levels + anchor) for anchor in range(3))
                section = {"kind": "yolo", "mask": mask, "anchors": anchors, "classes": str(classes)}
                levels += 1
            else:
                section = {"kind": kinds[letter], "size": rest, "stride": "2" if letter == "u" else "1"}
            sections.append(section)
    return sections


_PLANS = {
    "yolor_csp": (
        "12,16,19,36,40,28,36,75,76,55,72,146,142,110,192,243,459,401",
        "c c2 2xc s-3 c2 c r-2 3xc s-3 2xc s-3 c r-1,-10 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc "
        "s-3 2xc s-3 2xc s-3 c r-1,-28 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 "
        "c r-1,-28 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 2xc s-3 c r-1,-16 2xc r-2 3xc m5 r-2 m9 r-4 m13 "
        "r-1,-3,-5,-6 2xc r-1,-13 2xc u r79 c r-1,-3 2xc r-2 4xc r-1,-6 2xc u r48 c r-1,-3 2xc r-2 4xc r-1,-6 c "
        "c2 r-1,127 2xc r-2 4xc r-1,-6 c c2 r-1,113 2xc r-2 4xc r-1,-6 c 3xa 3xb r141 c +164 c *167 y r152 c +165 "
        "c *168 y r163 c +166 c *169 y",
    ),
    "yolor_p6": (
        "19,27,44,40,38,94,96,68,86,152,180,137,140,301,303,264,238,542,436,615,739,380,925,792",
        "o c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 r-1,-12 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 "
        "2xc s-3 r-1,-24 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 2xc s-3 r-1,-24 c c2 c r-2 "
        "3xc s-3 2xc s-3 2xc s-3 r-1,-12 c c2 c r-2 3xc s-3 2xc s-3 2xc s-3 r-1,-12 2xc r-2 3xc m5 r-2 m9 r-4 m13 "
        "r-1,-3,-5,-6 2xc r-1,-13 2xc u r85 c r-1,-3 2xc r-2 6xc r-1,-8 2xc u r70 c r-1,-3 2xc r-2 6xc r-1,-8 2xc "
        "u r43 c r-1,-3 2xc r-2 6xc r-1,-8 c c2 r-1,147 2xc r-2 6xc r-1,-8 c c2 r-1,131 2xc r-2 6xc r-1,-8 c c2 "
        "r-1,115 2xc r-2 6xc r-1,-8 c 4xa 4xb r163 c +203 c *207 y r176 c +204 c *208 y r189 c +205 c *209 y r202 "
        "c +206 c *210 y",
    ),
}
