"""Writing a split of a data set in COCO's layout, so that it appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...runtime.errors import UsageError


def split_targets(out: Path, split: str) -> dict[str, Path]:
    """Where the pieces of a split go, in the order in which they have to appear: annotations last."""
    annotations = out / "annotations"
    return {
        "images": out / split,
        "panoptic": annotations / f"panoptic_{split}",
        "captions.json": annotations / f"captions_{split}.json",
        "panoptic.json": annotations / f"panoptic_{split}.json",
        "instances.json": annotations / f"instances_{split}.json",
    }


def check_new_split(out: Path, split: str) -> None:
    """See that a split can be written.

    Raises:
        UsageError: If the name is none, `out` is a file, or it has such a split already.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", split) or split == "annotations":
        raise UsageError(
            f'<split> must be a name of letters, digits, "-" and "_", such as train or val, got "{split}"', "split"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, expected a folder to write the data set to")
    for target in split_targets(out, split).values():
        if os.path.lexists(target):
            raise UsageError(
                f'{out}: has a split "{split}" already ({target.relative_to(out)}); '
                "remove it, or choose another folder or another <split>",
                argument="split",
            )


def move_split(staging: Path, out: Path, split: str) -> None:
    """Give the pieces that lie in `staging` their final places; if one fails, those before it are removed."""
    (out / "annotations").mkdir(exist_ok=True)
    done: list[Path] = []
    try:
        for name, target in split_targets(out, split).items():
            if (staging / name).exists():
                os.replace(staging / name, target)
                done.append(target)
    except BaseException:
        for target in done:
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        raise


def write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Encode and write, so that a full disk is an OSError with the reason rather than OpenCV's bare False."""
    _, encoded = cv2.imencode(path.suffix, image, options)
    path.write_bytes(encoded.tobytes())


def write_panoptic_png(path: Path, ids: np.ndarray) -> None:
    """Write segment ids (H, W) as COCO keeps them, R + 256 G + 65536 B."""
    bgr = np.stack([ids >> 16, (ids >> 8) & 255, ids & 255], axis=-1).astype(np.uint8)  # OpenCV writes blue first
    write_image(path, bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that is on the disk when this returns."""
    with path.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, separators=(",", ":"))
        stream.flush()
        os.fsync(stream.fileno())
