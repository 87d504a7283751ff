"""Training that starts from other weights: what of them fits a new network, and what becomes of the rest.

A tensor is kept where name and shape agree. Where its rows stand for classes or words, rows go to their names: a class
that both networks know keeps its row of the class head, with bias and implicit vector.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.errors import CheckpointError, UsageError
from ..runtime.files import sha256_of
from .checkpoint import WEIGHTS, Checkpoint
from .network.any_network import AnyConfig, AnyNetwork, network_of
from .network.parts import PARTS, Rows, modules_by_part, named_rows, part_of

NAMES_SHOWN = 6
"""Of classes or words in a line of the table."""


@dataclass(frozen=True)
class Weights:
    """Weights that a training can start from.

    Attributes:
        layout: The network that they are of.
        tensors: By name, as in its `state_dict`, float32.
        source: For the provenance: `checkpoint` (the name of folder or file), `sha256` of its weights, and `licence` of
            imported ones.
    """

    layout: AnyConfig
    tensors: Mapping[str, Tensor]
    source: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str], vocabulary: str | os.PathLike[str] | None = None) -> Weights:
        """Read a checkpoint, the checkpoint of a run, or an official .pt file.

        Args:
            path: Folder or file.
            vocabulary: Words of the captions, for an official file of a network that writes some.

        Raises:
            CheckpointError: If it is none of these.
            UsageError: If the vocabulary does not fit.
        """
        path = Path(path)
        if path.is_file() or path.suffix in (".pt", ".pth"):
            return cls._official(path, vocabulary)
        checkpoint = Checkpoint.open(path)
        if vocabulary is not None:
            raise UsageError(f"{path}: holds its words itself; <vocabulary> is for an official .pt file", "vocabulary")
        source = {"checkpoint": path.resolve().name, "sha256": checkpoint.sha256}
        licence = checkpoint.provenance.get("licence")
        return cls(
            checkpoint.layout, checkpoint.network().state_dict(), source | ({"licence": licence} if licence else {})
        )

    @classmethod
    def _official(cls, path: Path, vocabulary: str | os.PathLike[str] | None) -> Weights:
        from .importing.importer import read_checkpoint

        if path.name == WEIGHTS:
            raise CheckpointError(f"{path}: is the weights of a checkpoint; expected its folder, {path.parent}")
        try:
            imported = read_checkpoint(path, vocabulary=None if vocabulary is None else Path(vocabulary))
        except UsageError as error:
            if error.argument != "config":
                raise
            raise UsageError(
                f"{path}: holds tensors without the network that they belong to; import it first, saying which: "
                f"yolor-edge import {path} --config NAME --out CHECKPOINT"
            ) from None
        source = {"checkpoint": path.name, "sha256": sha256_of(path), "licence": "unknown"}
        return cls(imported.config, imported.network().state_dict(), source)


@dataclass(frozen=True)
class Transfer:
    """What becomes of the tensors of a start in a new network, by name.

    Attributes:
        kept: Taken whole.
        by_name: Rows taken by the names that they stand for, the others made anew.
        remade: Made anew, since shape or all names differ.
        added: Made anew, since the start has none of this name.
        dropped: Of the start alone.
        modules: From `modules_by_part`, of the new network; those of the start's that it lacks are there too.
        notes: Of classes, semantic classes and words: which were kept, which are new, which were dropped.
    """

    kept: tuple[str, ...]
    by_name: tuple[str, ...]
    remade: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    modules: dict[str, str]
    notes: tuple[str, ...]

    @classmethod
    def plan(cls, weights: Weights, config: AnyConfig) -> Transfer:
        """Compare the weights with the network of `config`."""
        with torch.device("meta"):
            own = network_of(config).state_dict()
        rows, given_rows = named_rows(config), named_rows(weights.layout)
        found: dict[str, list[str]] = {kind: [] for kind in ("kept", "by_name", "remade", "added")}
        for name, tensor in own.items():
            given = weights.tensors.get(name)
            found[_kind(tensor, given, rows.get(name), given_rows.get(name))].append(name)
        dropped = tuple(name for name in weights.tensors if name not in own)
        modules = {**modules_by_part(weights.layout), **modules_by_part(config)}
        notes = _notes(weights.layout, config)
        return cls(
            **{kind: tuple(names) for kind, names in found.items()}, dropped=dropped, modules=modules, notes=notes
        )

    @property
    def fresh(self) -> tuple[str, ...]:
        """Tensors that learn at the full rate: all that were not kept whole."""
        return (*self.by_name, *self.remade, *self.added)

    def fill(self, network: AnyNetwork, weights: Weights) -> None:
        """Put the weights into a network of the configuration that this was planned for."""
        rows, given_rows = named_rows(network.config), named_rows(weights.layout)
        own = network.state_dict()
        with torch.no_grad():
            for name in self.kept:
                own[name].copy_(weights.tensors[name])
            for name in self.by_name:
                axis, keys = rows[name]
                places = _places(given_rows[name][1])
                pairs = [(index, places[key]) for index, key in enumerate(keys) if key in places]
                to, source = (torch.tensor(side) for side in zip(*pairs, strict=True))
                values = weights.tensors[name].index_select(axis, source)
                own[name].index_copy_(axis, to.to(own[name].device), values.to(own[name]))

    def check_frozen(self, parts: Sequence[str]) -> None:
        """See that parts can be frozen.

        Raises:
            UsageError: If the network has no such part, nothing is left to train, or a part is not the start's whole.
        """
        tensors: dict[str, list[str]] = {}
        for name in (*self.kept, *self.fresh):
            tensors.setdefault(part_of(name, self.modules), []).append(name)
        known = [part for part in PARTS if part in tensors]
        unknown = [part for part in parts if part not in known]
        if unknown:
            raise UsageError(
                f"<freeze>: the network has no part {', '.join(unknown)}; it has {', '.join(known)}", argument="freeze"
            )
        fresh = set(self.fresh)
        for part in parts:
            made = [name for name in tensors[part] if name in fresh]
            if made:
                raise UsageError(
                    f"<freeze>: {len(made)} of {len(tensors[part])} tensors of {part} are not those of the start, such "
                    f"as {made[0]}; what is new has to be trained",
                    argument="freeze",
                )
        if set(known) <= set(parts):
            raise UsageError(f"<freeze>: {', '.join(known)} is the whole network; nothing is left to train", "freeze")

    def counts(self) -> dict[str, dict[str, int]]:
        """How many tensors of each part were kept, kept in part by name, remade, added and dropped."""
        table: dict[str, dict[str, int]] = {}
        for kind in ("kept", "by_name", "remade", "added", "dropped"):
            for name in getattr(self, kind):
                part = table.setdefault(part_of(name, self.modules), {})
                part[kind] = part.get(kind, 0) + 1
        return {part: table[part] for part in PARTS if part in table}

    def table(self) -> str:
        """For people: tensors by part, and what became of classes and words."""
        kinds = {"kept": "kept", "by_name": "by name", "remade": "remade", "added": "added", "dropped": "dropped"}
        lines = ["tensors   " + "".join(f"{title:>9}" for title in kinds.values())]
        for part, counts in self.counts().items():
            lines.append(f"{part:<10}" + "".join(f"{counts.get(kind, 0) or '-':>9}" for kind in kinds))
        return "\n".join([*lines, *self.notes])


def _kind(own: Tensor, given: Tensor | None, rows: Rows | None, given_rows: Rows | None) -> str:
    if given is None:
        return "added"
    if rows is None or given_rows is None:
        return "kept" if own.shape == given.shape else "remade"
    axis = rows[0]
    if any(a != b for i, (a, b) in enumerate(zip(own.shape, given.shape, strict=True)) if i != axis):
        return "remade"
    if rows == given_rows:
        return "kept"
    return "by_name" if not set(rows[1]).isdisjoint(given_rows[1]) else "remade"


def _places(keys: Sequence[Any]) -> dict[Any, int]:
    """Where each key stands, the first time."""
    places: dict[Any, int] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, index)
    return places


def _notes(before: AnyConfig, after: AnyConfig) -> tuple[str, ...]:
    lines = []
    for title, field, task, first in (
        ("classes", "class_names", "boxes", 0),
        ("semantic classes", "semantic_names", "semantic", 0),
        ("words", "vocabulary", "caption", 4),
    ):
        old: tuple[str, ...] = getattr(before, field)[first:] if task in before.tasks else ()
        new: tuple[str, ...] = getattr(after, field)[first:] if task in after.tasks else ()
        groups = {
            "kept": [name for name in new if name in set(old)],
            "new": [name for name in new if name not in set(old)],
            "dropped": [name for name in old if name not in set(new)],
        }
        said = [f"{len(names)} {kind} ({_some(names)})" for kind, names in groups.items() if names]
        if said:
            lines.append(f"{title}: {', '.join(said)}")
    return tuple(lines)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
