"""From the tree of modules that a file holds to the graph of layers and its heads."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.errors import CheckpointError
from ..network.layers import IMAGE
from . import blocks
from .graph import Graph, Module
from .heads import GRIT_SOURCES, Heads, check_known, is_head, read_captioner, read_head, used_sources

MOST_TOP_LAYERS = 4000


def build(model: Module, most_values: int = 1 << 31) -> tuple[Graph, Heads]:
    """The layers of an official model's module tree, as far as its heads need them; at most `most_values` weights."""
    while model.kind.endswith("DataParallel"):
        model = model.child("module")
    layers = [_as_layer(layer, index) for index, layer in enumerate(model.child("model").children())]
    if not layers or len(layers) > MOST_TOP_LAYERS:
        raise CheckpointError(f"{model}: has {len(layers)} layers")
    links = [_links(layer, index) for index, layer in enumerate(layers)]
    head = next((index for index, layer in enumerate(layers) if is_head(layer)), None)
    if head is None:
        last = layers[-1]
        check_known(layers[:-1], lambda module: blocks.known(module))
        raise CheckpointError(
            f"has modules that are not known: {last.path} (layer {last.place.removeprefix('layer ')})"
        )
    captioner = next((index for index, layer in enumerate(layers) if layer.kind == "Grit"), None)
    wanted = [links[head][position] for position in used_sources(layers[head], len(links[head]))]
    if captioner is not None:
        if len(links[captioner]) != GRIT_SOURCES or links[captioner][-1] != head:
            raise layers[captioner].complain("reads other layers than five and the head")
        wanted += links[captioner][:-1]
    for index, layer in enumerate(layers):
        if index not in (head, captioner) and index > head and layer.kind != "OutputLayer":
            raise CheckpointError(f"has modules that are not known: {layer.path} (layer {index}, after the head)")
    needed = _needed(links, wanted, head)
    check_known([layers[index] for index in needed], blocks.known)
    check_known([layers[head]], lambda module: module is layers[head] or _known_in_head(module))

    graph = Graph(most_values)
    values: dict[int, list[str]] = {-1: [IMAGE]}
    for index in needed:
        layer = layers[index]
        if layer.kind == "CBFuse":
            *sources, last = (values[link] for link in links[index])
            made: str | list[str] = blocks.fuse(graph, layer, sources, _only(layer, last))
        else:
            made = blocks.run(graph, layer, [_only(layer, values[link]) for link in links[index]])
        values[index] = [made] if isinstance(made, str) else made
    sources = [_only(layers[head], values[link]) if link in values else None for link in links[head]]
    heads = read_head(graph, layers[head], sources)
    if captioner is not None:
        layer = layers[captioner]
        read_captioner(graph, layer, [_only(layer, values[link]) for link in links[captioner][:-1]], heads)
    return graph, heads


def _known_in_head(module: Module) -> bool:
    return blocks.known(module) or module.kind in ("ImplicitA", "ImplicitM", "DFL") or is_head(module)


def _as_layer(layer: Module, index: int) -> Module:
    return Module(layer.record, f"layer {index}", 1)


def _only(layer: Module, value: list[str]) -> str:
    if len(value) != 1:
        raise layer.complain("reads a layer that gives several maps")
    return value[0]


def _links(layer: Module, index: int) -> list[int]:
    """The layers that a layer reads, -1 for the image."""
    given = layer.get("f", -1)
    links = given if isinstance(given, list | tuple) else [given]
    found = []
    for link in links:
        place = link if type(link) is not int or link >= 0 else index + link
        if type(place) is not int or not -1 <= place < index:
            raise layer.complain(f"reads layer {link!r:.20}, which is none before it")
        found.append(place)
    if not found:
        raise layer.complain("reads no layer")
    return found


def _needed(links: Sequence[Sequence[int]], wanted: Sequence[int], head: int) -> list[int]:
    """The layers that `wanted` ones need, in order."""
    needed = set(wanted)
    for index in range(head - 1, -1, -1):
        if index in needed:
            needed.update(links[index])
    return sorted(index for index in needed if index >= 0)
