"""What every way to a bundle begins with: a place for it, and images to prove it on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..evaluation.scenes.scene_drawing import draw_scene
from ..runtime.errors import UsageError
from ..runtime.images.image_files import read_image

GOLDEN_IMAGES = 3


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that a bundle may not take the place of.

    Raises:
        UsageError: If `out` is a file, exists without `overwrite`, or holds something else than a bundle.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, so it is not replaced; choose another <out>", argument="out")
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out}: exists already; choose another <out> or replace it with <overwrite>", argument=("out", "overwrite")
        )
    if out.exists() and any(out.iterdir()) and not (out / "bundle.json").is_file():
        raise UsageError(
            f"{out}: exists and is not a bundle, so it is not replaced; choose another <out>", argument="out"
        )


def reference_images(paths: Sequence[Path] | None, input_size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """The first images of `paths`, or drawn scenes where there are none: (h, w, 3) uint8 BGR by name."""
    if paths:
        return {f"{i}-{path.stem}": read_image(path) for i, path in enumerate(paths[:GOLDEN_IMAGES])}
    # Larger than the input in one direction, so that resizing and padding are part of what is proven.
    height, width = input_size
    size = (min(2048, max(64, height * 5 // 4)), min(2048, max(64, width)))
    return {f"scene-{i}": draw_scene(0, i, size).image for i in range(GOLDEN_IMAGES)}
