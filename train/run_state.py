"""What a resume needs beside the code: weights, average, optimiser, step and random state in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..runtime.errors import UsageError
from ..runtime.files import replacing_file
from .trainer import Trainer


def _modules(trainer: Trainer) -> tuple[tuple[str, nn.Module], ...]:
    return ("network", trainer.network), ("average", trainer.average), ("balance", trainer.balance)


def write_state(path: Path, trainer: Trainer, epochs_done: int, seconds: float) -> None:
    """Save all that the rest of the run depends on; the file is replaced in one move."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in _modules(trainer):
        for name, tensor in module.state_dict().items():
            tensors[f"{prefix}.{name}"] = tensor
    for index, entry in trainer.optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
    facts = {
        "epochs_done": epochs_done,
        "seconds": seconds,
        "step": trainer.step_index,
        "scaler": trainer.scaler.state_dict(),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing_file(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})


def epochs_done(path: Path) -> int:
    """How many epochs of its run the state in `path` was written after.

    Raises:
        UsageError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["facts"])["epochs_done"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise _unusable(path, error) from None


def read_state(path: Path, trainer: Trainer) -> tuple[int, float]:
    """Bring `trainer` and the random generators to the state in `path`; returns epochs done and seconds spent.

    Raises:
        UsageError: If the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        for prefix, module in _modules(trainer):
            start = f"{prefix}."
            module.load_state_dict({k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)})
        state = trainer.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state["state"].setdefault(int(index), {})[key] = tensor
        trainer.optimizer.load_state_dict(state)
        for parameter, entry in trainer.optimizer.state.items():
            for key, value in entry.items():
                if (
                    value.shape == parameter.shape
                ):  # Laid out in memory as the parameter is, which the fused step needs.
                    entry[key] = torch.empty_like(parameter).copy_(value)
        trainer.scaler.load_state_dict(facts["scaler"])
        trainer.step_index = facts["step"]
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and trainer.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], trainer.device)
        return facts["epochs_done"], facts["seconds"]
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> UsageError:
    reason = str(error).splitlines()[0]
    return UsageError(f"{path}: cannot be resumed from ({reason}); delete it to start this run again")
