"""The cheaper precisions of a bundle, each written only after it was held against fp32.

Both are accepted on task scores, not on the distance between tensors: within a budget for every task where an
evaluation split is given, and unscored, which the bundle says, where none is. Each graph is scored on the backend that
will run it, as far as that is here. FP16 has to give the same answers on the reference images as well.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from ...evaluation.dataset.coco import CocoDataset
from ...evaluation.dataset.opening import Data, open_dataset
from ...runtime.backends.base import Array, Graph
from ...runtime.backends.onnxruntime_backend import open_graph
from ...runtime.backends.registry import BACKENDS, GraphModule, backend_module
from ...runtime.backends.scored import place, scored_on
from ...runtime.bundle.bundle import FAILED, INT8_DIALECTS
from ...runtime.bundle.spec import ModelSpec
from ...runtime.errors import AccuracyError, BackendError, UsageError
from ...runtime.images.preprocess import preprocess
from ...runtime.model import Model
from ...runtime.progress import Say
from ...runtime.verification.comparison import DEFAULT_TOLERANCES, FP16, captions_check, compare
from ...runtime.verification.golden import GOLDEN_FOLDER, answers_of, read_golden
from ..onnx_graphs.probe import open_model
from .budget import BudgetReport, beyond_budget, judged, meet_budget, score_lines
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
from .to_fp16 import as_computed_in_fp16, halve_around_int8, nodes_out_of_range, to_fp16
from .to_int8 import quantize

SCALES_FILE = "calibration.json"
# Images that layers' noise is measured on: a ranking needs no more.
_NOISE_IMAGES = 4
# Images whose captions show the range of the decoder's tensors, and words of each.
_CAPTION_IMAGES = 20
_CAPTION_STEPS = 6

Graphs = dict[str, dict[str, str]]


@dataclass(frozen=True)
class PrecisionOptions:
    """Which precisions to write beside fp32, and how.

    Attributes:
        precisions: Of "fp16", "int8", "auto". "auto" is both, as far as they meet the budget.
        calibration: Images for int8, and for the range of fp16: a folder, a glob or a text file with one path a line.
        method: How int8 ranges treat outliers, see `calibrate`.
        scales: The `calibration.json` of another export of the same weights, instead of images.
        data: Folder of a data set, or several put together, that fp16 and int8 are scored on.
        split: Its split; by default the first whose name starts with "val".
        max_drop: Largest drop of box AP, mask AP, mIoU and CIDEr that a precision may cost, absolute; or of those of
            some tasks, by the task's name, and 0.01 of the others.
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
        if self.scales is not None and not self.wants_int8:
            raise UsageError(
                "<scales> is for int8: add int8 to <precisions>, or leave it out", argument=("scales", "precisions")
            )
        given = {"calibration": self.calibration, "data": self.data, "keep_float": self.keep_float or None}
        idle = [name for name, value in given.items() if value is not None and not (self.wants_int8 or self.wants_fp16)]
        if idle:
            named = ", ".join(f"<{name}>" for name in idle)
            raise UsageError(
                f"{named} is for fp16 and int8: add one to <precisions>, or leave it out", (*idle, "precisions")
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

    def fail(self, precision: str, reason: str) -> None:
        """Record that a precision that was asked for did not pass."""
        self.provenance.setdefault(FAILED, {})[precision] = reason


def check_inputs(options: PrecisionOptions, spec: ModelSpec) -> None:
    """Look at all that fp16 and int8 were given before time goes into an export that could not use it.

    Raises:
        UsageError, DatasetError, CalibrationError: As `add_precisions` would, later.
    """
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

    A precision that does not pass, because it answers otherwise than fp32 or misses the budget, is left out and
    recorded with the reason.

    Raises:
        CalibrationError: If the images or scales cannot be used.
    """
    added = Added()
    if not (options.wants_fp16 or options.wants_int8):
        return added
    _require_layers(folder, graphs, options.keep_float)
    dataset = _dataset(options)
    held_out = _held_out(dataset)
    pictures = None
    if options.calibration is not None:
        files = calibration_files(options.calibration)
        pictures = CalibrationSet(files, spec.preprocess, held_out, spec.graph.batch or 1)
    making = _Making(folder, graphs, spec, images, options, say, added, pictures)
    scorer = None
    if dataset is not None:
        say(f"scoring fp32 on {len(dataset)} images of {options.data} ...")
        scorer = _Scorer(folder, graphs, spec, dataset)
        allowed = allowed_drops(options.max_drop)
        idle = [f"{name} {value:.4f}" for name, value in scorer.reference.items() if value <= allowed[name]]
        if idle:
            say(
                f"warning: in fp32 the network scores {', '.join(idle)} on {options.data}, no more than it may lose, "
                "so nothing keeps a precision from losing it all; train longer first, or score on data that it was "
                "trained for"
            )
    # What is not int8 for TensorRT is fp16 too.
    out_of_range = making.out_of_range(list(graphs) if options.wants_fp16 else ["vision"])
    if options.wants_fp16:
        _add_fp16(making, scorer, out_of_range)
    if options.wants_int8:
        _add_int8(making, scorer, out_of_range["vision"], held_out, int8_bounds or {})
    return added


@dataclass(frozen=True)
class _Making:
    """A bundle in the making: what `add_precisions` was given, and what it gives."""

    folder: Path
    graphs: Graphs
    spec: ModelSpec
    images: Mapping[str, NDArray[np.uint8]]
    options: PrecisionOptions
    say: Say
    added: Added
    pictures: CalibrationSet | None

    def exact(self, part: str) -> onnx.ModelProto:
        """A part's graph in fp32."""
        return onnx.load(self.folder / self.graphs[part]["fp32"])

    def inputs(self) -> Iterator[NDArray[np.float32]]:
        """The network's input for every image that was handed over: to calibrate on, and the reference images."""
        yield from self.reference_inputs()
        if self.pictures is not None:
            yield from self.pictures.tensors()

    def reference_inputs(self) -> Iterator[NDArray[np.float32]]:
        for image in self.images.values():
            tensor, _ = preprocess(image, self.spec.preprocess)
            yield np.repeat(tensor[np.newaxis], self.spec.graph.batch or 1, axis=0)

    def out_of_range(self, wanted: Sequence[str]) -> dict[str, dict[str, str]]:
        """For these parts, the nodes that do not fit into fp16 on all these images, with the reason."""
        count = len(self.images) + (0 if self.pictures is None else len(self.pictures))
        self.say(f"looking at the range of every tensor on {count} images ...")
        parts = {part: open_graph(self.folder / self.graphs[part]["fp32"], None) for part in wanted}
        captions = _caption_feeds(parts, self.spec, itertools.islice(self.inputs(), _CAPTION_IMAGES))
        for graph in parts.values():
            graph.close()
        feeds = {"vision": ({"images": tensor} for tensor in self.inputs()), **captions}
        return {part: nodes_out_of_range(self.exact(part), feeds[part]) for part in wanted}


def _add_fp16(making: _Making, scorer: _Scorer | None, out_of_range: Mapping[str, Mapping[str, str]]) -> None:
    folder, graphs, spec, images, say = making.folder, making.graphs, making.spec, making.images, making.say
    say(f"making fp16 graphs, and comparing them with fp32 on {len(images)} images ...")
    models: dict[str, onnx.ModelProto] = {}
    computed: dict[str, onnx.ModelProto] = {}
    kept: dict[str, Mapping[str, str]] = {}
    for part in graphs:
        halved = to_fp16(making.exact(part), out_of_range[part], making.options.keep_float)
        models[part], computed[part] = halved.model, as_computed_in_fp16(halved.model)
        file = f"{part}.fp16.onnx"
        onnx.save(halved.model, folder / file)
        kept[part] = dict(halved.kept)
        share = f"{len(halved.kept)} nodes stay in fp32" if halved.kept else "all of it in 16 bits"
        say(f"{file}: {(folder / file).stat().st_size / 1e6:.1f} MB, {share}")
        _tell_kept(halved.kept, say)
    half: dict[str, Graph] = {part: open_model(model) for part, model in computed.items()}
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
    reason = ""
    if failures:
        first = failures[0]
        reason = (
            f"it differs from fp32: {first.stage} on {first.golden}: {first.measured}, allowed {first.allowed} "
            f"({len(failures)} of {len(checks)} checks failed)"
        )
    else:
        say(f"fp16 agrees with fp32 in {len(checks)} checks on {len(images)} images")
        if scorer is not None:
            reason = _score_fp16(making, scorer, computed)
    if reason:
        for part in graphs:
            (folder / f"{part}.fp16.onnx").unlink()
        making.added.fail("fp16", reason)
        tell_failure(folder, spec, "fp16", reason, models, making.options.keep_failed, say)
        return
    for part, files in graphs.items():
        files["fp16"] = f"{part}.fp16.onnx"
    making.added.tolerances["fp16"] = asdict(FP16)
    making.added.parity["fp16"] = [asdict(check) for check in checks]
    making.added.parity["kept_in_fp32"] = kept


def _score_fp16(making: _Making, scorer: _Scorer, computed: Mapping[str, onnx.ModelProto]) -> str:
    """Hold fp16 to the budget, and record its scores; why it does not pass, or nothing."""
    allowed = allowed_drops(making.options.max_drop)
    making.say("fp16: scoring, with every tensor rounded as a device in fp16 does ...")
    scores, reference = scorer.scores(computed["vision"], captions=computed), scorer.reference
    verdicts, agreement = judged(reference, scores, allowed)
    for line in ("fp16:", *score_lines(reference, scores, verdicts, agreement)):
        making.say(line)
    beyond = beyond_budget(reference, scores, allowed, verdicts)
    if beyond:
        worst = max(beyond, key=lambda name: reference[name] - scores[name])
        lost = reference[worst] - scores[worst]
        return f"it misses the budget: {worst} drops by {lost:.4f}, allowed {allowed[worst]:g}"
    making.added.accuracy["fp16"] = {
        "max_drop": {name: allowed[name] for name in scores},
        "reference": dict(reference),
        "scores": dict(scores),
        "verdicts": {name: asdict(verdict) for name, verdict in verdicts.items()},
        "agreement": agreement,
        "scored_on": [{**scored_on("onnxruntime"), "how": "every tensor rounded to fp16"}],
    }
    return ""


def _add_int8(
    making: _Making,
    scorer: _Scorer | None,
    in_fp32: dict[str, str],
    held_out: Mapping[str, Path],
    int8_bounds: Mapping[str, float],
) -> None:
    folder, options, say, added = making.folder, making.options, making.say, making.added
    model = making.exact("vision")
    calibration, inputs = _calibration(model, making, held_out)
    if int8_bounds and options.scales is None:
        calibration, count = with_learned_bounds(calibration, model, int8_bounds)
        say(f"{count} tensors have the range that training with int8 in the loop has learned for them")
    if scorer is None:
        say("int8 is not scored: give a data set to hold it to a budget")
    reports: list[BudgetReport] = []
    quantised: dict[str, onnx.ModelProto] = {}
    dialect = INT8_DIALECTS[0]
    try:
        for dialect in INT8_DIALECTS:
            backend = _backend_to_score(dialect, say if scorer is not None else None)
            found, report = meet_budget(
                model,
                calibration.by_method(),
                dialect,
                inputs,
                None if scorer is None else functools.partial(scorer.scores, backend=backend),
                {} if scorer is None else scorer.reference,
                options.max_drop,
                options.keep_float,
                say,
                # OpenVINO and ONNX Runtime have no fp16 that is faster on a CPU.
                (lambda graph: halve_around_int8(graph, in_fp32)) if dialect == "s8s8" else None,
            )
            quantised[dialect] = found.model
            reports.append(report if scorer is None else replace(report, scored_on=(scored_on(backend),)))
            say(report.table())
    except AccuracyError as error:
        reason = str(error)
        added.fail("int8", reason)
        kind = f"int8-{dialect}"
        whole = quantize(model, calibration.ranges, dialect, options.keep_float).model
        tell_failure(folder, making.spec, kind, reason, {"vision": whole}, options.keep_failed, say)
        # Measuring ranges may have taken hours: they serve the next try.
        calibration.save(folder / SCALES_FILE)
        return
    calibration.save(folder / SCALES_FILE)
    added.provenance["calibration"] = scales_summary(calibration)
    added.tolerances["int8"] = asdict(DEFAULT_TOLERANCES["int8"])
    for report in reports:
        kind = f"int8-{report.dialect}"
        file = f"vision.{kind}.onnx"
        onnx.save(quantised[report.dialect], folder / file)
        making.graphs["vision"][kind] = file
        added.accuracy[kind] = report.to_json()
        where = f", scored in {' and '.join(place(dict(one)) for one in report.scored_on)}" if report.scored_on else ""
        say(f"{file}: {(folder / file).stat().st_size / 1e6:.1f} MB{where}")
        if report.dialect == "s8s8":
            added.accuracy[kind]["kept_in_fp32"] = in_fp32
            _tell_kept(in_fp32, say)


def _backend_to_score(dialect: str, say: Say | None) -> str:
    """The backend that will run a dialect, if it is here and runs on a CPU; else ONNX Runtime, which runs them all."""
    for name, entry in BACKENDS.items():
        if entry.int8_dialect == dialect and not entry.needs_gpu:
            try:
                backend_module(name)
                return name
            except BackendError as error:
                if say is not None:
                    say(f"int8-{dialect} cannot be scored in {name} here, but in onnxruntime: {error}")
    return "onnxruntime"


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
    model: onnx.ModelProto, making: _Making, held_out: Mapping[str, Path]
) -> tuple[Calibration, list[NDArray[np.float32]]]:
    """Fresh or given ranges, and a few inputs of the network to measure noise on: calibration's or the golden ones."""
    options, pictures, say = making.options, making.pictures, making.say
    if pictures is None:
        assert options.scales is not None
        calibration = Calibration.load(options.scales)
        calibration.require_fresh(options.scales, model, making.spec.preprocess)
        refuse_held_out(calibration.images, held_out)
        say(f"{options.scales}: ranges of {len(calibration.ranges)} tensors from {len(calibration.images)} images")
        return calibration, list(making.reference_inputs())
    if len(pictures) < FEW_IMAGES:
        say(f"warning: {len(pictures)} calibration images are few, {FEW_IMAGES} or more make ranges that hold")
    say(f"calibrating int8 on {len(pictures)} images ...")
    started = time.perf_counter()
    calibration = calibrate(model, pictures, options.method)
    say(
        f"calibrated {len(calibration.ranges)} tensors on {len(pictures)} images by {options.method}, "
        f"{time.perf_counter() - started:.1f} s"
    )
    return calibration, list(itertools.islice(pictures.tensors(), _NOISE_IMAGES))


class _Scorer:
    """Scores any vision graph through the pipeline that ships, with the bundle's fp32 caption decoder unless told.

    Attributes:
        reference: The scores of fp32 in ONNX Runtime.
    """

    def __init__(self, folder: Path, graphs: Graphs, spec: ModelSpec, dataset: CocoDataset) -> None:
        self._captions = {part: onnx.load(folder / files["fp32"]) for part, files in graphs.items() if part != "vision"}
        self._spec, self._dataset = spec, dataset
        self.reference = self.scores(onnx.load(folder / graphs["vision"]["fp32"]))

    def scores(
        self,
        vision: onnx.ModelProto,
        captions: Mapping[str, onnx.ModelProto] | None = None,
        backend: str = "onnxruntime",
    ) -> ImageScores:
        """Score a vision graph.

        Args:
            vision: To be scored.
            captions: The graphs of the caption decoder; None for those in fp32.
            backend: What runs the vision graph, one that reads graphs as they are.
        """
        parts: dict[str, Graph] = {
            part: open_model(self._captions[part] if captions is None else captions[part]) for part in self._captions
        }
        with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
            path = Path(folder) / "vision.onnx"
            onnx.save(vision, path)
            parts["vision"] = cast(GraphModule, backend_module(backend)).open_graph(path, None)
            with Model(self._spec, parts) as model:
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


def _caption_feeds(
    graphs: Mapping[str, Graph], spec: ModelSpec, images: Iterable[NDArray[np.float32]]
) -> dict[str, list[Mapping[str, Array]]]:
    """Real inputs of the caption decoder's parts: the memory of images, and the words of a greedy caption."""
    feeds: dict[str, list[Mapping[str, Array]]] = {part: [] for part in graphs if part != "vision"}
    if not feeds or spec.caption is None:
        return feeds
    for tensor in images:
        memory = graphs["vision"].run({"images": tensor}, ["caption_memory"])["caption_memory"][:1]
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
