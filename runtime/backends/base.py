"""What a backend is: a graph with named inputs and outputs that can be run and closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from ..cuda import Device, Stream

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


@runtime_checkable
class ReportingGraph(Protocol):
    """A graph with something to say for a report."""

    @property
    def facts(self) -> Mapping[str, str]:
        """By name, such as the device that it runs on."""
        ...


@runtime_checkable
class ClonableGraph(Graph, Protocol):
    """A graph that takes one call at a time, and whose weights its clones share."""

    def clone(self) -> ClonableGraph:
        """The same graph with memory of its own for a call, to be closed for itself.

        Raises:
            BackendError: If there is no memory for it.
        """
        ...


@runtime_checkable
class StagedGraph(ClonableGraph, Protocol):
    """A graph that has inputs copied to its device, or read there by it, from memory of the host that is its own."""

    def host_input(self, name: str, shape: tuple[int, ...]) -> Array:
        """Memory for an input: `run` takes an array that lies there as it is.

        Args:
            name: The one input of free shape, or one where none is free.
            shape: Of that input.

        Returns:
            To be written between two runs, and not touched any more once the graph is closed.

        Raises:
            UsageError: If there is no such input, or it does not take this shape.
            BackendError: If the graph is closed.
        """
        ...


@dataclass(frozen=True)
class DeviceTensor:
    """An array in a device's memory, contiguous.

    Attributes:
        address: Where it begins.
        shape: Its axes.
        dtype: In numpy's words.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class DeviceGraph(ClonableGraph, Protocol):
    """A graph whose inputs and outputs may stay on its device."""

    @property
    def device(self) -> Device:
        """Where it runs."""
        ...

    def clone(self) -> DeviceGraph:
        """The same as of any graph, on the same device."""
        ...

    def input_on_device(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """The graph's own memory for its one input of free shape, or for one of fixed shape; to be filled by a kernel.

        Raises:
            UsageError: If there is no such input, or it does not take this shape.
        """
        ...

    def run_on_device(
        self, stream: Stream, feed: Mapping[str, DeviceTensor], captured: bool = False
    ) -> dict[str, DeviceTensor]:
        """Run once, in a stream; returns before it is done.

        Args:
            stream: Where. What fills the inputs is in it already, or it waits for that.
            feed: Every input. Those of `input_on_device` are fastest, since what was captured reads from there.
            captured: Whether the caller is capturing the stream, after at least one run without.

        Returns:
            All outputs, in the graph's own memory, valid from when the stream comes there until the next run.

        Raises:
            UsageError: If an input is missing, or of another dtype or shape, or another thread is at work in the graph.
            BackendError: If running fails.
        """
        ...


def checked_feed(
    where: str,
    inputs: Mapping[str, TensorInfo],
    outputs: Mapping[str, TensorInfo],
    feed: Mapping[str, Array],
    wanted: Sequence[str] | None,
    more: Sequence[str] = (),
) -> list[str]:
    """The names of the outputs to give, if `feed` can be run; what every `Graph.run` begins with.

    Args:
        where: Begins the message.
        inputs, outputs: Of the graph.
        feed: Every input by name.
        wanted: Names of outputs; None for all.
        more: Further complaints of a backend.

    Raises:
        UsageError: If inputs are missing, unknown, or of another dtype or shape, or outputs unknown; all of it at once.
    """
    names = list(outputs) if wanted is None else list(wanted)
    complaints = [*_feed_complaints(inputs, feed), *more]
    complaints += [f"there is no output {name!r}" for name in names if name not in outputs]
    if complaints:
        raise UsageError(f"{where}: {'; '.join(complaints)}")
    return names


def _feed_complaints(inputs: Mapping[str, TensorInfo], feed: Mapping[str, Array]) -> list[str]:
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
