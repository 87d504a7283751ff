"""From a foreign ONNX detector to a bundle: read, recognise, rewire, prove against the original, seal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from ...evaluation.dataset.coco_names import THING_NAMES
from ...runtime.backends.base import Array
from ...runtime.backends.onnxruntime_backend import open_graph
from ...runtime.bundle.bundle import Bundle, write_bundle
from ...runtime.bundle.graph_options import GraphOptions
from ...runtime.bundle.name_lists import read_names
from ...runtime.bundle.spec import ModelSpec, Thresholds
from ...runtime.errors import ParityError, UsageError
from ...runtime.files import replacing_folder, sha256_of
from ...runtime.images.preprocess import PreprocessRule, preprocess
from ...runtime.model import Model
from ...runtime.progress import Say
from ...runtime.verification.golden import GOLDEN_FOLDER, answers_of, read_golden, unproven, write_golden
from ...runtime.verification.replay import Check, Tolerances, compare_heads
from ..destination import check_out, reference_images
from ..onnx_graphs.graph_metadata import describe_graphs
from ..precision.precisions import PrecisionOptions, add_precisions, check_inputs
from .foreign import Foreign, read_foreign
from .layouts import Layout, Said, recognise
from .wiring import before_selection, depends_on_data, rewired, run_all

# How far the rewired graph may be from the original: by rounding, and from one in 16 bits by what these round.
_EXACT, _HALF = Tolerances(head=1e-4), Tolerances(head=2e-2)
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_ANCHORS = (1, 3)


def adopt(
    model: str | Path,
    out: str | Path,
    classes: str | Path | Sequence[str] | None = None,
    *,
    layout: str | None = None,
    input_size: tuple[int, int] | None = None,
    channel_order: str = "RGB",
    scale: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    licence: str | None = None,
    images: Sequence[Path] | None = None,
    overwrite: bool = False,
    precisions: PrecisionOptions | None = None,
    progress: Say | None = None,
) -> Bundle:
    """Make a bundle of a detector, with or without instance masks, that another project exported to ONNX.

    What its outputs mean is found by their shapes and by their values on images; a few nodes behind the graph make the
    heads of the contract of them. The rewired graph is held against the original, whose outputs are decoded in numpy.

    Args:
        model: The ONNX file; external data lies beside it.
        out: Folder of the bundle; must not exist unless `overwrite`.
        classes: Names of the classes in the order of the network: a file with one a line, or a list; by default the
            "names" in the file's metadata.
        layout: What is to be taken as said of the outputs, words with commas between, see `layouts`.
        input_size: (height, width) where the file leaves it open.
        channel_order: "RGB" or "BGR", what the network wants.
        scale: Every byte of a pixel is multiplied by this first; by default 1/255, or 1 where the graph itself divides.
        mean, std: Of the three channels in the network's order; subtracted and divided by after the scale.
        licence: Of the weights, as it is recorded and shown; by default what the metadata says, else "unknown".
        images: Images to look at its outputs on, to compare on and to keep for `verify`; by default three drawn scenes.
            The first three are used.
        overwrite: Replace what lies at `out`.
        precisions: What to write beside fp32, and how; by default nothing.
        progress: Called with one line per step.

    Returns:
        The bundle, verified. A precision that was asked for and did not pass is not in it; `Bundle.failed` says why.

    Raises:
        UsageError: If the file cannot be adopted, or an argument does not fit it; nothing is written.
        ParityError: If the rewired graph does not agree with the original; nothing is written.
        CalibrationError: As `export_bundle` raises it; nothing is written.
    """
    say = progress or (lambda line: None)
    out, said, wanted = Path(out), Said.of(layout), precisions or PrecisionOptions()
    check_out(out, overwrite)
    given = _class_names(classes)
    foreign = read_foreign(model, input_size)
    names = given or foreign.class_names
    if names is None:
        raise UsageError(
            f"{foreign.path}: does not tell its classes; give <classes>, a file with one name a line",
            argument="classes",
        )
    if foreign.class_names is not None and len(names) != len(foreign.class_names):
        raise UsageError(
            f"{foreign.path}: tells {len(foreign.class_names)} classes itself, but <classes> gives {len(names)} names",
            argument="classes",
        )
    rule = PreprocessRule(
        input_size=foreign.size,
        channel_order=channel_order,  # pyright: ignore[reportArgumentType]  # it says what it takes
        scale=scale if scale is not None else 1.0 if foreign.takes_bytes else 1 / 255,
        rounding="half_even",  # as Python rounds, which the letterboxes of these projects are written in
    )
    shift, spread = _three(mean, "mean", 0.0), _three(std, "std", 1.0)
    references = reference_images(images, foreign.size)
    tensors = {name: preprocess(image, rule)[0] for name, image in references.items()}
    feeds = {name: foreign.feed(_batch(_normalised(one, shift, spread), foreign)) for name, one in tensors.items()}
    try:
        found = layout_of(foreign, list(feeds.values()), len(names), said)
    except UsageError as error:
        raise UsageError(f"{foreign.path}: {error.args[0]}", error.arguments) from None
    spec = _spec(foreign, found, names, rule)
    complaints = spec.complaints()
    if complaints:
        raise UsageError(f"{foreign.path}: {'; '.join(complaints)}; give another <input_size>", argument="input_size")
    shape = "x".join(map(str, foreign.size))
    say(f"{foreign.path}: {len(names)} classes, {found.count} boxes at {shape}; layout {found.words()}")
    say(f"pixels in {rule.channel_order}, times {rule.scale:.6g}" + _told_normalisation(shift, spread))
    graph = rewired(foreign, found, shift, spread)
    held = depends_on_data(graph)
    if held and set(wanted.precisions) - {"fp32"}:
        raise UsageError(
            f"{foreign.path}: {' and '.join(held)} cannot be cut off, so only ONNX Runtime runs it, in fp32; leave "
            "<precisions> out, or export the network without its own post-processing",
            argument="precisions",
        )
    if held:
        say(f"warning: it holds {' and '.join(held)}, which cannot be cut off: only ONNX Runtime runs it, in fp32")
    check_inputs(wanted, spec)
    licence = licence or foreign.licence
    if licence is None:
        say("warning: the licence of the weights is unknown")

    with replacing_folder(out) as folder:
        file = "vision.fp32.onnx"
        onnx.save(graph, folder / file)
        graphs = {"vision": {"fp32": file}}
        say(f"{file}: {len(graph.graph.node)} nodes, {(folder / file).stat().st_size / 1e6:.1f} MB")
        checks = _prove(foreign, found, spec, folder, references, tensors, feeds)
        say(f"the rewired graph agrees with the original in {len(checks)} checks on {len(references)} images")
        for warning in unproven(read_golden(golden)[1] for golden in sorted((folder / GOLDEN_FOLDER).iterdir())):
            say(f"warning: {warning}")
        added = add_precisions(folder, graphs, spec, references, wanted, say)
        opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
        original = foreign.original
        describe_graphs(folder, spec, graphs, sha256_of(foreign.path), licence or "unknown")
        write_bundle(
            folder,
            spec,
            graphs,
            licence=licence or "unknown",
            provenance={
                "adopted": foreign.path.name,
                "adopted_sha256": sha256_of(foreign.path),
                "producer": f"{original.producer_name} {original.producer_version}".strip(),
                "layout": found.words(),
                "normalisation": {"mean": list(shift), "std": list(spread)},
                "exporter": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": opset},
                **added.provenance,
            },
            parity={
                "onnx_fp32": [asdict(check) for check in checks],
                "tolerances": {"fp32": asdict(Tolerances()), **added.tolerances},
                **added.parity,
            },
            accuracy=added.accuracy,
        )
    return Bundle.open(out)


def _class_names(classes: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of a file, one a line without the empty ones at its end, or of a list.

    Raises:
        UsageError: If it cannot be read, or a name is empty.
    """
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        return read_names(classes, "classes")
    names = tuple(classes)
    if not names or not all(names):
        raise UsageError("<classes> has an empty name, or none; expected one name a line", argument="classes")
    return names


def _three(values: Sequence[float] | None, name: str, default: float) -> tuple[float, float, float]:
    found = (default,) * 3 if values is None else tuple(float(value) for value in values)
    is_zero = name == "std" and not all(found)
    if len(found) != 3 or not all(map(math.isfinite, found)) or is_zero:
        raise UsageError(f"<{name}> must be three numbers{', none of them 0' if is_zero else ''}", argument=name)
    return found[0], found[1], found[2]


def _told_normalisation(mean: Sequence[float], std: Sequence[float]) -> str:
    is_none = not any(mean) and all(value == 1 for value in std)
    return "" if is_none else f", less {', '.join(f'{v:g}' for v in mean)}, by {', '.join(f'{v:g}' for v in std)}"


def _normalised(tensor: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    shift, spread = (np.array(values, np.float64).reshape(3, 1, 1) for values in (mean, std))
    return ((tensor - shift) / spread).astype(np.float32)


def _batch(tensor: NDArray[np.float32], foreign: Foreign) -> NDArray[np.float32]:
    return np.repeat(tensor[np.newaxis], foreign.batch or 1, axis=0)


def layout_of(foreign: Foreign, feeds: Sequence[dict[str, Array]], classes: int, said: Said) -> Layout:
    """What the outputs mean; what lies before the network's own selection of boxes where that can be found."""
    typed = [{name: _typed(value, foreign, whole=True) for name, value in feed.items()} for feed in feeds]
    names = [value.name for value in foreign.model.graph.output]
    before = None
    if depends_on_data(foreign.model) and said.form is None:
        before = before_selection(foreign, typed, classes, said)
    if before is not None:
        return before
    found = recognise(run_all(foreign.model, typed, names), classes, foreign.size, said)
    if found.form == "detections" and said.form is None:
        return before_selection(foreign, typed, classes, said) or found
    return found


def _typed(value: Array, foreign: Foreign, whole: bool) -> Array:
    """The input in the type of the graph; `whole` for the one in float32."""
    dtype = np.float32 if whole and foreign.dtype == np.float16 else foreign.dtype
    return value.astype(dtype)


def _spec(foreign: Foreign, layout: Layout, names: Sequence[str], rule: PreprocessRule) -> ModelSpec:
    coco = {name: number for number, name in THING_NAMES.items()}
    is_coco = all(name in coco for name in names)
    # Only told: how many boxes there are stands in `box_count`.
    cells = {s: sum((foreign.size[0] // one) * (foreign.size[1] // one) for one in s) for s in _STRIDES}
    whole = [s for s in _STRIDES if not any(side % max(s) for side in foreign.size)]
    strides = next((s for s in whole if layout.count in [a * cells[s] for a in _ANCHORS]), (1,))
    # A network that selects its boxes itself has nothing left to suppress.
    is_final = layout.form == "detections" or (
        _is_ranked(foreign) and not depends_on_data(foreign.model) and layout.boxes.tensor not in _outputs(foreign)
    )
    return ModelSpec(
        name=foreign.path.stem,
        tasks=("boxes", "masks") if layout.prototypes else ("boxes",),
        preprocess=rule,
        strides=strides,
        box_coding="xyxy",
        score_coding=layout.score_coding,  # pyright: ignore[reportArgumentType]
        box_count=layout.count,
        class_names=tuple(names),
        category_ids=tuple(coco[name] for name in names) if is_coco else tuple(range(1, len(names) + 1)),
        thresholds=replace(Thresholds(), iou=1.0) if is_final else Thresholds(),
        graph=GraphOptions(batch=foreign.batch),
    )


def _outputs(foreign: Foreign) -> set[str]:
    return {value.name for value in foreign.model.graph.output}


def _is_ranked(foreign: Foreign) -> bool:
    return any(node.op_type == "TopK" for node in foreign.model.graph.node)


def _prove(
    foreign: Foreign,
    layout: Layout,
    spec: ModelSpec,
    folder: Path,
    images: dict[str, NDArray[np.uint8]],
    tensors: dict[str, NDArray[np.float32]],
    feeds: dict[str, dict[str, Array]],
) -> list[Check]:
    """Hold the rewired graph against the original on every image, and keep its answers as golden.

    Raises:
        ParityError: If they differ.
    """
    given = {output for node in foreign.original.graph.node for output in node.output}
    # What is cut out of the middle may have lost its name when the graph was simplified.
    is_original = all(name in given for name in layout.tensors)
    source = foreign.original if is_original else foreign.model
    tolerances = _HALF if foreign.is_half and is_original else _EXACT
    vision = open_graph(folder / "vision.fp32.onnx", None)
    checks: list[Check] = []
    with Model(spec, {"vision": vision}) as model:
        for name, image in images.items():
            feed = {n: _typed(value, foreign, whole=not is_original) for n, value in feeds[name].items()}
            expected = layout.decode(run_all(source, [feed], layout.tensors))
            found = vision.run({"images": _batch(tensors[name], foreign)})
            checks += compare_heads(name, expected, found, tolerances)
            write_golden(folder / GOLDEN_FOLDER / f"{name}.npz", image, answers_of(model, vision, image))
    failures = [check for check in checks if not check.passed]
    if failures:
        first = failures[0]
        raise ParityError(
            f"{foreign.path}: the rewired graph differs from the original: {first.stage} on {first.golden}: "
            f"{first.measured}, allowed {first.allowed} ({len(failures)} of {len(checks)} checks failed); nothing was "
            "written"
        )
    return checks
