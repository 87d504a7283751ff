"""What a network costs: parameters and FLOPs by part, counted from its configuration alone, without weights or data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...runtime.bundle.tokenizer import BOS_ID
from .caption_decoder import sine_positions
from .config import NetworkConfig, check_input_size
from .network import Network

PAST_WORDS = 10
"""Words before the one whose cost is given, about as many as a caption of COCO has."""

RULE = (
    "FLOPs are twice the multiply-accumulates of convolutions, linear layers and attention products, for one image. "
    "Norms, activations, pooling, resizing and softmax are not counted."
)


@dataclass(frozen=True)
class PartCost:
    """Parameters and work of one part of a network.

    Attributes:
        name: What the part is called.
        parameters: Trainable values; those of the caption decoder are all counted in its prefill.
        flops: Of one run of the part, by `RULE`.
        runs: "image" if it runs once an image, "word" if once for every word of the caption after the first.
    """

    name: str
    parameters: int
    flops: int
    runs: Literal["image", "word"] = "image"


@dataclass(frozen=True)
class Inspection:
    """The parts of a network in the order in which they run.

    Attributes:
        config: The network.
        input_size: (height, width) of the image that the work is counted for.
        parts: Backbone, neck, one part for each head; for captions memory, regions where they look at any, prefill and
            one further word.
    """

    config: NetworkConfig
    input_size: tuple[int, int]
    parts: tuple[PartCost, ...]

    @property
    def parameters(self) -> int:
        """Trainable values of the whole network."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        """Of everything that runs once an image: all but the words of the caption after the first."""
        return sum(part.flops for part in self.parts if part.runs == "image")

    def table(self) -> str:
        """A text table for people."""
        config = self.config
        counts = [f"{len(config.class_names)} classes"] if "boxes" in config.tasks else []
        if "semantic" in config.tasks:
            counts.append(f"{len(config.semantic_names)} semantic classes")
        if "caption" in config.tasks:
            counts.append(f"vocabulary of {len(config.vocabulary)}")
            if config.caption_regions:
                counts.append(f"captions over {config.regions_at(self.input_size)} regions beside the grid")
        rows = [(part.name, _short(part.parameters), _short(part.flops)) for part in self.parts]
        rows.append(("all, once an image", _short(self.parameters), _short(self.flops)))
        width = max(len(name) for name, _, _ in rows)
        line = "-" * (width + 26)
        lines = [f"{name:<{width}}  {parameters:>11}  {flops:>11}" for name, parameters, flops in rows]
        return "\n".join(
            [
                f"{config.name}: size {config.size}, {', '.join(config.tasks)}; {', '.join(counts)}; "
                f"input {self.input_size[0]}x{self.input_size[1]}",
                "",
                f"{'part':<{width}}  {'parameters':>11}  {'FLOPs':>11}",
                line,
                *lines[:-1],
                line,
                lines[-1],
                "",
                RULE,
            ]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "size": self.config.size,
            "tasks": list(self.config.tasks),
            "input_size": list(self.input_size),
            "classes": len(self.config.class_names),
            "semantic_classes": len(self.config.semantic_names),
            "vocabulary": len(self.config.vocabulary),
            "regions": self.config.regions_at(self.input_size),
            "parameters": self.parameters,
            "flops": self.flops,
            "parts": [
                {"name": part.name, "parameters": part.parameters, "flops": part.flops, "runs": part.runs}
                for part in self.parts
            ],
            "rule": RULE,
        }


def inspect_network(config: NetworkConfig, input_size: tuple[int, int] | None = None) -> Inspection:
    """Count parameters and FLOPs of the network that `config` describes, by part.

    Nothing is computed: the network is laid out on torch's meta device, so that even size `l` takes a second.

    Args:
        config: The network.
        input_size: (height, width), multiples of 32; by default the one in `config`.

    Raises:
        UsageError: If no network can take `input_size`.
    """
    height, width = check_input_size(config.input_size if input_size is None else input_size)
    with torch.device("meta"), torch.no_grad():
        network = Network(replace(config, input_size=(height, width))).eval()
        parts: list[PartCost] = []

        def run(name: str, part: nn.Module, compute: Callable[[], Any]) -> Any:
            """Add the cost of `compute`, which runs `part`; return what it gave."""
            flops, result = count_flops(compute)
            parts.append(PartCost(name, sum(p.numel() for p in part.parameters()), flops))
            return result

        texture, *levels = run("backbone", network.backbone, lambda: network.backbone(torch.empty(1, 3, height, width)))
        logits: dict[str, Tensor] = {}
        features: list[Tensor] = run("neck", network.neck, lambda: network.neck(*levels))
        if "boxes" in config.tasks:
            logits["class_logits"], _ = run("box head", network.box_head, lambda: network.box_head(features))
        elif "boxes" in config.heads:
            logits["class_logits"] = run(
                "class head", network.box_head, lambda: network.box_head.class_logits(features)
            )
        if "masks" in config.tasks:
            run("mask head", network.mask_head, lambda: network.mask_head(features))
        if "semantic" in config.heads:
            head = network.semantic_head
            logits["semantic_logits"] = run("semantic head", head, lambda: head(features[0]))
        if "caption" in config.tasks:
            memory = run("caption memory", network.caption_memory, lambda: network.grid_memory([texture, *features]))
            if config.caption_regions:
                grid, where = memory, sine_positions(features[2].shape[2], features[2].shape[3], memory.shape[2])
                memory = run("caption grid", network.grid_encoder, lambda: network.grid_encoder(grid, where))
                chosen = logits["class_logits"], logits.get("semantic_logits")
                regions = run(
                    "caption regions", network.region_memory, lambda: network.region_memory(features, *chosen)
                )
                memory = torch.cat((memory, regions), 1)
            where = network.memory_positions((height, width))
            token = torch.full((1,), BOS_ID)
            decoder = network.caption_decoder
            _, *cross, keys, values = run(
                "caption decoder, prefill", decoder, lambda: decoder.prefill(token, memory, where)
            )
            past = [torch.cat([cache] * PAST_WORDS, 3) for cache in (keys, values)]
            flops, _ = count_flops(lambda: decoder.step(token, *past, *cross))
            parts.append(PartCost("caption decoder, a further word", 0, flops, "word"))
    return Inspection(config, (height, width), tuple(parts))


def count_flops(compute: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs of what `compute` runs, by `RULE`, and what it returns."""
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return counter.get_total_flops(), result


def _short(count: int) -> str:
    """Three significant digits and a unit: 43.6 M."""
    if count == 0:
        return "-"
    units: Sequence[tuple[float, str]] = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " K"))
    unit, suffix = next(((unit, suffix) for unit, suffix in units if count >= 0.9995 * unit), (1.0, ""))
    value = count / unit
    digits = 0 if value >= 99.95 or unit == 1 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{suffix}"
