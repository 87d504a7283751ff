"""Losses over many steps, summed where they are computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .trainer import NonFiniteLoss


class RunningLosses:
    """Means over the steps of an epoch. Adding a step waits for nothing; reading them waits for the device once.

    Args:
        steps_before: Steps of the run before the first one that is added; messages count from there.
    """

    def __init__(self, steps_before: int) -> None:
        self._before, self._steps, self._unread = steps_before, 0, 0
        self._totals: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._sound = self._sound_steps = torch.zeros(())

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one step in; its losses () have no gradient."""
        finite = torch.isfinite(torch.stack(list(losses.values())).sum()).float()
        if self._unread == 0:
            self._sums, self._sound, self._sound_steps = {}, torch.ones_like(finite), torch.zeros_like(finite)
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss
        # How many steps there were before the first one with a loss that is not finite.
        self._sound = self._sound * finite
        self._sound_steps = self._sound_steps + self._sound
        self._steps, self._unread = self._steps + 1, self._unread + 1

    def means(self) -> dict[str, float]:
        """By name, over all steps that were added.

        Raises:
            NonFiniteLoss: If a loss was not finite. What the steps since made of the network is not to be saved.
        """
        if self._unread:
            *values, sound = torch.stack([*self._sums.values(), self._sound_steps]).tolist()
            if sound < self._unread:
                step = self._before + self._steps - self._unread + int(sound) + 1
                raise NonFiniteLoss(
                    step,
                    dict(zip(self._sums, values, strict=True)),
                    f"the loss became {sum(values)} at step {step}; what was saved is kept, "
                    "start again with a lower <learning_rate>",
                )
            for name, value in zip(self._sums, values, strict=True):
                self._totals[name] = self._totals.get(name, 0.0) + value
            self._unread = 0
        return {name: value / self._steps for name, value in self._totals.items()}
