"""One step of training: both views forward, all losses, one backward, one move of the weights and of their average."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..runtime.bundle.tokenizer import PAD_ID
from ..runtime.errors import UnavailableError, UsageError, YolorEdgeError
from .batches import Batch
from .config import TrainConfig
from .losses import DenseLoss, caption_loss
from .network.config import NetworkConfig
from .network.network import Network


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


class Trainer:
    """Network, average, optimiser and losses of one run, and the one step that moves them."""

    def __init__(self, network: NetworkConfig, config: TrainConfig, steps: int, device: torch.device) -> None:
        self.config, self.steps, self.device = config, steps, device
        torch.manual_seed(config.seed)
        self.network = Network(network).to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Network(network).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval()
        decayed = [p for p in self.network.parameters() if p.ndim >= 2 and min(p.shape[:2]) > 1]
        ids = {id(p) for p in decayed}
        plain = [p for p in self.network.parameters() if id(p) not in ids]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.dense_loss = DenseLoss(network, config, device)
        self.amp = amp_dtype(device, config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.where = (
            self.network.memory_positions(network.input_size).to(device) if "caption" in network.tasks else None
        )
        self.step_index = 0

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
            group["lr"] = self.learning_rate()
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise YolorEdgeError(
                f"the loss became {total.item()} at step {self.step_index + 1}; what was saved is kept, "
                "start again with a lower <learning_rate>",
                argument="learning_rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step_index += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        network = self.network.config
        images = batch.strong if batch.weak is None else torch.cat((batch.strong, batch.weak))
        if len(images) == 1 and images.shape[2:] == (32, 32):
            raise UsageError(
                "a step of one image at 32x32 leaves batch normalisation a single value to take the spread of; take a "
                "larger <input_size>, or a <batch_size> that leaves no single image for the last step",
                argument=("input_size", "batch_size"),
            )
        images = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        features = self.network.features(images)
        dense_count = len(batch.strong)
        dense = features if batch.weak is None else [level[:dense_count] for level in features]
        outputs = self.network.dense(dense)
        losses = self.dense_loss(outputs, batch.truth)
        if "caption" in network.tasks and len(batch.tokens):
            spoken = features if batch.weak is None else [level[dense_count:] for level in features]
            memory = self.network.memory(spoken, outputs if batch.weak is None else self._choosing(spoken))
            memory = memory[batch.owners]
            logits = self.network.caption_decoder(batch.tokens[:, :-1], memory, self.where)
            loss = caption_loss(logits, batch.tokens[:, 1:], PAD_ID, self.config.label_smoothing)
            losses["caption"] = self.config.caption_gain * loss
        elif not losses:  # A network that only speaks, and a batch without captions.
            losses["caption"] = features[3].sum() * 0.0
        return losses

    @torch.no_grad()
    def _choosing(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The logits that regions of views for captions are chosen by.

        As at inference, by the statistics gathered so far: these views are not to move those of the dense heads.
        """
        heads = [head for name, head in self.network.named_children() if name in ("box_head", "semantic_head")]
        for head in heads:
            head.eval()
        logits = self.network.choosing(features)
        for head in heads:
            head.train()
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
