"""How much each task counts in what training minimises, and what each does to the features that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .network.any_network import AnyNetwork
from .network.config import TASKS
from .network.layers import LayerNetwork
from .network.network import Network
from .network.parts import modules_by_part

_TASK_OF = {
    "class": "boxes",
    "box": "boxes",
    "dfl": "boxes",
    "mask": "masks",
    "semantic": "semantic",
    "dice": "semantic",
    "caption": "caption",
    "distill_class": "boxes",
    "distill_box": "boxes",
    "distill_mask": "masks",
    "distill_semantic": "semantic",
    "distill_caption": "caption",
}
_GRADIENT_SCALE = 1024.0
"""What losses are multiplied by while gradients are measured: in half precision small ones would be 0."""


class Balance(nn.Module):
    """Joins the losses of a step to one.

    "fixed" adds them up, as the gains have weighted them. "uncertainty" weighs tasks by learned variances
    (arXiv 1705.07115): a task's losses are multiplied by exp(-s) and s / 2 is added, where s, its log-variance, is
    learned too; its weight comes to rest where the weighted loss is 1 / 2. A task without truth in a batch moves
    nothing. Losses that belong to no task keep their weight.

    Attributes:
        log_variance: (4,) in the order of `TASKS`; None where weights are fixed.
    """

    log_variance: nn.Parameter | None

    def __init__(self, kind: str) -> None:
        super().__init__()
        learned = kind == "uncertainty"
        self.register_parameter("log_variance", nn.Parameter(torch.zeros(len(TASKS))) if learned else None)

    def forward(
        self, losses: Mapping[str, Tensor], reduce: Callable[[Tensor], Tensor] = lambda values: values
    ) -> Tensor:
        """What is minimised, (), of weighted losses () by name.

        Args:
            losses: The same names in all processes.
            reduce: As of `DenseLoss`: a task that only other processes have truth for has its variance moved here too.
        """
        total = torch.stack(list(losses.values())).sum()
        if self.log_variance is None:
            return total
        tasks = by_task(losses)
        if not tasks:
            return total
        present = reduce(torch.stack([loss.detach() for loss in tasks.values()])) != 0
        for (task, loss), is_present in zip(tasks.items(), present, strict=True):
            spread = self.log_variance[TASKS.index(task)]
            total = total - loss + torch.where(is_present, loss * torch.exp(-spread) + spread / 2, loss)
        return total

    def weights(self) -> dict[str, float]:
        """By task, what its losses are multiplied by."""
        values = torch.zeros(len(TASKS)) if self.log_variance is None else self.log_variance.detach()
        return dict(zip(TASKS, torch.exp(-values).tolist(), strict=True))


def by_task(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of the losses of each task; what belongs to none is left out."""
    found: dict[str, Tensor] = {}
    for name, loss in losses.items():
        if name in _TASK_OF:
            task = _TASK_OF[name]
            found[task] = found[task] + loss if task in found else loss
    return found


def task_report(
    losses: Mapping[str, float], weights: Mapping[str, float], norms: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """By task its weighted loss, its weight and the norm of its weighted gradient, for the log.

    Args:
        losses: Means by name.
        weights: From `Balance.weights`.
        norms: From `gradient_norms`.
    """
    report: dict[str, dict[str, float]] = {}
    for task, loss in by_task({name: torch.tensor(loss, dtype=torch.float64) for name, loss in losses.items()}).items():
        weight = weights[task]
        report[task] = {"loss": round(loss.item() * weight, 5), "weight": round(weight, 5)}
        if task in norms:
            report[task]["gradient"] = float(f"{norms[task].item() * weight:.5g}")
    return report


def gradient_norms(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> dict[str, Tensor]:
    """Norm () of the gradient of each task's losses, before its weight, with respect to the shared features.

    The graph of the losses stays. Tasks that do not reach the features are left out, so are all if these are frozen.
    """
    norms = {}
    features = [feature for feature in shared if feature.requires_grad]
    for task, loss in by_task(losses).items():
        if features and loss.requires_grad:
            found = torch.autograd.grad(loss * _GRADIENT_SCALE, features, retain_graph=True, allow_unused=True)
            parts = [gradient.float().norm() for gradient in found if gradient is not None]
            if parts:
                norms[task] = torch.stack(parts).norm() / _GRADIENT_SCALE
    return norms


@contextmanager
def shared_features(network: AnyNetwork) -> Iterator[list[Tensor]]:
    """Collects the last feature maps of the trunk, those that heads read, from each run of it inside the block."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found.append(output)

    handles = [module.register_forward_hook(keep) for module in _last_of_trunk(network)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _last_of_trunk(network: AnyNetwork) -> Iterable[nn.Module]:
    if isinstance(network, Network):
        return network.neck.outputs
    assert isinstance(network, LayerNetwork)
    parts = modules_by_part(network.config)
    trunk = {layer["name"] for layer in network.config.layers if _in_trunk(parts, layer["name"])}
    read = {name for layer in network.config.layers if layer["name"] not in trunk for name in layer["from"]}
    return [network.layers[name] for name in sorted(trunk & (read | {*network.config.outputs}))]


def _in_trunk(parts: Mapping[str, str], layer: str) -> bool:
    return parts[f"layers.{layer}"] in ("backbone", "neck")
