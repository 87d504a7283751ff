"""What is wrong with a data set, and what is only doubtful: how often, and where first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import DatasetError


class Complaints:
    """What is wrong, gathered by kind: how often, and the first case of it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, path: Path, problem: str, example: object = "") -> None:
        """Note `problem` (the same words for every case) in `path`; `example` says where it first was."""
        count, first = self._found.get((str(path), problem), (0, str(example)))
        self._found[str(path), problem] = (count + 1, first)

    def raise_if_any(self) -> None:
        if not self._found:
            return
        texts: dict[str, list[str]] = {}
        for (path, problem), (count, example) in self._found.items():
            case = f"first of {count}: {example}" if count > 1 else example
            texts.setdefault(path, []).append(f"{problem} ({case})" if case else problem)
        raise DatasetError("; ".join(f"{path}: {', '.join(problems)}" for path, problems in texts.items()))


@dataclass(frozen=True)
class Note:
    """How often something doubtful was met, and the first case."""

    count: int
    example: str


class Notes:
    """What was met that is not wrong and may not be meant."""

    def __init__(self) -> None:
        self.found: dict[str, Note] = {}

    def add(self, what: str, example: str) -> None:
        """Note `what`; `example` says where it was."""
        before = self.found.get(what)
        self.found[what] = Note(1, example) if before is None else Note(before.count + 1, before.example)
