"""Several processes that train one network together, as torchrun starts them: one for each GPU, or some on a CPU.

Each process takes its share of the images of every step. What a step needs of the others is exchanged here: counts that
losses are divided by, the moments of batch normalisation, gradients. So a step does what one process would do with all
of the step's images, to rounding, and weights, average and optimiser are the same in all processes at any time. The
first one alone writes and prints.

Gradients are exchanged after the backward pass, not in the course of it as `DistributedDataParallel` does: batch
normalisation exchanges sums in the backward pass already, and two kinds of exchange that depend on which parameters a
process's captions reach would have to come in the same order everywhere. Parameters that no process has a gradient of
have none afterwards either, so that the optimiser skips them, as it does in one process.

Outside of torchrun every function here answers at once, for one process.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from ..runtime.errors import UnavailableError, UsageError, YolorEdgeError

P = ParamSpec("P")
R = TypeVar("R")
Value = TypeVar("Value")
BUCKET = 8_000_000
"""Values of gradients that are exchanged at once."""

_store: dist.Store | None = None  # pyright: ignore[reportPrivateImportUsage]
_silent: bool | None = None


def size() -> int:
    """How many processes train together; 1 outside of torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def has_joined() -> bool:
    """Whether this process has met others to train with."""
    return _silent is not None


def is_silent() -> bool:
    """Whether what ended the training here is told by another process."""
    return bool(_silent)


class ProcessLost(YolorEdgeError):
    """Another process of this training ended, or cannot be reached any more."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside the block, the processes that torchrun started work together; outside of torchrun nothing changes.

    If the block ends with an error, one process is to tell of it: the first that was in trouble. In the others
    `is_silent` answers True.

    Raises:
        UnavailableError: If the other processes cannot be reached.
        ProcessLost: If one of them ends before the block does.
    """
    global _store, _silent
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    try:
        store, own, count = next(iter(dist.rendezvous("env://")))  # pyright: ignore[reportPrivateImportUsage]
        # Another try of the same torchrun must not find what the one before has left there.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"yolor_edge/{restart}", store)  # pyright: ignore[reportPrivateImportUsage]
        # Of tensors on GPUs by NCCL; counts and objects, which lie in the host's memory, by gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=own, world_size=count)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UnavailableError(
            f"the processes of this training cannot reach each other ({str(error).splitlines()[0]}); start them with "
            "torchrun"
        ) from None
    _store, _silent = store, False
    try:
        yield
        wait_for_all()
    except BaseException as error:
        _silent = not _is_first_in_trouble()
        told = _lost(error) if isinstance(error, dist.DistError) else error
        if not torch.cuda.is_available():  # NCCL would wait for processes that are gone.
            dist.destroy_process_group()
        raise told from None
    else:
        dist.destroy_process_group()
    finally:
        _store = None


def together(function: Callable[P, R]) -> Callable[P, R]:
    """A function that all processes call, inside of `joined`."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        with joined():
            return function(*args, **keywords)

    return call


def _is_first_in_trouble() -> bool:
    try:
        assert _store is not None
        return _store.add("trouble", 1) == 1
    except (RuntimeError, AssertionError):  # The store was in the process that is gone.
        return rank() <= 1


def _lost(error: Exception) -> ProcessLost:
    return ProcessLost(
        f"process {rank()} of {size()} lost the others, one of them has ended ({str(error).splitlines()[0][:120]}); "
        "what was saved is kept, go on with yolor-edge train --resume and the folder of the run"
    )


def _exchange(call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a function of `torch.distributed`.

    Raises:
        ProcessLost: If it fails.
    """
    try:
        return call(*args, **keywords)
    except RuntimeError as error:  # gloo's own have no type.
        raise _lost(error) from None


def wait_for_all() -> None:
    """Return when all processes are here."""
    if size() > 1:
        _exchange(dist.all_reduce, torch.zeros(1))


def gathered(value: Value) -> list[Value]:
    """The values of all processes in their order, in each of them."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    _exchange(dist.all_gather_object, values, value)
    return values


def of_first(value: Value) -> Value:
    """The value that the first process has, in each of them."""
    if size() == 1:
        return value
    values: list[Any] = [value]
    _exchange(dist.broadcast_object_list, values, src=0)
    return values[0]


def mean(values: Tensor) -> Tensor:
    """Mean over the processes of a tensor of the same shape in each, without a gradient; `values` stays."""
    if size() == 1:
        return values
    total = values.detach().clone()
    _exchange(dist.all_reduce, total)
    return total / size()


def means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes of values () that go by the same names in each."""
    if size() == 1:
        return dict(values)
    return dict(zip(values, mean(torch.stack(list(values.values()))).unbind(), strict=True))


def joined_norms(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms of gradients with respect to all processes' features, from those () with respect to their own.

    A loss is the mean of the processes' losses, so of it each process's features have a gradient that much smaller.
    """
    squares = means({name: norm.square() for name, norm in norms.items()}) if norms else {}
    return {name: (square / size()).sqrt() for name, square in squares.items()} if size() > 1 else dict(norms)


def share(count: int, process: int | None = None) -> slice:
    """Which of so many things this process takes, or another one; processes take neighbours, as many or one more."""
    own, count_of = rank() if process is None else process, size()
    return slice(own * count // count_of, (own + 1) * count // count_of)


def own_device(device: torch.device) -> torch.device:
    """The device of this process where "cuda" or "auto" was asked for: each process of a machine has a GPU to itself.

    Raises:
        UsageError: If a certain GPU was asked for, or there are fewer than processes.
    """
    if size() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UsageError(
            f"device {device} is one GPU, and {size()} processes train; each takes its own with device auto", "device"
        )
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= gpus:
        raise UsageError(
            f"this machine has {gpus} GPUs, fewer than torchrun starts processes on it; start {gpus} of them", "device"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def seed(base: int, step: int) -> None:
    """Begin the random numbers of a step in all processes but the first, from the seed of the run.

    Each has others, and a state, which has those of the first, says nothing of how many processes there were.
    """
    if rank() > 0:
        torch.manual_seed(int(np.random.default_rng((base, step, rank())).integers(1 << 62)))


def check_batch_size(batch_size: int) -> None:
    """Refuse a step with fewer images than there are processes.

    Raises:
        UsageError: If it has.
    """
    if batch_size < size():
        raise UsageError(
            f"<batch_size> must be at least the number of processes, which is {size()}, got {batch_size}; it is the "
            "images a step of all processes together",
            argument="batch_size",
        )


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    """Replace gradients by their means over the processes, in which one that is missing counts as 0.

    Args:
        parameters: The same in all processes, in the same order.

    Returns:
        Whether any process has a gradient of any of them.
    """
    parameters = list(parameters)
    if size() == 1:
        return any(parameter.grad is not None for parameter in parameters)
    # In the host's memory, so that no device has to be waited for.
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    _exchange(dist.all_reduce, has)
    taught = [parameter for parameter, count in zip(parameters, has.tolist(), strict=True) if count]
    gradients = []
    for parameter in taught:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    pending = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        pending.append((bucket, flat, _exchange(dist.all_reduce, flat, async_op=True)))
    for bucket, flat, work in pending:
        _exchange(work.wait)
        flat.div_(size())
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
    return bool(taught)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for gradient in gradients:
        if bucket and (held + gradient.numel() > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(gradient)
        held += gradient.numel()
    if bucket:
        yield bucket


@torch.no_grad()
def copy_from_first(module: nn.Module) -> None:
    """Replace parameters and buffers by those of the first process."""
    if size() > 1:
        for tensor in module.state_dict().values():
            _exchange(dist.broadcast, tensor, src=0)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and count () of x (B, C, ...) over all but the channels, of all processes' images.

    In float32, the variance without Bessel's correction, without a gradient. B may be 0 in some of the processes.
    """
    x = x.detach().float()
    dims = [0, *range(2, x.ndim)]
    count = x.new_tensor(x.numel() // x.shape[1])
    if len(x):
        variance, average = torch.var_mean(x, dims, correction=0)
    else:
        variance, average = x.new_zeros(2, x.shape[1])
    if size() == 1:
        return average, variance, count
    found = [torch.empty(2 * x.shape[1] + 1, device=x.device) for _ in range(size())]
    _exchange(dist.all_gather, found, torch.cat((average, variance, count[None])))
    averages, variances, counts = torch.stack(found).split([x.shape[1], x.shape[1], 1], 1)
    total = counts.sum().clamp(min=1)
    average = (counts * averages).sum(0) / total
    # From differences, where squares would cancel.
    variance = (counts * (variances + (averages - average).square())).sum(0) / total
    return average, variance, counts.sum()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the moments of all processes' images; in evaluation mode as its base."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or size() == 1:
            return super().forward(input)
        mean, variance, count = moments(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), self.momentum)
        return _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are those of all processes' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.ndim - 2))
        dims = [0, *range(2, x.ndim)]
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        of_x = gradient.float()
        to_bias, to_weight = of_x.sum(dims), (of_x * normal).sum(dims)
        sums = torch.stack((to_bias, to_weight))
        _exchange(dist.all_reduce, sums)
        mean_of, mean_along = sums / count.clamp(min=1)
        of_x = (of_x - mean_of.view(shape) - normal * mean_along.view(shape)) * (weight * scale).view(shape)
        return of_x.to(x.dtype), to_weight, to_bias, None, None, None, None


def share_batch_norms(network: nn.Module) -> None:
    """Make the batch normalisations of `network` take their moments over all processes; one process changes nothing.

    On GPUs by torch's own layer, which is as fast as the plain one. Names, parameters and buffers stay.
    """
    if size() == 1:
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _shared(child))


def _shared(norm: nn.BatchNorm2d) -> _BatchNorm:
    kind = nn.SyncBatchNorm if norm.weight.is_cuda else SharedBatchNorm
    made = kind(norm.num_features, norm.eps, norm.momentum).to(norm.weight.device)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)


def reaching(loss: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """`loss`, whose gradient goes to `tensors` too, and is 0 there.

    A loss that not every process has must not decide which batch normalisations its backward pass goes through: each
    of them waits for the same one of the other processes.
    """
    return _Reach.apply(loss, *[tensor for tensor in tensors if tensor.requires_grad])


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        zeros = [torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.like]
        return gradient, *zeros
