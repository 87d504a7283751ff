"""Builds the list of layers from a pickled module tree: reads arguments off records and tensors, checks what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ...runtime.errors import CheckpointError
from ..network.layers import IMAGE, Activation, Layer
from .pickle_machine import Record, StoredTensor

MOST_LAYERS, MOST_MODULES = 20_000, 100_000
DEEPEST = 24

_ACTIVATIONS = {
    "SiLU": "silu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "Hardswish": "hardswish",
    "Mish": "mish",
    "MemoryEfficientMish": "mish",
    "GELU": "gelu",
    "ELU": "elu",
    "Sigmoid": "sigmoid",
    "Identity": None,
}


class Module:
    """A pickled module: its class, children, tensors and attributes, with its place in the network for messages."""

    def __init__(self, record: Any, place: str, depth: int = 0) -> None:
        if not isinstance(record, Record) or not isinstance(record.state, dict):
            raise CheckpointError(f"{place}: is no module; the file is damaged or foreign")
        if depth > DEEPEST:
            raise CheckpointError(f"{place[:80]}: is nested too deeply")
        self.record, self.place, self.depth = record, place, depth
        self.path = record.path
        self.kind = record.path.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"{self.place} ({self.path})"

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self.record.state.get(name)
        return part if isinstance(part, dict) else {}

    def complain(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self}: {what}")

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute that is no module and no tensor of the state."""
        return self.record.state.get(name, default)

    def has(self, name: str) -> bool:
        return self._part("_modules").get(name) is not None

    def child(self, name: str) -> Module:
        if not self.has(name):
            raise self.complain(f"has no part {name}")
        return Module(self._part("_modules")[name], f"{self.place}.{name}", self.depth + 1)

    def children(self) -> list[Module]:
        return [self.child(name) for name, value in self._part("_modules").items() if value is not None]

    def tensor(self, name: str, optional: bool = False) -> np.ndarray | None:
        """A parameter, a buffer or a tensor among the attributes, as float32."""
        for part in (self._part("_parameters"), self._part("_buffers"), self.record.state):
            value = part.get(name)
            if isinstance(value, StoredTensor):
                return value.array().astype(np.float32)
        if optional:
            return None
        raise self.complain(f"has no tensor {name}")

    def is_buffer(self, name: str) -> bool:
        return isinstance(self._part("_buffers").get(name), StoredTensor)

    def walk(self) -> Iterator[Module]:
        """This module and all below it."""
        waiting = [self]
        while waiting:
            module = waiting.pop()
            yield module
            waiting += module.children()


def is_activation(module: Module) -> bool:
    return module.kind in _ACTIVATIONS


def activation(module: Module | None) -> Activation:
    """What a layer says of the activation that `module` is."""
    if module is None:
        return None
    if module.kind not in _ACTIVATIONS:
        raise module.complain("is no activation that is known")
    name = _ACTIVATIONS[module.kind]
    if name == "leaky_relu":
        return [name, _number(module, "negative_slope", 0.01)]
    if name == "elu":
        return [name, _number(module, "alpha", 1.0)]
    return name


def _number(module: Module, name: str, default: float) -> float:
    value = module.get(name, default)
    if type(value) not in (int, float):
        raise module.complain(f"has {name} {value!r:.40}, expected a number")
    return float(value)


def whole(module: Module, name: str, default: int | None = None, least: int = 0) -> int:
    """An attribute that has to be a whole number."""
    value = module.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value < 1 << 31:
        raise module.complain(f"has {name} {value!r:.40}, expected a whole number from {least}")
    return value


def _sides(module: Module, name: str, default: Any, least: int) -> int | list[int]:
    """A whole number, or two for height and width."""
    value = module.get(name, default)
    pair = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(pair) != 2 or any(type(side) is not int or not least <= side <= 4096 for side in pair):
        raise module.complain(f"has {name} {value!r:.40}, expected whole numbers from {least}")
    return pair[0] if pair[0] == pair[1] else pair


def _stride(value: int | list[int]) -> int:
    return value if isinstance(value, int) else max(value)


@dataclass(frozen=True)
class Shape:
    """What is known of a layer's output: channels, and pixels of the image a cell."""

    channels: int
    stride: Fraction


class Graph:
    """Layers and weights as they are built, with what each layer gives.

    Args:
        most_values: How many weights there may be: a file that refers to one tensor many times is refused.
    """

    def __init__(self, most_values: int = 1 << 31) -> None:
        self.values_left = most_values
        self.layers: list[Layer] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shapes = {IMAGE: Shape(3, Fraction(1))}

    def channels(self, name: str) -> int:
        return self.shapes[name].channels

    def emit(
        self,
        place: str,
        kind: str,
        sources: Sequence[str],
        channels: int,
        stride: Fraction,
        weights: Mapping[str, np.ndarray] | None = None,
        /,
        **arguments: Any,
    ) -> str:
        """Add a layer; returns its name."""
        base = place.removeprefix("layer ").replace(".", "_").replace(" ", "_")
        name, count = base, 1
        while name in self.shapes:
            count += 1
            name = f"{base}_{count}"
        if len(self.layers) >= MOST_LAYERS:
            raise CheckpointError(f"{place}: the network has more than {MOST_LAYERS} operations")
        self.layers.append({"name": name, "type": kind, "from": list(sources), **arguments})
        self.shapes[name] = Shape(channels, stride)
        for key, value in (weights or {}).items():
            self.values_left -= value.size
            if self.values_left < 0:
                raise CheckpointError(f"{place}: its modules hold more weights than the file")
            if not np.isfinite(value).all():
                raise CheckpointError(f"{place}: its {key} holds values that are no finite numbers")
            self.weights[f"layers.{name}.{key}"] = value
        return name

    # Parts of layers: arguments and weights of one convolution or batch norm.

    def _conv_part(self, module: Module, channels: int, norm: Module | None) -> tuple[Layer, dict[str, np.ndarray]]:
        if module.kind != "Conv2d":
            raise module.complain("is no Conv2d")
        weight, bias = module.tensor("weight"), module.tensor("bias", optional=True)
        if weight is None or weight.ndim != 4 or not weight.size:
            raise module.complain("has a weight that is no kernel of four dimensions")
        out, inner, height, width = weight.shape
        # A state dict does not tell the groups; what the convolution is given does.
        groups = whole(module, "groups", 1, 1) if module.get("groups", 1) is not None else max(1, channels // inner)
        stated = (module.get("out_channels", out), module.get("in_channels", inner * groups))
        kernel = _sides(module, "kernel_size", (height, width), 1)
        if stated != (out, inner * groups) or kernel not in (height if height == width else None, [height, width]):
            raise module.complain(f"has a weight of shape {weight.shape}, which contradicts what it says of itself")
        if inner * groups != channels or out % groups:
            raise module.complain(f"takes {inner * groups} channels in {groups} groups, but is given {channels}")
        if module.get("padding_mode", "zeros") != "zeros" or module.get("transposed", False):
            raise module.complain("is transposed or pads with something else than zeros, which is not supported")
        layer: Layer = {"in": channels, "out": out, "kernel": kernel}
        for name, key, default in (("stride", "stride", 1), ("padding", "padding", 0), ("dilation", "dilation", 1)):
            value = _sides(module, name, default, int(name != "padding"))
            if value != default:
                layer[key] = value
        if groups != 1:
            layer["groups"] = groups
        weights = {"conv.weight": weight}
        if bias is not None:
            if bias.shape != (out,):
                raise module.complain(f"has {bias.size} biases for {out} channels")
            layer["bias"] = True
            weights["conv.bias"] = bias
        if norm is not None:
            more, tensors = self._norm_part(norm, out)
            layer["norm"] = more["norm"]
            weights |= tensors
        return layer, weights

    def _norm_part(self, module: Module, channels: int) -> tuple[Layer, dict[str, np.ndarray]]:
        if module.kind != "BatchNorm2d":
            raise module.complain("is no BatchNorm2d")
        weights = {}
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = module.tensor(name)
            if value is None or value.shape != (channels,):
                raise module.complain(f"has a {name} for {0 if value is None else value.size} channels, not {channels}")
            weights[f"norm.{name}"] = value
        if (weights["norm.running_var"] < 0).any():
            raise module.complain("has a negative variance")
        eps = _number(module, "eps", 1e-3)
        if not 0 < eps < 1:
            raise module.complain(f"has eps {eps}")
        return {"out": channels, "norm": eps}, weights

    # Layers.

    def conv2d(
        self,
        module: Module,
        source: str,
        norm: Module | None = None,
        act: Module | None = None,
        place: str | None = None,
    ) -> str:
        layer, weights = self._conv_part(module, self.channels(source), norm)
        which = activation(act)
        if which is not None:
            layer["activation"] = which
        stride = self.shapes[source].stride * _stride(layer.get("stride", 1))
        return self.emit(place or module.place, "conv", [source], layer["out"], stride, weights, **layer)

    def rep_conv(self, module: Module, source: str, branches: Sequence[tuple[Module, Module | None]]) -> str:
        """Branches of one input: pairs of a convolution and its norm, or of a norm and None."""
        parts, weights, strides = [], {}, set()
        for index, (first, norm) in enumerate(branches):
            make = self._norm_part(first, self.channels(source)) if first.kind == "BatchNorm2d" else None
            layer, tensors = make or self._conv_part(first, self.channels(source), norm)
            strides.add(_stride(layer.get("stride", 1)))
            parts.append(layer)
            weights |= {f"branches.{index}.{key}": value for key, value in tensors.items()}
        if len({part["out"] for part in parts}) != 1 or len(strides) != 1:
            raise module.complain("has branches of different width or stride")
        which = activation(module.child("act")) if module.has("act") else None
        more: Layer = {} if which is None else {"activation": which}
        stride = self.shapes[source].stride * strides.pop()
        return self.emit(module.place, "rep_conv", [source], parts[0]["out"], stride, weights, branches=parts, **more)

    def norm(self, module: Module, source: str, act: Module | None = None) -> str:
        layer, weights = self._norm_part(module, self.channels(source))
        which = activation(act)
        if which is not None:
            layer["activation"] = which
        return self.emit(module.place, "norm", [source], layer["out"], self.shapes[source].stride, weights, **layer)

    def vector(self, module: Module, source: str, multiplies: bool) -> str:
        vector = module.tensor("implicit")
        channels = self.channels(source)
        if vector is None or vector.shape != (1, channels, 1, 1):
            shape = None if vector is None else vector.shape
            raise module.complain(f"has a vector of shape {shape}; expected (1, {channels}, 1, 1)")
        kind = "multiply_vector" if multiplies else "add_vector"
        stride = self.shapes[source].stride
        return self.emit(module.place, kind, [source], channels, stride, {"vector": vector}, out=channels)

    def max_pool(self, place: str, source: str, kernel: int, stride: int = 1, padding: int = 0) -> str:
        shape = self.shapes[source]
        arguments = {"kernel": kernel, "stride": stride, "padding": padding}
        return self.emit(place, "max_pool", [source], shape.channels, shape.stride * stride, **arguments)

    def pool(self, module: Module, source: str) -> str:
        """A pooling module of torch."""
        if module.get("ceil_mode", False) or module.get("dilation", 1) not in (1, (1, 1)):
            raise module.complain("rounds up or is dilated, which is not supported")
        kernel = _sides(module, "kernel_size", None, 1)
        stride = _sides(module, "stride", kernel, 1)
        padding = _sides(module, "padding", 0, 0)
        if not (isinstance(kernel, int) and isinstance(stride, int) and isinstance(padding, int)):
            raise module.complain("is not square")
        if module.kind == "AvgPool2d":
            shape = self.shapes[source]
            arguments = {"kernel": kernel, "stride": stride, "padding": padding}
            return self.emit(module.place, "average_pool", [source], shape.channels, shape.stride * stride, **arguments)
        return self.max_pool(module.place, source, kernel, stride, padding)

    def concat(self, place: str, sources: Sequence[str]) -> str:
        if len(sources) == 1:
            return sources[0]
        self._same(place, sources)
        channels = sum(map(self.channels, sources))
        return self.emit(place, "concat", sources, channels, self.shapes[sources[0]].stride)

    def add(self, place: str, sources: Sequence[str]) -> str:
        self._same(place, sources)
        if len({self.channels(source) for source in sources}) != 1:
            raise CheckpointError(f"{place}: adds up {' and '.join(str(self.channels(s)) for s in sources)} channels")
        return self.emit(place, "add", sources, self.channels(sources[0]), self.shapes[sources[0]].stride)

    def _same(self, place: str, sources: Sequence[str]) -> None:
        strides = [self.shapes[source].stride for source in sources]
        if len(set(strides)) > 1:
            raise CheckpointError(f"{place}: joins maps of the strides {', '.join(map(str, strides))}")

    def part(self, place: str, source: str, start: int, stop: int) -> str:
        if not 0 <= start < stop <= self.channels(source):
            raise CheckpointError(f"{place}: takes channels {start} to {stop} of {self.channels(source)}")
        stride = self.shapes[source].stride
        return self.emit(place, "slice", [source], stop - start, stride, start=start, stop=stop)

    def halves(self, place: str, source: str) -> tuple[str, str]:
        channels = self.channels(source)
        if channels % 2:
            raise CheckpointError(f"{place}: halves {channels} channels")
        first = self.part(f"{place}.first", source, 0, channels // 2)
        return first, self.part(f"{place}.second", source, channels // 2, channels)

    def average(self, place: str, source: str) -> str:
        """Average pool 2 x 2, stride 1, no padding, before a convolution or pool of stride 2."""
        shape = self.shapes[source]
        return self.emit(f"{place}.average", "average_pool", [source], shape.channels, shape.stride, kernel=2, stride=1)

    def upsample(self, place: str, source: str, scale: int, mode: str = "nearest", align_corners: bool = False) -> str:
        shape = self.shapes[source]
        more = {"align_corners": align_corners} if mode == "bilinear" else {}
        return self.emit(
            place, "upsample", [source], shape.channels, shape.stride / scale, scale=scale, mode=mode, **more
        )

    def pruned(self, outputs: Sequence[str]) -> tuple[list[Layer], dict[str, np.ndarray]]:
        """The layers that `outputs` need, and their weights."""
        needed = set(outputs)
        for layer in reversed(self.layers):
            if layer["name"] in needed:
                needed.update(layer["from"])
        layers = [layer for layer in self.layers if layer["name"] in needed]
        kept = {name: value for name, value in self.weights.items() if name.split(".")[1] in needed}
        kept |= {name: value for name, value in self.weights.items() if not name.startswith("layers.")}
        return layers, kept
