"""The one door to data sets: any layout, one folder or several together, a share held out for validation."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...runtime.errors import DatasetError, UsageError
from .coco import CocoDataset
from .complaints import Note
from .layouts import choose_split, find_layout
from .truth import IGNORED, SemanticMap, Truth

Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, or several that are put together."""

_JOINED = " + "
# [BASE:]train@0.1[@SEED]: what is left of a split, or held out of it.
_SHARED = re.compile(r"(?:(?P<base>.+):)?(?P<role>train|val)@(?P<share>0?\.\d+)(?:@(?P<seed>\d+))?")
# Roboflow writes several changed copies of an image; all of them go to the same side.
_COPY = re.compile(r"[._]rf\.[0-9a-zA-Z]+(?=\.[^.]*$)")


def open_dataset(
    data: Data,
    split: str | None = None,
    role: Literal["train", "val"] = "train",
    val_share: float = 0.0,
    seed: int = 0,
) -> CocoDataset:
    """Open a split of a data set in any layout, or of several data sets together.

    Args:
        data: Folder of a data set, or several. Classes of several are one list by name, in the order in which they
            come; an image knows the classes of its own data set alone (`Truth.known_classes`).
        split: Name of the split; by default the first that starts with `role`, or the only one. "val@0.1" is the tenth
            that `val_share=0.1` holds out, "train@0.1" the rest; "val@0.1@7" with seed 7, "all:val@0.1" of the split
            all. Of several data sets: one for all, or one for each with " + " between.
        role: What the split is wanted for.
        val_share: Share of the images that is held out for validation, where the data has no split for it. Which images
            is chosen by digests of their names and the seed, so others that are added move none.
        seed: Of that choice.

    Raises:
        DatasetError: If a data set cannot be read, has no such split, or a split for validation beside `val_share`.
        UsageError: If `val_share` does not lie within 0 and 1, or no data set is given.
    """
    if not 0 <= val_share < 1:
        raise UsageError(f"<val_share> must lie within 0 and 1, got {val_share}", argument="val_share")
    roots = roots_of(data)
    wanted = [None] * len(roots) if split is None else split.split(_JOINED) if len(roots) > 1 else [split]
    if len(wanted) == 1:
        wanted *= len(roots)
    if len(wanted) != len(roots):
        raise UsageError(f"<split> names {len(wanted)} splits for {len(roots)} data sets", argument="split")
    opened = [
        _open_one(root, one, role, val_share, seed, len(roots) > 1) for root, one in zip(roots, wanted, strict=True)
    ]
    return opened[0] if len(opened) == 1 else MergedDataset(opened)


def open_validation(dataset: CocoDataset) -> CocoDataset | None:
    """What a training on `dataset` is validated on: the splits "val..." beside its own, or what is held out; or None.

    Raises:
        DatasetError: If it cannot be read.
    """
    found = []
    for root, split in dataset.sources:
        shared = _SHARED.fullmatch(split)
        if shared is not None:
            role_at = shared.start("role")
            found.append(_open_one(root, f"{split[:role_at]}val{split[role_at + 5 :]}", "val"))
            continue
        name = next((one for one in find_layout(root).splits if one.lower().startswith("val") and one != split), None)
        if name is not None:
            found.append(CocoDataset.open(root, name))
    if not found:
        return None
    return MergedDataset(found, dataset) if isinstance(dataset, MergedDataset) else found[0]


def roots_of(data: Data) -> list[Path]:
    """The folders that `data` names."""
    roots = [Path(data)] if isinstance(data, (str, os.PathLike)) else [Path(one) for one in data]
    if not roots:
        raise UsageError("<data> must name a folder", argument="data")
    twice = next(
        (one for i, one in enumerate(roots) if one.resolve() in [other.resolve() for other in roots[:i]]), None
    )
    if twice is not None:
        raise UsageError(f"<data> names {twice} twice", argument="data")
    return roots


def _open_one(
    root: Path,
    split: str | None,
    role: Literal["train", "val"],
    val_share: float = 0.0,
    seed: int = 0,
    is_one_of_many: bool = False,
) -> CocoDataset:
    names = list(find_layout(root).splits)
    shared = None if split is None else _SHARED.fullmatch(split)
    if split is not None and (shared is None or split in names):
        shared = None
    if shared is None and val_share:
        base = split
        validation = next((name for name in names if name.lower().startswith("val") and name != split), None)
        if validation is not None:
            if not is_one_of_many:
                raise DatasetError(
                    f'{root}: has the split "{validation}" to validate on; leave <val_share> out, or move that away',
                    argument="val_share",
                )
            return CocoDataset.open(root, split, role)
        text = f"{f'{base}:' if base else ''}{role}@{val_share:g}{f'@{seed}' if seed else ''}"
        shared = _SHARED.fullmatch(text)
        if shared is None:
            raise UsageError(f"<val_share> must be a share such as 0.1, got {val_share}", argument="val_share")
    if shared is None:
        return CocoDataset.open(root, split, role)
    whole = CocoDataset.open(root, choose_split(root, names, shared["base"], "train"))
    return _share(whole, shared[0], shared["role"] == "val", float(shared["share"]), int(shared["seed"] or 0))


def _share(whole: CocoDataset, split: str, is_held_out: bool, share: float, seed: int) -> CocoDataset:
    """What is held out of a split, or what is left; each has at least one image."""
    if len(whole) < 2:
        raise DatasetError(f"{whole.root} ({whole.split}): has one image, none can be held out")
    places = np.array([_place(whole.file_name(i), seed) for i in range(len(whole))])
    held = places < min(max(share, places.min() + 1e-12), places.max())
    return whole.part(split, np.flatnonzero(held if is_held_out else ~held).tolist())


def _place(name: str, seed: int) -> float:
    """A number from 0 to 1 that belongs to a file name."""
    known = unicodedata.normalize("NFC", Path(name).name if os.path.isabs(name) else name)
    digest = hashlib.blake2b(f"{seed}/{_COPY.sub('', known)}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class _Renumbered:
    """A semantic map whose classes have other numbers; `table` (256,) uint8 gives them."""

    inner: SemanticMap
    table: np.ndarray = dataclasses.field(repr=False)

    def read(self, size: tuple[int, int]) -> np.ndarray:
        return self.table[self.inner.read(size)]


class MergedDataset(CocoDataset):
    """Data sets one after the other, their classes united by name.

    Args:
        members: At least one.
        like: Take over the classes of this one, which has all of theirs.

    Attributes:
        members: The data sets.
        similar: Names of different data sets that differ in spelling alone, and may mean the same.
    """

    def __init__(self, members: Sequence[CocoDataset], like: CocoDataset | None = None) -> None:
        self.members = tuple(members)
        self.root = Path(_JOINED.join(one.root.name for one in members))
        self.split = _JOINED.join(one.split for one in members)
        self.layout = _JOINED.join(one.layout for one in members)
        self.sources = tuple(source for one in members for source in one.sources)
        self.class_names, self.category_ids = _united(
            [(one.root, one.class_names, one.category_ids) for one in members],
            None if like is None else (like.class_names, like.category_ids),
        )
        self.semantic_names, self.semantic_category_ids = _united(
            [(one.root, one.semantic_names, one.semantic_category_ids) for one in members],
            None if like is None else (like.semantic_names, like.semantic_category_ids),
        )
        if len(self.semantic_names) > IGNORED:
            raise DatasetError(
                f"{self.root}: a semantic map can hold 255 classes, all together {len(self.semantic_names)}"
            )
        self.info = members[0].info if len({str(one.info.get("description")) for one in members}) == 1 else {}
        self.tasks = frozenset().union(*(one.tasks for one in members))
        self.untaught = {
            task: f"{one.root}: {reason}"
            for one in members
            for task, reason in one.untaught.items()
            if task not in self.tasks
        }
        notes: dict[str, Note] = {}
        for one in members:
            for what, note in one.notes.items():
                before = notes.get(what, Note(0, note.example))
                notes[what] = Note(before.count + note.count, before.example)
        self.notes = notes
        self.dropped_boxes = sum(one.dropped_boxes for one in members)
        self.similar = _similar([one.class_names for one in members]) + _similar(
            [one.semantic_names for one in members]
        )
        self._starts = np.cumsum([0, *(len(one) for one in members)])
        self._things = [np.array([self.class_names.index(n) for n in one.class_names], np.int64) for one in members]
        self._known: list[np.ndarray | None] = []
        for things in self._things:
            known = np.isin(np.arange(len(self.class_names)), things)
            self._known.append(None if known.all() else known)
        self._tables = []
        for one in members:
            table = np.full(256, IGNORED, np.uint8)
            for i, name in enumerate(one.semantic_names):
                table[i] = self.semantic_names.index(name)
            self._tables.append(None if (table[:255] == np.arange(255))[: len(one.semantic_names)].all() else table)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _member(self, index: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._starts, index, "right")) - 1
        return which, index - int(self._starts[which])

    def teaching(self) -> np.ndarray:
        return np.concatenate([one.teaching() for one in self.members])

    def file_name(self, index: int) -> str:
        which, inner = self._member(index)
        return self.members[which].file_name(inner)

    def __getitem__(self, index: int) -> Truth:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        which, inner = self._member(index)
        truth = self.members[which][inner]
        table = self._tables[which]
        return dataclasses.replace(
            truth,
            image_id=index + 1,  # the data sets' own ids may be the same
            class_ids=None if truth.class_ids is None else self._things[which][truth.class_ids],
            semantic=truth.semantic if truth.semantic is None or table is None else _Renumbered(truth.semantic, table),
            known_classes=self._known[which],
        )

    def part(self, split: str, rows: Sequence[int]) -> CocoDataset:
        raise NotImplementedError("parts are taken of the members")


def _united(
    lists: Sequence[tuple[Path, Sequence[str], Sequence[int]]], like: tuple[tuple[str, ...], tuple[int, ...]] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """All names once, in the order in which they come, and ids: the data sets' own where no two names share one."""
    ids: dict[str, int] = {}
    for root, names, own in lists:
        if len(set(names)) < len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise DatasetError(f"{root}: two categories are called {twice!r}; data sets are put together by name")
        for name, category_id in zip(names, own, strict=True):
            ids.setdefault(name, category_id)
    if like is not None:
        extra = [name for name in ids if name not in like[0]]
        if extra:
            raise DatasetError(
                f"{lists[0][0]}: the split to validate on has classes that the training has not, {', '.join(extra[:5])}"
            )
        return like
    has_own = len(set(ids.values())) == len(ids)
    return tuple(ids), tuple(ids.values()) if has_own else tuple(range(1, len(ids) + 1))


def _similar(lists: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs of names of different lists that differ in case, spaces, a plural, or a letter."""
    found: dict[tuple[str, str], None] = {}
    for i, names in enumerate(lists):
        for others in lists[i + 1 :]:
            here, there = set(names) - set(others), set(others) - set(names)
            for name in sorted(here):
                plain = {other: _plain(other) for other in there}
                close = [other for other in sorted(there) if plain[other] == _plain(name)]
                if not close and len(name) > 4:
                    close = difflib.get_close_matches(name, sorted(there), 1, 0.88)
                found.update({(name, other): None for other in close})
    return list(found)


def _plain(name: str) -> str:
    letters = re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name)).casefold()
    return letters[:-1] if letters.endswith("s") and len(letters) > 3 else letters
