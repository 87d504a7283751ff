"""What processes that train together exchange, on CPU: two and three of them do what one does with all images."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from yolor_edge.runtime.errors import UsageError
from yolor_edge.train import distributed
from yolor_edge.train.batch_statistics import estimate_statistics

from .processes import in_processes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_process_needs_nobody() -> None:
    values = torch.arange(3.0)
    assert (distributed.size(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.mean(values) is values
    assert (distributed.gathered("a"), distributed.of_first("a"), distributed.share(5)) == (["a"], "a", slice(0, 5))
    norm = nn.Sequential(nn.BatchNorm2d(2))
    distributed.share_batch_norms(norm)
    assert type(norm[0]) is nn.BatchNorm2d
    distributed.check_batch_size(1)
    with distributed.joined():
        assert distributed.size() == 1


def shares(count: int) -> list[int]:
    taken = [distributed.share(count, process) for process in range(distributed.size())]
    return [len(range(*part.indices(count))) for part in taken]


def exchange() -> dict[str, Any]:
    rank = distributed.rank()
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.zeros(1))]
    if rank == 1:
        parameters[0].grad = torch.tensor([2.0, 4.0])
    if rank == 0:
        parameters[1].grad = torch.ones(3, 1)
    taught = distributed.average_gradients(parameters)
    nothing = distributed.average_gradients(parameters[2:])
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, float(rank))
    distributed.copy_from_first(layer)
    try:
        distributed.check_batch_size(1)
        message = ""
    except UsageError as error:
        message = str(error)
    return {
        "mean": distributed.mean(torch.tensor([float(rank), 2.0])),
        "gathered": distributed.gathered(rank * 10),
        "first": distributed.of_first(f"of {rank}"),
        "shares": [shares(count) for count in (0, 1, 2, 4)],
        "gradients": [parameter.grad for parameter in parameters],
        "taught": (taught, nothing),
        "weight": layer.weight.item(),
        "message": message,
    }


def test_what_two_processes_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 3)
    for found in in_processes(2, exchange):
        assert found["mean"].tolist() == [0.5, 2.0]
        assert found["gathered"] == [0, 10]
        assert found["first"] == "of 0"
        assert found["shares"] == [[0, 0], [0, 1], [1, 1], [2, 2]]
        assert [None if g is None else g.flatten().tolist() for g in found["gradients"]] == [[1, 2], [0.5] * 3, None]
        assert found["taught"] == (True, False)
        assert found["weight"] == 0.0
        assert "must be at least the number of processes, which is 2, got 1" in found["message"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, 1e-3, 0.1), nn.SiLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    )


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Images far from zero mean, and weights that make a loss of the outputs."""
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(count, 2, 8, 6, generator=generator) + 50, torch.randn(count, 4, 6, 4, generator=generator)


def normalised(count: int) -> dict[str, Tensor]:
    """Outputs, gradients and statistics of this process's share."""
    net = network()
    distributed.share_batch_norms(net)
    net.train()
    own = distributed.share(count)
    images, weights = (values[own] for values in pictures(count))
    images = images.clone().requires_grad_()
    outputs = net(images)
    # As the losses are: the mean over the processes is that of all images.
    loss = (outputs * weights).sum() * distributed.size() / count
    loss.backward()
    distributed.average_gradients(net.parameters())
    assert images.grad is not None
    found = {"outputs": outputs.detach(), "images": images.grad / distributed.size()}
    found |= {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    found |= {name: buffer.clone() for name, buffer in net.named_buffers()}
    estimate_statistics(net.eval(), [pictures(count)[0][own]])
    return found | {f"estimated {name}": buffer for name, buffer in net.named_buffers()}


@pytest.mark.parametrize("count", [7, 2])
def test_batch_normalisation_is_that_of_the_joined_batch(count: int) -> None:
    """Of uneven shares, and of one process without an image: outputs, gradients, statistics, on every process."""
    expected = normalised(count)
    processes = in_processes(3, normalised, count)
    for name in expected:
        found = [one[name] for one in processes]
        joined = torch.cat(found) if name in ("outputs", "images") else found[0]
        torch.testing.assert_close(
            joined, expected[name], rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        if joined is found[0]:
            assert all(torch.equal(one, joined) for one in found)


def test_batch_normalisation_is_torchs_own_in_one_process() -> None:
    """The layer itself, as far as one process can say."""
    torch.manual_seed(2)
    plain = nn.BatchNorm2d(3, 1e-3, 0.1)
    nn.init.normal_(plain.weight)
    own = copy.deepcopy(plain)
    images = torch.randn(4, 3, 5, 5) * 2 + 10
    mean, variance, count = distributed.moments(images)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    outputs = [
        plain(inputs[0]),
        distributed._Normalise.apply(inputs[1], own.weight, own.bias, mean, variance, count, own.eps),
    ]
    torch.testing.assert_close(outputs[1], outputs[0])


def unequal_reach() -> list[float]:
    """Only the first process has a loss that goes through the second layer."""
    first, second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    layers = nn.Sequential(first, second)
    distributed.share_batch_norms(layers)
    images = torch.arange(8.0).reshape(2, 1, 2, 2) + distributed.rank()
    middle = layers[0](images)
    last = layers[1](middle)
    loss = (middle * images).sum()
    if distributed.is_first():
        loss = loss + last.square().sum()
    distributed.reaching(loss, [middle, last, images]).backward()
    distributed.average_gradients(layers.parameters())
    return [layers[1].weight.grad.item(), layers[1].bias.grad.item()]  # type: ignore[union-attr]


def test_a_loss_that_one_process_lacks_stops_nobody() -> None:
    first, second = in_processes(2, unequal_reach)
    assert first == second
    assert first[0] != 0


def lost(kind: str) -> str:
    if distributed.rank() == 1:
        if kind == "killed":
            os._exit(9)
        raise UsageError("process 1 has a reason")
    distributed.mean(torch.zeros(1))
    return "not reached"


@pytest.mark.parametrize("kind", ["killed", "refused"])
def test_a_process_that_ends_ends_the_others(kind: str) -> None:
    first, second, third = in_processes(3, lost, kind)
    for one in (first, third):
        assert isinstance(one, distributed.ProcessLost)
        assert "lost the others, one of them has ended" in str(one)
        assert "\n" not in str(one)
    told = [one for one in (first, second, third) if one is not None and not one.is_silent]
    assert len(told) == 1
    if kind == "killed":
        assert second is None
    else:
        assert str(second) == "process 1 has a reason"
        assert told == [second]
