"""`yolor-edge bench`: one bundle on one machine, into a latency report with its accuracy beside it."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.backends.registry import backend_entry, graph_files
from ...runtime.backends.scored import unscored
from ...runtime.bundle.bundle import Bundle
from ...runtime.captions.captioning import CaptionOptions
from ...runtime.environment.cores import usable_cores
from ...runtime.errors import UsageError
from ...runtime.files import check_can_be_written
from ...runtime.images.image_files import write_image
from ...runtime.model import Model, caption_decoder_name, with_fastest
from ...runtime.model import load as open_model
from ...runtime.options import LoadOptions, PredictOptions
from ...runtime.progress import Count
from ...runtime.sources.sources import open_source
from ...runtime.verification.replay import GOLDEN_FOLDER, read_golden
from .machine import busy_share, describe_machine, describe_state, peak_memory_bytes, source_commit
from .measure import WarmUp, measure
from .report import Report
from .report_page import save

if TYPE_CHECKING:
    from ...evaluation.dataset.opening import Data

_NO_TRANSFERS = "none, everything runs on the CPU"
_HEADS_BACK = "the letterboxed image to the GPU and raw heads back, in the stage network"
_ANSWERS_BACK = (
    "the image's bytes to the GPU, in the stage preprocess; boxes, masks, semantic map and caption memory back, each "
    "in its own stage"
)


def bench(
    bundle: Bundle | str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    runs: int = 200,
    data: Data | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    load: LoadOptions = LoadOptions(),
    predict: PredictOptions = PredictOptions(),
    warmup: WarmUp | None = None,
    maximum_seconds: float | None = None,
    command: str | None = None,
    progress: Count | None = None,
) -> Report:
    """Measure a bundle on this machine and write `report.json` and `report.md`.

    Args:
        bundle: A bundle folder, or one already opened.
        out: Folder of the report, made if missing.
        images: An image, a folder of images or a glob; None for those of `data`, else the bundle's golden
            inputs.
        runs: How many runs count.
        data: A data set, or several put together, to score the same bundle on; None for no accuracy.
        split: Its split; None for the first whose name starts with "val", or the only one.
        limit: Score only its first images.
        load: How the bundle is opened.
        predict: What is asked of each image while timing. The accuracy is always of all tasks, with the same captions.
        warmup: When to begin counting; None for the defaults.
        maximum_seconds: End the counted runs after this time; None for no limit.
        command: What to name as the command in the report; None for that of this process.
        progress: Called with what is going on ("timing", "scoring"), how much is done, and how much there is.

    Returns:
        The report as it was written.

    Raises:
        UsageError: If an argument makes no sense or `out` is a file.
        BundleError, DatasetError, ImageError: If what is to be read is not as it should be.
        BackendError: If the backend is not installed or fails.
        OSError: If the disk refuses.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, expected a folder to write the report to", "out")
    check_can_be_written(folder)
    if limit is not None and limit < 1:
        raise UsageError(f"<limit> must be at least 1, got {limit}", argument="limit")
    caption = predict.caption or CaptionOptions()
    before = {**describe_state(), "cpu_busy_share": busy_share()}
    dataset = _open_dataset(data, split)

    cold: dict[str, Any] = {}
    started = time.perf_counter_ns()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    cold["bundle_open_ms"] = _milliseconds_since(started) if opened is not bundle else "unknown"
    load = with_fastest(opened, load)
    backend, precision = load.backend, load.precision
    was_imported = backend_entry(backend).imports in sys.modules
    started = time.perf_counter_ns()
    open_model(opened, options=load).close()
    cold["first_load_ms"] = _milliseconds_since(started)
    cold["first_load_imports_backend"] = not was_imported
    started = time.perf_counter_ns()
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(opened, options=load))
        cold["load_ms"] = _milliseconds_since(started)
        if dataset is not None:
            from ...evaluation.evaluator import shared_tasks

            shared_tasks(model, dataset)  # refused now, not after the timing
        pictures, origin = stack.enter_context(_pictures(images, dataset, opened))
        measured = measure(
            model,
            pictures,
            runs,
            predict,
            warmup=warmup,
            maximum_seconds=maximum_seconds,
            progress=progress,
        )
        cold["first_inference_ms"] = round(measured.first_inference_ms, 3)
        peak = peak_memory_bytes()
        accuracy = None
        if dataset is not None:
            accuracy = _accuracy(model, dataset, limit, caption, progress)
        spec, facts, ran_on = model.spec, model.facts, model.processing
    rule = warmup or WarmUp()
    graph_paths = graph_files(opened, backend, precision).values()
    on_gpu = backend_entry(backend).needs_gpu
    limits = spec.thresholds
    report = Report(
        identity={
            "name": spec.name,
            "bundle": str(opened.path),
            "bundle_sha256": opened.digest,
            "files_sha256": {
                path.name: opened.files.get(path.relative_to(opened.path).as_posix(), "unknown") for path in graph_paths
            },
            "backend": backend if on_gpu else f"{backend}-cpu",
            "precision": precision,
            **({"not_scored": gap} if (gap := unscored(opened, backend, precision)) else {}),
            "commit": source_commit(),
            "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "provenance": dict(opened.provenance),
        },
        machine=describe_machine(),
        protocol={
            "scenario": "single stream: the next image when the last is done",
            "batch": 1,
            "tasks": list(spec.choose_tasks(predict.tasks)),
            "input_size": list(spec.input_size),
            "threads": load.threads or usable_cores(),
            "runs_asked_for": runs,
            "maximum_seconds": maximum_seconds,
            "warmup": {
                "rule": "until the time has passed and two successive windows of runs have like medians",
                "minimum_seconds": rule.minimum_seconds,
                "maximum_seconds": rule.maximum_seconds,
                "tolerance": rule.tolerance,
                "was_steady": measured.is_steady,
            },
            "pictures": origin,
            "score_threshold": limits.score if predict.score_threshold is None else predict.score_threshold,
            "iou_threshold": limits.iou if predict.iou_threshold is None else predict.iou_threshold,
            "max_detections": predict.max_detections or limits.max_detections,
            "caption_beam_size": "none" if spec.caption is None else caption.for_model(spec.caption).beam_size,
            "caption_decoder": caption_decoder_name(opened, load),
            "caption_budget_ms": "none" if caption.budget_ms is None else caption.budget_ms,
            "seed": "none, nothing is drawn at random",
            "timed": "from the path of an image file, in the file cache, to the result in memory",
            "clock": "time.perf_counter_ns",
            "post_processing": ran_on,
            "transfers": _transfers(backend, ran_on),
            **({"on_device": facts} if facts else {}),
            "state_before": before,
        },
        cold=cold,
        memory={
            "peak_rss_bytes": peak,
            "graph_bytes": {path.name: path.stat().st_size for path in graph_paths},
            "bundle_bytes": sum((opened.path / name).stat().st_size for name in opened.files),
        },
        measurement=measured,
        accuracy=accuracy,
    )
    save(report, folder)
    return report


@contextlib.contextmanager
def _pictures(
    images: str | os.PathLike[str] | None, dataset: Any, bundle: Bundle
) -> Iterator[tuple[list[Path], dict[str, Any]]]:
    """The files to measure with, and where they come from; those made for the purpose are gone afterwards."""
    if images is not None:
        source = open_source(images)
        if source.kind != "images":
            raise UsageError(f"{source.name}: is a video or a camera; a report needs images", "images")
        yield list(source.files), {"origin": "files", "path": os.fspath(images)}
    elif dataset is not None:
        files = [dataset[i].path for i in range(len(dataset))]
        yield files, {"origin": "data set", "path": str(dataset.root), "split": dataset.split}
    else:
        with tempfile.TemporaryDirectory(prefix="yolor-edge-bench-") as folder:
            files = _reference_images(bundle, Path(folder))
            yield files, {"origin": "reference inputs of the bundle, written as JPEG", "path": "golden"}


def _reference_images(bundle: Bundle, folder: Path) -> list[Path]:
    """The images of the bundle's reference inputs, written as files.

    Raises:
        UsageError: If there are none.
    """
    files: list[Path] = []
    for name in sorted(name for name in bundle.files if name.startswith(f"{GOLDEN_FOLDER}/")):
        image, _ = read_golden(bundle.path / name)
        files.append(folder / f"{Path(name).stem}.jpg")
        write_image(files[-1], image)
    if not files:
        raise UsageError(f"{bundle.path}: has no reference inputs to measure with; pass <images>", argument="images")
    return files


def _open_dataset(data: Data | None, split: str | None) -> Any:
    """The data set to score on, or None."""
    if data is None:
        if split is not None:
            raise UsageError("a split was named without a data set; pass <data>", argument=("split", "data"))
        return None
    from ...evaluation.dataset.opening import open_dataset

    return open_dataset(data, split, "val")


def _accuracy(
    model: Model, dataset: Any, limit: int | None, caption: CaptionOptions, progress: Count | None
) -> dict[str, Any]:
    """Scores of the very model that was timed."""
    from ...evaluation.evaluator import SCORE_THRESHOLD, score_model

    evaluation = score_model(
        model,
        dataset,
        limit,
        caption,
        progress,
    )
    found = evaluation.to_json()
    found["score_threshold"] = SCORE_THRESHOLD
    found["table"] = evaluation.table()
    return found


def _transfers(backend: str, processing: str) -> str:
    """What crosses the bus for an image."""
    if not backend_entry(backend).needs_gpu:
        return _NO_TRANSFERS
    return _ANSWERS_BACK if processing == "gpu" else _HEADS_BACK


def _milliseconds_since(started_ns: int) -> float:
    return round((time.perf_counter_ns() - started_ns) / 1e6, 3)
