"""A trained network as a folder: `network.safetensors` and `checkpoint.json`. Never a pickle.

`checkpoint.json` holds the network's configuration (a size of our own plan or, for an imported one, a list of layers;
names, vocabulary, input size), how it was trained, and the digest of the weights, so that an altered or mixed-up file
is noticed before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..runtime.bundle.json_files import read_json
from ..runtime.errors import CheckpointError, UsageError
from ..runtime.files import replacing_file, replacing_folder, sha256_of, write_atomically
from .network.any_network import AnyConfig, AnyNetwork, network_of
from .network.config import NetworkConfig
from .network.layers import LayersConfig

SCHEMA = 1
WEIGHTS, DESCRIPTION = "network.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, its description read and checked.

    Attributes:
        path: The folder.
        layout: The network's configuration, of our own plan or a list of layers.
        provenance: How it came to be: training configuration, data, versions, scores; of an imported one the file.
        sha256: Digest of the weights file.
        int8_bounds: By path of a block, the largest absolute value of its output that int8 is to hold, as a training
            with int8 in the loop learned it; empty for others.
    """

    path: Path
    layout: AnyConfig
    provenance: dict[str, Any] = field(repr=False)
    sha256: str
    int8_bounds: dict[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a checkpoint folder, or the folder of a training run: its `best`, or `checkpoint` where there is none.

        Raises:
            CheckpointError: If it is no checkpoint, newer than this version reads, or its weights were altered.
        """
        given = Path(path)
        folder = next((f for f in (given, given / "best", given / "checkpoint") if (f / DESCRIPTION).is_file()), None)
        if folder is None and (given / "bundle.json").is_file():
            raise CheckpointError(f"{given}: is a bundle; expected the checkpoint or the run that it was exported from")
        if folder is None and not given.exists():
            raise CheckpointError(
                f"{given}: no such folder; expected a checkpoint or a run, as yolor-edge train or import writes it"
            )
        if folder is None and given.is_file():
            hint = "; to make a checkpoint of an official one: yolor-edge import FILE.pt --out CHECKPOINT"
            raise CheckpointError(f"{given}: is a file, expected the folder of a checkpoint{hint}")
        if folder is None:
            raise CheckpointError(
                f"{given}: is not a checkpoint (no {DESCRIPTION} in it); expected a folder that yolor-edge train or "
                "import wrote"
            )
        description = read_json(
            folder / DESCRIPTION, "the description of a checkpoint", CheckpointError, "copy the folder again"
        )
        try:
            schema, digest = description["schema"], description["sha256"]
            if schema != SCHEMA:
                raise CheckpointError(f"{folder}: schema {schema}, this version reads {SCHEMA}; upgrade yolor-edge")
            network = description["network"]
            layout = config_from_json(network)
            bounds = {str(path): float(bound) for path, bound in description.get("int8_bounds", {}).items()}
            if any(not 0 < bound < math.inf for bound in bounds.values()):
                raise ValueError("an int8 bound that is not above 0")
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, UsageError):
                raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from None
            raise CheckpointError(
                f"{folder / DESCRIPTION}: is not the description of a checkpoint ({error!r}); copy the folder again"
            ) from None
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise CheckpointError(f"{weights}: is missing; copy the whole checkpoint folder")
        found = sha256_of(weights)
        if found != digest:
            raise CheckpointError(
                f"{weights}: has SHA-256 {found[:12]}..., {DESCRIPTION} says {str(digest)[:12]}...; "
                "it was altered or belongs to another checkpoint, copy the folder again"
            )
        return cls(folder, layout, description.get("provenance", {}), found, bounds)

    @property
    def licence(self) -> str:
        """Of the weights, as `provenance` has it; "unknown" where it was not stated."""
        return str(self.provenance.get("licence") or "unknown")

    @property
    def config(self) -> NetworkConfig:
        """The configuration of a network of our own plan.

        Raises:
            CheckpointError: If it is an imported network.
        """
        if isinstance(self.layout, LayersConfig):
            raise CheckpointError(
                f"{self.path}: holds an imported network ({self.layout.name}, a list of layers); "
                "expected one of yolor-edge's own sizes"
            )
        return self.layout

    def network(self) -> AnyNetwork:
        """The network with its weights, float32, in evaluation mode: a `Network`, or a `LayerNetwork` if imported.

        Raises:
            CheckpointError: If the weights are not those of the configuration.
        """
        try:
            network = network_of(self.layout)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if not isinstance(self.layout, LayersConfig):
                raise
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{self.path / DESCRIPTION}: its layers make no network ({reason})") from None
        return self._filled(network)

    def _filled(self, network: AnyNetwork) -> AnyNetwork:
        weights = self.path / WEIGHTS
        try:
            tensors = safetensors.torch.load_file(weights)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{weights}: is not a safetensors file ({error}); copy it again") from None
        own = network.state_dict()
        complaints = [f"{name} is missing" for name in own if name not in tensors]
        complaints += [f"{name} is not part of this network" for name in tensors if name not in own]
        complaints += [
            f"{name} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
            for name, tensor in tensors.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if complaints:
            more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
            raise CheckpointError(f"{weights}: does not fit the configuration: {'; '.join(complaints[:3])}{more}")
        network.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
        return network.eval()


def config_from_json(values: dict[str, Any]) -> AnyConfig:
    """The configuration of a network, of our own plan or a list of layers, as `to_json` wrote it."""
    return (LayersConfig if "layers" in values else NetworkConfig).from_json(values)


def write_checkpoint(
    folder: Path,
    network: AnyNetwork,
    provenance: dict[str, Any],
    weights: Literal["float32", "float16"] = "float32",
    int8_bounds: dict[str, float] | None = None,
) -> Checkpoint:
    """Write `network` to `folder`; matrices and kernels as `weights`, vectors always as float32.

    The folder is replaced as a whole, so that weights and description never belong to different moments; one that holds
    other files too keeps them, and then the two are replaced one after the other.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu()
        if weights == "float16" and tensor.is_floating_point() and tensor.ndim >= 2:
            tensor = tensor.half()
        tensors[name] = tensor.contiguous()
    holds_others = folder.is_dir() and any(file.name not in (WEIGHTS, DESCRIPTION) for file in folder.iterdir())
    with contextlib.nullcontext(folder) if holds_others else replacing_folder(folder) as place:
        with replacing_file(place / WEIGHTS) as temporary:
            safetensors.torch.save_file(tensors, temporary)
        digest = sha256_of(place / WEIGHTS)
        description = {
            "schema": SCHEMA,
            "sha256": digest,
            "network": network.config.to_json(),
            "provenance": {"torch": torch.__version__, **provenance},
            **({"int8_bounds": int8_bounds} if int8_bounds else {}),
        }
        write_atomically(place / DESCRIPTION, _readable(description))
    return Checkpoint(folder, network.config, description["provenance"], digest, int8_bounds or {})


def with_provenance(checkpoint: Checkpoint, **more: Any) -> Checkpoint:
    """Say more of how a checkpoint on disk came to be; its weights stay as they are."""
    provenance = {**checkpoint.provenance, **more}
    description = {
        "schema": SCHEMA,
        "sha256": checkpoint.sha256,
        "network": checkpoint.layout.to_json(),
        "provenance": provenance,
        **({"int8_bounds": checkpoint.int8_bounds} if checkpoint.int8_bounds else {}),
    }
    write_atomically(checkpoint.path / DESCRIPTION, _readable(description))
    return dataclasses.replace(checkpoint, provenance=provenance)


def _readable(description: dict[str, Any]) -> str:
    """JSON for people: the layers of an imported network stand one a line."""
    layers = description["network"].get("layers")
    if layers is None:
        return json.dumps(description, indent=1) + "\n"
    network = {**description["network"], "layers": []}
    text = json.dumps({**description, "network": network}, indent=1)
    lines = ",\n".join("   " + json.dumps(layer) for layer in layers)
    return text.replace('\n  "layers": []', f'\n  "layers": [\n{lines}\n  ]', 1) + "\n"
