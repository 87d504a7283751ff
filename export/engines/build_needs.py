"""What building an engine needs of a machine: told before it begins, and told again where the machine gave out.

A builder that runs out of memory is ended by the system without a word, so what it takes is estimated from builds that
were measured, and compared with what is free.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import EngineBuildError

# Most scratch memory of a kernel in a build with --low-memory, where no --workspace says otherwise.
LOW_MEMORY_WORKSPACE_MIB = 256
# Before it has seen a graph. TensorRT for RTX 1.7 as measured: 288 to 395 MiB for graphs of 3 to 44 MB. TensorRT 10 as
# its log tells ("Init builder kernel library"), on a Jetson Thor.
_BUILDER_MIB = {"tensorrt-rtx": 300, "tensorrt": 1500}
# As measured: the graph's weights some two times, in memory; once on the disk, beside 5 to 12 MB of kernels.
_GRAPHS_IN_MEMORY = 2
_KERNEL_BYTES = 12_000_000
_SMALLEST_WORKSPACE_MIB = 16


@dataclass(frozen=True)
class Needs:
    """What a build takes, about.

    Attributes:
        memory_mib: Memory of the builder's process, without what kernels use on the GPU while they are measured.
        disk_bytes: The engine.
        least_disk_bytes: What an engine cannot be smaller than: the weights of its graph.
    """

    memory_mib: int
    disk_bytes: int
    least_disk_bytes: int


def needs_of(flavour: str, graph: Path) -> Needs:
    """Estimate what the engine of a graph takes to build."""
    size = graph.stat().st_size
    return Needs(_BUILDER_MIB[flavour] + _GRAPHS_IN_MEMORY * size // 2**20, size + _KERNEL_BYTES, size)


def check_room(needs: Needs, folder: Path, graph: str, low_memory: bool, workspace_mib: int | None) -> list[str]:
    """Compare what a build takes with what is free.

    Args:
        needs: Of the build.
        folder: That the engine will be written into; it may not be there yet.
        graph: Name of the graph, for people.
        low_memory: Whether the build already does without.
        workspace_mib: Its workspace, None for the builder's own.

    Returns:
        Lines to show: what it takes and what is free, and a warning where that may be too little memory.

    Raises:
        EngineBuildError: If the engine cannot fit on the disk.
    """
    disk, memory = free_disk_bytes(folder), free_memory_mib()
    if disk < needs.least_disk_bytes:
        raise EngineBuildError(no_room(folder, graph, f"at least {_megabytes(needs.least_disk_bytes)}", disk))
    free = f"; free are {'' if memory is None else f'{memory} MiB and '}{_megabytes(disk)}"
    lines = [f"building takes about {needs.memory_mib} MiB of memory and {_megabytes(needs.disk_bytes)} of disk{free}"]
    if memory is not None and memory < needs.memory_mib:
        lines.append(
            f"warning: {memory} MiB of memory are free, so the system may end the builder; if it does, "
            f"{less_memory(low_memory, workspace_mib)}"
        )
    return lines


def no_room(folder: Path, graph: str, needed: str, free: int) -> str:
    """The message for an engine that does not fit on the disk."""
    return (
        f"{folder}: the engine of {graph} takes {needed} and {_megabytes(free)} are free on this disk; make room, "
        "such as by removing engines of other targets, or copy the bundle to another disk"
    )


def less_memory(low_memory: bool, workspace_mib: int | None) -> str:
    """What to do where memory ran out with these settings."""
    if not low_memory:
        smaller = (LOW_MEMORY_WORKSPACE_MIB if workspace_mib is None else workspace_mib) // 2
        return f"build in low-memory mode, and with a workspace of {max(smaller, 1)} MiB if that is not enough"
    smaller = (LOW_MEMORY_WORKSPACE_MIB if workspace_mib is None else workspace_mib) // 2
    others = "end what else holds memory or add swap"
    return f"build with a workspace of {smaller} MiB, or {others}" if smaller >= _SMALLEST_WORKSPACE_MIB else others


def workspace_limit_mib(low_memory: bool, workspace_mib: int | None) -> int | None:
    """The workspace that these settings allow; None for the builder's own limit."""
    return LOW_MEMORY_WORKSPACE_MIB if low_memory and workspace_mib is None else workspace_mib


def free_disk_bytes(folder: Path) -> int:
    """What is free where `folder` is or will be."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free


def free_memory_mib() -> int | None:
    """Memory that a process can still have, by Linux's figures and the limit of its control group; None if not told."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) // 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text())) >> 20)
    return min(found) if found else None


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
