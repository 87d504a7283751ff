"""Golden inputs and the comparison of two stages of the chain: pixels, raw heads, boxes, masks, map, caption.

A golden file holds an image and everything the training network answered for it. `verify` replays it through a
bundle's graphs on this machine; the export uses the same comparison between its own steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import open_graphs
from .backends.base import Array, Graph
from .bundle import Bundle
from .captioning import CaptionOptions
from .errors import BundleError
from .model import Model
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
    captions = {}
    if "caption" in model.spec.tasks:
        for name, options in SEARCHES.items():
            caption = model.predict(image, ["caption"], caption=options).caption
            captions[name] = caption.token_ids if caption is not None else ()
    return Answers(pixels, heads, result, captions)


def compare(golden: str, expected: Answers, found: Answers, tolerances: Tolerances) -> list[Check]:
    """Hold every stage of `found` against `expected`; `golden` names the image in the table."""
    checks = [_same_pixels(golden, expected.pixels, found.pixels)]
    checks += [
        _close_heads(golden, name, expected.heads[name], found.heads[name], tolerances) for name in expected.heads
    ]
    if expected.result.boxes is not None:
        checks += _same_objects(golden, expected.result, found.result, tolerances)
    if expected.result.semantic_map is not None and found.result.semantic_map is not None:
        agreement = float(np.mean(expected.result.semantic_map == found.result.semantic_map))
        checks.append(
            Check(
                golden,
                "semantic map",
                f"{agreement:.5f} same",
                f">= {tolerances.semantic}",
                agreement >= tolerances.semantic,
            )
        )
    for name, tokens in expected.captions.items():
        same = found.captions[name] == tokens
        measured = f"{len(tokens)} tokens same" if same else f"{list(found.captions[name])} is not {list(tokens)}"
        checks.append(Check(golden, f"caption ({name})", measured, "same", same))
    return checks


def _same_pixels(golden: str, expected: Array, found: Array) -> Check:
    if expected.shape != found.shape:
        return Check(golden, "pixels", f"shape {found.shape}", f"shape {expected.shape}", False)
    worst = int(np.abs(expected.astype(np.int16) - found).max(initial=0))
    return Check(golden, "pixels", f"{worst} levels", "0 levels", worst == 0)


def _close_heads(golden: str, name: str, expected: Array, found: Array, tolerances: Tolerances) -> Check:
    if expected.shape != found.shape:
        return Check(golden, name, f"shape {found.shape}", f"shape {expected.shape}", False)
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    difference = np.abs(found.astype(np.float64) - expected)
    worst = float(difference.max(initial=0)) / scale
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), difference.shape))
    measured = f"{worst:.1e} at {place}"
    # Written so that a NaN fails.
    return Check(golden, name, measured, f"<= {tolerances.head:.0e} of its scale", bool(worst <= tolerances.head))


def _same_objects(golden: str, expected: Result, found: Result, tolerances: Tolerances) -> list[Check]:
    pairs = _pair_boxes(expected, found)
    assert expected.boxes is not None and expected.scores is not None
    assert found.boxes is not None and found.scores is not None
    count, other = len(expected.boxes), len(found.boxes)
    least_iou = min((iou for _, _, iou in pairs), default=1.0)
    score = max((abs(float(expected.scores[i] - found.scores[j])) for i, j, _ in pairs), default=0.0)
    passed = bool(len(pairs) == count == other and least_iou >= tolerances.box_iou and score <= tolerances.score)
    measured = f"{len(pairs)} of {count} matched, {other} found, IoU >= {least_iou:.4f}, score +- {score:.1e}"
    allowed = f"all, IoU >= {tolerances.box_iou}, score +- {tolerances.score:.0e}"
    checks = [Check(golden, "boxes", measured, allowed, passed)]
    if expected.masks is not None and found.masks is not None:
        a, b = expected.masks.full(), found.masks.full()
        worst = min((_mask_iou(a[i], b[j]) for i, j, _ in pairs), default=1.0)
        checks.append(
            Check(
                golden,
                "masks",
                f"IoU >= {worst:.4f}",
                f"IoU >= {tolerances.mask_iou}",
                worst >= tolerances.mask_iou,
            )
        )
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


def _mask_iou(a: Array, b: Array) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def write_golden(path: Path, image: NDArray[np.uint8], answers: Answers) -> None:
    """Keep an image and all that a stage said about it, as a compressed .npz without pickles."""
    result = answers.result
    arrays: dict[str, Array] = {"image": image, "pixels": answers.pixels}
    arrays.update({f"head.{name}": value for name, value in answers.heads.items()})
    if result.boxes is not None and result.scores is not None and result.class_ids is not None:
        arrays.update(boxes=result.boxes, scores=result.scores, class_ids=result.class_ids)
    if result.masks is not None:
        arrays["masks"] = np.packbits(result.masks.full(), axis=-1)
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
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
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
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BundleError(f"{path}: is not a golden file ({error}); export the bundle again") from None


def _unpacked(bits: Array, size: tuple[int, int]) -> InstanceMasks:
    masks = np.unpackbits(bits, axis=-1, count=size[1])
    return InstanceMasks([(0, 0, mask) for mask in masks], size)


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
    tolerances = Tolerances.from_json(opened.parity.get("tolerances", {}).get(precision, {}))
    graphs = open_graphs(opened, backend, precision, threads)
    with Model(opened.spec, graphs) as model:
        checks = _replay(model, graphs["vision"], (opened.path / name for name in names), tolerances)
    return Verification(backend, precision, tuple(checks))


def _replay(model: Model, vision: Graph, files: Iterable[Path], tolerances: Tolerances) -> list[Check]:
    checks: list[Check] = []
    for file in files:
        image, expected = read_golden(file)
        checks += compare(file.stem, expected, answers_of(model, vision, image), tolerances)
    return checks
