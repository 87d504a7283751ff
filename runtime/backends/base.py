"""What a backend is: a graph with named inputs and outputs that can be run and closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a graph.

    Attributes:
        name: The name it is fed or found by.
        shape: Its axes: a number where fixed, a string where free.
        dtype: In numpy's words, such as "float32".
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Graph(Protocol):
    """One part of a network, ready to run.

    Implementations accept calls from several threads at once, or refuse the second by `guards.OneAtATime`.
    """

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Every input by name."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """Every output by name."""
        ...

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once.

        Args:
            feed: Every input by name.
            wanted: The outputs to return; None for all.

        Raises:
            UsageError: If an input is missing, unknown, or of another dtype or shape.
            BackendError: If running fails.
        """
        ...

    def close(self) -> None:
        """Free what the graph holds; it cannot run afterwards."""
        ...


def feed_complaints(inputs: Mapping[str, TensorInfo], feed: Mapping[str, Array]) -> list[str]:
    """What keeps `feed` from being run, in words: missing or unknown inputs, wrong dtypes and shapes."""
    found = [f"input {name!r} is missing" for name in inputs if name not in feed]
    for name, array in feed.items():
        info = inputs.get(name)
        if info is None:
            found.append(f"there is no input {name!r}, the inputs are {', '.join(inputs)}")
            continue
        if str(array.dtype) != info.dtype:
            found.append(f"input {name!r} must be {info.dtype}, got {array.dtype}")
        fits = len(array.shape) == len(info.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(info.shape, array.shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(axis) for axis in info.shape)
            found.append(f"input {name!r} must have shape ({expected}), got {array.shape}")
    return found


def usable_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
