"""One official checkpoint with the outputs of the official code, as a test wants them; not a test itself."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from yolor_edge.train.importing.importer import Imported, read_checkpoint
from yolor_edge.train.network.layers import LayerNetwork

NAMES = (
    "gelan-c",
    "gelan-c-pan",
    "gelan-c-seg",
    "gyolo",
    "yolor-csp-darknet",
    "yolor-csp-yolov7yaml",
    "yolor-p6-darknet",
    "yolor-paper-p6",
    "yolov7",
    "yolov7-af",
    "yolov7-e6-aux",
    "yolov7-tiny",
    "yolov7-u7-seg",
    "yolov7-w6-aux",
    "yolov9-c",
)


@dataclass(frozen=True)
class Golden:
    """What was imported, the network, its input (B, 3, H, W) and what the official code made of it."""

    imported: Imported
    network: LayerNetwork
    images: torch.Tensor
    expected: dict[str, NDArray[Any]]
    meta: dict[str, Any]


def arguments(folder: Path) -> dict[str, Any]:
    """What an import of `folder`'s checkpoint needs beside the file."""
    found: dict[str, Any] = {}
    if (folder / "layers.json").is_file():
        found["config"] = folder / "layers.json"
    if (folder / "vocab.txt").is_file():
        found["vocabulary"] = folder / "vocab.txt"
    return found


@functools.cache
def golden(folder: Path) -> Golden:
    imported = read_checkpoint(folder / "checkpoint.pt", **arguments(folder))
    images = torch.from_numpy(np.load(folder / "input.npy"))
    expected = dict(np.load(folder / "outputs.npz"))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return Golden(imported, imported.network(), images, expected, meta)


def relative(found: torch.Tensor, expected: NDArray[Any]) -> float:
    """Largest difference, relative to the largest expected value."""
    values = found.numpy()
    assert values.shape == expected.shape
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def official_boxes(prediction: NDArray[Any], classes: int, anchors: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Corners (B, 4, N) and class scores (B, C, N) of the official decoded prediction, in float64."""
    values = prediction.astype(np.float64)
    if anchors:
        values = values.transpose(0, 2, 1)
    centre, half = values[:, :2], values[:, 2:4] / 2
    corners = np.concatenate((centre - half, centre + half), 1)
    if anchors:
        return corners, values[:, 4:5] * values[:, 5 : 5 + classes]
    return corners, values[:, 4 : 4 + classes]


def decoded_bins(bins: NDArray[Any], strides: tuple[int, ...], size: tuple[int, int]) -> NDArray[Any]:
    """Corners (B, 4, N) from box_bins (B, 4 * reg_max, N), in float64."""
    values = bins.astype(np.float64).reshape(len(bins), 4, -1, bins.shape[2])
    weights = np.exp(values - values.max(2, keepdims=True))
    count = values.shape[2]
    distances = (weights * np.arange(count)[:, None]).sum(2) / weights.sum(2)
    centres, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride] + 0.5
        centres.append(np.stack((columns.ravel(), rows.ravel())))
        steps.append(np.full(rows.size, stride))
    centre, step = np.concatenate(centres, 1), np.concatenate(steps)
    return np.concatenate(((centre - distances[:, :2]) * step, (centre + distances[:, 2:]) * step), 1)
