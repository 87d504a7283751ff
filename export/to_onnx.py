"""From a checkpoint to a bundle: fold, export, prove each step against the one before, seal.

The ladder is network -> folded network -> ONNX in fp32, on real images: every raw output within 1e-3 of its own scale,
the same boxes, masks, map and caption tokens. A bundle that fails it is not written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..runtime.backends.base import Graph
from ..runtime.backends.onnxruntime_backend import open_graph
from ..runtime.bundle.bundle import CAPTION_WEIGHTS, Bundle, write_bundle
from ..runtime.bundle.spec import ModelSpec
from ..runtime.captions.native_captioning import NativeCaptionDecoder
from ..runtime.errors import ParityError, UsageError
from ..runtime.files import replacing_folder
from ..runtime.images.preprocess import preprocess
from ..runtime.model import Model
from ..runtime.progress import Say
from ..runtime.verification.golden import read_golden, unproven
from ..runtime.verification.replay import (
    GOLDEN_FOLDER,
    Answers,
    Check,
    Tolerances,
    answers_of,
    captions_of,
    compare,
    compare_captions,
    compare_heads,
    write_golden,
)
from ..train.checkpoint import Checkpoint
from ..train.network.any_network import AnyNetwork, network_of
from ..train.network.config import Task
from ..train.torch_backend import TorchGraph, parts_of, spec_of
from .destination import candidate_images, check_out, telling_images
from .onnx_graphs.caption_weights import write_caption_weights
from .onnx_graphs.fold import fold
from .onnx_graphs.graph_cleanup import check_no_constants, drop_metadata, drop_unread, fold_constants, name_by_module
from .onnx_graphs.graph_metadata import describe_graphs
from .onnx_graphs.graph_options import GraphOptions, spec_with_options, vision_with_options
from .onnx_graphs.quiet import quietly
from .parity.fold_proof import VisionCost, cost_line, prove_fold, unfolded_cost
from .precision.precisions import PrecisionOptions, add_precisions, check_inputs

OPSET = 18
# Any whole numbers do for the free axes: the graph keeps them free. One would be taken for a constant.
_EXAMPLE = {"batch": 2, "beam": 3, "past": 4}


def export_bundle(
    checkpoint: Checkpoint | str | Path,
    out: str | Path,
    input_size: tuple[int, int] | None = None,
    tasks: Sequence[Task] | None = None,
    images: Sequence[Path] | None = None,
    overwrite: bool = False,
    precisions: PrecisionOptions | None = None,
    progress: Say | None = None,
    options: GraphOptions | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: A checkpoint or its folder.
        out: Folder of the bundle; must not exist unless `overwrite`.
        input_size: (height, width) of the graphs, multiples of 32; by default what the network was trained at.
        tasks: The tasks to keep; by default all that the network has.
        images: Images to check the steps on and to keep for `verify`; by default those of the data set that int8 is
            scored on, else of the run's data set, else three drawn scenes. Of twelve spread over them, the three are
            used in which the network finds something for most of its tasks.
        overwrite: Replace what lies at `out`.
        precisions: What to write beside fp32, and how; by default nothing.
        progress: Called with one line per step.
        options: What to build into the vision graph; by default nothing beside the network.

    Returns:
        The bundle, verified. A precision that was asked for and did not pass is not in it; `Bundle.failed` says why.

    Raises:
        UsageError: If `out` exists, a task is not one of the network's, or the size or an option cannot be.
        CheckpointError: If the checkpoint cannot be opened.
        ParityError: If a step does not agree with the one before; nothing is written.
        CalibrationError: If int8 cannot be calibrated on what was given; nothing is written.
    """
    say = progress or (lambda line: None)
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    out = Path(out)
    check_out(out, overwrite)
    network = _with_tasks(opened.network(), tasks, input_size)
    options = options or GraphOptions()
    spec = spec_with_options(network.config, options)
    precisions = precisions or PrecisionOptions()
    check_inputs(precisions, spec)
    candidates = candidate_images(images, precisions.data, precisions.split, opened.path.parent)
    with Model(spec_of(network.config), parts_of(network)) as model:
        references = telling_images(candidates, network.config.input_size, model.predict)

    if opened.provenance.get("licence") == "unknown":  # as import writes it; what was trained here is the user's own
        say("warning: the licence of the weights is unknown")
    say("folding norms and implicit knowledge into the convolutions ...")
    folded = fold(network)
    proof = prove_fold(network, folded)
    say(proof.line())
    tolerances = proof.tolerances()
    parity: dict[str, Any] = {
        "folded": proof.float32,
        "folded_float64": proof.float64,
        "folded_rounding": proof.rounding,
        "tolerances": {"fp32": asdict(tolerances)},
    }
    with replacing_folder(out) as folder:
        graphs = {}
        for name, part in parts_of(folded).items():
            started = time.perf_counter()
            file = f"{name}.fp32.onnx"
            say(f"writing {file} ...")
            model = export_part(name, vision_with_options(part, folded, options) if name == "vision" else part)
            onnx.save(model, folder / file)
            graphs[name] = {"fp32": file}
            say(
                f"{file}: {len(model.graph.node)} nodes, {(folder / file).stat().st_size / 1e6:.1f} MB, "
                f"{time.perf_counter() - started:.1f} s"
            )
            if name == "vision":
                costs = unfolded_cost(network), VisionCost.of(folded, model)
                say(cost_line(*costs))
                parity["folding"] = {"before": costs[0].to_json(), "after": costs[1].to_json()}
        weights = _write_caption_weights(folder, network)
        if weights:
            say(f"comparing captions of the native decoder with the network's on {len(references)} images ...")
            parity["caption_fp32"] = _prove_caption_weights(network, folder / weights["fp32"], references)
            say(f"{', '.join(weights.values())}: native captions are the network's on {len(references)} images")
        say(f"comparing ONNX fp32 with the network on {len(references)} images ...")
        checks = _prove_graphs(network, spec, folder, graphs, references, tolerances)
        failures = [check for check in checks if not check.passed]
        if failures:
            first = failures[0]
            raise ParityError(
                f"ONNX fp32 differs from the network: {first.stage} on {first.golden}: {first.measured}, allowed "
                f"{first.allowed} ({len(failures)} of {len(checks)} checks failed); nothing was written to {out}"
            )
        say(f"ONNX fp32 agrees with the network in {len(checks)} checks on {len(references)} images")
        for warning in unproven(read_golden(file)[1] for file in sorted((folder / GOLDEN_FOLDER).iterdir())):
            say(f"warning: {warning}")
        parity["onnx_fp32"] = [asdict(check) for check in checks]
        added = add_precisions(folder, graphs, spec, references, precisions, say, opened.int8_bounds)
        parity["tolerances"].update(added.tolerances)
        parity.update(added.parity)
        describe_graphs(folder, spec, graphs, opened.sha256, opened.licence)
        write_bundle(
            folder,
            spec,
            graphs,
            licence=opened.licence,
            provenance={
                "checkpoint_sha256": opened.sha256,
                "checkpoint": opened.provenance,
                "exporter": {
                    "torch": torch.__version__,
                    "onnx": onnx.__version__,
                    "opset": OPSET,
                    "api": "torch.export",
                },
                **added.provenance,
            },
            parity=parity,
            accuracy=added.accuracy,
            caption_weights=weights,
        )
    return Bundle.open(out)


def _write_caption_weights(folder: Path, network: AnyNetwork) -> dict[str, str]:
    """The native caption decoder's weight files by precision; none for a network without captions."""
    if "caption" not in network.config.tasks:
        return {}
    parameters = {name: value.numpy() for name, value in network.caption_decoder.state_dict().items()}
    where = network.memory_positions(network.config.input_size).numpy()
    files = {}
    for precision in CAPTION_WEIGHTS:
        files[precision] = f"caption.{precision}.bin"
        path, decoder = folder / files[precision], network.caption_decoder
        write_caption_weights(
            path, parameters, where, decoder.heads, precision, regions=decoder.regions, padding=decoder.padding or 0
        )
    return files


def _prove_caption_weights(
    network: AnyNetwork, weights: Path, images: dict[str, NDArray[np.uint8]]
) -> list[dict[str, Any]]:
    """Hold the native decoder's captions from the float32 file against the network's.

    Raises:
        ParityError: If one differs.
    """
    spec = spec_of(network.config)
    assert spec.caption is not None
    own = parts_of(network)
    checks: list[Check] = []
    native = NativeCaptionDecoder(spec.caption, weights)
    with Model(spec, own) as reference, Model(spec, {"vision": own["vision"]}, native) as model:
        for name, image in images.items():
            checks += compare_captions(name, captions_of(reference, image), model, image)
    for check in checks:
        if not check.passed:
            raise ParityError(
                f"native caption decoder differs from the network: {check.stage} on {check.golden}: {check.measured}, "
                f"allowed {check.allowed}; nothing was written"
            )
    return [asdict(check) for check in checks]


def export_part(name: str, part: TorchGraph) -> onnx.ModelProto:
    """One part of a folded network as an ONNX graph with named tensors; free axes stay free."""
    inputs = []
    for info in part.inputs.values():
        shape = [_EXAMPLE.get(axis, 0) if isinstance(axis, str) else axis for axis in info.shape]
        is_index = info.dtype == "int64"
        inputs.append(torch.zeros(shape, dtype=torch.int64) if is_index else torch.randn(shape))
    axes = {
        axis: torch.export.Dim(axis) for info in part.inputs.values() for axis in info.shape if isinstance(axis, str)
    }
    dynamic = tuple(
        {i: axes[axis] for i, axis in enumerate(info.shape) if isinstance(axis, str)} for info in part.inputs.values()
    )
    with quietly():
        program = torch.onnx.export(
            part.part.eval(),
            tuple(inputs),
            dynamo=True,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.graph.name = name
    model.producer_name = "yolor-edge"
    name_by_module(model, *(("network.layers", "network") if name == "vision" else ("decoder",)))
    drop_metadata(model)
    fold_constants(model)
    drop_unread(model)
    check_no_constants(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _with_tasks(network: AnyNetwork, tasks: Sequence[Task] | None, input_size: tuple[int, int] | None) -> AnyNetwork:
    config = network.config
    absent = [task for task in tasks or () if task not in config.tasks]
    if absent:
        raise UsageError(
            f"<tasks>: the network has no task {', '.join(absent)}; it has {', '.join(config.tasks)}", argument="tasks"
        )
    chosen = config.with_tasks(tasks) if tasks and set(tasks) != set(config.tasks) else config
    chosen = chosen.with_input_size(input_size) if input_size else chosen
    if chosen == config:
        return network
    smaller = network_of(chosen)
    smaller.load_state_dict({name: network.state_dict()[name] for name in smaller.state_dict()})
    return smaller.eval()


def _prove_graphs(
    network: AnyNetwork,
    spec: ModelSpec,
    folder: Path,
    graphs: dict[str, dict[str, str]],
    images: dict[str, NDArray[np.uint8]],
    tolerances: Tolerances,
) -> list[Check]:
    """Run the network and the exported graphs on every image, compare, and keep the network's answers as golden."""
    own = parts_of(network)
    exported = {name: open_graph(folder / files["fp32"], None) for name, files in graphs.items()}
    checks: list[Check] = []
    with Model(spec_of(network.config), own) as reference, Model(spec, exported) as model:
        for name, image in images.items():
            expected: Answers = answers_of(reference, own["vision"], image)
            tensor, _ = preprocess(image, spec.preprocess)
            expected = replace(expected, region_margins=_region_margins(network, tensor[np.newaxis]))
            check_top_k(spec, name, expected)
            found, usual = answers_of(model, exported["vision"], image), spec.thresholds
            checks += compare(name, expected, found, tolerances, usual.score, usual.iou, usual.max_detections)
            write_golden(folder / GOLDEN_FOLDER / f"{name}.npz", image, expected)
        checks += _prove_batch(network, own["vision"], exported["vision"], spec.graph.batch or 3, tolerances)
    return checks


def _region_margins(network: AnyNetwork, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
    with torch.inference_mode():
        margins = network.region_margins(torch.from_numpy(images))
    return None if margins is None else margins.numpy()


def check_top_k(spec: ModelSpec, name: str, expected: Answers) -> None:
    """Refuse a `top_k` that already loses candidates on a reference image.

    Raises:
        UsageError: Saying how many there are.
    """
    if spec.graph.top_k is None:
        return
    threshold = spec.thresholds.score
    lowest = threshold if threshold > 0 else -np.inf
    if spec.score_coding == "logits" and threshold > 0:
        lowest = np.log(threshold / (1 - threshold))
    count = int(np.count_nonzero(expected.heads[spec.score_head][0].max(axis=0) > lowest))
    if count > spec.graph.top_k:
        raise UsageError(
            f"<top_k> is {spec.graph.top_k}, but {name} has {count} cells above the score threshold {threshold}, so "
            f"boxes would be lost; give at least {count}, better twice as many",
            argument="top_k",
        )


def _prove_batch(
    network: AnyNetwork, own: TorchGraph, exported: Graph, batch: int, tolerances: Tolerances
) -> list[Check]:
    """Several images at once give what the network gives."""
    shape = own.inputs["images"].shape
    images = np.random.default_rng(0).random((batch, *(int(axis) for axis in shape[1:])), dtype=np.float32)
    expected, found = own.run({"images": images}), exported.run({"images": images})
    margins = _region_margins(network, images)
    return compare_heads(f"batch of {batch}", expected, found, tolerances, margins)
