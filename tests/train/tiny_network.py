"""Small networks and their configurations for tests; not a test itself."""

from __future__ import annotations

from typing import Any

import torch
from yolor_edge.train.network.config import TASKS, NetworkConfig
from yolor_edge.train.network.network import Network

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(count))


def tiny_config(size: str = "n", classes: int = 3, semantic: int = 5, words: int = 20, **changes: Any) -> NetworkConfig:
    """A network of all four tasks with made-up names; `changes` are fields of `NetworkConfig`."""
    fields: dict[str, Any] = {
        "size": size,
        "tasks": TASKS,
        "class_names": numbered("thing", classes),
        "category_ids": tuple(range(1, classes + 1)),
        "semantic_names": numbered("class", semantic),
        "semantic_category_ids": tuple(range(1, semantic + 1)),
        "vocabulary": (*SPECIALS, *numbered("word", words)),
        "input_size": (64, 96),
    }
    return NetworkConfig(**{**fields, **changes})


def published_config(size: str = "l", **changes: Any) -> NetworkConfig:
    """COCO's 80 classes, 93 further semantic ones and a vocabulary of 30,522 words, as in network.md."""
    config = tiny_config(size, classes=80, semantic=173, words=30522 - len(SPECIALS), input_size=(640, 640))
    return NetworkConfig(**{**config.to_json(), **changes})


def tiny_network(seed: int = 0, **changes: Any) -> Network:
    """A network of `tiny_config(**changes)` with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return Network(tiny_config(**changes)).eval()
