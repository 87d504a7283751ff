"""What a training with int8 in the loop begins with: the graph that an export would make, measured on images."""

from __future__ import annotations

from pathlib import Path

from ..runtime.errors import CheckpointError
from ..runtime.progress import Say
from ..train.checkpoint import Checkpoint
from ..train.network.layers import LayerNetwork
from ..train.quantisation import QuantisationPlan
from ..train.torch_backend import parts_of, spec_of
from .onnx_graphs.fold import fold
from .precision.calibration import FEW_IMAGES, CalibrationSet, Method, calibrate, calibration_files
from .precision.learned_bounds import plan_of
from .to_onnx import export_part


def plan_quantisation(
    checkpoint: Checkpoint | str | Path,
    images: str | Path,
    method: Method = "percentile",
    progress: Say | None = None,
) -> QuantisationPlan:
    """Find which convolutions and activations of a network an export holds in int8, and their first ranges.

    Args:
        checkpoint: The trained network that a training starts from: a checkpoint, its folder, or that of a run.
        images: To measure ranges on: a folder, a glob or a text file with one path a line.
        method: How outliers are treated, see `calibrate`.
        progress: Called with one line per step.

    Raises:
        CheckpointError: If it is no checkpoint, or holds an imported network.
        CalibrationError: If the images cannot be used.
    """
    say = progress or (lambda line: None)
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    network = opened.network()
    if isinstance(network, LayerNetwork):
        raise CheckpointError(
            f"{opened.path}: holds an imported network; training with int8 in the loop is for networks that yolor-edge "
            "trained from its own plan. Export it with --precision int8 --calibration IMAGES --data DATA instead"
        )
    pictures = CalibrationSet(calibration_files(images), spec_of(network.config).preprocess)
    if len(pictures) < FEW_IMAGES:
        say(f"warning: {len(pictures)} calibration images are few, {FEW_IMAGES} or more make ranges that hold")
    model = export_part("vision", parts_of(fold(network))["vision"])
    plan = plan_of(model, calibrate(model, pictures, method))
    say(f"int8 ranges of {len(plan.bounds)} groups of activations from {len(pictures)} images")
    return plan
