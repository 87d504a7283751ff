"""Memory that does not suffice, as one line that says which batch fits; where it is quick, that is tried out."""

from __future__ import annotations

import gc

import torch

from ..runtime.errors import YolorEdgeError
from .batches import Batch
from .trainer import Trainer


class OutOfMemory(YolorEdgeError):
    """A step that needs more memory than there is."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(text in said for text in _WORDS)


# Of torch on a CPU; of cuDNN and cuBLAS, which have errors of their own.
_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_lost_worker(error: BaseException) -> bool:
    """Whether a process that prepares batches was ended from outside, as the system does when memory runs out."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def largest_that_fits(trainer: Trainer, batch: Batch) -> int | None:
    """How many images of a batch that was too large one step has memory for; 0 if none, None if that was not tried.

    It is tried out on a GPU, with steps that move the weights in memory: the run has ended by then. On a CPU a step
    takes long, and the system may begin to swap.
    """
    if trainer.device.type != "cuda" or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    low, high = 0, len(batch.strong)
    for _ in range(8):
        if high - low <= max(1, low // 8):
            break
        count = low + (high - low) // 2
        trainer.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        try:
            trainer.step(first_images(batch, count).to(trainer.device))
            low = count
        except Exception as error:
            if not is_out_of_memory(error):
                return None
            high = count
    return low


def first_images(batch: Batch, count: int) -> Batch:
    """The first images of a batch, with their truth; of the views for captions as many."""
    rows = batch.owners < count
    return Batch(
        strong=batch.strong[:count],
        truth=batch.truth.first_images(count),
        weak=None if batch.weak is None else batch.weak[:count],
        owners=batch.owners[rows],
        tokens=batch.tokens[rows],
    )


def out_of_memory(trainer: Trainer, images: int, fitting: int | None, run: str) -> OutOfMemory:
    """The error to raise, with a batch that fits.

    Args:
        trainer: What ran out of memory.
        images: Of the step.
        fitting: What `largest_that_fits` said.
        run: The folder, as a shell takes it.
    """
    height, width = trainer.network.config.input_size
    what = f"out of memory in a step of {images} images at {height}x{width} on {trainer.device}"
    if images == 1 or fitting == 0:
        return OutOfMemory(f"{what}; a single one does not fit either: take a smaller --input-size or --size")
    advised = fitting or max(1, images // 2)
    fits = f"{fitting} fit" if fitting else f"{advised} may fit"
    return OutOfMemory(
        f"{what}; {fits}: yolor-edge train --resume {run} --set batch_size={advised} (what was saved is kept)"
    )


def lost_worker(workers: int, run: str) -> OutOfMemory:
    """The error to raise where a process that prepares batches was ended."""
    return OutOfMemory(
        f"a process that prepares batches was ended by the system, mostly since memory ran out; take fewer of the "
        f"{workers}: yolor-edge train --resume {run} --set workers={workers // 2} (what was saved is kept)"
    )
