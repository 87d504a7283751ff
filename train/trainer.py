"""One step of training: both views forward, all losses, one backward, one move of the weights and of their average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.bundle.tokenizer import PAD_ID
from ..runtime.errors import UnavailableError, UsageError, YolorEdgeError
from . import distributed
from .balance import Balance, gradient_norms, shared_features
from .batch_statistics import set_momentum
from .batches import Batch
from .config import TrainConfig
from .distillation import Distillation
from .losses import DenseLoss, caption_loss, divisor, product_logits
from .network.any_network import AnyConfig, network_of
from .network.layers import LayerNetwork
from .network.network import Network
from .network.parts import modules_by_part, set_class_biases
from .quantisation import QuantisationPlan, is_bound, quantise
from .start import Transfer, Weights

BALANCE_RATE = 10.0
BOUND_RATE = 20.0
"""Rate of the logarithms of int8 bounds, relative to that of the weights."""
"""Rate of the learned weights of tasks, relative to the learning rate."""


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one, of several processes one for each.

    Raises:
        UsageError: If torch does not know it.
        NotHereError: If torch cannot use it on this machine.
    """
    if name == "auto":
        return distributed.own_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
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
    return distributed.own_device(device)


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The 16-bit type that `device` multiplies natively, or None to stay with float32."""
    if amp == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


def check_compiler(device: torch.device, config: TrainConfig) -> None:
    """Compile a function of one line, if the network is to be compiled.

    Raises:
        UnavailableError: If torch cannot compile for `device` here.
    """
    if not config.compile:
        return
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # torch's own, a missing compiler's or that of a tool which the compiler calls
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnavailableError(
            f"torch cannot compile for {device} here ({reason}); install what it names, or leave <compile> false",
            argument="compile",
        ) from None


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
        super().__init__(message or f"the loss is no number at step {step}", "learning_rate")
        self.step, self.losses = step, dict(losses)


class Trainer:
    """Network, average, optimiser and losses of one run, and the one step that moves them.

    A step waits for its device nowhere: what it returns lies there, and so does what it decides.

    Args:
        network: What it is.
        config: How it is trained.
        steps: Of the whole run.
        device: Where.
        start: Of a network that is filled with other weights (by `load_start`) before the first step.
        distillation: From a teacher, beside the truth.
        quantisation: What is rounded to int8 in every step.

    Attributes:
        gradient_norms: By task, () on the device, as last measured by a step.
    """

    def __init__(
        self,
        network: AnyConfig,
        config: TrainConfig,
        steps: int,
        device: torch.device,
        start: StartRates | None = None,
        distillation: Distillation | None = None,
        quantisation: QuantisationPlan | None = None,
    ) -> None:
        self.config, self.steps, self.device = config, steps, device
        torch.manual_seed(config.seed)
        self.network = network_of(network)
        if isinstance(self.network, LayerNetwork):
            set_class_biases(self.network)
        self.network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        distributed.share_batch_norms(self.network)
        if quantisation is not None:
            quantise(self.network, quantisation)
        # Laid out as the network is, so that all tensors of the average move in one call.
        self.average = network_of(network)
        self.average.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if quantisation is not None:
            quantise(self.average, quantisation)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval()
        modules = modules_by_part(network)
        frozen = {name for name, part in modules.items() if start is not None and part in start.frozen}
        self.frozen = [module for name, module in self.network.named_modules() if name in frozen]
        for module in self.frozen:
            module.requires_grad_(False)
        self.balance = Balance(config.balance).to(device)
        # Fused: one pass over all parameters, and the count of steps stays on the device.
        fused = device.type in ("cpu", "cuda", "mps", "xpu")
        self.optimizer = torch.optim.AdamW(self._groups(start), lr=config.learning_rate, fused=fused)
        self.dense_loss = DenseLoss(network, config, device)
        self.dense_loss.reduce = distributed.mean
        self.distillation = distillation
        if distillation is not None:
            distillation.to(device)
            distillation.reduce = distributed.mean
        self.amp = amp_dtype(device, config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.where = (
            self.network.memory_positions(network.input_size).to(device) if "caption" in network.tasks else None
        )
        self.features = torch.compile(self.network.features) if config.compile else self.network.features
        self.step_index = 0
        self.gradient_norms: dict[str, Tensor] = {}
        states = [module.state_dict() for module in (self.network, self.average)]
        pairs = [(own, average) for own, average in zip(*(state.values() for state in states), strict=True)]
        self._averaged = [pair for pair in pairs if pair[1].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[1].is_floating_point()]

    def _groups(self, start: StartRates | None) -> list[dict[str, Any]]:
        """Parameters that move, by rate and weight decay; `rate` is relative to the learning rate."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                is_decayed = parameter.ndim >= 2 and min(parameter.shape[:2]) > 1
                rate = 1.0 if start is None or name in start.fresh else self.config.kept_rate
                rate *= BOUND_RATE if is_bound(name) else 1.0
                decay = self.config.weight_decay if is_decayed else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        order = sorted(groups, reverse=True)
        found = [{"params": groups[key], "rate": key[0], "weight_decay": key[1]} for key in order]
        learned = list(self.balance.parameters())
        # Four numbers, that a run of some thousand steps is to bring from 1 to where they belong.
        return [*found, {"params": learned, "rate": BALANCE_RATE, "weight_decay": 0.0}] if learned else found

    def load_start(self, transfer: Transfer, weights: Weights) -> None:
        """Fill network and average with the weights that a training starts from."""
        transfer.fill(self.network, weights)
        self.average.load_state_dict(self.network.state_dict())

    def train_mode(self) -> None:
        """Set the network to training, frozen parts to evaluation."""
        self.network.train()
        for module in self.frozen:
            module.eval()

    def frozen_layers(self) -> list[str]:
        """Names of the modules that do not move, with all that is in them."""
        frozen = {module for part in self.frozen for module in part.modules()}
        return [name for name, module in self.network.named_modules() if module in frozen]

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

    def step(self, *batches: Batch, measure: bool = False) -> dict[str, Tensor]:
        """One move of the weights by the gradient of all `batches`, which are one batch divided.

        Each goes forward (both views) and backward by itself. Losses are divided by what all of them count, but for
        what depends on predictions (`DenseLoss.__call__`), and batch statistics are of each by itself.

        Args:
            batches: On the device.
            measure: Whether to measure `gradient_norms` too, on the first batch.

        Returns:
            The weighted losses by name, () on the device, without a gradient. One that is not finite is for the caller
            to find, before anything is saved (`RunningLosses`).
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["rate"]
        distributed.seed(self.config.seed, self.step_index)
        set_momentum(self.network, self.step_index)
        self.optimizer.zero_grad(set_to_none=True)
        counts = self._counts(batches)
        self.dense_loss.parts = distributed.size() * len(batches)
        if self.distillation is not None:
            self.distillation.parts = self.dense_loss.parts
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            measured = measure and index == 0
            with (
                shared_features(self.network) if measured else nullcontext([]) as shared,
                torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None),
            ):
                losses = self._losses(batch, counts, self.network.features if measured else self.features)
            if measured:
                self.gradient_norms = distributed.joined_norms(gradient_norms(losses, shared))
            total = self.balance(losses, self.dense_loss.reduce) / len(batches)
            if total.requires_grad:  # A batch without truth for any part that is not frozen teaches nothing.
                self.scaler.scale(total).backward()
            for name, loss in losses.items():
                share = loss.detach() / len(batches)
                sums[name] = sums[name] + share if name in sums else share
        if distributed.average_gradients(p for group in self.optimizer.param_groups for p in group["params"]):
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step_index += 1
        self._update_average()
        return distributed.means(sums)

    @torch.no_grad()
    def _counts(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """What the truth says that losses are divided by, () each: means over batches and processes."""
        found = [
            {**self.dense_loss.counts(batch.truth), "words": (batch.tokens[:, 1:] != PAD_ID).sum().float()}
            for batch in batches
        ]
        means = self.dense_loss.reduce(torch.stack([torch.stack(list(counts.values())) for counts in found]).mean(0))
        return dict(zip(found[0], means.unbind(), strict=True))

    def _losses(
        self, batch: Batch, counts: Mapping[str, Tensor], features_of: Callable[[Tensor], Any]
    ) -> dict[str, Tensor]:
        images = batch.strong if batch.weak is None else torch.cat((batch.strong, batch.weak))
        if len(images) == 1 and images.shape[2:] == (32, 32) and distributed.size() == 1:
            raise UsageError(
                "a step of one image at 32x32 leaves batch normalisation a single value to take the spread of; take a "
                "larger <input_size>, or a <batch_size> that leaves no single image for the last step",
                argument=("input_size", "batch_size"),
            )
        images = images.to(dtype=torch.float32, memory_format=torch.channels_last).div_(255)
        features = features_of(images)
        if isinstance(self.network, LayerNetwork):
            return self._losses_of_layers(self.network, images, features, batch, counts)
        dense_count = len(batch.strong)
        dense = features if batch.weak is None else [level[:dense_count] for level in features]
        outputs = self.network.dense(dense)
        losses, words = self.dense_loss(outputs, batch.truth, counts), None
        if "caption" in self.network.config.tasks and len(batch.tokens):
            spoken = features if batch.weak is None else [level[dense_count:] for level in features]
            known = outputs if batch.weak is None else self._choosing(spoken)
            words = self._words(self.network.memory(spoken, known), batch)
            losses["caption"] = self._caption_loss(words, batch, counts)
        elif not losses:  # A network that only speaks, and a batch without captions.
            losses["caption"] = features[3].sum() * 0.0
        return self._same_everywhere(losses, features) | self._taught(images, batch, outputs, words)

    def _same_everywhere(self, losses: dict[str, Tensor], features: Iterable[Tensor]) -> dict[str, Tensor]:
        """The same losses in all processes, and the same way back, whether its images have captions or not."""
        if distributed.size() > 1 and "caption" in self.network.config.tasks:
            own = losses.get("caption", torch.zeros((), device=self.device))
            losses["caption"] = distributed.reaching(own, features)
        return losses

    def _taught(
        self, images: Tensor, batch: Batch, outputs: dict[str, Tensor], words: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses against the teacher, if there is one."""
        return {} if self.distillation is None else self.distillation(images, batch, outputs, words)

    def _words(self, memory: Tensor, batch: Batch) -> Tensor:
        """(t, T, V) logits of the word after each of the captions."""
        return self.network.caption_decoder(batch.tokens[:, :-1], memory, self.where, batch.owners)

    def _caption_loss(self, logits: Tensor, batch: Batch, counts: Mapping[str, Tensor]) -> Tensor:
        words = divisor(counts["words"])
        loss = caption_loss(logits, batch.tokens[:, 1:], PAD_ID, self.config.label_smoothing, words)
        return self.config.caption_gain * loss

    def _losses_of_layers(
        self,
        network: LayerNetwork,
        images: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        counts: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        # Boxes are decoded in float32: 16 bits round a large one by pixels.
        features = {name: values.float() for name, values in features.items()}
        dense_count = len(batch.strong)
        dense = {name: values[:dense_count] for name, values in features.items()}
        outputs, words = network.heads(dense), None
        if "class_scores" in outputs:
            outputs["class_logits"] = anchor_logits(network.raw_levels(dense), len(network.config.class_names))
        losses = self.dense_loss(outputs, batch.truth, counts)
        if "caption" in network.config.tasks and len(batch.tokens):
            spoken = outputs
            if batch.weak is not None:
                spoken = network.heads({name: values[dense_count:] for name, values in features.items()})
            words = self._words(spoken["caption_memory"], batch)
            losses["caption"] = self._caption_loss(words, batch, counts)
        return self._same_everywhere(losses, features.values()) | self._taught(images, batch, outputs, words)

    @torch.no_grad()
    def _choosing(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The logits that regions of views for captions are chosen by.

        As at inference, by the statistics gathered so far: these views are not to move those of the dense heads.
        """
        network = self.network
        assert isinstance(network, Network)
        heads = [head for name, head in network.named_children() if name in ("box_head", "semantic_head")]
        trained = [head for head in heads if head.training]
        for head in trained:
            head.eval()
        logits = network.choosing(features)
        for head in trained:
            head.train()
        return logits

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        own, average = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(average, own, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for number, kept in self._counted:
            kept.copy_(number)


def anchor_logits(levels: Sequence[Tensor], classes: int) -> Tensor:
    """(B, C, N) logits of objectness times class, from the `raw_levels` of a network with anchors."""
    logits = [product_logits(raw[..., 4:5], raw[..., 5 : 5 + classes]) for raw in levels]
    return torch.cat([level.permute(0, 4, 1, 2, 3).flatten(2) for level in logits], 2)
