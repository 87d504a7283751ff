"""Raw heads as a network gives them, drawn from a seed, for timing kernels without a network."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDES = (8, 16, 32)
BINS = 16
SIZE = 640


@dataclass(frozen=True)
class Heads:
    """One image's heads at an input of 640 x 640: 80 classes, 8400 cells, 32 prototypes.

    Attributes:
        class_logits: (80, 8400) float32.
        box_bins: (64, 8400) float32.
        coefficients: (32, 8400) float32.
        prototypes: (32, 160, 160) float32, smooth.
    """

    class_logits: NDArray[np.float32]
    box_bins: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    prototypes: NDArray[np.float32]


def draw_heads(seed: int, objects: int, candidates: int) -> Heads:
    """Heads that show `objects` objects in a 1280 x 720 image, with `candidates` cells above 0.25 between them.

    Every object holds the free cells nearest to its centre, all of which give its box and class; boxes have sides
    of 24 to 240 pixels. Everything else stays below a score of 0.001.
    """
    generator = np.random.default_rng(seed)
    centres, strides = cell_grid()
    logits = np.minimum(generator.normal(-10, 1, (80, len(centres))), -7.2)
    distances = np.exp(generator.normal(1, 0.5, (4, len(centres)))).clip(0, BINS - 1)
    is_free = np.ones(len(centres), bool)
    for count in np.diff(np.linspace(0, candidates, objects + 1).round().astype(int)):
        width, height = np.exp(generator.uniform(np.log(24), np.log(240), 2))
        half = np.array([width, height]) / 2
        middle = generator.uniform(half + np.array([0, 140]), np.array([SIZE, 500]) - half)
        stride = next(s for s in STRIDES if s == STRIDES[-1] or max(width, height) < 12 * s)
        eligible = np.flatnonzero(is_free & (strides == stride))
        near = eligible[np.argsort(((centres[eligible] - middle) ** 2).sum(axis=1))[:count]]
        is_free[near] = False
        logits[generator.integers(80), near] = generator.uniform(-1, 3, len(near))
        corners = np.concatenate([centres[near] - (middle - half), (middle + half) - centres[near]], axis=1)
        distances[:, near] = (corners / stride).T.clip(0, BINS - 1)
    bins = -6 * np.abs(distances[:, None] - np.arange(BINS)[None, :, None]) + generator.normal(
        0, 0.05, (4, BINS, len(centres))
    )
    return Heads(
        logits.astype(np.float32),
        bins.reshape(4 * BINS, -1).astype(np.float32),
        generator.normal(0, 1, (32, len(centres))).astype(np.float32),
        smooth_planes(generator, 32, 160, 12),
    )


def with_weak_candidates(heads: Heads, seed: int, candidates: int) -> Heads:
    """The same heads with as many pairs of score 0.001 to 0.1 as make `candidates` pairs above 0.001."""
    generator = np.random.default_rng(seed)
    logits = heads.class_logits.copy()
    weak = np.flatnonzero(logits.ravel() < -7)
    chosen = generator.choice(weak, candidates - (logits.size - len(weak)), replace=False)
    logits.ravel()[chosen] = generator.uniform(-6.8, -2.2, len(chosen))
    return Heads(logits, heads.box_bins, heads.coefficients, heads.prototypes)


def draw_semantic(seed: int, knots: int) -> NDArray[np.float32]:
    """(173, 80, 80) float32 logits, smooth over 80 / `knots` points, with a little noise; knots = 0 is noise alone."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 0.3, (173, 80, 80)).astype(np.float32)
    return noise + 3 * smooth_planes(generator, 173, 80, knots) if knots else noise


def draw_image(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_planes(generator: np.random.Generator, n: int, size: int, knots: int) -> NDArray[np.float32]:
    """(n, size, size) float32, bicubic between `knots` x `knots` normal numbers a plane."""
    coarse = generator.normal(0, 1, (n, knots, knots)).astype(np.float32)
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in coarse])


def cell_grid() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N, 2) centres x, y and (N,) strides of all cells."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: SIZE // stride, : SIZE // stride]
        centres.append((np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride)
        strides.append(np.full(x.size, stride))
    return np.concatenate(centres), np.concatenate(strides)
