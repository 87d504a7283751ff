"""What the official heads compute: which parts of them predict, and which are training aids that are left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runtime.errors import CheckpointError
from .blocks import simple
from .graph import MOST_MODULES, Graph, Module, whole

MOST_CLASSES = 65_535


@dataclass
class Heads:
    """What `LayersConfig` says of the heads, as it is found."""

    boxes: dict[str, Any]
    classes: int
    masks: dict[str, Any] | None = None
    semantic: str | None = None
    caption: dict[str, Any] | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class DenseHead:
    """Which parts of an anchor-free head predict.

    Attributes:
        group: Which `nl` of its sources they read, counted from 0.
        bins, classes, table: Names of the branches and of the distances' table.
        coefficients: Name of the branch of mask coefficients.
        prototypes: Name of the part, and which source it reads.
        semantic: The same for the semantic logits.
    """

    group: int
    bins: str
    classes: str
    table: str
    coefficients: str | None = None
    prototypes: tuple[str, int] | None = None
    semantic: tuple[str, int] | None = None


DENSE_HEADS = {
    "Detect": DenseHead(0, "cv2", "cv3", "dfl"),
    "DDetect": DenseHead(0, "cv2", "cv3", "dfl"),
    "DualDetect": DenseHead(1, "cv4", "cv5", "dfl2"),
    "DualDDetect": DenseHead(1, "cv4", "cv5", "dfl2"),
    "TripleDetect": DenseHead(2, "cv6", "cv7", "dfl3"),
    "TripleDDetect": DenseHead(2, "cv6", "cv7", "dfl3"),
    "Segment": DenseHead(0, "cv2", "cv3", "dfl", "cv4", ("proto", 0)),
    "DSegment": DenseHead(0, "cv2", "cv3", "dfl", "cv4", ("proto", -1)),
    "DualDSegment": DenseHead(1, "cv4", "cv5", "dfl2", "cv7", ("proto2", -1)),
    "Panoptic": DenseHead(0, "cv2", "cv3", "dfl", "cv4", ("proto", 0), ("uconv", 0)),
    # Of Generalist YOLO: two auxiliary groups, then prototypes and semantic maps, auxiliary and main.
    "DualDPanoptic": DenseHead(2, "cv6", "cv7", "dfl3", "cv9", ("proto2", 12), ("uconv2", 10)),
}
ANCHOR_HEADS = {"Detect", "IDetect", "IAuxDetect", "ISegment"}


def is_head(module: Module) -> bool:
    return module.kind in DENSE_HEADS or module.kind in ANCHOR_HEADS


def is_anchor_head(module: Module) -> bool:
    return module.kind in ANCHOR_HEADS and module.has("m")


def _levels(module: Module) -> int:
    levels = whole(module, "nl", None, 1)
    if levels > 8:
        raise module.complain(f"has {levels} levels, expected at most 8")
    return levels


def _classes(module: Module) -> int:
    classes = whole(module, "nc", None, 1)
    if classes > MOST_CLASSES:
        raise module.complain(f"has {classes} classes, expected at most {MOST_CLASSES}")
    return classes


def used_sources(module: Module, count: int) -> list[int]:
    """Positions in the head's list of sources, which has `count` entries, of those that it predicts from."""
    levels = _levels(module)
    if is_anchor_head(module):
        used = list(range(levels))
    else:
        head = DENSE_HEADS[module.kind]
        used = list(range(head.group * levels, (head.group + 1) * levels))
        for part in (head.prototypes, head.semantic):
            if part is not None:
                used.append(part[1] if part[1] >= 0 else count - 1)
    if max(used) >= count:
        raise module.complain(f"reads {count} layers, expected at least {max(used) + 1}")
    return used


def _strides(graph: Graph, module: Module, sources: Sequence[str]) -> list[int]:
    """Of the levels, as the layers have them; checked against what the head says."""
    strides = [graph.shapes[source].stride for source in sources]
    stated = module.tensor("stride", optional=True)
    if any(stride.denominator != 1 for stride in strides) or sorted(strides) != strides:
        raise module.complain(f"reads levels of the strides {', '.join(map(str, strides))}, expected rising ones")
    found = [int(stride) for stride in strides]
    if stated is not None and stated.size and stated.reshape(-1).tolist() != found:
        raise module.complain(f"says its strides are {stated.reshape(-1).tolist()}, but its layers have {found}")
    return found


def read_head(graph: Graph, module: Module, sources: Sequence[str | None]) -> Heads:
    """Add the layers of the head; `sources` are all that it lists, None where it needs none."""
    read = _anchor_head if is_anchor_head(module) else _dense_head
    return read(graph, module, [source or "" for source in sources])


def _anchor_head(graph: Graph, module: Module, sources: Sequence[str]) -> Heads:
    levels, classes = _levels(module), _classes(module)
    sources = sources[:levels]
    strides = _strides(graph, module, sources)
    # YOLOv7 and YOLOR keep the anchors in pixels as a buffer. The u7 branch does not, and never applies `im`.
    grid = module.tensor("anchor_grid") if module.is_buffer("anchor_grid") else None
    multiplies = grid is not None and module.has("im")
    if grid is None:
        anchors = module.tensor("anchors")
        grid = anchors if anchors is None or anchors.ndim != 3 else anchors * np.array(strides).reshape(-1, 1, 1)
    if grid is None or grid.size % (2 * levels) or not grid.size or len(grid) != levels:
        raise module.complain("has anchors that do not fit its levels")
    grid = grid.reshape(levels, -1, 2)
    if not (np.isfinite(grid).all() and (grid > 0).all()):
        raise module.complain("has anchors that are no sizes")
    names = []
    for index, source in enumerate(sources):
        if module.has("ia"):
            source = graph.vector(module.child("ia").child(str(index)), source, False)
        name = graph.conv2d(module.child("m").child(str(index)), source)
        if multiplies:
            name = graph.vector(module.child("im").child(str(index)), name, True)
        names.append(name)
    width = graph.channels(names[0])
    each, rest = divmod(width, grid.shape[1])
    coefficients = each - 5 - classes
    if rest or coefficients < 0 or any(graph.channels(name) != width for name in names):
        raise module.complain(f"predicts {width} values for {grid.shape[1]} anchors and {classes} classes")
    if (coefficients > 0) != module.has("proto"):
        raise module.complain(f"predicts {each} values an anchor; {classes} classes need {5 + classes}")
    boxes: dict[str, Any] = {
        "coding": "anchors",
        "strides": strides,
        "levels": names,
        "anchors": [[[float(side) for side in anchor] for anchor in level] for level in grid],
    }
    if not coefficients:
        return Heads(boxes, classes)
    boxes["mask_coefficients"] = coefficients
    prototypes = simple(graph, module.child("proto"), sources[0])
    _check_prototypes(graph, module, prototypes, coefficients)
    return Heads(boxes, classes, {"coefficients": None, "prototypes": prototypes})


def _check_prototypes(graph: Graph, module: Module, prototypes: str, coefficients: int) -> None:
    shape = graph.shapes[prototypes]
    if shape.channels != coefficients or shape.stride != 4:
        raise module.complain(
            f"has {shape.channels} prototypes at stride {shape.stride}; expected {coefficients} at stride 4"
        )


def _branch(graph: Graph, module: Module, name: str, sources: Sequence[str], width: int | None) -> list[str]:
    branches = module.child(name)
    made = [simple(graph, branches.child(str(index)), source) for index, source in enumerate(sources)]
    widths = {graph.channels(item) for item in made}
    if len(widths) != 1 or (width is not None and widths != {width}):
        raise branches.complain(f"predicts {', '.join(map(str, sorted(widths)))} values a cell, expected {width}")
    return made


def _dense_head(graph: Graph, module: Module, sources: Sequence[str]) -> Heads:
    head, levels, classes = DENSE_HEADS[module.kind], _levels(module), _classes(module)
    own = sources[head.group * levels : (head.group + 1) * levels]
    strides = _strides(graph, module, own)
    bins = whole(module, "reg_max", None, 2)
    table = module.child(head.table).child("conv").tensor("weight")
    if table is None or not np.array_equal(table.reshape(-1), np.arange(bins, dtype=np.float32)):
        raise module.complain(f"has a table of distances that is not 0 to {bins - 1}")
    boxes = {
        "coding": "dfl",
        "strides": strides,
        "reg_max": bins,
        "bins": _branch(graph, module, head.bins, own, 4 * bins),
        "classes": _branch(graph, module, head.classes, own, classes),
    }
    found = Heads(boxes, classes)
    if head.coefficients and head.prototypes:
        coefficients = _branch(graph, module, head.coefficients, own, None)
        name, position = head.prototypes
        prototypes = simple(graph, module.child(name), sources[position])
        _check_prototypes(graph, module, prototypes, graph.channels(coefficients[0]))
        found.masks = {"coefficients": coefficients, "prototypes": prototypes}
    if head.semantic:
        name, position = head.semantic
        found.semantic = simple(graph, module.child(name), sources[position])
        stated = module.get("sem_nc")
        if type(stated) is int and graph.channels(found.semantic) != stated + classes:
            raise module.complain(
                f"has {graph.channels(found.semantic)} semantic channels, expected {stated} + {classes}"
            )
    return found


# The captioner of Generalist YOLO.

GRIT_SOURCES = 6
_LOOKS = (
    ("self_att", "self_attention", "norms.0"),
    ("vis_att1", "cross_attention", "norms.1"),
    ("vis_att2", "region_attention", "region_norm"),
)


def read_captioner(graph: Graph, module: Module, sources: Sequence[str], heads: Heads) -> None:
    """Add what `Grit` reads, and its settings and weights to `heads`."""
    if heads.semantic is None or heads.boxes["coding"] != "dfl":
        raise module.complain("needs a head with classes and semantic logits before it")
    levels = _branch(graph, module, "cv3", sources[:3], None)
    grid = simple(graph, module.child("cv4"), sources[3])
    features = simple(graph, module.child("cv5"), sources[4])
    transformer = module.child("grit_transformer")
    encoder, generator = transformer.child("grid_net"), transformer.child("cap_generator")
    weights: dict[str, np.ndarray] = {}
    width = _linear(encoder.child("fc"), "grid.entry", weights, graph.channels(grid), None)
    _norm(encoder.child("layer_norm"), "grid.norm", weights, width)
    attention = encoder.child("layers").child("0").child("mhatt").child("attention")
    shape = _Shape(width, whole(attention, "n_heads", None, 1), 0)
    if whole(attention, "n_memories", 0):
        raise attention.complain("has memory slots, which no official network uses")
    layers, decoders = encoder.child("layers").children(), generator.child("layers").children()
    if not 0 < len(layers) <= 64 or not 0 < len(decoders) <= 64:
        raise module.complain(f"has {len(layers)} encoder and {len(decoders)} decoder layers")
    for index, layer in enumerate(layers):
        place = f"grid.layers.{index}"
        _attention(layer.child("mhatt"), f"{place}.attention", f"{place}.norms.0", weights, shape)
        shape.inner = _feed_forward(layer.child("pwff"), place, ("0", "2"), f"{place}.norms.1", weights, shape)
    words = _table(generator.child("word_emb"), "decoder.words", weights, width)
    # The first word of a caption stands at position 1; only padding, which says nothing, stands at 0.
    positions = _table(generator.child("pos_emb"), "decoder.positions", weights, width) - 1
    weights["decoder.positions.weight"] = weights["decoder.positions.weight"][1:]
    for index, layer in enumerate(decoders):
        if layer.kind != "ParallelAttentionLayer" or layer.get("activation", "sigmoid") != "sigmoid":
            raise layer.complain("is no decoder layer with sigmoid gates")
        place = f"decoder.layers.{index}"
        for name, ours, norm in _LOOKS:
            _attention(layer.child(name), f"{place}.{ours}", f"{place}.{norm}", weights, shape)
        # `fc_alpha2` is in every file, but the official network gates both looks with `fc_alpha1`.
        _linear(layer.child("fc_alpha1"), f"{place}.gate", weights, 2 * width, width)
        inner = _feed_forward(layer.child("pwff"), place, ("0", "3"), f"{place}.norms.2", weights, shape)
        if inner != shape.inner:
            raise layer.complain("has a feed-forward part of another width than the encoder")
    _linear(generator.child("fc"), "decoder.output", weights, width, words, bias=False)
    if {graph.channels(name) for name in (*levels, features)} != {width}:
        raise module.complain(f"reads regions of another width than {width}")
    config = module.get("config")
    config = config if isinstance(config, dict) else {}
    semantic = graph.channels(heads.semantic)
    heads.caption = {
        "levels": levels,
        "grid": grid,
        "semantic_features": features,
        "width": width,
        "heads": shape.heads,
        "feed_forward": shape.inner,
        "encoder_layers": len(layers),
        "decoder_layers": len(decoders),
        "grid_channels": graph.channels(grid),
        "words": words,
        "positions": positions,
        "regions": whole(module, "k", None, 1),
        "semantic_regions": semantic,
        "padding": whole(generator, "pad_idx", 0),
        "begin": whole(transformer, "bos_idx", 2),
        "end": _setting(module, config, "eos_idx", 3),
        "max_length": _setting(module, config, "beam_len", 20),
        "beam_size": _setting(module, config, "beam_size", 5),
    }
    if not 0 < heads.caption["max_length"] <= positions or not 0 < heads.caption["beam_size"] <= words:
        raise module.complain(f"has {positions} positions and {words} words, too few for its own search")
    if max(heads.caption[n] for n in ("padding", "begin", "end")) >= words:
        raise module.complain(f"has {words} words, too few for its own settings")
    heads.weights = {f"captioner.{name}": value for name, value in weights.items()}


def _setting(module: Module, config: dict[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 20:
        raise module.complain(f"has {name} {value!r:.40}, expected a whole number")
    return value


@dataclass
class _Shape:
    width: int
    heads: int
    inner: int


def _checked(module: Module, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    value = module.tensor(name)
    fits = value is not None and value.ndim == len(shape)
    if value is None or not fits or any(b not in (None, a) for a, b in zip(value.shape, shape, strict=True)):
        raise module.complain(f"has {name} of shape {None if value is None else value.shape}, expected {shape}")
    if not np.isfinite(value).all():
        raise module.complain(f"has {name} with values that are no finite numbers")
    return value


def _linear(
    module: Module, name: str, weights: dict[str, np.ndarray], inner: int, outer: int | None, bias: bool = True
) -> int:
    weights[f"{name}.weight"] = value = _checked(module, "weight", (outer, inner))
    if bias:
        weights[f"{name}.bias"] = _checked(module, "bias", (len(value),))
    return len(value)


def _norm(module: Module, name: str, weights: dict[str, np.ndarray], width: int) -> None:
    if module.get("eps", 1e-5) != 1e-5:
        raise module.complain(f"has eps {module.get('eps')!r:.40}, expected 1e-05")
    for part in ("weight", "bias"):
        weights[f"{name}.{part}"] = _checked(module, part, (width,))


def _table(module: Module, name: str, weights: dict[str, np.ndarray], width: int) -> int:
    weights[f"{name}.weight"] = value = _checked(module, "weight", (None, width))
    return len(value)


def _attention(module: Module, name: str, norm: str, weights: dict[str, np.ndarray], shape: _Shape) -> None:
    inner = module.child("attention")
    if whole(inner, "n_heads", None, 1) != shape.heads or shape.width % shape.heads:
        raise inner.complain(f"has another number of heads than {shape.heads}")
    for theirs, ours in (("fc_q", "query"), ("fc_k", "key"), ("fc_v", "value"), ("fc_o", "output")):
        _linear(inner.child(theirs), f"{name}.{ours}", weights, shape.width, shape.width)
    _norm(module.child("layer_norm"), norm, weights, shape.width)


def _feed_forward(
    module: Module, place: str, parts: tuple[str, str], norm: str, weights: dict[str, np.ndarray], shape: _Shape
) -> int:
    inner = _linear(module.child("fc1"), f"{place}.feed_forward.{parts[0]}", weights, shape.width, None)
    _linear(module.child("fc2"), f"{place}.feed_forward.{parts[1]}", weights, inner, shape.width)
    _norm(module.child("layer_norm"), norm, weights, shape.width)
    return inner


def check_known(modules: Sequence[Module], knows: Callable[[Module], bool]) -> None:
    """Raise one error that names every module below `modules` that is not known, with its place."""
    unknown: dict[str, list[str]] = {}
    for count, module in enumerate(itertools.chain.from_iterable(top.walk() for top in modules)):
        if count > MOST_MODULES:
            raise module.complain(f"is one of more than {MOST_MODULES} modules")
        if not knows(module):
            unknown.setdefault(module.path, []).append(module.place.removeprefix("layer "))
    if unknown:
        parts = []
        for path, places in list(unknown.items())[:12]:
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            parts.append(f"{path} (layer {', '.join(places[:3])}{more})")
        rest = f" and {len(unknown) - 12} further classes" if len(unknown) > 12 else ""
        kinds = {path.rpartition(".")[2] for path in unknown}
        hint = "; it looks like a network of YOLOv5, which is not imported" if kinds & _YOLOV5 else ""
        raise CheckpointError(f"has modules that are not known: {'; '.join(parts)}{rest}{hint}")


_YOLOV5 = {"C3", "SPPF", "Focus", "C3TR", "C3Ghost", "C3x"}
