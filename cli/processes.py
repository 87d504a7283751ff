"""Which of several processes speaks, where torchrun has started a command in each."""

from __future__ import annotations

import os
import sys


def is_first_process() -> bool:
    """Whether this process is the first, or the only one."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def is_told_by_another() -> bool:
    """Whether what ended the command here is told by another process.

    What ends it before the processes have met is wrong in all of them.
    """
    distributed = sys.modules.get(f"{__package__}.train.distributed")
    if distributed is not None and distributed.has_joined():
        return distributed.is_silent()
    return not is_first_process()
