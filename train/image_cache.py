"""Decoded images and semantic maps of a data set, kept once for all processes that prepare batches."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..evaluation.dataset.truth import PackedMap, Truth
from ..runtime.errors import UsageError
from ..runtime.files import replacing_file
from .packed_truths import PackedTruths
from .progress import say

Decoder = Callable[[Truth, int], NDArray[np.uint8]]
"""Reads the image of a truth as (h, w, 3) uint8 BGR, each side 1 / n as long as it is, rounded up."""

MOST_THREADS = 16
_IMAGES, _INDEX = "images.raw", "images.npz"


class ImageCache:
    """All images of a data set, decoded, and its semantic maps as run lengths, in one file that is mapped into memory.

    Args:
        truths: Of the images.
        decode: Reads an image.
        reductions: (n,) int64, the n of the decoder for each image.
        folder: Where the file lies, with an index beside it. If a whole one of the same images is there, it is taken as
            it is. None keeps the file in memory only.

    Raises:
        UsageError: If memory or disk cannot hold it.
        YolorEdgeError: Of the first image that cannot be read. A cache that is not whole is not kept.
    """

    def __init__(
        self, truths: PackedTruths, decode: Decoder, reductions: NDArray[np.int64], folder: Path | None = None
    ) -> None:
        self._reductions = reductions
        heights, widths = np.array([truths[i].size for i in range(len(truths))]).T
        self._heights, self._widths = -(-heights // reductions), -(-widths // reductions)
        self._starts = np.concatenate(([0], np.cumsum(self._heights * self._widths * 3)))
        need = int(self._starts[-1])
        if folder is None:
            _require_memory(need)
            say(f"decoding {len(truths)} images once, {need / 1e9:.1f} GB in memory")
            with _memory_file() as file:
                self._fill(file, truths, decode)
                self._map(file)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / "lock"):
            digest = _digest(truths, reductions)
            if not self._open(folder, digest):
                say(f"decoding {len(truths)} images once, {need / 1e9:.1f} GB in {folder}")
                try:
                    with replacing_file(folder / _IMAGES) as path, path.open("r+b") as stream:
                        self._fill(stream.fileno(), truths, decode)
                        self._map(stream.fileno())
                    with replacing_file(folder / _INDEX) as path:
                        np.savez(path, digest=digest, maps=self._maps)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise UsageError(
                        f"{folder}: <cache> disk has no room for {need / 1e9:.1f} GB of decoded images; take cache=off "
                        "or another <out>",
                        ("cache", "out"),
                    ) from None

    def reduction(self, index: int) -> int:
        """How many pixels of image `index` one of the cached image stands for, a side."""
        return int(self._reductions[index])

    def image(self, index: int) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 BGR, not to be written to."""
        pixels = self._pixels[self._starts[index] : self._starts[index + 1]]
        return pixels.reshape(int(self._heights[index]), int(self._widths[index]), 3)

    def semantic(self, index: int) -> PackedMap | None:
        """The semantic map; None where there is none."""
        start, end = self._maps[index : index + 2]
        if start == end:
            return None
        runs = (end - start) // 5
        packed = self._pixels[start:end]
        # Lengths first would have to begin on a multiple of four; a copy of some thousand numbers costs nothing.
        return PackedMap(packed[:runs], np.frombuffer(packed[runs:].tobytes(), np.uint32))

    def _fill(self, file: int, truths: PackedTruths, decode: Decoder) -> None:
        def one(index: int) -> bytes:
            truth = truths[index]
            pixels = decode(truth, int(self._reductions[index]))
            _write_all(file, np.ascontiguousarray(pixels).reshape(-1), int(self._starts[index]))
            semantic = truth.semantic_map()
            if semantic is None:
                return b""
            packed = PackedMap.of(semantic)
            return packed.values.tobytes() + packed.lengths.tobytes()

        end, ends = int(self._starts[-1]), [int(self._starts[-1])]
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        with ThreadPoolExecutor(threads) as pool:
            try:
                for packed in pool.map(one, range(len(truths))):
                    _write_all(file, np.frombuffer(packed, np.uint8), end)
                    end += len(packed)
                    ends.append(end)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._maps = np.array(ends, np.int64)

    def _open(self, folder: Path, digest: str) -> bool:
        """Take the cache that is there, if it is one of the same images."""
        try:
            with (folder / _INDEX).open("rb") as stream, np.load(stream, allow_pickle=False) as index:
                if str(index["digest"]) != digest:
                    return False
                self._maps = index["maps"]
            with (folder / _IMAGES).open("rb") as stream:
                self._map(stream.fileno())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        return len(self._pixels) == self._maps[-1]

    def _map(self, file: int) -> None:
        # The mapping outlives the file's descriptor, and forked processes share it.
        self._pixels = np.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_READ), np.uint8)


def _write_all(file: int, content: NDArray[np.uint8], offset: int) -> None:
    left = memoryview(content)  # pyright: ignore[reportArgumentType]  (an array is a buffer)
    while len(left):
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("yolor-edge-images")
        try:
            yield file
        finally:
            os.close(file)
    else:
        with tempfile.TemporaryFile() as stream:
            yield stream.fileno()


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold back other processes that train on the same data; the first fills the cache, the others then find it."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _require_memory(need: int) -> None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    free = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), need)
    if need > 0.9 * free:
        raise UsageError(
            f"<cache> ram: the decoded images take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free; take "
            "cache=disk or cache=off",
            "cache",
        )


def _digest(truths: PackedTruths, reductions: NDArray[np.int64]) -> str:
    """Of everything that the cached bytes come from: which files, as long and as old as they are."""
    digest = hashlib.sha256(reductions.tobytes())
    for i in range(len(truths)):
        truth = truths[i]
        for path in (truth.path, getattr(truth.semantic, "path", None)):
            if path is not None and path.exists():
                status = path.stat()
                digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {truth.size}\n".encode())
    return digest.hexdigest()
