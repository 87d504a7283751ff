"""Time and memory of scoring a large validation split, beside pycocotools on the same detections.

    python -m yolor_edge.benchmarks.studies.scoring_speed

Images of 640 x 480 with some seven objects of 80 classes, 300 detections each with masks, semantic maps of 133 classes
with panoptic truth, and five captions. Each side runs in a process of its own, which says its processor time and the
most memory it held; drawing the detections, which is the same for both, is not counted. pycocotools scores boxes and
masks alone, and is given run lengths as its results format has them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...evaluation.dataset.truth import PanopticMap, Truth
from ...evaluation.scores import RESAMPLES, Predictions
from ...runtime.files import write_atomically
from ...runtime.images.image_files import write_image
from ...runtime.results import Caption, InstanceMasks, Result
from ..report.machine import describe_machine, describe_state
from ..report.report_files import output_folder

SIZE = (480, 640)
CLASSES, SEMANTIC_CLASSES = 80, 133
WORDS = ["man", "dog", "red", "on", "a", "the", "street", "field", "holding", "two", "people", "table", "near", "of"]


def ellipse(box: np.ndarray) -> tuple[int, int, np.ndarray]:
    """The mask of an ellipse in an xyxy box, as `InstanceMasks` takes it."""
    x1, y1 = np.floor(box[:2]).astype(int).tolist()
    x2, y2 = np.ceil(box[2:]).astype(int).tolist()
    crop = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.ellipse(crop, ((x2 - x1) // 2, (y2 - y1) // 2), ((x2 - x1) // 2, (y2 - y1) // 2), 0, 0, 360, 1, cv2.FILLED)
    return y1, x1, crop


def drawn_image(index: int, detections: int, folder: Path) -> tuple[Truth, Result]:
    """Truth and result of one image, the same at every call; its panoptic PNG is written to `folder`."""
    rng = np.random.default_rng(index)
    limits = np.array([SIZE[1], SIZE[0]] * 2, np.float64)

    def boxes_of(centres: np.ndarray, sides: np.ndarray) -> np.ndarray:
        boxes = np.clip(np.hstack([centres - sides / 2, centres + sides / 2]), 0, limits)
        return np.hstack([np.minimum(boxes[:, :2], limits[:2] - 2), np.maximum(boxes[:, 2:], boxes[:, :2] + 2)])

    objects = 1 + int(rng.poisson(6.3))
    centres = rng.uniform(0, 1, (objects, 2)) * limits[:2]
    sides = np.exp(rng.normal(4.2, 0.9, (objects, 2))).clip(4, 500)
    class_ids = rng.integers(0, 6, objects) * 13 % CLASSES  # few classes in an image, as in COCO
    boxes = boxes_of(centres, sides)
    rles = InstanceMasks([ellipse(box) for box in boxes], SIZE).rle()

    again = rng.integers(0, objects, detections // 3)
    others = detections - len(again)
    noise = rng.normal(0, 0.1, (len(again), 4)) * np.tile(sides[again], 2)
    found = np.vstack(
        [
            boxes_of(centres[again] + noise[:, :2], np.abs(sides[again] + noise[:, 2:])),
            boxes_of(
                rng.uniform(0, 1, (others, 2)) * limits[:2], np.exp(rng.normal(4.2, 0.9, (others, 2))).clip(4, 500)
            ),
        ]
    ).astype(np.float32)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    scores = np.concatenate([rng.beta(2, 2, len(again)), rng.beta(0.3, 6, others)]).astype(np.float32)
    scores = np.maximum(scores, np.float32(0.001))
    found_ids = np.concatenate([class_ids[again], rng.integers(0, CLASSES, others)])
    order = np.argsort(-scores, kind="stable")

    grid = rng.integers(0, 12, (6, 8))
    segments = cv2.resize(grid.astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    panoptic = np.zeros((*SIZE, 3), np.uint8)
    panoptic[..., 2], panoptic[..., 1] = segments, segments // 5
    write_image(folder / "panoptic.png", panoptic)
    ids = np.unique(grid[grid > 0])
    classes = {int(i + (i // 5 << 8)): int(rng.integers(0, SEMANTIC_CLASSES)) for i in ids}
    table = np.array([0, *(classes.get(i + (i // 5 << 8), 0) for i in range(1, 12))], np.uint8)
    semantic_map = np.roll(table[np.asarray(segments, np.intp)], 20, axis=1)
    text = [" ".join(rng.choice(WORDS, 10)) for _ in range(6)]
    truth = Truth(
        index + 1,
        Path("drawn.jpg"),
        SIZE,
        boxes=boxes.astype(np.float32),
        annotated_boxes=np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]),
        class_ids=class_ids,
        crowd=rng.random(objects) < 0.01,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * 0.75,
        segmentations=tuple(rles),
        captions=tuple(text[1:]),
        semantic=PanopticMap(folder / "panoptic.png", classes),
    )
    result = Result(
        SIZE,
        boxes=found[order],
        scores=scores[order],
        class_ids=found_ids[order].astype(np.int32),
        masks=InstanceMasks([ellipse(box) for box in found[order]], SIZE),
        semantic_map=semantic_map,
        caption=Caption(text[0], (), 0.0, 0.0),
    )
    return truth, result


@contextlib.contextmanager
def timed(spent: dict[str, float], what: str) -> Iterator[None]:
    """Adds the processor seconds of the block to `spent`."""
    started = time.process_time()
    yield
    spent[what] = spent.get(what, 0.0) + time.process_time() - started


def peak_mib() -> float:
    """The most memory this process held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def score_ours(images: int, detections: int) -> dict[str, Any]:
    """Everything that `evaluate` gives, with intervals."""
    names = tuple(f"class {i}" for i in range(SEMANTIC_CLASSES))
    predictions, spent = Predictions(names[:CLASSES], names), {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(images):
            truth, result = drawn_image(index, detections, Path(folder))
            with timed(spent, "images"):
                predictions.add(truth, result)
    with timed(spent, "scores"):
        scores = predictions.finish()
    with timed(spent, "scores with intervals"):
        predictions.finish(RESAMPLES)
    return {"seconds": spent, "peak_mib": peak_mib(), "figures": _figures(vars(scores))}


def _figures(scores: dict[str, Any]) -> list[float]:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    return [scores[f"{kind}_{name}"] for kind in ("box", "mask") for name in names]


def score_theirs(images: int, detections: int) -> dict[str, Any]:
    """Boxes and masks by pycocotools."""
    truths: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
    spent: dict[str, float] = {}
    folder = tempfile.TemporaryDirectory()
    for index in range(images):
        truth, result = drawn_image(index, detections, Path(folder.name))
        assert truth.annotated_boxes is not None and truth.rles is not None and truth.class_ids is not None
        assert truth.crowd is not None and truth.areas is not None and result.masks is not None
        assert result.boxes is not None and result.scores is not None and result.class_ids is not None
        for i, box in enumerate(truth.annotated_boxes.tolist()):
            entry = {"id": len(truths) + 1, "image_id": index + 1, "category_id": int(truth.class_ids[i])}
            entry |= {"bbox": box, "segmentation": truth.rles[i], "area": float(truth.areas[i])}
            truths.append({**entry, "iscrowd": int(truth.crowd[i])})
        boxes = result.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        with timed(spent, "images"):
            rles = result.masks.rle()
        for i, box in enumerate(boxes.tolist()):
            entry = {"image_id": index + 1, "category_id": int(result.class_ids[i]), "score": float(result.scores[i])}
            found["bbox"].append({**entry, "bbox": box})
            found["segm"].append({**entry, "segmentation": rles[i]})
    folder.cleanup()
    figures: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        listed = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(images)]
        coco.dataset = {"images": listed, "annotations": truths, "categories": [{"id": i} for i in range(CLASSES)]}
        coco.createIndex()
        for kind in ("bbox", "segm"):
            with timed(spent, "scores"):
                evaluation = COCOeval(coco, coco.loadRes(found.pop(kind)), kind)  # type: ignore[arg-type]
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            figures += evaluation.stats[:9].tolist()
    return {"seconds": spent, "peak_mib": peak_mib(), "figures": figures}


SIDES = {"ours": score_ours, "pycocotools": score_theirs}


def measure(side: str, images: int, detections: int) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--side", side]
    command += ["--images", str(images), "--detections", str(detections)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"side": side, "images": images, "detections": detections, **json.loads(done.stdout)}


def main(arguments: list[str] | None = None) -> int:
    """Measure and write scoring-speed.json."""
    parser = argparse.ArgumentParser(description="Time the scoring of a large validation split.")
    parser.add_argument("--out", type=output_folder, default=Path("."), help="folder for scoring-speed.json")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="in each image")
    parser.add_argument("--peer-images", type=int, default=1000, help="images on which pycocotools is measured beside")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(SIDES[options.side](options.images, options.detections)))
        return 0
    state = describe_state()
    rows = []
    for side, images in (
        ("pycocotools", options.peer_images),
        ("ours", options.peer_images),
        ("ours", options.images),
    ):
        rows.append(measure(side, images, options.detections))
        seconds = ", ".join(f"{what} {value:.1f} s" for what, value in rows[-1]["seconds"].items())
        print(f"{side:<12}{images:>6} images: {seconds}; peak {rows[-1]['peak_mib']:.0f} MiB", flush=True)
    apart = float(np.abs(np.subtract(rows[0]["figures"], rows[1]["figures"])).max())
    report = {
        "machine": describe_machine(),
        "state": {"before": state, "after": describe_state()},
        "largest_difference_from_pycocotools": apart,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "scoring-speed.json", json.dumps(report, indent=1) + "\n")
    print(f"figures differ by at most {apart:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
