"""From a checkpoint to a bundle: fold, export, prove each step against the one before, seal.

The ladder is network -> folded network -> ONNX in fp32, on real images: every raw output within 1e-3 of its own scale,
the same boxes, masks, map and caption tokens. A bundle that fails it is not written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..runtime.backends.onnxruntime_backend import open_graph
from ..runtime.bundle import CAPTION_WEIGHTS, Bundle, write_bundle
from ..runtime.errors import ParityError, UsageError
from ..runtime.files import replacing_folder
from ..runtime.images import read_image
from ..runtime.model import Model
from ..runtime.native_captioning import NativeCaptionDecoder
from ..runtime.verify import (
    GOLDEN_FOLDER,
    Answers,
    Check,
    Tolerances,
    answers_of,
    captions_of,
    compare,
    compare_captions,
    write_golden,
)
from ..train.checkpoint import Checkpoint
from ..train.config import NetworkConfig, Task, check_input_size
from ..train.network import Network
from ..train.scene_drawing import draw_scene
from ..train.torch_backend import TorchGraph, parts_of, spec_of
from .caption_weights import write_caption_weights
from .fold import fold
from .graph_cleanup import drop_metadata, fold_constants, name_by_module

OPSET = 18
# Folding is exact but for rounding; a difference beyond this is a mistake.
FOLD_TOLERANCE = 1e-4
GOLDEN_IMAGES = 3
# Any whole numbers do for the free axes: the graph keeps them free. One would be taken for a constant.
_EXAMPLE = {"batch": 2, "beam": 3, "past": 4}

Progress = Callable[[str], None]


def export_bundle(
    checkpoint: Checkpoint | str | Path,
    out: str | Path,
    input_size: tuple[int, int] | None = None,
    tasks: Sequence[Task] | None = None,
    golden_images: Sequence[Path] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: A checkpoint or its folder.
        out: Folder of the bundle; must not exist unless `overwrite`.
        input_size: (height, width) of the graphs, multiples of 32; by default what the network was trained at.
        tasks: The heads to keep; by default all that the network has.
        golden_images: Pictures to prove the steps on and to keep for `verify`; by default three drawn scenes. The
            first three are used.
        overwrite: Replace what lies at `out`.
        progress: Called with one line per step.

    Returns:
        The bundle, verified.

    Raises:
        UsageError: If `out` exists, a task is not one of the network's, or the size cannot be.
        CheckpointError: If the checkpoint cannot be opened.
        ParityError: If a step does not agree with the one before; nothing is written.
    """
    say = progress or (lambda line: None)
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, so it is not replaced; choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already; choose another --out or replace it with --force")
    if out.exists() and any(out.iterdir()) and not (out / "bundle.json").is_file():
        raise UsageError(f"{out}: exists and is not a bundle, so it is not replaced; choose another --out")
    network = _with_tasks(opened.network(), tasks, input_size)
    images = _golden_images(golden_images, network.config.input_size)

    folded = fold(network)
    say(_fold_summary(network, folded))
    parity: dict[str, Any] = {
        "folded": prove_fold(network, folded),
        "tolerances": {"fp32": asdict(Tolerances())},
    }
    with replacing_folder(out) as folder:
        graphs = {}
        for name, part in parts_of(folded).items():
            started = time.perf_counter()
            model = export_part(name, part)
            file = f"{name}.fp32.onnx"
            onnx.save(model, folder / file)
            graphs[name] = {"fp32": file}
            say(
                f"{file}: {len(model.graph.node)} nodes, {(folder / file).stat().st_size / 1e6:.1f} MB, "
                f"{time.perf_counter() - started:.1f} s"
            )
        weights = _write_caption_weights(folder, network)
        if weights:
            parity["caption_fp32"] = _prove_caption_weights(network, folder / weights["fp32"], images)
            say(f"{', '.join(weights.values())}: native captions are the network's on {len(images)} images")
        checks = _prove_graphs(network, folder, graphs, images)
        failures = [check for check in checks if not check.passed]
        if failures:
            first = failures[0]
            raise ParityError(
                f"ONNX fp32 differs from the network: {first.stage} on {first.golden}: {first.measured}, allowed "
                f"{first.allowed} ({len(failures)} of {len(checks)} checks failed); nothing was written to {out}"
            )
        say(f"ONNX fp32 agrees with the network in {len(checks)} checks on {len(images)} images")
        parity["onnx_fp32"] = [asdict(check) for check in checks]
        write_bundle(
            folder,
            spec_of(network.config),
            graphs,
            provenance={
                "checkpoint_sha256": opened.sha256,
                "checkpoint": opened.provenance,
                "exporter": {
                    "torch": torch.__version__,
                    "onnx": onnx.__version__,
                    "opset": OPSET,
                    "api": "torch.export",
                },
            },
            parity=parity,
            caption_weights=weights,
        )
    return Bundle.open(out)


def _write_caption_weights(folder: Path, network: Network) -> dict[str, str]:
    """The native caption decoder's weight files by precision; none for a network without captions."""
    if "caption" not in network.config.tasks:
        return {}
    parameters = {name: value.numpy() for name, value in network.caption_decoder.state_dict().items()}
    where = network.memory_positions(network.config.input_size).numpy()
    files = {}
    for precision in CAPTION_WEIGHTS:
        files[precision] = f"caption.{precision}.bin"
        heads = network.config.plan.caption_heads
        write_caption_weights(folder / files[precision], parameters, where, heads, precision)
    return files


def _prove_caption_weights(
    network: Network, weights: Path, images: dict[str, NDArray[np.uint8]]
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


def prove_fold(network: Network, folded: Network) -> dict[str, float]:
    """Largest difference of every raw output between a network and its fold, relative to the output's scale.

    Raises:
        ParityError: If one is beyond `FOLD_TOLERANCE`.
    """
    height, width = network.config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, height, width, generator=generator)
    differences = {}
    with torch.inference_mode():
        for (name, before), after in zip(network(images).items(), folded(images).values(), strict=True):
            worst = float((after - before).abs().max() / before.abs().max().clamp(min=1e-12))
            if not worst <= FOLD_TOLERANCE:
                raise ParityError(
                    f"folded network: output {name!r} differs by {worst:.1e}, allowed {FOLD_TOLERANCE:.0e}"
                )
            differences[name] = worst
    return differences


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
    with _quietly():
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
    name_by_module(model, root="network" if name == "vision" else "decoder")
    drop_metadata(model)
    fold_constants(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _with_tasks(network: Network, tasks: Sequence[Task] | None, input_size: tuple[int, int] | None) -> Network:
    config = network.config
    absent = [task for task in tasks or () if task not in config.tasks]
    if absent:
        raise UsageError(f"the network has no head for {', '.join(absent)}; it has {', '.join(config.tasks)}")
    chosen: NetworkConfig = replace(
        config,
        tasks=tuple(tasks) if tasks else config.tasks,
        input_size=check_input_size(input_size) if input_size else config.input_size,
    )
    if chosen == config:
        return network
    smaller = Network(chosen)
    smaller.load_state_dict({name: network.state_dict()[name] for name in smaller.state_dict()})
    return smaller.eval()


def _golden_images(paths: Sequence[Path] | None, input_size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    if paths:
        return {f"{i}-{path.stem}": read_image(path) for i, path in enumerate(paths[:GOLDEN_IMAGES])}
    # Larger than the input in one direction, so that resizing and padding are part of what is proven.
    height, width = input_size
    size = (min(2048, max(64, height * 5 // 4)), min(2048, max(64, width)))
    return {f"scene-{i}": draw_scene(0, i, size).image for i in range(GOLDEN_IMAGES)}


def _prove_graphs(
    network: Network, folder: Path, graphs: dict[str, dict[str, str]], images: dict[str, NDArray[np.uint8]]
) -> list[Check]:
    """Run the network and the exported graphs on every image, compare, and keep the network's answers as golden."""
    spec = spec_of(network.config)
    own = parts_of(network)
    exported = {name: open_graph(folder / files["fp32"], None) for name, files in graphs.items()}
    checks: list[Check] = []
    with Model(spec, own) as reference, Model(spec, exported) as model:
        for name, image in images.items():
            expected: Answers = answers_of(reference, own["vision"], image)
            checks += compare(name, expected, answers_of(model, exported["vision"], image), Tolerances())
            write_golden(folder / GOLDEN_FOLDER / f"{name}.npz", image, expected)
        checks += _prove_batch(own["vision"], exported["vision"])
    return checks


def _prove_batch(network: TorchGraph, exported: Any) -> list[Check]:
    """The batch axis is free: three images at once give what the network gives."""
    shape = network.inputs["images"].shape
    images = np.random.default_rng(0).random((3, *(int(axis) for axis in shape[1:])), dtype=np.float32)
    expected, found = network.run({"images": images}), exported.run({"images": images})
    checks = []
    for name, value in expected.items():
        worst = float(np.abs(found[name] - value).max() / max(float(np.abs(value).max()), 1e-12))
        allowed = Tolerances().head
        checks.append(
            Check("batch of 3", name, f"{worst:.1e}", f"<= {allowed:.0e} of its scale", bool(worst <= allowed))
        )
    return checks


def _fold_summary(network: Network, folded: Network) -> str:
    before, after = (sum(p.numel() for p in net.parameters()) for net in (network, folded))
    modules = [sum(1 for m in net.modules() if not list(m.children())) for net in (network, folded)]
    return f"folded: {before / 1e6:.3f} M parameters in {modules[0]} modules -> {after / 1e6:.3f} M in {modules[1]}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's remarks about itself (absent torchvision, its own deprecations) off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
