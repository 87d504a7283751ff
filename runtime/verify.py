"""Golden inputs and the comparison of two stages of the chain: pixels, raw heads, boxes, masks, map, caption.

A golden file holds an image and everything the training network answered for it. `verify` replays it through a
bundle's graphs on this machine; the export uses the same comparison between its own steps.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import open_graphs
from .backends.base import Array, Graph
from .bundle import BUNDLE_FILE, Bundle
from .captioning import CaptionOptions
from .errors import BundleError
from .model import Model
from .native_captioning import NativeCaptionDecoder
from .preprocess import preprocess
from .results import InstanceMasks, Result

GOLDEN_FOLDER = "golden"
SEARCHES = {"greedy": CaptionOptions(beam_size=1), "beam": CaptionOptions()}


@dataclass(frozen=True)
class Tolerances:
    """How far a stage may be from the one it is compared with.

    Attributes:
        head: Largest difference within a raw output, relative to that output's largest magnitude.
        box_iou: Least IoU of a box with its counterpart.
        score: Largest difference of a box's score.
        mask_iou: Least IoU of a mask with its counterpart.
        semantic: Least share of pixels with the same class.
    """

    head: float = 1e-3
    box_iou: float = 0.99
    score: float = 5e-3
    mask_iou: float = 0.98
    semantic: float = 0.999

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> Tolerances:
        known = asdict(cls())
        return cls(**{name: float(values.get(name, default)) for name, default in known.items()})


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, how far apart the two are, what was allowed."""

    golden: str
    stage: str
    measured: str
    allowed: str
    passed: bool


@dataclass(frozen=True)
class Verification:
    """All comparisons of one bundle on one backend."""

    backend: str
    precision: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def table(self) -> str:
        """One line a comparison, then the verdict."""
        rows = [("input", "stage", "measured", "allowed", "")]
        rows += [(c.golden, c.stage, c.measured, c.allowed, "ok" if c.passed else "FAILED") for c in self.checks]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        verdict = "verified" if self.passed else f"{len(self.failures)} of {len(self.checks)} checks failed"
        return "\n".join(line.rstrip() for line in lines) + f"\n{self.backend} {self.precision}: {verdict}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "passed": self.passed}


@dataclass(frozen=True)
class Answers:
    """Everything one stage says about one image; what the network lacks is absent or None.

    Attributes:
        pixels: (H, W, 3) uint8, the letterboxed image in the network's channel order.
        heads: Raw outputs by name, batch 1.
        result: The pipeline's answers; its caption is from beam search.
        captions: Token ids by name of the search.
    """

    pixels: NDArray[np.uint8]
    heads: Mapping[str, Array]
    result: Result
    captions: Mapping[str, tuple[int, ...]]


def answers_of(model: Model, vision: Graph, image: NDArray[np.uint8]) -> Answers:
    """Run `image`, (h, w, 3) uint8 BGR, through every stage of a model whose vision graph is `vision`."""
    tensor, _ = preprocess(image, model.spec.preprocess)
    pixels = np.rint(tensor / model.spec.preprocess.scale).astype(np.uint8).transpose(1, 2, 0)
    heads = vision.run({"images": tensor[np.newaxis]})
    result = model.predict(image)
    return Answers(pixels, heads, result, captions_of(model, image))


def captions_of(model: Model, image: NDArray[np.uint8]) -> dict[str, tuple[int, ...]]:
    """Token ids of the caption by name of the search; empty for a model that writes none."""
    captions = {}
    if "caption" in model.spec.tasks:
        for name, options in SEARCHES.items():
            caption = model.predict(image, ["caption"], caption=options).caption
            captions[name] = caption.token_ids if caption is not None else ()
    return captions


def compare_captions(
    golden: str, expected: Mapping[str, tuple[int, ...]], model: Model, image: NDArray[np.uint8]
) -> list[Check]:
    """Hold the captions of `model`, whose decoder is the native one, against those expected by name of the search."""
    found = captions_of(model, image)
    return [_same_caption(golden, f"{name}, native", ids, found.get(name)) for name, ids in expected.items()]


def compare(golden: str, expected: Answers, found: Answers, tolerances: Tolerances) -> list[Check]:
    """Hold every stage of `found` against `expected`; `golden` names the image in the table."""
    checks = [_same_pixels(golden, expected.pixels, found.pixels)]
    checks += [
        _close_heads(golden, name, head, found.heads.get(name), tolerances) for name, head in expected.heads.items()
    ]
    if expected.result.boxes is not None:
        checks += _same_objects(golden, expected.result, found.result, tolerances)
    if expected.result.semantic_map is not None:
        checks.append(_same_map(golden, expected.result.semantic_map, found.result.semantic_map, tolerances))
    checks += [_same_caption(golden, name, ids, found.captions.get(name)) for name, ids in expected.captions.items()]
    return checks


def _same_pixels(golden: str, expected: Array, found: Array) -> Check:
    if expected.shape != found.shape:
        return Check(golden, "pixels", f"shape {found.shape}", f"shape {expected.shape}", False)
    worst = int(np.abs(expected.astype(np.int16) - found).max(initial=0))
    return Check(golden, "pixels", f"{worst} levels", "0 levels", worst == 0)


def _same_map(golden: str, expected: Array, found: Array | None, tolerances: Tolerances) -> Check:
    allowed = f">= {tolerances.semantic}"
    if found is None or found.shape != expected.shape:
        return Check(golden, "semantic map", _shape_of(found), f"shape {expected.shape}", False)
    agreement = float(np.mean(expected == found))
    return Check(golden, "semantic map", f"{agreement:.5f} same", allowed, agreement >= tolerances.semantic)


def _same_caption(golden: str, name: str, expected: tuple[int, ...], found: tuple[int, ...] | None) -> Check:
    same = found == expected
    other = "absent" if found is None else f"{list(found)} is not {list(expected)}"
    return Check(golden, f"caption ({name})", f"{len(expected)} tokens same" if same else other, "same", same)


def _shape_of(found: Array | None) -> str:
    return "absent" if found is None else f"shape {found.shape}"


def _close_heads(golden: str, name: str, expected: Array, found: Array | None, tolerances: Tolerances) -> Check:
    if found is None or expected.shape != found.shape:
        return Check(golden, name, _shape_of(found), f"shape {expected.shape}", False)
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, which fails below
        difference = np.abs(found.astype(np.float64) - expected)
    worst = float(difference.max(initial=0)) / scale
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), difference.shape))
    measured = f"{worst:.1e} at {place}"
    # Written so that a NaN fails.
    return Check(golden, name, measured, f"<= {tolerances.head:.0e} of its scale", bool(worst <= tolerances.head))


def _same_objects(golden: str, expected: Result, found: Result, tolerances: Tolerances) -> list[Check]:
    if found.boxes is None or found.scores is None or found.class_ids is None:
        return [Check(golden, "boxes", "absent", "all", False)]
    assert expected.boxes is not None and expected.scores is not None
    pairs = _pair_boxes(expected, found)
    count, other = len(expected.boxes), len(found.boxes)
    least_iou = min((iou for _, _, iou in pairs), default=1.0)
    # numpy's maximum, because it is NaN where one of the scores is.
    score = float(np.max([abs(float(expected.scores[i] - found.scores[j])) for i, j, _ in pairs], initial=0.0))
    passed = bool(len(pairs) == count == other and least_iou >= tolerances.box_iou and score <= tolerances.score)
    measured = f"{len(pairs)} of {count} matched, {other} found, IoU >= {least_iou:.4f}, score +- {score:.1e}"
    allowed = f"all, IoU >= {tolerances.box_iou}, score +- {tolerances.score:.0e}"
    checks = [Check(golden, "boxes", measured, allowed, passed)]
    if expected.masks is not None:
        allowed = f"IoU >= {tolerances.mask_iou}"
        if found.masks is None:
            return [*checks, Check(golden, "masks", "absent", allowed, False)]
        a, b = expected.masks.crops(), found.masks.crops()
        worst = min((_mask_iou(a[i], b[j]) for i, j, _ in pairs), default=1.0)
        checks.append(Check(golden, "masks", f"IoU >= {worst:.4f}", allowed, worst >= tolerances.mask_iou))
    return checks


def _pair_boxes(expected: Result, found: Result) -> list[tuple[int, int, float]]:
    """Pairs (i, j, IoU) of boxes of one class: for each expected box, by falling score, its best free counterpart."""
    assert expected.boxes is not None and expected.class_ids is not None
    assert found.boxes is not None and found.class_ids is not None
    free = set(range(len(found.boxes)))
    pairs = []
    for i, box in enumerate(expected.boxes):
        candidates = [j for j in free if found.class_ids[j] == expected.class_ids[i]]
        if candidates:
            ious = [_box_iou(box, found.boxes[j]) for j in candidates]
            best = int(np.argmax(ious))
            if ious[best] >= 0.5:
                free.discard(candidates[best])
                pairs.append((i, candidates[best], ious[best]))
    return pairs


def _box_iou(a: Array, b: Array) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - overlap
    return float(overlap / union) if union > 0 else 0.0


def _mask_iou(a: tuple[int, int, Array], b: tuple[int, int, Array]) -> float:
    """IoU of two masks, each a (y0, x0, crop) of `InstanceMasks`; 1 where both are empty."""
    (ay, ax, crop_a), (by, bx, crop_b) = a, b
    top, left = max(ay, by), max(ax, bx)
    bottom = min(ay + crop_a.shape[0], by + crop_b.shape[0])
    right = min(ax + crop_a.shape[1], bx + crop_b.shape[1])
    both = 0
    if top < bottom and left < right:
        shared = crop_a[top - ay : bottom - ay, left - ax : right - ax].astype(bool)
        both = np.count_nonzero(shared & crop_b[top - by : bottom - by, left - bx : right - bx].astype(bool))
    union = np.count_nonzero(crop_a) + np.count_nonzero(crop_b) - both
    return float(both / union) if union else 1.0


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
        return image, Answers(arrays["pixels"], heads, result, captions)
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


def verify(
    bundle: Bundle | str | os.PathLike[str],
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int | None = None,
) -> Verification:
    """Replay a bundle's golden inputs on this machine and compare every stage.

    Args:
        bundle: A bundle or its folder.
        backend, precision, threads: As for `load`.

    Returns:
        All comparisons; `passed` says whether every one is within the bundle's tolerances.

    Raises:
        BundleError: If the bundle cannot be opened or holds no golden inputs.
        BackendError: If the backend cannot run the graphs.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    names = sorted(name for name in opened.files if name.startswith(f"{GOLDEN_FOLDER}/"))
    if not names:
        raise BundleError(f"{opened.path}: holds no golden inputs to replay; export it again")
    tolerances = _tolerances_of(opened, precision)
    graphs = open_graphs(opened, backend, precision, threads)
    with Model(opened.spec, graphs) as model:
        checks = _replay(model, graphs["vision"], (opened.path / name for name in names), tolerances)
        if opened.spec.caption is not None and "fp32" in opened.caption_weights:
            weights = NativeCaptionDecoder(opened.spec.caption, opened.path / opened.caption_weights["fp32"])
            native = Model(opened.spec, graphs, weights)
            for name in names:
                image, expected = read_golden(opened.path / name)
                checks += compare_captions(Path(name).stem, expected.captions, native, image)
    return Verification(backend, precision, tuple(checks))


def _tolerances_of(bundle: Bundle, precision: str) -> Tolerances:
    try:
        return Tolerances.from_json(bundle.parity.get("tolerances", {}).get(precision, {}))
    except (AttributeError, TypeError, ValueError):
        raise BundleError(
            f"{bundle.path}: parity.tolerances in {BUNDLE_FILE} must map a precision to numbers by name; "
            "export the bundle again"
        ) from None


def _replay(model: Model, vision: Graph, files: Iterable[Path], tolerances: Tolerances) -> list[Check]:
    checks: list[Check] = []
    for file in files:
        image, expected = read_golden(file)
        checks += compare(file.stem, expected, answers_of(model, vision, image), tolerances)
    return checks
