"""The block of memory that the boxes come out in, for the kernels and for the host."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..driver import Array
from . import kernel_parameters as parameters


@dataclass(frozen=True)
class Detections:
    """Where `select_boxes` writes, and how much room there is: a summary and seven arrays in one block of memory.

    Attributes:
        address: Of the block.
        capacity: Detections it holds.
    """

    address: int
    capacity: int

    # What the host reads comes first; the last two are for the masks' kernel.
    FIELDS = (
        ("tile_offsets", np.dtype(np.int64), ()),
        ("image_boxes", np.dtype(np.float32), (4,)),
        ("scores", np.dtype(np.float32), ()),
        ("class_ids", np.dtype(np.int32), ()),
        ("regions", np.dtype(np.int32), (4,)),
        ("columns", np.dtype(np.int32), ()),
        ("block_offsets", np.dtype(np.int32), ()),
    )
    READ = 5

    @classmethod
    def offsets(cls, capacity: int) -> dict[str, int]:
        """Where each array begins in the block, and under "end" and "read_end" where all and those read end."""
        found: dict[str, int] = {}
        at = parameters.SUMMARY.itemsize
        for i, (name, dtype, shape) in enumerate(cls.FIELDS):
            if i == cls.READ:
                found["read_end"] = at
            found[name] = at
            at += capacity * dtype.itemsize * math.prod(shape)
        found["end"] = at
        return found

    def __getitem__(self, name: str) -> int:
        return self.address + self.offsets(self.capacity)[name]

    @classmethod
    def views(cls, block: NDArray[np.uint8], capacity: int) -> dict[str, Array]:
        """The summary and the arrays that the host reads, as views of the block's bytes."""
        offsets = cls.offsets(capacity)
        found: dict[str, Array] = {"summary": block[: parameters.SUMMARY.itemsize].view(parameters.SUMMARY)}
        for name, dtype, shape in cls.FIELDS[: cls.READ]:
            nbytes = capacity * dtype.itemsize * math.prod(shape)
            found[name] = block[offsets[name] : offsets[name] + nbytes].view(dtype).reshape(capacity, *shape)
        return found
