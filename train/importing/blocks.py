"""What each class of the official repositories computes, in operations of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...runtime.errors import CheckpointError
from .graph import Graph, Module, activation, is_activation, whole

Block = Callable[[Graph, Module, Sequence[str]], "str | list[str]"]


def run(graph: Graph, module: Module, sources: Sequence[str]) -> str | list[str]:
    """Add the layers of `module`, which reads `sources`; returns the name of what it gives, or of the parts of it."""
    if is_activation(module):
        which, source = activation(module), one(module, sources)
        shape = graph.shapes[source]
        if which is None:
            return source
        return graph.emit(module.place, "activation", [source], shape.channels, shape.stride, activation=which)
    block = BLOCKS.get(module.kind)
    if block is None:
        raise module.complain("is a module that is not known")
    return block(graph, module, sources)


def one(module: Module, sources: Sequence[str]) -> str:
    if len(sources) != 1:
        raise module.complain(f"reads {len(sources)} layers, expected one")
    return sources[0]


def simple(graph: Graph, module: Module, source: str) -> str:
    """The output of a module that has one input and one output."""
    made = run(graph, module, [source])
    if not isinstance(made, str):
        raise module.complain("gives several maps where one is expected")
    return made


def _child(graph: Graph, module: Module, name: str, source: str) -> str:
    return simple(graph, module.child(name), source)


def known(module: Module) -> bool:
    """Whether `run` knows the class."""
    return module.kind in BLOCKS or is_activation(module) or module.kind in _LEAVES


_LEAVES = {"ModuleList", "BatchNorm2d", "Attention", "Dropout"}


def _conv(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    norm = module.child("bn") if module.has("bn") else None
    act = module.child("act") if module.has("act") else None
    return graph.conv2d(module.child("conv"), one(module, sources), norm, act, module.place)


def _rep_conv(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    source = one(module, sources)
    act = module.child("act") if module.has("act") else None
    if module.has("rbr_reparam"):
        return graph.conv2d(module.child("rbr_reparam"), source, None, act, module.place)
    branches: list[tuple[Module, Module | None]] = []
    for name in ("rbr_dense", "rbr_1x1"):
        branch = module.child(name)
        branches.append((branch.child("0"), branch.child("1")))
    if module.has("rbr_identity"):
        branches.append((module.child("rbr_identity"), None))
    return graph.rep_conv(module, source, branches)


def _rep_conv_n(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    source = one(module, sources)
    act = module.child("act") if module.has("act") else None
    if module.has("conv"):
        return graph.conv2d(module.child("conv"), source, None, act, module.place)
    branches: list[tuple[Module, Module | None]] = []
    for name in ("conv1", "conv2"):
        branch = module.child(name)
        if branch.has("act") and branch.child("act").kind != "Identity":
            raise branch.complain("has an activation inside a branch")
        branches.append((branch.child("conv"), branch.child("bn")))
    if module.has("bn"):
        branches.append((module.child("bn"), None))
    return graph.rep_conv(module, source, branches)


def _sequential(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    value = one(module, sources)
    for child in module.children():
        value = simple(graph, child, value)
    return value


def _pool(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return graph.pool(module, one(module, sources))


def _inner_pool(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return graph.pool(module.child("m"), one(module, sources))


def _concat(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    if whole(module, "d", 1) != 1:
        raise module.complain("joins along another axis than the channels")
    return graph.concat(module.place, sources)


def _shortcut(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return graph.add(module.place, sources)


def _upsample(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    scale, mode = module.get("scale_factor"), module.get("mode", "nearest")
    scale = scale[0] if isinstance(scale, tuple | list) and len(set(scale)) == 1 else scale
    if module.get("size") is not None or scale not in (2, 4, 8) or mode not in ("nearest", "bilinear"):
        raise module.complain(f"resizes by {scale!r:.30} ({mode!r:.30}); expected 2, 4 or 8, nearest or bilinear")
    return graph.upsample(module.place, one(module, sources), int(scale), mode, bool(module.get("align_corners")))


def _silence(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return one(module, sources)


def reorg(graph: Graph, place: str, source: str) -> str:
    shape = graph.shapes[source]
    return graph.emit(place, "reorg", [source], 4 * shape.channels, shape.stride * 2)


def _reorg(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return reorg(graph, module.place, one(module, sources))


def _bare_conv(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return graph.conv2d(module, one(module, sources))


def _bare_norm(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return graph.norm(module, one(module, sources))


def _down_c(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    source = one(module, sources)
    first = _child(graph, module, "cv2", _child(graph, module, "cv1", source))
    pooled = graph.pool(module.child("mp"), source)
    return graph.concat(module.place, [first, _child(graph, module, "cv3", pooled)])


def _pools(graph: Graph, module: Module, source: str) -> str:
    return graph.concat(
        f"{module.place}.pools", [source, *(graph.pool(m, source) for m in module.child("m").children())]
    )


def _sppcspc(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    source = one(module, sources)
    first = source
    for name in ("cv1", "cv3", "cv4"):
        first = _child(graph, module, name, first)
    first = _child(graph, module, "cv6", _child(graph, module, "cv5", _pools(graph, module, first)))
    joined = graph.concat(f"{module.place}.join", [first, _child(graph, module, "cv2", source)])
    if module.has("bn"):  # SPPCSP: a norm of its own over both halves
        joined = graph.norm(module.child("bn"), joined, module.child("act"))
    return _child(graph, module, "cv7", joined)


def _bottleneck(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    source = one(module, sources)
    inner = _child(graph, module, "cv2", _child(graph, module, "cv1", source))
    return graph.add(module.place, [source, inner]) if module.get("add", False) is True else inner


def _csp_a(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    """cv3(concat(m(cv1 x), cv2 x)); also RepNCSP."""
    source = one(module, sources)
    first = _child(graph, module, "m", _child(graph, module, "cv1", source))
    return _child(
        graph, module, "cv3", graph.concat(f"{module.place}.join", [first, _child(graph, module, "cv2", source)])
    )


def _csp_b(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    """t = cv1 x; cv3(concat(m t, cv2 t)), in BottleneckCSP2 with a norm and activation over the join."""
    first = _child(graph, module, "cv1", one(module, sources))
    parts = [_child(graph, module, "m", first), _child(graph, module, "cv2", first)]
    joined = graph.concat(f"{module.place}.join", parts)
    if module.has("bn"):
        joined = graph.norm(module.child("bn"), joined, module.child("act"))
    return _child(graph, module, "cv3", joined)


def _csp_c(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    """cv4(concat(cv3(m(cv1 x)), cv2 x)); BottleneckCSP has a norm and activation over the join, CSPF also no cv3."""
    source = one(module, sources)
    first = _child(graph, module, "m", _child(graph, module, "cv1", source))
    if module.has("cv3"):
        first = _child(graph, module, "cv3", first)
    joined = graph.concat(f"{module.place}.join", [first, _child(graph, module, "cv2", source)])
    if module.has("bn"):
        joined = graph.norm(module.child("bn"), joined, module.child("act"))
    return _child(graph, module, "cv4", joined)


def _elan(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    """RepNCSPELAN4, its form with a second exit for captions, and ELAN1."""
    first, last = graph.halves(module.place, _child(graph, module, "cv1", one(module, sources)))
    parts = [first, last]
    for name in ("cv2", "cv3"):
        last = _child(graph, module, name, last)
        parts.append(last)
    joined = graph.concat(f"{module.place}.join", parts)
    out = _child(graph, module, "cv4", joined)
    if module.has("cvcap"):
        return graph.concat(module.place, [out, _child(graph, module, "cvcap", joined)])
    return out


def _spp_elan(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    value = _child(graph, module, "cv1", one(module, sources))
    parts = [value]
    for name in ("cv2", "cv3", "cv4"):
        value = _child(graph, module, name, value)
        parts.append(value)
    return _child(graph, module, "cv5", graph.concat(f"{module.place}.join", parts))


def _a_down(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    first, second = graph.halves(module.place, graph.average(module.place, one(module, sources)))
    second = graph.max_pool(f"{module.place}.pool", second, 3, 2, 1)
    return graph.concat(module.place, [_child(graph, module, "cv1", first), _child(graph, module, "cv2", second)])


def _a_conv(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    return _child(graph, module, "cv1", graph.average(module.place, one(module, sources)))


def _psa(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    first, second = graph.halves(module.place, _child(graph, module, "cv1", one(module, sources)))
    attention = module.child("attn")
    heads, value_width = whole(attention, "num_heads", None, 1), whole(attention, "head_dim", None, 1)
    key_width, scale = whole(attention, "key_dim", None, 1), attention.get("scale")
    if type(scale) is not float or not scale > 0:
        raise attention.complain(f"has scale {scale!r:.40}")
    together = _child(graph, attention, "qkv", second)
    if graph.channels(together) != heads * (2 * key_width + value_width):
        raise attention.complain(
            f"splits {graph.channels(together)} channels into {heads} heads of {2 * key_width} + {value_width}"
        )
    arguments = {"heads": heads, "key_width": key_width, "value_width": value_width, "scale": scale}
    stride, width = graph.shapes[second].stride, heads * value_width
    seen = graph.emit(f"{attention.place}.look", "attention", [together], width, stride, **arguments)
    values = graph.emit(f"{attention.place}.values", "attention_values", [together], width, stride, **arguments)
    seen = graph.add(f"{attention.place}.sum", [seen, _child(graph, attention, "pe", values)])
    second = graph.add(f"{module.place}.first_sum", [second, _child(graph, attention, "proj", seen)])
    second = graph.add(f"{module.place}.second_sum", [second, _child(graph, module, "ffn", second)])
    return _child(graph, module, "cv2", graph.concat(f"{module.place}.join", [first, second]))


def _cb_linear(graph: Graph, module: Module, sources: Sequence[str]) -> list[str]:
    together = graph.conv2d(module.child("conv"), one(module, sources))
    widths = module.get("c2s")
    if not isinstance(widths, list | tuple) or sum(w for w in widths if type(w) is int) != graph.channels(together):
        raise module.complain(f"splits {graph.channels(together)} channels into {widths!r:.60}")
    if len(widths) == 1:
        return [together]
    parts, start = [], 0
    for index, width in enumerate(widths):
        parts.append(graph.part(f"{module.place}.{index}", together, start, start + width))
        start += width
    return parts


def _proto(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    value = one(module, sources)
    for name in ("cv1", "upsample", "cv2", "cv3"):
        value = _child(graph, module, name, value)
    return value


def _u_conv(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    value = one(module, sources)
    for name in ("cv1", "cv2", "up"):
        value = _child(graph, module, name, value)
    return value


def fuse(graph: Graph, module: Module, sources: Sequence[list[str]], last: str) -> str:
    """CBFuse: the chosen part of each earlier source at the size of the last source, all added up."""
    chosen = module.get("idx")
    if not isinstance(chosen, list | tuple) or len(chosen) != len(sources):
        raise module.complain(f"chooses {chosen!r:.60} of {len(sources)} sources")
    parts = []
    for index, (source, choice) in enumerate(zip(sources, chosen, strict=True)):
        if type(choice) is not int or not 0 <= choice < len(source):
            raise module.complain(f"chooses part {choice!r:.20} of {len(source)}")
        part = source[choice]
        stride = graph.shapes[last].stride
        place = f"{module.place}.{index}"
        parts.append(graph.emit(place, "resize_like", [part, last], graph.channels(part), stride))
    return graph.add(module.place, [*parts, last])


def _fuse(graph: Graph, module: Module, sources: Sequence[str]) -> str:
    raise CheckpointError(f"{module}: stands where no layer with several parts can be read")


BLOCKS: dict[str, Block] = {
    "Conv": _conv,
    "DWConv": _conv,
    "RepConv": _rep_conv,
    "RepConvN": _rep_conv_n,
    "Sequential": _sequential,
    "MaxPool2d": _pool,
    "AvgPool2d": _pool,
    "MP": _inner_pool,
    "SP": _inner_pool,
    "Concat": _concat,
    "Shortcut": _shortcut,
    "Upsample": _upsample,
    "Silence": _silence,
    "ReOrg": _reorg,
    "Conv2d": _bare_conv,
    "BatchNorm2d": _bare_norm,
    "DownC": _down_c,
    "SPPCSPC": _sppcspc,
    "SPPCSP": _sppcspc,
    "Bottleneck": _bottleneck,
    "RepNBottleneck": _bottleneck,
    "BottleneckCSPA": _csp_a,
    "RepNCSP": _csp_a,
    "BottleneckCSPB": _csp_b,
    "BottleneckCSP2": _csp_b,
    "BottleneckCSPC": _csp_c,
    "BottleneckCSPF": _csp_c,
    "BottleneckCSP": _csp_c,
    "RepNCSPELAN4": _elan,
    "RepNCSPELAN4B": _elan,
    "ELAN1": _elan,
    "SPPELAN": _spp_elan,
    "ADown": _a_down,
    "AConv": _a_conv,
    "PSA": _psa,
    "CBLinear": _cb_linear,
    "CBFuse": _fuse,
    "Proto": _proto,
    "UConv": _u_conv,
}
