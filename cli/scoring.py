"""`evaluate` of the command line: a checkpoint is scored in torch, a bundle in whatever backend runs it."""

from __future__ import annotations

from pathlib import Path

from .evaluation.dataset.opening import Data
from .evaluation.evaluator import Evaluation, ScoreOptions, evaluate
from .runtime.captions.captioning import CaptionOptions
from .runtime.errors import UsageError
from .runtime.options import LoadOptions
from .runtime.progress import Count


def evaluate_checkpoint_or_bundle(
    path: str,
    data: Data,
    split: str | None = None,
    limit: int | None = None,
    *,
    load: LoadOptions,
    caption: CaptionOptions | None,
    progress: Count | None = None,
    options: ScoreOptions = ScoreOptions(),
    device: str | None = None,
    batch: int | None = None,
) -> Evaluation:
    """See `evaluation.evaluate` and `train.evaluate_checkpoint`.

    Raises:
        UsageError: If `path` is neither, or something is asked for that is not for it.
    """
    folder = Path(path)
    if (folder / "bundle.json").is_file():
        own = tuple(name for name, value in (("device", device), ("batch", batch)) if value is not None)
        if own:
            named = ", ".join(f"<{name}>" for name in own)
            raise UsageError(
                f"{path}: is a bundle, which is scored image by image where its backend runs; {named} is for a "
                "checkpoint, choose <backend>",
                argument=(*own, "backend"),
            )
        return evaluate(path, data, split, limit, load=load, caption=caption, progress=progress, options=options)
    if not folder.exists():
        raise UsageError(f"{path}: does not exist; expected the folder of a checkpoint or a bundle")
    # Looked for here, so that a wrong folder is told from a right one where torch is not installed.
    if not any((place / "checkpoint.json").is_file() for place in (folder, folder / "checkpoint")):
        raise UsageError(
            f"{path}: is neither a checkpoint nor a bundle (no checkpoint.json or bundle.json in it); "
            "expected a folder written by yolor-edge train or yolor-edge export"
        )
    usual = LoadOptions()
    foreign = tuple(
        name for name in ("backend", "precision", "caption_decoder") if getattr(load, name) != getattr(usual, name)
    )
    if foreign:
        named = ", ".join(f"<{name}>" for name in foreign)
        raise UsageError(
            f"{path}: is a checkpoint, which is scored in torch with float32; {named} is for a bundle, "
            f"export one: yolor-edge export {path} --out BUNDLE",
            argument=foreign,
        )
    if load.processing == "gpu":
        raise UsageError(
            f"{path}: is a checkpoint, which is scored with post-processing on the CPU; export a bundle of it",
            argument="processing",
        )
    from .train.scoring import evaluate_checkpoint

    return evaluate_checkpoint(
        path, data, split, limit, caption, progress, options, device=device or "auto", batch=batch
    )
