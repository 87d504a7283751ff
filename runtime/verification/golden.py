"""Reference inputs: an image with everything the training network answered for it, kept in one file of the bundle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Array, Graph
from ..captions.captioning import CaptionOptions
from ..errors import BundleError
from ..images.preprocess import Letterbox, preprocess
from ..model import Model
from ..results import InstanceMasks, Result
from ..vision.graph_outputs import run_one

GOLDEN_FOLDER = "golden"
SEARCHES = {"greedy": CaptionOptions(beam_size=1), "beam": CaptionOptions()}


@dataclass(frozen=True)
class Answers:
    """Everything one stage says about one image; what the network lacks is absent or None.

    Attributes:
        pixels: (H, W, 3) uint8, the letterboxed image in the network's channel order.
        heads: Raw outputs by name, batch 1.
        result: The pipeline's answers; its caption is from beam search.
        captions: Token ids by name of the search.
        region_margins: (1, R) float32, how clear the network's choice of each region of its memory was; None where
            captions look at none.
        letterbox: Between the image and the pixels; None in what was read from a file.
    """

    pixels: NDArray[np.uint8]
    heads: Mapping[str, Array]
    result: Result
    captions: Mapping[str, tuple[int, ...]]
    region_margins: Array | None = None
    letterbox: Letterbox | None = None


def answers_of(model: Model, vision: Graph, image: NDArray[np.uint8]) -> Answers:
    """Run `image`, (h, w, 3) uint8 BGR, through every stage of a model whose vision graph is `vision`."""
    tensor, letterbox = preprocess(image, model.spec.preprocess)
    pixels = np.rint(tensor / model.spec.preprocess.scale).astype(np.uint8).transpose(1, 2, 0)
    heads = run_one(vision, tensor[np.newaxis])
    result = model.predict(image)
    return Answers(pixels, heads, result, captions_of(model, image), letterbox=letterbox)


def captions_of(model: Model, image: NDArray[np.uint8]) -> dict[str, tuple[int, ...]]:
    """Token ids of the caption by name of the search; empty for a model that writes none."""
    captions = {}
    if "caption" in model.spec.tasks:
        for name, options in SEARCHES.items():
            caption = model.predict(image, ["caption"], caption=options).caption
            captions[name] = caption.token_ids if caption is not None else ()
    return captions


def unproven(expected: Iterable[Answers]) -> tuple[str, ...]:
    """What comparing with these answers cannot prove, because they hold nothing to compare; a sentence each."""
    counts: dict[str, int] = {}
    for answers in expected:
        if answers.result.boxes is not None:
            counts["boxes"] = counts.get("boxes", 0) + len(answers.result.boxes)
            if answers.result.masks is not None:
                counts["masks"] = counts["boxes"]
        for tokens in answers.captions.values():
            counts["captions"] = counts.get("captions", 0) + bool(tokens)
    empty = [task for task, count in counts.items() if count == 0]
    if not empty:
        return ()
    return (
        f"the network finds no {' and no '.join(empty)} in the reference images, so {' and '.join(empty)} were "
        "compared with nothing and are not proven; export again with images in which it finds some",
    )


def write_golden(path: Path, image: NDArray[np.uint8], answers: Answers) -> None:
    """Keep an image and all that a stage said about it, as a compressed .npz without pickles."""
    result = answers.result
    arrays: dict[str, Array] = {"image": image, "pixels": answers.pixels}
    arrays.update({f"head.{name}": value for name, value in answers.heads.items()})
    if result.boxes is not None and result.scores is not None and result.class_ids is not None:
        arrays.update(boxes=result.boxes, scores=result.scores, class_ids=result.class_ids)
    if result.masks is not None:
        arrays["masks"] = _packed(result.masks)
    if result.semantic_map is not None:
        arrays["semantic_map"] = result.semantic_map
    arrays.update({f"caption.{name}": np.array(tokens, np.int64) for name, tokens in answers.captions.items()})
    if answers.region_margins is not None:
        arrays["region_margins"] = answers.region_margins
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_golden(path: Path) -> tuple[NDArray[np.uint8], Answers]:
    """The image and the answers that `write_golden` kept.

    Raises:
        BundleError: If the file is not a golden file.
    """
    try:
        # numpy leaves a file open that it opened by name and found to be no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        _check_golden(arrays)
        image = arrays["image"]
        size = (int(image.shape[0]), int(image.shape[1]))
        result = Result(
            image_size=size,
            boxes=arrays.get("boxes"),
            scores=arrays.get("scores"),
            class_ids=arrays.get("class_ids"),
            masks=_unpacked(arrays["masks"], size) if "masks" in arrays else None,
            semantic_map=arrays.get("semantic_map"),
        )
        heads = {name.removeprefix("head."): value for name, value in arrays.items() if name.startswith("head.")}
        captions = {
            name.removeprefix("caption."): tuple(int(token) for token in value)
            for name, value in arrays.items()
            if name.startswith("caption.")
        }
        return image, Answers(arrays["pixels"], heads, result, captions, arrays.get("region_margins"))
    except _NOT_GOLDEN as error:
        raise BundleError(f"{path}: is not a golden file ({error}); export the bundle again") from None


# What numpy raises for files that are no archive, cut short, damaged inside, or hold a plain array.
_NOT_GOLDEN = (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)


def _check_golden(arrays: Mapping[str, Array]) -> None:
    """Check that the arrays of a golden file are there and fit each other.

    Raises:
        ValueError: Saying everything that does not.
    """
    needed = ["image", "pixels", *(("scores", "class_ids") if "boxes" in arrays else ())]
    absent = [name for name in needed if name not in arrays]
    if absent:
        raise ValueError(f"it holds no {', '.join(absent)}")
    image = arrays["image"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
    height, width, _ = image.shape
    count = len(arrays["scores"]) if "boxes" in arrays and arrays["scores"].ndim else 0
    shapes = {
        "boxes": (count, 4),
        "scores": (count,),
        "class_ids": (count,),
        "masks": (count, height, (width + 7) // 8),
        "semantic_map": (height, width),
    }
    if "region_margins" in arrays:
        memory = arrays.get("head.caption_memory", np.zeros((0, 0, 0)))
        vectors = memory.shape[1] if memory.ndim == 3 else 0
        margins = arrays["region_margins"]
        shapes["region_margins"] = (1, min(margins.shape[-1] if margins.ndim else 0, vectors))
    wrong = [
        f"{name} must have shape {shape}, got {arrays[name].shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def _packed(masks: InstanceMasks) -> NDArray[np.uint8]:
    """(N, H, ceil(W / 8)) uint8, a bit a pixel; one full-size mask at a time, since photographs are large."""
    height, width = masks.image_size
    bits = np.zeros((len(masks), height, (width + 7) // 8), np.uint8)
    for row, crop in zip(bits, masks.crops(), strict=True):
        row[:] = np.packbits(InstanceMasks([crop], masks.image_size).full()[0], axis=-1)
    return bits


def _unpacked(bits: Array, size: tuple[int, int]) -> InstanceMasks:
    crops = []
    for row in bits:
        mask = np.unpackbits(row, axis=-1, count=size[1])
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y0, x0 = (int(ys[0]), int(xs[0])) if ys.size else (0, 0)
        y1, x1 = (int(ys[-1]) + 1, int(xs[-1]) + 1) if ys.size else (0, 0)
        crops.append((y0, x0, mask[y0:y1, x0:x1].copy()))
    return InstanceMasks(crops, size)
