"""One step of training: both views forward, all losses, one backward, one move of the weights and of their average."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.bundle.tokenizer import PAD_ID
from ..runtime.errors import UnavailableError, UsageError, YolorEdgeError
from .batch_statistics import set_momentum
from .batches import Batch
from .config import TrainConfig
from .distillation import Distillation
from .losses import DenseLoss, caption_loss, product_logits
from .network.any_network import AnyConfig, network_of
from .network.layers import LayerNetwork
from .network.network import Network
from .network.parts import modules_by_part, set_class_biases
from .start import Transfer, Weights


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one.

    Raises:
        UsageError: If torch does not know it.
        NotHereError: If torch cannot use it on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} is not known ({reason}); choose auto, cpu or cuda:N", "device") from None
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnavailableError(
            f"device {name!r} cannot be used here ({reason}); choose auto, cpu or cuda:N", argument="device"
        ) from None
    return device


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The 16-bit type that `device` multiplies natively, or None to stay with float32."""
    if amp == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


@dataclass(frozen=True)
class StartRates:
    """How a network moves that did not begin from nothing.

    Attributes:
        frozen: Parts (`network.parts.PARTS`) that do not move at all: neither weights nor batch statistics.
        fresh: Names of the tensors that learn at the full rate; the others, kept of the start, at `kept_rate` of it.
    """

    frozen: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset()


class NonFiniteLoss(YolorEdgeError):
    """A loss that is infinite or no number.

    Attributes:
        step: In which step of the run it was noticed, from 1.
        losses: All losses of that step by name.
    """

    def __init__(self, step: int, losses: Mapping[str, float], message: str = "") -> None:
        super().__init__(message or f"the loss is no number at step {step}")
        self.step, self.losses = step, dict(losses)


class Trainer:
    """Network, average, optimiser and losses of one run, and the one step that moves them.

    Args:
        network: What it is.
        config: How it is trained.
        steps: Of the whole run.
        device: Where.
        start: Of a network that is filled with other weights (by `load_start`) before the first step.
        distillation: From a teacher, beside the truth.
    """

    def __init__(
        self,
        network: AnyConfig,
        config: TrainConfig,
        steps: int,
        device: torch.device,
        start: StartRates | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        self.config, self.steps, self.device = config, steps, device
        torch.manual_seed(config.seed)
        self.network = network_of(network)
        if isinstance(self.network, LayerNetwork):
            set_class_biases(self.network)
        self.network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = network_of(network).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval()
        modules = modules_by_part(network)
        frozen = {name for name, part in modules.items() if start is not None and part in start.frozen}
        self.frozen = [module for name, module in self.network.named_modules() if name in frozen]
        for module in self.frozen:
            module.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self._groups(start), lr=config.learning_rate)
        self.dense_loss = DenseLoss(network, config, device)
        self.distillation = distillation
        if distillation is not None:
            distillation.to(device)
        self.amp = amp_dtype(device, config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.where = (
            self.network.memory_positions(network.input_size).to(device) if "caption" in network.tasks else None
        )
        self.step_index = 0

    def _groups(self, start: StartRates | None) -> list[dict[str, Any]]:
        """Parameters that move, by rate and weight decay; `rate` is relative to the learning rate."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                is_decayed = parameter.ndim >= 2 and min(parameter.shape[:2]) > 1
                rate = 1.0 if start is None or name in start.fresh else self.config.kept_rate
                decay = self.config.weight_decay if is_decayed else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        order = sorted(groups, reverse=True)
        return [{"params": groups[key], "rate": key[0], "weight_decay": key[1]} for key in order]

    def load_start(self, transfer: Transfer, weights: Weights) -> None:
        """Fill network and average with the weights that a training starts from."""
        transfer.fill(self.network, weights)
        self.average.load_state_dict(self.network.state_dict())

    def train_mode(self) -> None:
        """Set the network to training, frozen parts to evaluation."""
        self.network.train()
        for module in self.frozen:
            module.eval()

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to `final_rate` of the peak."""
        config, done = self.config, self.step_index
        warmup = max(1, round(config.warmup * self.steps))
        if done < warmup:
            return config.learning_rate * (done + 1) / warmup
        share = (done - warmup) / max(1, self.steps - warmup)
        return config.learning_rate * (
            config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * share)) / 2
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One forward of both views, one backward, one move; returns the weighted losses by name."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["rate"]
        set_momentum(self.network, self.step_index)
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise NonFiniteLoss(self.step_index + 1, {name: loss.item() for name, loss in losses.items()})
        self.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:  # A batch without truth for any part that is not frozen teaches nothing.
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step_index += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.strong if batch.weak is None else torch.cat((batch.strong, batch.weak))
        if len(images) == 1 and images.shape[2:] == (32, 32):
            raise UsageError(
                "a step of one image at 32x32 leaves batch normalisation a single value to take the spread of; take a "
                "larger <input_size>, or a <batch_size> that leaves no single image for the last step",
                argument=("input_size", "batch_size"),
            )
        images = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        if isinstance(self.network, LayerNetwork):
            return self._losses_of_layers(self.network, images, batch)
        features = self.network.features(images)
        dense_count = len(batch.strong)
        dense = features if batch.weak is None else [level[:dense_count] for level in features]
        outputs = self.network.dense(dense)
        losses, words = self.dense_loss(outputs, batch.truth), None
        if "caption" in self.network.config.tasks and len(batch.tokens):
            spoken = features if batch.weak is None else [level[dense_count:] for level in features]
            known = outputs if batch.weak is None else self._choosing(spoken)
            words = self._words(self.network.memory(spoken, known), batch)
            losses["caption"] = self._caption_loss(words, batch)
        elif not losses:  # A network that only speaks, and a batch without captions.
            losses["caption"] = features[3].sum() * 0.0
        return losses | self._taught(images, batch, outputs, words)

    def _taught(
        self, images: Tensor, batch: Batch, outputs: dict[str, Tensor], words: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses against the teacher, if there is one."""
        return {} if self.distillation is None else self.distillation(images, batch, outputs, words)

    def _words(self, memory: Tensor, batch: Batch) -> Tensor:
        """(t, T, V) logits of the word after each of the captions."""
        return self.network.caption_decoder(batch.tokens[:, :-1], memory, self.where, batch.owners)

    def _caption_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        loss = caption_loss(logits, batch.tokens[:, 1:], PAD_ID, self.config.label_smoothing)
        return self.config.caption_gain * loss

    def _losses_of_layers(self, network: LayerNetwork, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        # Boxes are decoded in float32: 16 bits round a large one by pixels.
        features = {name: values.float() for name, values in network.features(images).items()}
        dense_count = len(batch.strong)
        dense = {name: values[:dense_count] for name, values in features.items()}
        outputs, words = network.heads(dense), None
        if "class_scores" in outputs:
            outputs["class_logits"] = anchor_logits(network.raw_levels(dense), len(network.config.class_names))
        losses = self.dense_loss(outputs, batch.truth)
        if "caption" in network.config.tasks and len(batch.tokens):
            spoken = outputs
            if batch.weak is not None:
                spoken = network.heads({name: values[dense_count:] for name, values in features.items()})
            words = self._words(spoken["caption_memory"], batch)
            losses["caption"] = self._caption_loss(words, batch)
        return losses | self._taught(images, batch, outputs, words)

    @torch.no_grad()
    def _choosing(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The logits that regions of views for captions are chosen by.

        As at inference, by the statistics gathered so far: these views are not to move those of the dense heads.
        """
        network = self.network
        assert isinstance(network, Network)
        for name, head in network.named_children():
            if name in ("box_head", "semantic_head"):
                head.eval()
        logits = network.choosing(features)
        self.train_mode()
        return logits

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        own = self.network.state_dict()
        floats, targets = [], []
        for name, average in self.average.state_dict().items():
            if average.is_floating_point():
                floats.append(own[name])
                targets.append(average)
            else:
                average.copy_(own[name])
        for average, value in zip(targets, floats, strict=True):
            average.lerp_(value, 1 - decay)


def anchor_logits(levels: Sequence[Tensor], classes: int) -> Tensor:
    """(B, C, N) logits of objectness times class, from the `raw_levels` of a network with anchors."""
    logits = [product_logits(raw[..., 4:5], raw[..., 5 : 5 + classes]) for raw in levels]
    return torch.cat([level.permute(0, 4, 1, 2, 3).flatten(2) for level in logits], 2)
