"""One step: it waits for nothing, batches that are accumulated are one batch, and tasks are weighed as asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from yolor_edge.runtime.errors import UnavailableError, YolorEdgeError
from yolor_edge.train import trainer as trainer_module
from yolor_edge.train.balance import Balance, gradient_norms, shared_features
from yolor_edge.train.batches import Batch
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.dense_truth import DenseTruth
from yolor_edge.train.loop import fit
from yolor_edge.train.network.config import CAPTIONERS, TASKS, Captioner
from yolor_edge.train.run_files import LOG, STATE
from yolor_edge.train.run_state import read_state, write_state
from yolor_edge.train.running_losses import RunningLosses
from yolor_edge.train.trainer import Trainer, check_compiler

from .tiny_network import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = SIZE = (64, 96)
CONFIG = TrainConfig(amp="off", warmup=0.0, clip_norm=1e9)


def trainer_of(captioner: Captioner = "catr", config: TrainConfig = CONFIG, **changes: Any) -> Trainer:
    network = tiny_config(**CAPTIONERS[captioner], **changes)
    trainer = Trainer(network, config, 100, torch.device("cpu"))
    trainer.train_mode()
    return trainer


def batch_of(pictures: int, seed: int = 0) -> Batch:
    """Pictures of noise: objects, one of them without a mask, two captions each, and a corner that nobody looked at."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, pictures)
    most = int(counts.max())
    corners = rng.uniform((0, 0), (WIDTH - 30, HEIGHT - 30), (pictures, most, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(8, 30, (pictures, most, 2))), 2)
    valid = np.arange(most) < counts[:, None]
    classes_known = np.ones((pictures, HEIGHT // 4, WIDTH // 4), bool)
    classes_known[0, :4, :4] = False
    mask_known = valid.copy()
    mask_known[0, 0] = False
    semantic = rng.integers(0, 5, (pictures, HEIGHT // 4, WIDTH // 4))
    semantic[0, :3] = 255
    tokens = rng.integers(4, 20, (2 * pictures, 6))
    tokens[::2, 4:] = 0

    def images() -> Tensor:
        return torch.from_numpy(rng.integers(0, 256, (pictures, 3, *SIZE)).astype(np.uint8))

    truth = DenseTruth(
        boxes=torch.from_numpy((boxes * valid[..., None]).astype(np.float32)),
        classes=torch.from_numpy(rng.integers(0, 3, (pictures, most)) * valid),
        valid=torch.from_numpy(valid),
        classes_known=torch.from_numpy(classes_known),
        masks=torch.from_numpy(rng.integers(0, 256, (int(counts.sum()), HEIGHT // 4, WIDTH // 4)).astype(np.uint8)),
        first_mask=torch.from_numpy(counts.cumsum() - counts),
        mask_known=torch.from_numpy(mask_known),
        semantic=torch.from_numpy(semantic.astype(np.uint8)),
    )
    owners = torch.arange(pictures).repeat_interleave(2)
    return Batch(images(), truth, images(), owners, torch.from_numpy(tokens))


def joined(a: Batch, b: Batch) -> Batch:
    """One batch of the pictures of both."""
    most = max(a.truth.boxes.shape[1], b.truth.boxes.shape[1])

    def padded(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, [0, 0] * (values.ndim - 2) + [0, most - values.shape[1]])

    fields = {}
    for name, value in vars(a.truth).items():
        other = getattr(b.truth, name)
        if name in ("boxes", "classes", "valid", "mask_known"):
            value, other = padded(value), padded(other)
        elif name == "first_mask":
            other = other + len(a.truth.masks)
        elif value is None:
            continue
        fields[name] = torch.cat((value, other))
    assert a.weak is not None and b.weak is not None
    return Batch(
        torch.cat((a.strong, b.strong)),
        DenseTruth(**fields),
        torch.cat((a.weak, b.weak)),
        torch.cat((a.owners, b.owners + len(a.weak))),
        torch.cat((a.tokens, b.tokens)),
    )


class Waits(TorchDispatchMode):
    """Counts the calls whose result, or whose shape, a GPU would have to be waited for."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        chosen = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.NAMES or any(index is not None and index.dtype == torch.bool for index in chosen):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("captioner", ["catr", "grit"])
def test_a_step_waits_for_nothing_until_its_losses_are_read(captioner: Captioner) -> None:
    trainer = trainer_of(captioner, replace(CONFIG, balance="uncertainty", amp="auto"))
    running, batch = RunningLosses(0), batch_of(2)
    with Waits() as waits:
        for measure in (True, False):
            running.add(trainer.step(batch, measure=measure))
    assert not waits.found
    with waits:
        assert set(running.means()) == {"class", "box", "dfl", "mask", "semantic", "dice", "caption"}
    with waits:  # What is counted is there to be found.
        torch.ones(3).nonzero()
        torch.ones(3)[torch.ones(3) > 0].sum().item()
    assert waits.found == {"nonzero": 1, "index": 1, "_local_scalar_dense": 1}


def gradients(trainer: Trainer, *batches: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a step with the batch statistics of evaluation, which do not know the batch."""
    trainer.network.eval()
    losses = {name: loss.item() for name, loss in trainer.step(*batches).items()}
    return losses, {
        name: parameter.grad.clone()
        for name, parameter in trainer.network.named_parameters()
        if parameter.grad is not None
    }


def test_batches_that_are_accumulated_are_one_batch() -> None:
    """To rounding where the truth says what a loss is divided by; class targets and Dice are of each batch its own."""
    parts = batch_of(2), batch_of(2, seed=1)
    parts[0].truth.mask_known[:] = False  # One of them has fewer masks, known pixels and words than the other.
    parts[1].truth.semantic[0, 8:] = 255
    parts[1].tokens[:, 3:] = 0
    config = replace(CONFIG, class_gain=0.0, box_gain=0.0, dfl_gain=0.0, dice_gain=0.0)
    whole = gradients(trainer_of(config=config), joined(*parts))
    divided = gradients(trainer_of(config=config), *parts)
    assert divided[0] == pytest.approx(whole[0], rel=1e-5)
    assert divided[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(
            divided[1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item() + 1e-8
        )
    # All losses: near to each other, and the same where the batches predict the same.
    whole, divided = gradients(trainer_of(), joined(*parts)), gradients(trainer_of(), *parts)
    for name, loss in whole[0].items():
        assert divided[0][name] == pytest.approx(loss, rel=0.25 if name in ("class", "box", "dfl", "dice") else 1e-5)
    twice = gradients(trainer_of(), joined(parts[1], parts[1]))
    assert gradients(trainer_of(), parts[1], parts[1])[0] == pytest.approx(twice[0], rel=1e-2)


def test_a_loss_that_is_not_finite_is_found_when_it_is_read() -> None:
    running = RunningLosses(steps_before=40)
    for value in (1.0, 2.0, 6.0):
        running.add({"class": torch.tensor(value), "box": torch.tensor(1.0)})
    assert running.means() == {"class": 3.0, "box": 1.0}
    for value in (3.0, float("nan"), 1.0):
        running.add({"class": torch.tensor(value), "box": torch.tensor(1.0)})
    with pytest.raises(YolorEdgeError, match=r"the loss became nan at step 45; what was saved is kept, start again "):
        running.means()


def test_a_run_whose_loss_is_not_finite_saves_nothing_of_it(scenes: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=4, workers=0, learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(YolorEdgeError, match=r"the loss is no number .* at step [234], .* learning_rate="):
        fit(scenes, tmp_path / "run", config=config, input_size=SIZE, tasks=("boxes",))
    assert not (tmp_path / "run" / STATE).exists()


def test_learned_weights_come_to_rest_where_losses_weigh_alike() -> None:
    balance = Balance("uncertainty")
    losses = {
        "class": torch.tensor(3.0),
        "box": torch.tensor(1.0),
        "mask": torch.tensor(0.05),
        "other": torch.tensor(9.0),
    }
    assert balance(losses).item() == pytest.approx(13.05)
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        balance({**losses, "caption": torch.tensor(0.0)}).backward()
        optimizer.step()
    weights = balance.weights()
    assert weights["boxes"] == pytest.approx(1 / 8, rel=1e-3)
    assert weights["masks"] == pytest.approx(10, rel=1e-3)
    assert (weights["semantic"], weights["caption"]) == (1, 1)  # Nothing was there to learn from.
    assert Balance("fixed")(losses).item() == pytest.approx(13.05)
    assert Balance("fixed").weights() == dict.fromkeys(TASKS, 1.0)


def test_gradients_on_the_shared_features_are_those_of_each_task() -> None:
    trainer = trainer_of()
    trainer.network.eval()
    batch = batch_of(2)
    trainer.step(batch, measure=True)
    assert set(trainer.gradient_norms) == set(TASKS)
    assert all(norm > 0 for norm in trainer.gradient_norms.values())
    # One task alone, by a second way: its gradient with respect to the features themselves.
    other = trainer_of()
    other.network.eval()
    with shared_features(other.network) as shared:
        losses = other._losses(batch, other._counts([batch]), other.network.features)
    (losses["semantic"] + losses["dice"]).backward(inputs=shared)
    whole = torch.cat([level.grad.flatten() for level in shared if level.grad is not None])
    assert trainer.gradient_norms["semantic"].item() == pytest.approx(whole.norm().item(), rel=1e-4)
    assert not gradient_norms({"class": torch.zeros(())}, shared)


def test_a_run_with_learned_weights_is_logged_and_goes_on_where_it_was(scenes: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=2, accumulate=2, workers=0, captions_per_image=2, balance="uncertainty")
    whole = fit(scenes, tmp_path / "whole", config=config, input_size=SIZE)
    entries = [json.loads(line) for line in (tmp_path / "whole" / LOG).read_text(encoding="utf-8").splitlines()]
    assert set(entries[-1]["tasks"]) == set(TASKS)
    for facts in entries[-1]["tasks"].values():
        assert set(facts) == {"loss", "weight", "gradient"}
        assert facts["gradient"] > 0
        assert facts["weight"] != 1
    trainer = Trainer(whole.config, config, 2, torch.device("cpu"))
    read_state(tmp_path / "whole" / STATE, trainer)
    assert trainer.step_index == 2  # Eight pictures: two steps of two batches of two.
    write_state(tmp_path / "again.safetensors", trainer, 1, 0.0)
    other = Trainer(whole.config, config, 2, torch.device("cpu"))
    read_state(tmp_path / "again.safetensors", other)
    trainer.train_mode()
    other.train_mode()
    batch = batch_of(2)
    states = []
    for one in (trainer, other):
        torch.manual_seed(3)
        one.step(batch)
        states.append({**one.network.state_dict(), **one.balance.state_dict()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_without_a_compiler_compiling_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("\nNo working C++ compiler found\nand much more")

    monkeypatch.setattr(trainer_module.torch, "compile", refuse)
    check_compiler(torch.device("cpu"), CONFIG)
    with pytest.raises(UnavailableError) as caught:
        check_compiler(torch.device("cpu"), replace(CONFIG, compile=True))
    assert str(caught.value).startswith("torch cannot compile for cpu here (No working C++ compiler found); install ")
    assert "\n" not in str(caught.value)
