"""The cheaper precisions of a bundle, each written only after it was held against fp32.

FP16 has to give the same answers on the reference images. INT8 is accepted on task scores, not on the distance between
tensors: within a budget for every task where an evaluation split is given, and unscored, which the bundle says, where
none is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...evaluation.dataset.coco import CocoDataset
from ...evaluation.dataset.opening import Data, open_dataset
from ...runtime.backends.base import Array, Graph
from ...runtime.backends.onnxruntime_backend import open_graph
from ...runtime.bundle.bundle import FAILED, INT8_DIALECTS
from ...runtime.bundle.spec import ModelSpec
from ...runtime.errors import AccuracyError, UsageError
from ...runtime.images.preprocess import preprocess
from ...runtime.model import Model
from ...runtime.progress import Say
from ...runtime.verification.comparison import DEFAULT_TOLERANCES, FP16, captions_check, compare
from ...runtime.verification.golden import GOLDEN_FOLDER, answers_of, read_golden
from ..onnx_graphs.probe import open_model
from .budget import BudgetReport, meet_budget
from .calibration import (
    FEW_IMAGES,
    METHODS,
    Calibration,
    CalibrationSet,
    Method,
    calibrate,
    calibration_files,
    held_out_digests,
    refuse_held_out,
    scales_summary,
)
from .failures import tell_failure
from .learned_bounds import with_learned_bounds
from .score_noise import DEFAULT_MAX_DROP, ImageScores, MaxDrop, allowed_drops, check_max_drop, score_images
from .to_fp16 import halve_around_int8, nodes_out_of_range, to_fp16
from .to_int8 import quantize

SCALES_FILE = "calibration.json"
# Images that layers' noise is measured on: a ranking needs no more.
_NOISE_IMAGES = 4
_CAPTION_STEPS = 6
_TIMED_RUNS = 15

Graphs = dict[str, dict[str, str]]


@dataclass(frozen=True)
class PrecisionOptions:
    """Which precisions to write beside fp32, and how.

    Attributes:
        precisions: Of "fp16", "int8", "auto". "auto" writes both, drops int8 where it misses the budget or is not
            faster than fp32 in ONNX Runtime on one thread of this machine, and records which of the two is.
        calibration: Images for int8: a folder, a glob or a text file with one path a line.
        method: How int8 ranges treat outliers, see `calibrate`.
        scales: The `calibration.json` of another export of the same weights, instead of images.
        data: Folder of a data set, or several put together, that int8 is scored on.
        split: Its split; by default the first whose name starts with "val".
        max_drop: Largest drop of box AP, mask AP, mIoU and CIDEr that int8 may cost, absolute; or of those of some
            tasks, by the task's name, and 0.01 of the others.
        keep_float: Layers to keep in a wider format whatever they cost, by name or by the start of it.
        keep_failed: Keep the graphs of a precision that did not pass in the bundle, as PART.KIND.failed.onnx, with the
            list of layers to keep in float.
    """

    precisions: tuple[str, ...] = ()
    calibration: str | Path | None = None
    method: Method = "percentile"
    scales: Path | None = None
    data: Data | None = None
    split: str | None = None
    max_drop: MaxDrop = DEFAULT_MAX_DROP
    keep_float: tuple[str, ...] = ()
    keep_failed: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.precisions if name not in ("fp32", "fp16", "int8", "auto")]
        if unknown:
            raise UsageError(
                f"unknown precision {', '.join(unknown)}; the precisions are fp32, fp16, int8, auto", "precisions"
            )
        if self.wants_int8 and self.calibration is None and self.scales is None:
            raise UsageError(
                "int8 needs images to calibrate on: give <calibration> with a folder or a list of them (200 or "
                "more, none of the evaluation split), or <scales> with the calibration.json of an earlier export",
                argument=("calibration", "scales"),
            )
        if self.calibration is not None and self.scales is not None:
            raise UsageError(
                "<calibration> measures ranges and <scales> gives them; leave one of the two out",
                argument=("calibration", "scales"),
            )
        given = {"calibration": self.calibration, "scales": self.scales, "data": self.data}
        idle = [name for name, value in given.items() if value is not None and not self.wants_int8]
        if idle:
            named = ", ".join(f"<{name}>" for name in idle)
            raise UsageError(f"{named} is for int8: add int8 to <precisions>, or leave it out", (*idle, "precisions"))
        if self.keep_float and not (self.wants_int8 or self.wants_fp16):
            raise UsageError(
                "<keep_float> is for fp16 and int8: add one to <precisions>, or leave it out",
                argument=("keep_float", "precisions"),
            )
        if "auto" in self.precisions and self.data is None:
            raise UsageError(
                "<precisions> auto chooses by accuracy too: give <data> with an evaluation split",
                argument=("precisions", "data"),
            )
        if self.method not in METHODS:
            raise UsageError(f"<method> must be one of {', '.join(METHODS)}, got {self.method!r}", argument="method")
        check_max_drop(self.max_drop)

    @property
    def wants_fp16(self) -> bool:
        return bool({"fp16", "auto"} & set(self.precisions))

    @property
    def wants_int8(self) -> bool:
        return bool({"int8", "auto"} & set(self.precisions))


def read_layers(path: str | Path) -> tuple[str, ...]:
    """The layers a file names, one a line; empty lines and what follows a # are passed over.

    A file without any names none, which is what `diff` writes where nothing has to stay in float.

    Raises:
        UsageError: If there is no such file.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a list of layers ({error}); expected one name a line") from None
    return tuple(line for line in lines if line)


@dataclass
class Added:
    """What the bundle records of the precisions that were added, and why others were not."""

    tolerances: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    recommended: dict[str, str] = field(default_factory=dict)

    def fail(self, precision: str, reason: str) -> None:
        """Record that a precision that was asked for did not pass."""
        self.provenance.setdefault(FAILED, {})[precision] = reason


def check_inputs(options: PrecisionOptions, spec: ModelSpec) -> None:
    """Look at all that int8 was given before time goes into an export that could not use it.

    Raises:
        UsageError, DatasetError, CalibrationError: As `add_precisions` would, later.
    """
    if not options.wants_int8:
        return
    held_out = _held_out(_dataset(options))
    if options.scales is not None:
        refuse_held_out(Calibration.load(options.scales).images, held_out)
    if options.calibration is not None:
        CalibrationSet(calibration_files(options.calibration), spec.preprocess, held_out).require_readable()


def add_precisions(
    folder: Path,
    graphs: Graphs,
    spec: ModelSpec,
    images: Mapping[str, NDArray[np.uint8]],
    options: PrecisionOptions,
    say: Say,
    int8_bounds: Mapping[str, float] | None = None,
) -> Added:
    """Write the graphs of further precisions beside the fp32 ones in `folder`, and list them in `graphs`.

    Args:
        folder: Of a bundle in the making, with its fp32 graphs.
        graphs: Files by part and kind; added to.
        spec: What the model is.
        images: The reference images, (h, w, 3) uint8 BGR by name.
        options: What to write.
        say: Called with one line per step.
        int8_bounds: By block, what a training with int8 in the loop learned of its output's range.

    A precision that does not pass, fp16 because it answers otherwise than fp32, int8 because it misses the budget, is
    left out and recorded with the reason.

    Raises:
        CalibrationError: If the images or scales cannot be used.
    """
    added = Added()
    if options.wants_fp16:
        _add_fp16(folder, graphs, spec, images, options, say, added)
    if options.wants_int8:
        _add_int8(folder, graphs, spec, images, options, say, added, int8_bounds or {})
    return added


def _add_fp16(
    folder: Path,
    graphs: Graphs,
    spec: ModelSpec,
    images: Mapping[str, NDArray[np.uint8]],
    options: PrecisionOptions,
    say: Say,
    added: Added,
) -> None:
    say(f"making fp16 graphs, and comparing them with fp32 on {len(images)} images ...")
    exact = {part: open_graph(folder / files["fp32"], None) for part, files in graphs.items()}
    models: dict[str, onnx.ModelProto] = {}
    half: dict[str, Graph] = {}
    kept: dict[str, Mapping[str, str]] = {}
    _require_layers(folder, graphs, options.keep_float)
    feeds = _feeds(exact, spec, list(images.values()))
    for part, files in graphs.items():
        halved = to_fp16(onnx.load(folder / files["fp32"]), feeds[part], options.keep_float)
        exact[part].close()
        models[part] = halved.model
        file = f"{part}.fp16.onnx"
        onnx.save(halved.model, folder / file)
        half[part] = open_graph(folder / file, None)
        kept[part] = dict(halved.kept)
        share = f"{len(halved.kept)} nodes stay in fp32" if halved.kept else "all of it in 16 bits"
        say(f"{file}: {(folder / file).stat().st_size / 1e6:.1f} MB, {share}")
        _tell_kept(halved.kept, say)
    with Model(spec, half) as model:
        pairs = {}
        for name in images:
            image, expected = read_golden(folder / GOLDEN_FOLDER / f"{name}.npz")
            pairs[name] = (expected, answers_of(model, half["vision"], image))
    usual = spec.thresholds
    checks = [
        check
        for name, (expected, found) in pairs.items()
        for check in compare(name, expected, found, FP16, usual.score, usual.iou, usual.max_detections)
    ]
    captions = captions_check(list(pairs.values()), FP16)
    checks += [captions] if captions is not None else []
    failures = [check for check in checks if not check.passed]
    if failures:
        first = failures[0]
        reason = (
            f"it differs from fp32: {first.stage} on {first.golden}: {first.measured}, allowed {first.allowed} "
            f"({len(failures)} of {len(checks)} checks failed)"
        )
        for part in graphs:
            (folder / f"{part}.fp16.onnx").unlink()
        added.fail("fp16", reason)
        tell_failure(folder, spec, "fp16", reason, models, options.keep_failed, say)
        return
    say(f"fp16 agrees with fp32 in {len(checks)} checks on {len(images)} images")
    for part, files in graphs.items():
        files["fp16"] = f"{part}.fp16.onnx"
    added.tolerances["fp16"] = asdict(FP16)
    added.parity["fp16"] = [asdict(check) for check in checks]
    added.parity["kept_in_fp32"] = kept


def _add_int8(
    folder: Path,
    graphs: Graphs,
    spec: ModelSpec,
    images: Mapping[str, NDArray[np.uint8]],
    options: PrecisionOptions,
    say: Say,
    added: Added,
    int8_bounds: Mapping[str, float],
) -> None:
    model = onnx.load(folder / graphs["vision"]["fp32"])
    dataset = _dataset(options)
    calibration, inputs = _calibration(model, spec, list(images.values()), options, _held_out(dataset), say)
    if int8_bounds and options.scales is None:
        calibration, count = with_learned_bounds(calibration, model, int8_bounds)
        say(f"{count} tensors have the range that training with int8 in the loop has learned for them")
    exact = _Scorer(folder, graphs, spec, dataset)
    if dataset is not None:
        say(f"scoring fp32 on {len(dataset)} images of {options.data} ...")
    reference: Mapping[str, float] = exact.scores(model) if dataset else {}
    allowed = allowed_drops(options.max_drop)
    if dataset is None:
        say("int8 is not scored: give a data set to hold it to a budget")
    idle = [f"{name} {value:.4f}" for name, value in reference.items() if value <= allowed[name]]
    if idle:
        say(
            f"warning: in fp32 the network scores {', '.join(idle)} on {options.data}, no more than it may lose, so "
            "nothing keeps int8 from losing it all; train longer first, or score on data that it was trained for"
        )
    # For TensorRT what is not int8 is fp16, and OpenVINO reads that as fast; ONNX Runtime has no fp16 on a CPU.
    in_fp32 = nodes_out_of_range(model, ({"images": tensor} for tensor in inputs))
    reports: list[BudgetReport] = []
    quantised: dict[str, onnx.ModelProto] = {}
    dialect = INT8_DIALECTS[0]
    try:
        for dialect in INT8_DIALECTS:
            found, report = meet_budget(
                model,
                calibration.by_method(),
                dialect,
                inputs,
                exact.scores if dataset else None,
                reference,
                options.max_drop,
                options.keep_float,
                say,
                (lambda graph: halve_around_int8(graph, in_fp32)) if dialect == "s8s8" else None,
            )
            quantised[dialect] = found.model
            reports.append(report)
            say(report.table())
    except AccuracyError as error:
        reason = str(error)
        if "auto" in options.precisions:
            say(f"auto: goes without int8; {reason}")
            added.recommended["onnxruntime"] = "fp32"
        if "int8" in options.precisions:
            added.fail("int8", reason)
            kind = f"int8-{dialect}"
            whole = quantize(model, calibration.ranges, dialect, options.keep_float).model
            tell_failure(folder, spec, kind, reason, {"vision": whole}, options.keep_failed, say)
            # Measuring ranges may have taken hours: they serve the next try.
            calibration.save(folder / SCALES_FILE)
        return
    if "auto" in options.precisions:
        ratio = _speed_ratio(model, quantised["u8s8"], inputs[0])
        added.provenance["int8_speed"] = {"onnxruntime": round(ratio, 3), "threads": 1}
        added.recommended["onnxruntime"] = "int8" if ratio > 1 else "fp32"
        say(f"auto: int8 runs {ratio:.2f} times as fast as fp32 in ONNX Runtime here")
        if ratio <= 1 and "int8" not in options.precisions:
            return
    calibration.save(folder / SCALES_FILE)
    added.provenance["calibration"] = scales_summary(calibration)
    added.tolerances["int8"] = asdict(DEFAULT_TOLERANCES["int8"])
    for report in reports:
        kind = f"int8-{report.dialect}"
        file = f"vision.{kind}.onnx"
        onnx.save(quantised[report.dialect], folder / file)
        graphs["vision"][kind] = file
        added.accuracy[kind] = report.to_json()
        say(f"{file}: {(folder / file).stat().st_size / 1e6:.1f} MB")
        if report.dialect == "s8s8":
            added.accuracy[kind]["kept_in_fp32"] = in_fp32
            _tell_kept(in_fp32, say)


def _tell_kept(kept: Mapping[str, str], say: Say) -> None:
    """A line for each node that stays in fp32, or for all that stay for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for node, why in kept.items():
        by_reason.setdefault(why, []).append(node)
    for why, nodes in by_reason.items():
        stay = "stays" if len(nodes) == 1 else f"and {len(nodes) - 1} more stay"
        say(f"  {nodes[0]} {stay} in fp32: {why}")


def _dataset(options: PrecisionOptions) -> CocoDataset | None:
    return None if options.data is None else open_dataset(options.data, options.split, "val")


def _held_out(dataset: CocoDataset | None) -> dict[str, Path]:
    return {} if dataset is None else held_out_digests(Path(dataset[i].path) for i in range(len(dataset)))


def _calibration(
    model: onnx.ModelProto,
    spec: ModelSpec,
    images: Sequence[NDArray[np.uint8]],
    options: PrecisionOptions,
    held_out: Mapping[str, Path],
    say: Say,
) -> tuple[Calibration, list[NDArray[np.float32]]]:
    """Fresh or given ranges, and a few inputs of the network to measure noise on: calibration's or the golden ones."""
    rule = spec.preprocess
    if options.calibration is None:
        assert options.scales is not None
        calibration = Calibration.load(options.scales)
        calibration.require_fresh(options.scales, model, rule)
        refuse_held_out(calibration.images, held_out)
        say(f"{options.scales}: ranges of {len(calibration.ranges)} tensors from {len(calibration.images)} images")
        tensors = (preprocess(image, rule)[0][np.newaxis] for image in images)
        return calibration, [np.repeat(tensor, spec.graph.batch or 1, axis=0) for tensor in tensors]
    pictures = CalibrationSet(calibration_files(options.calibration), rule, held_out, spec.graph.batch or 1)
    if len(pictures) < FEW_IMAGES:
        say(f"warning: {len(pictures)} calibration images are few, {FEW_IMAGES} or more make ranges that hold")
    say(f"calibrating int8 on {len(pictures)} images ...")
    started = time.perf_counter()
    calibration = calibrate(model, pictures, options.method)
    say(
        f"calibrated {len(calibration.ranges)} tensors on {len(pictures)} images by {options.method}, "
        f"{time.perf_counter() - started:.1f} s"
    )
    inputs = []
    for tensor in pictures.tensors():
        inputs.append(tensor)
        if len(inputs) == _NOISE_IMAGES:
            break
    return calibration, inputs


class _Scorer:
    """Scores any vision graph with the bundle's fp32 caption decoder, through the pipeline that ships."""

    def __init__(self, folder: Path, graphs: Graphs, spec: ModelSpec, dataset: CocoDataset | None) -> None:
        self._captions = {part: folder / files["fp32"] for part, files in graphs.items() if part != "vision"}
        self._spec, self._dataset = spec, dataset

    def scores(self, vision: onnx.ModelProto) -> ImageScores:
        assert self._dataset is not None
        parts: dict[str, Graph] = {part: open_graph(path, None) for part, path in self._captions.items()}
        with Model(self._spec, {"vision": open_model(vision), **parts}) as model:
            return score_images(model, self._dataset)


def _require_layers(folder: Path, graphs: Graphs, layers: Sequence[str]) -> None:
    """Refuse names that no graph has, neither whole nor as the beginning of one.

    Raises:
        UsageError: Naming them.
    """
    if not layers:
        return
    names = [node.name for files in graphs.values() for node in onnx.load(folder / files["fp32"]).graph.node]
    unknown = [
        layer for layer in layers if not any(n == layer or n.startswith((f"{layer}.", f"{layer}/")) for n in names)
    ]
    if unknown:
        raise UsageError(
            f"<keep_float>: no layer is called {', '.join(map(repr, unknown))}; names look like {', '.join(names[:2])}",
            argument="keep_float",
        )


def _feeds(
    graphs: Mapping[str, Graph], spec: ModelSpec, images: Sequence[NDArray[np.uint8]]
) -> dict[str, list[Mapping[str, Array]]]:
    """Real inputs of every part: the images, their memory, and the words of a greedy caption."""
    feeds: dict[str, list[Mapping[str, Array]]] = {part: [] for part in graphs}
    for image in images:
        tensor, _ = preprocess(image, spec.preprocess)
        feeds["vision"].append({"images": np.repeat(tensor[np.newaxis], spec.graph.batch or 1, axis=0)})
        if "caption_prefill" not in graphs or spec.caption is None:
            continue
        memory = graphs["vision"].run(feeds["vision"][-1], ["caption_memory"])["caption_memory"][:1]
        begin = {"caption_memory": memory, "tokens": np.array([spec.caption.bos_id], np.int64)}
        feeds["caption_prefill"].append(begin)
        feeds["caption_step"] += _greedy_steps(graphs, begin)
    return feeds


def _greedy_steps(graphs: Mapping[str, Graph], begin: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
    state = graphs["caption_prefill"].run(begin)
    cross = {name: state[name] for name in ("cross_keys", "cross_values")}
    for _ in range(_CAPTION_STEPS):
        feed = {
            "tokens": state["log_probs"].argmax(1),
            "past_keys": state["present_keys"],
            "past_values": state["present_values"],
            **cross,
        }
        yield feed
        state = graphs["caption_step"].run(feed)


def _speed_ratio(exact: onnx.ModelProto, quantised: onnx.ModelProto, image: NDArray[np.float32]) -> float:
    """How many times as fast the second graph is, by medians of interleaved runs on one thread."""
    graphs = [open_model(exact, 1), open_model(quantised, 1)]
    times: list[list[int]] = [[], []]
    for _ in range(_TIMED_RUNS + 3):
        for graph, taken in zip(graphs, times, strict=True):
            started = time.perf_counter_ns()
            graph.run({"images": image})
            taken.append(time.perf_counter_ns() - started)
    for graph in graphs:
        graph.close()
    fp32, int8 = (float(np.median(taken[3:])) for taken in times)
    return fp32 / int8
