"""Means and variances of batch normalisation, estimated anew for the weights that are scored and written.

In training a layer normalises by the batch at hand and keeps a moving average for later. That average lags behind the
weights: after a short run it still holds a share of where it began, and that of the weight average (EMA) lags twice.
Losses do not show it, since they never use it. So before the averaged weights are used their statistics are taken from
some hundred images of the training split (precise batch normalisation, arXiv 2105.07576).

The images are seen as at inference, letterbox only: that scores as the mixture of strong and weak views does which the
batches of training hold, and costs less (measured in docs/training.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from ..evaluation.dataset.coco import CocoDataset
from ..runtime import _native
from ..runtime.errors import YolorEdgeError
from .config import TrainConfig
from .distributed import moments
from .network.any_network import AnyConfig, AnyNetwork

MOMENTUM = 0.03


def set_momentum(network: nn.Module, step: int) -> None:
    """Let batch statistics follow the batches: the mean of all at first, later `MOMENTUM` of each new one.

    Args:
        network: Whose layers are set.
        step: How many steps were done.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = max(MOMENTUM, 1 / (1 + step))


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor], kept: Iterable[str] = ()) -> None:
    """Replace the statistics of the batch normalisations by those over `batches`.

    Each layer normalises by the batch at hand, as in training; means and variances over all pixels of all batches are
    kept at the end. Nothing else of the network changes, and no random number is drawn.

    Args:
        network: In evaluation mode, called with each batch.
        batches: Inputs of the network; at least one.
        kept: Names of the layers that keep theirs, and normalise by them.
    """
    kept = set(kept)
    layers = [m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and name not in kept]
    sums = {
        layer: torch.zeros(3, layer.num_features, dtype=torch.float64, device=layer.weight.device) for layer in layers
    }

    def take(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
        mean, variance, count = moments(inputs[0])
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        mean, variance = mean.double(), variance.double()
        sums[layer] += count * torch.stack((torch.ones_like(mean), mean, variance + mean.square()))

    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    try:
        for images in batches:
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, (count, first, second) in sums.items():
        if count[0] and layer.running_mean is not None and layer.running_var is not None:
            mean = first / count
            layer.running_mean.copy_(mean)
            layer.running_var.copy_((second / count - mean.square()).clamp(min=0))


class _PlainImages(Dataset[NDArray[np.uint8] | YolorEdgeError]):
    """Training images as the runtime prepares them, (3, H, W) uint8 RGB."""

    def __init__(self, data: CocoDataset, network: AnyConfig) -> None:
        self.data, self.rule = data, network.preprocess_rule

    def __getitem__(self, index: int) -> NDArray[np.uint8] | YolorEdgeError:
        try:
            image, rule = self.data.read(self.data[index]), self.rule
            size = rule.input_size
            pixels = _native.letterbox_u8(image, *size, rule.pad_value, swap_rb=True, rounding=rule.rounding)
            return pixels.transpose(2, 0, 1)
        except YolorEdgeError as error:
            return error


class BatchStatistics:
    """Gives networks the statistics of the images that they are trained on.

    Args:
        data: The training split.
        network: What is trained.
        train: How; `statistics_images` of the data are drawn by its seed, the same each time.
    """

    def __init__(self, data: CocoDataset, network: AnyConfig, train: TrainConfig) -> None:
        count = min(train.statistics_images, len(data))
        chosen = np.random.default_rng((train.seed, len(data))).choice(len(data), count, replace=False)
        # Larger batches than in training: at inference no layer is normalised by its batch, and the more a batch holds,
        # the closer its layers' inputs come to those. Four times as many, without gradients, need no more memory.
        parts = np.array_split(np.sort(chosen), max(1, -(-count // (4 * train.batch_size))))
        self.batches = [[int(index) for index in part] for part in parts]
        self.images, self.workers = _PlainImages(data, network), train.workers

    def of(self, network: AnyNetwork, kept: Iterable[str] = ()) -> AnyNetwork:
        """A copy of a network with statistics of its own; with `statistics_images` 0 the network itself.

        Args:
            network: In evaluation mode; nothing of it changes.
            kept: Names of the layers that keep theirs.

        Raises:
            YolorEdgeError: If an image cannot be read.
        """
        if not self.batches[0]:
            return network
        network = copy.deepcopy(network)
        estimate_statistics(network, self._inputs(next(network.parameters()).device), kept)
        return network

    def _inputs(self, device: torch.device) -> Iterator[Tensor]:
        loader: DataLoader[list[NDArray[np.uint8] | YolorEdgeError]] = DataLoader(
            self.images,  # type: ignore[arg-type]
            batch_sampler=self.batches,
            num_workers=min(self.workers, len(self.batches)),
            collate_fn=_stacked,
            generator=torch.Generator(),  # Else it would draw a number of the training's.
        )
        for batch in loader:
            if isinstance(batch, YolorEdgeError):
                raise batch
            images = batch.to(device).float().div_(255)
            yield images.contiguous(memory_format=torch.channels_last)


def _stacked(found: list[NDArray[np.uint8] | YolorEdgeError]) -> Tensor | YolorEdgeError:
    for one in found:
        if isinstance(one, YolorEdgeError):
            return one
    return torch.from_numpy(np.stack(found))  # type: ignore[arg-type]
