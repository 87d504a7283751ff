"""Calibration: which range every tensor of the network has on the user's own images.

One calibration serves both dialects of int8: it says between which values a tensor lies, a dialect makes scales of
that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.backends.base import Array
from ...runtime.bundle.json_files import read_json
from ...runtime.errors import CalibrationError, ImageError, UsageError
from ...runtime.files import sha256_of, write_atomically
from ...runtime.images.image_files import read_image
from ...runtime.images.preprocess import PreprocessRule, preprocess
from ...runtime.progress import Count
from ...runtime.sources.sources import open_images
from ..onnx_graphs.graph_view import GraphView
from ..onnx_graphs.probe import open_probe

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
FEW_IMAGES = 200
SCALES_VERSION = 2
_BINS = 2048
# Values of one tensor that one image adds to its histogram: evenly spaced ones of a larger tensor tell as much.
_SAMPLES = 1 << 15
_PERCENTILE = 99.99
# How far "between" lies from a method's own bounds towards the extremes, as a share of their ratio's logarithm.
_BETWEEN = 0.75


@dataclass(frozen=True)
class Calibration:
    """Ranges of tensors and what they were measured on.

    Attributes:
        ranges: (low, high) by tensor; low <= 0 <= high, so that zero is always a value of its own.
        widest: The same without leaving out any outlier: what "minmax" gives.
        method: How outliers were treated.
        images: Digests of the images, in order.
        preprocess_sha256: Of the preprocessing rule.
        weights_sha256: Of the fp32 graph.
    """

    ranges: Mapping[str, tuple[float, float]]
    widest: Mapping[str, tuple[float, float]]
    method: Method
    images: tuple[str, ...]
    preprocess_sha256: str
    weights_sha256: str

    def save(self, path: Path) -> None:
        """Write as JSON, one line a tensor."""
        head = {"scales_version": SCALES_VERSION, **asdict(self)}
        ranges, widest = head.pop("ranges"), head.pop("widest")
        blocks = [json.dumps(head, indent=1)[:-2]]
        for key, values in (("ranges", ranges), ("widest", widest)):
            lines = ",\n".join(f"  {json.dumps(name)}: [{low!r}, {high!r}]" for name, (low, high) in values.items())
            blocks.append(f' "{key}": {{\n{lines}\n }}')
        write_atomically(path, ",\n".join(blocks) + "\n}\n")

    def by_method(self) -> dict[str, Mapping[str, tuple[float, float]]]:
        """The ranges, and where they are not the widest, those between and the widest, in the order to try them in."""
        if self.method == "minmax":
            return {"minmax": self.widest}
        between = {
            name: (_between(low, self.widest[name][0]), _between(high, self.widest[name][1]))
            for name, (low, high) in self.ranges.items()
        }
        return {self.method: self.ranges, "between": between, "minmax": self.widest}

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            CalibrationError: If the file is not that.
        """
        cure = "give the calibration.json of an int8 bundle, or images to calibrate with"
        data = read_json(path, "a file of scales", CalibrationError, cure)
        try:
            version = data.pop("scales_version")
            if version != SCALES_VERSION:
                raise ValueError(f"scales_version {version}, expected {SCALES_VERSION}")
            for key in ("ranges", "widest"):
                data[key] = {str(name): (float(low), float(high)) for name, (low, high) in data[key].items()}
                wrong = [name for name, (low, high) in data[key].items() if not -np.inf < low <= 0 <= high < np.inf]
                if wrong:
                    raise ValueError(f"the range of {wrong[0]!r} is not one around zero")
            data["images"] = tuple(str(digest) for digest in data["images"])
            if data["method"] not in METHODS:
                raise ValueError(f"unknown method {data['method']!r}")
            return cls(**data)
        except KeyError as error:
            raise CalibrationError(f"{path}: is not a file of scales (no {error} in it); calibrate again") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CalibrationError(f"{path}: is not a file of scales ({error}); calibrate again") from None

    def require_fresh(self, where: Path, model: onnx.ModelProto, rule: PreprocessRule) -> None:
        """Refuse scales of another network or another preprocessing.

        Raises:
            CalibrationError: Saying which of the two has changed.
        """
        changed = []
        if self.weights_sha256 != digest_of_weights(model):
            changed.append("the weights are not those it was calibrated with")
        if self.preprocess_sha256 != digest_of_rule(rule):
            changed.append("the preprocessing is not that it was calibrated with")
        if changed:
            raise CalibrationError(
                f"{where}: stale, {' and '.join(changed)}; calibrate again with <calibration>",
                argument=("scales", "calibration"),
            )


def calibration_files(source: str | Path) -> list[Path]:
    """The images named by a folder, a glob, an image, or a text file with one path a line.

    Paths in a list are taken relative to the list; empty lines and lines that start with # are passed over.

    Raises:
        UsageError: If there is no such thing, or it names no image.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in ("", ".txt", ".lst", ".list"):
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError:
            raise UsageError(f"{path}: is not a text file; expected one path of an image per line") from None
        files = [path.parent / line for line in lines if line and not line.startswith("#")]
        if not files:
            raise UsageError(f"{path}: lists no images; expected one path per line")
        return files
    return list(open_images(source).files)


class CalibrationSet:
    """Images to calibrate on, read again at every pass so that any number of them fits into memory.

    Args:
        files: The images.
        rule: How they become the network's input.
        held_out: Digests of the images that the result will be scored on; none of them may be among `files`.
        batch: Images that the graph takes at once; an image is repeated to fill it.

    Raises:
        CalibrationError: If an image cannot be read, is one that is scored on, or all are the same.
    """

    def __init__(
        self,
        files: Sequence[Path],
        rule: PreprocessRule,
        held_out: Mapping[str, Path] | None = None,
        batch: int = 1,
    ) -> None:
        if not files:
            raise CalibrationError("calibration gave no images; pass at least one")
        self.files, self.rule, self.batch = list(files), rule, batch
        digests = []
        for file in self.files:
            if not file.is_file():
                raise CalibrationError(f"{file}: no such image; correct the list of <calibration>", "calibration")
            digests.append(sha256_of(file))
        refuse_held_out(digests, held_out or {})
        if len(self.files) > 1 and len(set(digests)) == 1:
            raise CalibrationError(
                f"{self.files[0]}: all {len(self.files)} calibration images are the same; "
                "pass different ones, as varied as what the network will see"
            )
        self.digests = tuple(digests)

    def __len__(self) -> int:
        return len(self.files)

    def require_readable(self) -> None:
        """Decode every image once, so that one which is damaged is told before anything else is done.

        Raises:
            CalibrationError: About the first that cannot be decoded, with how many more cannot.
        """
        failures = []
        for file in self.files:
            try:
                read_image(file)
            except ImageError as error:
                failures.append(str(error))
        if failures:
            more = f" ({len(failures) - 1} more of {len(self.files)} neither)" if len(failures) > 1 else ""
            raise CalibrationError(f"{failures[0]}{more}; correct the list of <calibration>", "calibration")

    def tensors(self) -> Iterator[NDArray[np.float32]]:
        """The network's input (batch, 3, H, W) for every image, in order."""
        for file in self.files:
            try:
                image = read_image(file)
            except ImageError as error:
                raise CalibrationError(f"{error}; correct the list of <calibration>", "calibration") from None
            yield np.repeat(preprocess(image, self.rule)[0][np.newaxis], self.batch, axis=0)


def calibrate(
    model: onnx.ModelProto,
    pictures: CalibrationSet,
    method: Method = "percentile",
    progress: Count | None = None,
) -> Calibration:
    """Measure the range of every tensor that a quantised graph may hold in int8.

    Args:
        model: The fp32 vision graph.
        pictures: What to run through it.
        method: "minmax" takes the extremes; "percentile" leaves out one value in 10,000 at either end; "entropy" clips
            where the clipped distribution tells the least about another (Kullback-Leibler, as TensorRT 8 calibrated:
            Migacz, "8-bit inference with TensorRT", GTC 2017).
        progress: Called with images done and in all, over both passes.

    Raises:
        UsageError: If the method is unknown.
        CalibrationError: If an image cannot be read, or the network gives the same for all of them.
    """
    if method not in METHODS:
        raise UsageError(f"<method> must be one of {', '.join(METHODS)}, got {method!r}", argument="method")
    names = tensors_to_calibrate(GraphView(model))
    passes = 1 if method == "minmax" else 2
    done = 0

    def values() -> Iterator[dict[str, Array]]:
        nonlocal done
        for tensor in pictures.tensors():
            yield {"images": tensor, **probe.run({"images": tensor}, probed)}
            done += 1
            if progress:
                progress("calibrating", done, passes * len(pictures))

    probed = [name for name in names if name != "images"]
    with open_probe(model, probed) as probe:
        extremes = _extremes(names, values())
        if len(pictures) > 1 and all(spread == 0 for *_, spread in extremes.values()):
            raise CalibrationError("the calibration images are all alike to the network; pass different ones")
        ranges = widest = {name: (low, high) for name, (low, high, _) in extremes.items()}
        if method != "minmax":
            histograms = _histograms(widest, values())
            pick = _percentile_range if method == "percentile" else _entropy_range
            ranges = {name: pick(histograms[name], *widest[name]) for name in names}
    return Calibration(
        ranges=_around_zero(ranges),
        widest=_around_zero(widest),
        method=method,
        images=pictures.digests,
        preprocess_sha256=digest_of_rule(pictures.rule),
        weights_sha256=digest_of_weights(model),
    )


def _between(own: float, most: float) -> float:
    return float(np.sign(most) * abs(own) ** (1 - _BETWEEN) * abs(most) ** _BETWEEN)


def _around_zero(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ranges.items()}


def tensors_to_calibrate(view: GraphView) -> list[str]:
    """What convolutions take and give, and what their activations give."""
    names: dict[str, None] = {}
    for conv in view.convolutions():
        names[conv.input[0]] = None
        names[conv.output[0]] = None
        pending = [conv.input[0]]
        while pending:  # what reaches the convolution unchanged, so that it can be held in int8 from where it arises
            taken = view.moved_into(pending.pop())
            names.update(dict.fromkeys(taken))
            pending += taken
    return list(names)


def digest_of_weights(model: onnx.ModelProto) -> str:
    """SHA-256 over the names and values of a graph's convolutions, in the order of their names."""
    digest = hashlib.sha256()
    view = GraphView(model)
    names = {name for conv in view.convolutions() for name in conv.input[1:] if name in view.weights}
    for name in sorted(names):
        digest.update(name.encode())
        digest.update(view.weight(name).tobytes())
    return digest.hexdigest()


def digest_of_rule(rule: PreprocessRule) -> str:
    """SHA-256 of a preprocessing rule."""
    return hashlib.sha256(json.dumps(asdict(rule), sort_keys=True).encode()).hexdigest()


def _extremes(names: Sequence[str], batches: Iterable[Mapping[str, Array]]) -> dict[str, tuple[float, float, float]]:
    """Lowest and highest value of each tensor, and how far these moved between images."""
    found: dict[str, tuple[float, float, float]] = {}
    for values in batches:
        for name in names:
            low, high = float(values[name].min()), float(values[name].max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise CalibrationError(f"{name}: is not finite on a calibration image; the network is broken")
            before = found.get(name)
            if before is not None:
                spread = max(before[2], abs(high - before[1]), abs(low - before[0]))
                low, high = min(low, before[0]), max(high, before[1])
            else:
                spread = 0.0
            found[name] = (low, high, spread)
    return found


def _histograms(
    ranges: Mapping[str, tuple[float, float]], batches: Iterable[Mapping[str, Array]]
) -> dict[str, NDArray[np.int64]]:
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for values in batches:
        for name, (low, high) in ranges.items():
            flat = values[name].reshape(-1)
            # An odd stride does not fall into step with the rows of a map.
            sample = flat[:: max(1, flat.size // _SAMPLES) | 1]
            width = (high - low) or 1.0
            bins = ((sample - low) * (_BINS / width)).astype(np.int64).clip(0, _BINS - 1)
            counts[name] += np.bincount(bins, minlength=_BINS)
    return counts


def _percentile_range(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    share = counts.cumsum() / max(1, counts.sum())
    edge = (100 - _PERCENTILE) / 100
    width = (high - low) / _BINS
    first = int(np.searchsorted(share, edge, side="right"))
    last = int(np.searchsorted(share, 1 - edge, side="left"))
    return low + first * width, low + (min(last, _BINS - 1) + 1) * width


def _entropy_range(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The bounds at +-t whose clipped and 8-bit distribution of magnitudes is nearest to the clipped one."""
    width = (high - low) / _BINS or 1.0
    centres = low + (np.arange(_BINS) + 0.5) * width
    top = max(abs(low), abs(high))
    magnitudes = np.bincount(
        (np.abs(centres) / top * (_BINS - 1)).astype(np.int64).clip(0, _BINS - 1) if top else np.zeros(_BINS, np.int64),
        weights=counts,
        minlength=_BINS,
    )
    levels, best, best_divergence = 128, _BINS, np.inf
    for kept in range(levels, _BINS + 1, 16):
        clipped = magnitudes[:kept].copy()
        clipped[-1] += magnitudes[kept:].sum()
        # What 128 levels keep of it: every level's mass spread over those of its bins that were not empty.
        level = np.arange(kept) * levels // kept
        filled = magnitudes[:kept] > 0
        mass = np.bincount(level, magnitudes[:kept], levels)
        spread = np.bincount(level, filled, levels)
        quantised = np.where(filled, mass[level] / np.maximum(spread[level], 1), 0)
        if not quantised.sum():
            continue
        p, q = clipped / clipped.sum(), quantised / quantised.sum()
        both = (p > 0) & (q > 0)
        lost = p[(p > 0) & (q == 0)].sum()
        divergence = float((p[both] * np.log(p[both] / q[both])).sum()) + float(lost) * 10
        if divergence < best_divergence:
            best, best_divergence = kept, divergence
    bound = top * best / _BINS
    return max(low, -bound), min(high, bound)


def refuse_held_out(digests: Sequence[str], held_out: Mapping[str, Path]) -> None:
    """Refuse to calibrate on what is scored.

    Raises:
        CalibrationError: Naming the first image that is, and how many are.
    """
    shared = [held_out[digest] for digest in digests if digest in held_out]
    if shared:
        raise CalibrationError(
            f"{shared[0]}: is one of the images that the result is scored on ({len(shared)} of {len(digests)} are); "
            "calibrate on others, such as the training split"
        )


def held_out_digests(files: Iterable[Path]) -> dict[str, Path]:
    """SHA-256 of the images that a result is scored on, for `CalibrationSet` to keep apart."""
    return {sha256_of(file): file for file in files if file.is_file()}


def scales_summary(calibration: Calibration) -> dict[str, Any]:
    """What bundle.json records of a calibration; the file of scales holds the rest."""
    return {
        "method": calibration.method,
        "images": len(calibration.images),
        "list_sha256": hashlib.sha256("".join(calibration.images).encode()).hexdigest(),
        "preprocess_sha256": calibration.preprocess_sha256,
        "weights_sha256": calibration.weights_sha256,
        "tensors": len(calibration.ranges),
    }
