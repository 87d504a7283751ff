"""What every way to a bundle begins with: a place for it, and images to prove it on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..evaluation.dataset.opening import Data, open_dataset
from ..evaluation.scenes.scene_drawing import draw_scene
from ..runtime.bundle.json_files import read_json
from ..runtime.errors import UsageError, YolorEdgeError
from ..runtime.images.image_files import read_image
from ..runtime.results import Result

GOLDEN_IMAGES = 3
# Images that are looked at for those that show most.
CANDIDATES = 12


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


def candidate_images(
    images: Sequence[Path] | None,
    data: Data | None = None,
    split: str | None = None,
    run: Path | None = None,
) -> list[Path]:
    """Images that a bundle may be proven on, at most `CANDIDATES`, spread over the first of these that is there.

    Args:
        images: What the user named for it.
        data: The data set that int8 is scored on.
        split: Of that data set.
        run: The folder of the training, which names its data set.
    """
    found: list[Path] = []
    if images:
        found = list(images)
    elif data is not None:
        found = _images_of(data, split)
    elif run is not None and (run / "run.json").is_file():
        # What a training leaves behind may have been moved away from its data: then drawn scenes have to do.
        with contextlib.suppress(YolorEdgeError, KeyError):
            found = _images_of(read_json(run / "run.json", "the description of a run", UsageError, "")["data"], None)
    step = max(1, len(found) // CANDIDATES)
    return found[::step][:CANDIDATES]


def _images_of(data: Data, split: str | None) -> list[Path]:
    dataset = open_dataset(data, split, "val")
    return [dataset[i].path for i in range(len(dataset))]


def reference_images(paths: Sequence[Path] | None, input_size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """The first images of `paths`, or drawn scenes where there are none: (h, w, 3) uint8 BGR by name."""
    if paths:
        return {f"{i}-{path.stem}": read_image(path) for i, path in enumerate(paths[:GOLDEN_IMAGES])}
    return drawn_images(input_size)


def drawn_images(input_size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """Drawn scenes, (h, w, 3) uint8 BGR by name."""
    # Larger than the input in one direction, so that resizing and padding are part of what is proven.
    height, width = input_size
    size = (min(2048, max(64, height * 5 // 4)), min(2048, max(64, width)))
    return {f"scene-{i}": draw_scene(0, i, size).image for i in range(GOLDEN_IMAGES)}


def telling_images(
    candidates: Sequence[Path], input_size: tuple[int, int], predict: Callable[[NDArray[np.uint8]], Result]
) -> dict[str, NDArray[np.uint8]]:
    """The images of `candidates` in which a network finds something for most of its tasks, as `reference_images`.

    One that finds nothing would prove nothing. Drawn scenes where there are no candidates.

    Args:
        candidates: In the order of preference.
        input_size: (height, width) of the network.
        predict: What the network says of an image, (h, w, 3) uint8 BGR.
    """
    seen: list[tuple[int, str, NDArray[np.uint8]]] = []
    for i, path in enumerate(candidates):
        image = read_image(path)
        result = predict(image)
        kinds = [len(result.boxes) > 0] if result.boxes is not None else []
        kinds += [bool(result.caption.token_ids)] if result.caption is not None else []
        seen.append((sum(kinds), f"{i}-{path.stem}", image))
        seen.sort(key=lambda one: -one[0])
        del seen[GOLDEN_IMAGES:]  # so that a few images are in memory at most
        if len(seen) == GOLDEN_IMAGES and seen[-1][0] == len(kinds):
            break
    return {name: image for _, name, image in seen} or drawn_images(input_size)
