"""State dicts: tensors by name, to which a configuration adds the network they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError, UsageError
from .build import build
from .configurations import CONFIGURATIONS, Configuration
from .darknet import build_darknet, plan_of, read_sections
from .graph import Graph, Module
from .heads import Heads
from .pickle_machine import Record, StoredTensor

TORCH = "torch.nn.modules."


def graph_of_state_dict(
    tensors: Mapping[str, StoredTensor], config: str | Path, most_values: int = 1 << 31
) -> tuple[Graph, Heads, str, str]:
    """Graph, heads, family and name of the network.

    Args:
        tensors: By their names in the file.
        config: Name of a configuration, or path of a Darknet description.
        most_values: How many weights there may be.

    Raises:
        UsageError: If there is no such configuration.
        CheckpointError: If the tensors do not fit it.
    """
    path = Path(config)
    darknet = any(name.startswith("module_list.") for name in tensors)
    if path.suffix in (".cfg", ".json") or (path.is_file() and path.suffix not in (".yaml", ".yml")):
        if not path.is_file():
            raise UsageError(f"{path}: no such file; expected a Darknet .cfg file")
        if not darknet:
            raise CheckpointError(f"has no tensors of a Darknet network (module_list...), which {path.name} describes")
        graph, heads = build_darknet(read_sections(path), tensors, most_values)
        return graph, heads, "yolor", path.stem[:60]
    if darknet:
        sections = plan_of(str(config).lower(), tensors)
        if sections is None:
            raise UsageError(
                "holds the tensors of a Darknet network (YOLOR); give its .cfg file as <config>, or one of the names "
                "yolor_csp, yolor_p6, yolor_w6",
                argument="config",
            )
        graph, heads = build_darknet(sections, tensors, most_values)
        return graph, heads, "yolor", str(config).lower()
    name = path.stem.lower() if path.suffix in (".yaml", ".yml") else str(config).lower()
    candidates = [CONFIGURATIONS[key] for key in (name, f"{name}-deploy", f"{name}-paper") if key in CONFIGURATIONS]
    if not candidates:
        raise UsageError(f"the configuration {str(config)[:60]!r} is not known; known are {', '.join(CONFIGURATIONS)}")
    first: CheckpointError | None = None
    for candidate in candidates:
        try:
            try:
                tree = module_tree(candidate, tensors)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise CheckpointError(f"its tensors are those of another network ({error!r:.80})") from None
            graph, heads = build(Module(tree, "the model"), most_values)
            return graph, heads, candidate.family, candidate.name
        except CheckpointError as error:
            first = first or error
    raise CheckpointError(f"does not fit the configuration {name}: {first}")


def module_tree(configuration: Configuration, tensors: Mapping[str, StoredTensor]) -> Record:
    """The module tree that a pickled file would hold, made from a configuration and the tensors alone."""
    trees: list[dict[str, Any]] = [{} for _ in configuration.layers]
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    for name, tensor in tensors.items():
        for start in ("module.", prefix):
            name = name.removeprefix(start)
        index, _, rest = name.partition(".")
        if not index.isdigit() or not rest or int(index) >= len(trees):
            raise CheckpointError(
                f"has a tensor {name[:60]!r}, which {configuration.name} with its {len(trees)} layers does not have"
            )
        node = trees[int(index)]
        *parts, last = rest.split(".")
        if len(parts) > 20:
            raise CheckpointError(f"has a tensor {name[:60]!r}, which lies too deep")
        for part in parts:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"has a tensor {name[:60]!r} that is part of another one")
        node[last] = tensor
    layers = {}
    for index, (kind, links, arguments) in enumerate(configuration.layers):
        record = _layer(kind, trees[index], arguments, configuration.activation)
        record.state |= {"f": links, "i": index}
        layers[str(index)] = record
    return _record("models.yolo.Model", {"model": _record(TORCH + "container.Sequential", layers)})


def _record(path: str, children: Mapping[str, Record] | None = None, **attributes: Any) -> Record:
    state: dict[str, Any] = {"_modules": dict(children or {}), "_parameters": {}, "_buffers": {}, **attributes}
    return Record(path, (), state)


def _leaf(node: Mapping[str, Any], stride: int = 1) -> Record:
    """Convolution, norm, linear layer or table, by the shapes of its tensors."""
    weight = node.get("weight")
    if not isinstance(weight, StoredTensor):
        raise CheckpointError(f"has no weight beside {', '.join(list(node)[:4])}")
    attributes: dict[str, Any] = {}
    if len(weight.shape) == 4:
        kind = "conv.Conv2d"
        height, width = weight.shape[2:]
        attributes = {
            "kernel_size": (height, width),
            "stride": stride,
            "padding": (height // 2, width // 2),
            "out_channels": weight.shape[0],
            "groups": None,
        }
    elif "running_mean" in node:
        kind, attributes = "batchnorm.BatchNorm2d", {"eps": 1e-3}
    elif len(weight.shape) == 2:
        kind = "linear.Linear"
    else:
        kind = "normalization.LayerNorm"
    record = _record(TORCH + kind, **attributes)
    record.state["_parameters"] = {name: value for name, value in node.items() if isinstance(value, StoredTensor)}
    return record


def _pool(kernel: int, stride: int = 1) -> Record:
    padding = kernel // 2 if stride == 1 else 0
    return _record(TORCH + "pooling.MaxPool2d", kernel_size=kernel, stride=stride, padding=padding)


def _upsample(scale: int, mode: str, align: bool = False) -> Record:
    return _record(TORCH + "upsampling.Upsample", scale_factor=scale, mode=mode, align_corners=align or None)


def _layer(kind: str, node: Mapping[str, Any], arguments: Mapping[str, Any], activation: Sequence[Any]) -> Record:
    """A layer of class `kind`; `arguments` are what its tensors do not tell."""
    tree = _Tree(activation)
    name = kind.rpartition(".")[2]
    if name in ("Conv", "DWConv"):
        return tree.conv(node, arguments.get("stride", 1))
    if name == "Upsample":
        return _upsample(arguments.get("scale", 2), arguments.get("mode", "nearest"))
    if name in ("MP", "SP"):
        kernel = 2 if name == "MP" else arguments["kernel"]
        return _record(f"models.common.{name}", {"m": _pool(kernel, 2 if name == "MP" else 1)})
    return tree.build(node, name, arguments)


class _Tree:
    """Makes modules from the names and shapes of tensors; what no tensor tells is what the official classes do."""

    def __init__(self, activation: Sequence[Any]) -> None:
        self.activation = activation

    def act(self) -> Record:
        kind, attributes = self.activation
        return _record(f"{TORCH}activation.{kind}", **attributes)

    def conv(self, node: Mapping[str, Any], stride: int = 1, active: bool = True) -> Record:
        parts = {name: _leaf(node[name], stride) if name == "conv" else _leaf(node[name]) for name in node}
        if active:
            parts["act"] = self.act()
        return _record("models.common.Conv", parts)

    def build(self, node: Mapping[str, Any], kind: str = "", arguments: Mapping[str, Any] = {}) -> Record:
        """The module of `node`; `kind` is its class, or found by its parts."""
        kind = kind or self.kind_of(node)
        if kind == "Leaf":
            return _leaf(node)
        if kind == "Conv":
            return self.conv(node)
        if kind == "PSA":
            return self.psa(node)
        if kind == "RepConv":
            return self.rep_conv(node)
        tensors = {name: value for name, value in node.items() if isinstance(value, StoredTensor)}
        stride = 2 if kind in ("ADown", "AConv", "DownC") else 1
        parts: dict[str, Record] = {}
        for name, value in node.items():
            if name in tensors:
                continue
            if kind == "RepConvN":
                parts[name] = self.conv(value, active=False)
            elif stride == 2 and name == ("cv2" if kind == "DownC" else "cv1"):
                parts[name] = self.conv(value, stride)
            elif name == "m" and kind in ("BottleneckCSPB", "BottleneckCSP2"):
                parts[name] = self.bottlenecks(value, False)
            elif name == "proto" and self.kind_of(value) != "Conv":
                parts[name] = self.build(value, "Proto")
            elif name == "uconv" and "cv1" in value:
                parts[name] = self.build(value, "UConv")
            else:
                parts[name] = self.build(value)
        record = _record(f"models.common.{kind}", parts)
        record.state["_buffers"] = tensors
        self.complete(record, kind, parts, node)
        record.state |= arguments
        return record

    def complete(self, record: Record, kind: str, parts: dict[str, Record], node: Mapping[str, Any]) -> None:
        """Parts and attributes that hold no tensors."""
        modules, state = record.state["_modules"], record.state
        if "bn" in parts or kind == "RepConvN":
            modules["act"] = self.act()
        if kind in ("SPPCSPC", "SPPCSP"):
            modules["m"] = _record(TORCH + "container.ModuleList", {str(i): _pool(k) for i, k in enumerate((5, 9, 13))})
        elif kind == "SPPELAN":
            modules |= {f"cv{i}": _record("models.common.SP", {"m": _pool(5)}) for i in (2, 3, 4)}
        elif kind == "DownC":
            modules["mp"] = _pool(2, 2)
        elif kind == "Proto":
            modules["upsample"] = _upsample(2, "nearest")
        elif kind == "UConv":
            modules["up"] = _upsample(2, "bilinear", True)
        elif kind in ("Bottleneck", "RepNBottleneck"):
            state["add"] = _width_in(node["cv1"]) == _width_out(node["cv2"])
        elif kind == "CBLinear":
            state["c2s"] = _doubling(node["conv"]["weight"].shape[0])
        elif kind == "Grit":
            record.path = "models.yolo.Grit"
            self.captioner(record)
        elif "dfl" in parts:
            state |= {"nl": len(node["cv2"]), "reg_max": math.prod(node["dfl"]["conv"]["weight"].shape)}
            state["nc"] = _last_bias(node["cv3"]["0"])
        elif "m" in node and "anchors" in node:
            levels, anchors = node["anchors"].shape[:2]
            width = node["m"]["0"]["weight"].shape[0] // anchors
            masks = _width_out(node["proto"]["cv3"]) if "proto" in node else 0
            state |= {"nl": levels, "na": anchors, "no": width, "nc": width - 5 - masks}

    def kind_of(self, node: Mapping[str, Any]) -> str:
        names = set(node)
        if isinstance(node.get("weight"), StoredTensor):
            return "Leaf"
        if names and all(name.isdigit() for name in names):
            return "Sequential"
        if names in ({"conv", "bn"}, {"conv"}):
            return "Conv" if "bn" in names else "DFL"
        if {"conv1", "conv2"} <= names:
            return "RepConvN"
        if names == {"cv1", "cv2"}:
            return "RepNBottleneck" if "conv1" in node["cv1"] else "Bottleneck"
        if names == {"cv1", "cv2", "cv3", "m"}:
            return "RepNCSP"
        if names == {"implicit"}:
            return "ImplicitA"
        return "ModuleList"

    def bottlenecks(self, node: Mapping[str, Any], add: bool) -> Record:
        record = self.build(node)
        for child in record.state["_modules"].values():
            child.state["add"] = add
        return record

    def rep_conv(self, node: Mapping[str, Any]) -> Record:
        parts = {}
        for name, value in node.items():
            leaves = {str(i): _leaf(value[str(i)]) for i in range(2)} if "0" in value else None
            parts[name] = _leaf(value) if leaves is None else _record(TORCH + "container.Sequential", leaves)
        return _record("models.common.RepConv", {**parts, "act": self.act()})

    def psa(self, node: Mapping[str, Any]) -> Record:
        width = _width_out(node["attn"]["proj"])
        heads = max(1, width // 64)
        key_width = width // heads // 2
        attention = _record(
            "models.common.Attention",
            {name: self.conv(node["attn"][name], active=False) for name in ("qkv", "proj", "pe")},
            num_heads=heads,
            head_dim=width // heads,
            key_dim=key_width,
            scale=key_width**-0.5,
        )
        feed_forward = {"0": self.conv(node["ffn"]["0"]), "1": self.conv(node["ffn"]["1"], active=False)}
        parts = {"cv1": self.conv(node["cv1"]), "cv2": self.conv(node["cv2"]), "attn": attention}
        return _record("models.common.PSA", {**parts, "ffn": _record(TORCH + "container.Sequential", feed_forward)})

    def captioner(self, record: Record) -> None:
        """What the official code fixes, and no tensor of the captioner tells."""
        record.state["k"] = 300
        waiting: list[Record] = [record]
        while waiting:
            module = waiting.pop()
            children = module.state["_modules"]
            if "fc_q" in children:
                module.state["n_heads"] = 8
            if "vis_att1" in children:
                module.path = "models.grit.ParallelAttentionLayer"
            waiting += children.values()


def _width_out(node: Mapping[str, Any]) -> int:
    """Channels that a Conv gives."""
    return node["conv"]["weight"].shape[0]


def _width_in(node: Mapping[str, Any]) -> int:
    """Channels that a Conv or RepConvN without groups takes."""
    return (node["conv"] if "conv" in node else node["conv1"]["conv"])["weight"].shape[1]


def _last_bias(node: Mapping[str, Any]) -> int:
    return node[max(node, key=int)]["bias"].shape[0]


def _doubling(width: int) -> list[int]:
    """YOLOv9 splits into parts, each twice as wide as the one before, the first of 64 channels or a part of that."""
    for parts in range(8, 0, -1):
        first, rest = divmod(width, 2**parts - 1)
        if not rest and first % 2 == 0:
            return [first << index for index in range(parts)]
    return [width]
