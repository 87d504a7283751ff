"""Runs a function in several processes that train together, as under torchrun; not a test itself.

The processes are forked, so that none of them has to import torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from yolor_edge.train import distributed

SECONDS = 240.0
"""How long all may take on a busy machine."""


def in_processes(count: int, function: Callable[..., Any], *args: Any, join: bool = True) -> list[Any]:
    """What `function(*args)` returns in each of `count` processes, in their order; an error is returned as one,
    with `is_silent`.

    Without `join` the function has to join them itself, as `fit` does.

    Raises:
        TimeoutError: If one hangs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python would rather not fork where there are threads.
            process = context.Process(target=_run, args=(there, rank, count, port, function, args, join))
            process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    results: list[Any] = []
    try:
        for end, process in zip(ends, processes, strict=True):
            if not end.poll(SECONDS):
                raise TimeoutError(f"process {process.pid} has not ended")
            try:
                results.append(pickle.loads(end.recv_bytes()))
            except EOFError:
                results.append(None)  # It was killed.
    finally:
        for process in processes:
            process.join(10)
            process.kill()
            process.join()
    return results


def _run(
    end: Connection, rank: int, count: int, port: int, function: Callable[..., Any], args: Any, join: bool
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with distributed.joined() if join else contextlib.nullcontext():
            result = function(*args)
    except BaseException as error:
        result = error
        error.__dict__["is_silent"] = distributed.is_silent()
    end.send_bytes(pickle.dumps(result))  # Without torch's shared memory, which would end with the process.
    end.close()
    os._exit(0)
