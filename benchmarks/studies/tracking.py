"""How well and how fast objects are followed, beside public trackers with the same association.

    python -m yolor_edge.benchmarks.studies.tracking --out benchmarks/results/tracking.json

Sequences of `yolor-edge scenes --video` with what a detector might find in them: boxes that tremble, scores that fall
with what is hidden, objects that are missed and others that are not there, the same for every tracker. MOTA, IDF1 and
HOTA are those of TrackEval. Trackers take each frame in turns, in one process, so that what else the machine does meets
all of them. It needs the packages trackeval, trackers and supervision below 0.28, which has a ByteTrack:

    pip install trackeval trackers && pip install --no-deps supervision==0.27.0

What is missing of the trackers is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...evaluation.scenes.scene_videos import TrackTruth, draw_video
from ...runtime.files import write_atomically
from ...runtime.results import Result
from ...runtime.tracking.tracker import Tracker
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

SIZE = (360, 640)
CLASSES = 8
LEAST_VISIBLE = 0.1  # of an object that is to be followed
HIGH, NEW = 0.5, 0.6  # scores, for every tracker that takes them

# A frame's (boxes, scores, class ids, image) to the ids of the boxes.
Follow = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8]], NDArray[np.int64]]


@dataclass(frozen=True)
class Footage:
    """Frames with what is true and what was found."""

    name: str
    images: list[NDArray[np.uint8]]
    truths: list[list[TrackTruth]]
    boxes: list[NDArray[np.float32]]
    scores: list[NDArray[np.float32]]
    class_ids: list[NDArray[np.int32]]


def found_in(truths: Sequence[TrackTruth], rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """What a middling detector finds: boxes (n, 4) float32, scores (n,) float32, class ids (n,) int32."""
    boxes, scores, class_ids = [], [], []
    for truth in truths:
        seen = truth.visibility
        if seen < LEAST_VISIBLE or rng.random() > 0.55 + 0.42 * seen:
            continue
        x1, y1, x2, y2 = truth.box
        side = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
        boxes.append(np.array(truth.box) + rng.normal(0, 0.025 + 0.05 * (1 - seen), 4) * side)
        scores.append(np.clip(0.3 + 0.55 * seen + rng.normal(0, 0.1), 0.02, 0.99))
        class_ids.append(truth.class_id if rng.random() > 0.02 else rng.integers(CLASSES))
    for _ in range(rng.poisson(0.7)):  # what is not there
        corner, side = rng.uniform(0, (SIZE[1] - 60, SIZE[0] - 60)), rng.uniform(20, 60, 2)
        boxes.append(np.concatenate([corner, corner + side]))
        scores.append(np.clip(rng.normal(0.35, 0.15), 0.02, 0.95))
        class_ids.append(rng.integers(CLASSES))
    order = np.argsort(-np.array(scores), kind="stable")
    return (
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.array(class_ids, np.int32)[order],
    )


def drawn_sequence(seed: int, index: int, frames: int, objects: int, camera: Any) -> Footage:
    """One sequence of `scenes --video`, and what was found in it."""
    rng = np.random.default_rng([seed, index, 3])
    drawn = list(draw_video(seed, index, frames, SIZE, objects, camera))
    found = [found_in(truths, rng) for _, truths in drawn]
    boxes, scores, class_ids = (list(each) for each in zip(*found, strict=True))
    images, truths = (list(each) for each in zip(*drawn, strict=True))
    return Footage(f"{camera} {index + 1}", images, truths, boxes, scores, class_ids)


def crowd(count: int, frames: int) -> Footage:
    """`count` boxes in every frame, for the time alone."""
    rng = np.random.default_rng(5)
    place, velocity = rng.uniform(0, (1880, 1040), (count, 2)), rng.normal(0, 3, (count, 2))
    side = rng.uniform(20, 90, (count, 2))
    boxes = []
    for frame in range(frames):
        corner = place + velocity * frame + rng.normal(0, 1, (count, 2))
        boxes.append(np.concatenate([corner, corner + side], axis=1).astype(np.float32))
    scores = [np.clip(rng.normal(0.75, 0.2, count), 0.1, 1).astype(np.float32) for _ in range(frames)]
    class_ids = [np.zeros(count, np.int32)] * frames
    image = np.zeros((1080, 1920, 3), np.uint8)
    return Footage(f"crowd of {count}", [image] * frames, [[]] * frames, boxes, scores, class_ids)


def ours(**options: Any) -> Follow:
    """A tracker of this package."""
    tracker = Tracker(high_score=HIGH, new_score=NEW, **options)

    def follow(boxes: Any, scores: Any, class_ids: Any, image: Any) -> NDArray[np.int64]:
        result = Result(image.shape[:2], boxes=boxes, scores=scores, class_ids=class_ids)
        ids = tracker.update(result, image).track_ids
        return np.empty(0, np.int64) if ids is None else ids

    return follow


def _numbered(boxes: Any, tracked: Any) -> NDArray[np.int64]:
    """The ids of `boxes`, from the detections that a tracker gave back in an order of its own."""
    ids = np.full(len(boxes), -1, np.int64)
    rows = {row.tobytes(): i for i, row in enumerate(np.asarray(boxes, np.float32))}
    for row, number in zip(np.asarray(tracked.xyxy, np.float32), tracked.tracker_id, strict=True):
        if number is not None and number >= 0:
            ids[rows[row.tobytes()]] = number
    return ids


def theirs(make: Callable[[], Any], call: str) -> Follow:
    """A tracker that takes and gives `supervision.Detections`; it is timed with its own classes, not with ours."""
    import supervision

    tracker = make()
    update = getattr(tracker, call)

    def follow(boxes: Any, scores: Any, class_ids: Any, image: Any) -> Any:
        return update(supervision.Detections(xyxy=boxes, confidence=scores, class_id=class_ids))

    return follow


def peers() -> Iterator[tuple[str, Callable[[], Follow]]]:
    """Public trackers that are installed, with thresholds as near to ours as they take them."""
    try:
        import supervision

        name = f"supervision {version('supervision')} ByteTrack"
        made: Any = getattr(supervision, "ByteTrack", None)
        if made is not None:
            yield name, lambda: theirs(lambda: made(track_activation_threshold=HIGH), "update_with_detections")
        from trackers import ByteTrackTracker  # type: ignore[import-not-found]

        name = f"trackers {version('trackers')} ByteTrackTracker"
        yield f"{name}, its defaults", lambda: theirs(ByteTrackTracker, "update")
        same = {"track_activation_threshold": NEW, "high_conf_det_threshold": HIGH}
        yield f"{name}, the same scores", lambda: theirs(lambda: ByteTrackTracker(**same), "update")
    except ImportError as error:
        print(f"left out: {error}", file=sys.stderr)


def followed(
    sequence: Footage, made: dict[str, Callable[[], Follow]]
) -> tuple[dict[str, list[NDArray[np.int64]]], dict[str, list[tuple[float, float]]]]:
    """By tracker the ids of each frame's boxes, and the milliseconds of each frame: by the clock, and of a core."""
    trackers = {name: make() for name, make in made.items()}
    rng = np.random.default_rng(0)
    ids: dict[str, list[NDArray[np.int64]]] = {name: [] for name in made}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for frame in range(len(sequence.boxes)):
        boxes, given = (
            sequence.boxes[frame],
            (sequence.scores[frame], sequence.class_ids[frame], sequence.images[frame]),
        )
        for name in rng.permutation(list(trackers)).tolist():  # nobody always follows the same one
            started, worked = time.perf_counter(), time.process_time()
            answer: Any = trackers[name](boxes, *given)
            cpu = time.process_time() - worked
            times[name].append(((time.perf_counter() - started) * 1e3, cpu * 1e3))
            ids[name].append(answer if isinstance(answer, np.ndarray) else _numbered(boxes, answer))
    return ids, times


def scores_of(sequences: Sequence[Footage], ids: Sequence[Sequence[NDArray[np.int64]]]) -> dict[str, Any]:
    """MOTA, IDF1 and HOTA of all sequences together, and identity switches, by TrackEval."""
    from trackeval.metrics import CLEAR, HOTA, Identity  # type: ignore[import-not-found]

    metrics = {"clear": CLEAR({"PRINT_CONFIG": False}), "identity": Identity({"PRINT_CONFIG": False}), "hota": HOTA()}
    found: dict[str, dict[str, Any]] = {name: {} for name in metrics}
    for sequence, numbers in zip(sequences, ids, strict=True):
        data = _for_trackeval(sequence, numbers)
        for name, metric in metrics.items():
            found[name][sequence.name] = metric.eval_sequence(data)
    clear, identity, hota = (metrics[name].combine_sequences(found[name]) for name in metrics)
    return {
        "mota": round(float(clear["MOTA"]), 4),
        "idf1": round(float(identity["IDF1"]), 4),
        "hota": round(float(np.mean(hota["HOTA"])), 4),
        "association": round(float(np.mean(hota["AssA"])), 4),
        "identity_switches": int(clear["IDSW"]),
    }


def _for_trackeval(sequence: Footage, ids: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """A sequence as TrackEval's metrics take it, with ids that are numbered from 0 on."""
    data: dict[str, Any] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    true_numbers: dict[int, int] = {}
    numbers: dict[int, int] = {}
    for frame, truths in enumerate(sequence.truths):
        visible = [truth for truth in truths if truth.visibility >= LEAST_VISIBLE]
        is_tracked = ids[frame] >= 0
        data["gt_ids"].append(np.array([true_numbers.setdefault(t.track, len(true_numbers)) for t in visible], int))
        own = [numbers.setdefault(int(i), len(numbers)) for i in ids[frame][is_tracked]]
        data["tracker_ids"].append(np.array(own, int))
        true_boxes = np.array([truth.box for truth in visible], float).reshape(-1, 4)
        data["similarity_scores"].append(_overlaps(true_boxes, sequence.boxes[frame][is_tracked].astype(float)))
    data["num_timesteps"] = len(sequence.truths)
    data["num_gt_ids"], data["num_tracker_ids"] = len(true_numbers), len(numbers)
    data["num_gt_dets"] = sum(map(len, data["gt_ids"]))
    data["num_tracker_dets"] = sum(map(len, data["tracker_ids"]))
    return data


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(a), len(b)) IoU."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="tracking", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--still", type=int, default=3, help="sequences of a camera that stands still")
    parser.add_argument("--moving", type=int, default=2, help="sequences of a camera that moves")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--objects", type=int, default=24)
    parser.add_argument("--crowd", type=int, default=300, help="boxes a frame, for the time alone")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    before = describe_state()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    made: dict[str, Callable[[], Follow]] = {
        "yolor-edge": lambda: ours(class_agnostic=True),
        "yolor-edge, per class": ours,
        "yolor-edge, camera motion": lambda: ours(class_agnostic=True, camera_motion=True),
        **dict(peers()),
    }
    report: dict[str, Any] = {"rows": []}
    for camera, count, first in (("still", chosen.still, 0), ("moving", chosen.moving, 100)):
        if not count:
            continue
        sequences = [
            drawn_sequence(chosen.seed, first + i, chosen.frames, chosen.objects, camera) for i in range(count)
        ]
        runs = [followed(sequence, made) for sequence in sequences]
        for name in made:
            scores = scores_of(sequences, [ids[name] for ids, _ in runs])
            times = [ms for _, taken in runs for ms in taken[name]]
            report["rows"].append({"camera": camera, "tracker": name, **scores, **_times(times)})
    without_image = {name: make for name, make in made.items() if "camera motion" not in name}
    _, times = followed(crowd(chosen.crowd, 60), without_image)
    for name in without_image:
        report["rows"].append({"camera": f"crowd of {chosen.crowd}", "tracker": name, **_times(times[name])})
    cv2.setNumThreads(threads)
    for row in report["rows"]:
        scores = " ".join(f"{key} {row[key]:.3f}" for key in ("mota", "idf1", "hota") if key in row)
        switches = f", {row['identity_switches']} switches" if "identity_switches" in row else ""
        print(
            f"{row['camera']:13} {row['tracker']:55} {scores}{switches}; {row['median_ms']:.3f} ms a frame, "
            f"{row['median_cpu_ms']:.3f} of a core"
        )
    if chosen.out is not None:
        report["command"] = " ".join(["python -m yolor_edge.benchmarks.studies.tracking", *(arguments or sys.argv[1:])])
        report["commit"] = source_commit()
        report["state"] = {"before": before, "after": describe_state()}
        report["machine"] = describe_machine()
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")


def _times(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    by_clock, of_core = ([each[i] for each in times] for i in (0, 1))
    return {
        "median_ms": round(statistics.median(by_clock), 4),
        "p95_ms": round(float(np.percentile(by_clock, 95)), 4),
        "least_ms": round(min(by_clock), 4),
        "median_cpu_ms": round(statistics.median(of_core), 4),
    }


if __name__ == "__main__":
    main()
