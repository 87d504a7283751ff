"""Our kernels beside what others offer, in one process on the same inputs.

    python -m yolor_edge.benchmarks.studies.kernels

Everybody starts from the raw heads and runs on one thread, one call after the other in turn, round after round. What
counts is the processor time of the process, which on a quiet machine is the time by the clock; on a busy one the clock
also counts the waiting, which strikes long calls far harder than short ones and so would flatter the faster side.
Before anything is timed, the answers are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime import _native
from ...runtime.files import write_atomically
from ...runtime.images.preprocess import Letterbox
from ...runtime.results import InstanceMasks, MaskCanvas
from ..report.machine import describe_machine, describe_state
from ..report.report_files import output_folder
from . import kernel_peers as peers
from .kernel_inputs import SIZE, STRIDES, Heads, draw_heads, draw_image, draw_semantic, with_weak_candidates
from .kernel_plot import plot

INPUT = (SIZE, SIZE)
PICTURE = (720, 1280)
IOU = 0.65
Work = Callable[[], Any]
MASK_KINDS = {
    "640": "masks 640x640",
    "tiles": "masks 720x1280, tiles",
    "frames": "masks 720x1280, frames in memory used again",
    "own frames": "masks 720x1280, frames in an array of their own",
}
"""Forms of masks and what they are called. Peers who give an array of its own for every image take new memory, which
the system clears; ours lies where the array before lay, which is gone by then, and is cleared by us. Who keeps every
array pays for new memory every time, as our first call does."""
NOTE = (
    "Frames in an array of their own: the array of the call before was dropped, and ours goes where it lay; peers make "
    'theirs with numpy.zeros. "The first time" is with nothing dropped to go to: our memory is handed to the system '
    "before each call, which counts, and new memory is taken."
)


@dataclass
class Row:
    """One kind of work, done by us and by others.

    Attributes:
        name: For the table.
        ours: By way of working; the first one is compared with the peers.
        peers: By name.
        goal: Largest ratio of our time to the best peer's that the project wants.
        agreement: How the answers compare, in words.
    """

    name: str
    ours: dict[str, Work]
    peers: dict[str, Work]
    goal: float
    agreement: str = ""
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    wall_ms: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, rounds: int) -> None:
        """Run everybody in turn, each once unmeasured and three times measured a round, slow ones once."""
        works = {**self.ours, **self.peers}
        self.samples_ms = {name: [] for name in works}
        self.wall_ms = {name: [] for name in works}
        for number in range(rounds):
            for name, work in works.items():
                slowest = max(self.samples_ms[name], default=0.0)
                if slowest > 100 and number >= 3:
                    continue
                if slowest < 100:
                    work()
                for _ in range(1 if slowest > 100 else 3):
                    started, started_wall = time.process_time_ns(), time.perf_counter_ns()
                    work()
                    self.samples_ms[name].append((time.process_time_ns() - started) / 1e6)
                    self.wall_ms[name].append((time.perf_counter_ns() - started_wall) / 1e6)

    def summary(self) -> dict[str, Any]:
        """Medians, minima and the ratio of our median to the best peer's."""
        medians = {name: float(np.median(values)) for name, values in self.samples_ms.items()}
        best = min(self.peers, key=lambda name: medians[name]) if self.peers else None
        first = next(iter(self.ours))
        return {
            "work": self.name,
            "goal": self.goal,
            "ratio": None if best is None else medians[first] / medians[best],
            "ratio_of_minima": None
            if best is None
            else min(self.samples_ms[first]) / min(min(self.samples_ms[name]) for name in self.peers),
            "best_peer": best,
            "agreement": self.agreement,
            "median_ms": medians,
            "minimum_ms": {name: min(values) for name, values in self.samples_ms.items()},
            "median_wall_ms": {name: float(np.median(values)) for name, values in self.wall_ms.items()},
            "calls": {name: len(values) for name, values in self.samples_ms.items()},
        }


def decode(heads: Heads, score: float, limit: int = 300) -> tuple[NDArray[Any], ...]:
    """Our boxes, scores, class ids and cells."""
    return _native.decode_boxes(
        heads.class_logits, heads.box_bins, STRIDES, INPUT, score, IOU, limit, max_candidates=30000
    )


def make_masks(heads: Heads, found: tuple[NDArray[Any], ...], size: tuple[int, int]) -> InstanceMasks:
    """Our masks of boxes found, in an image of `size`."""
    letterbox = Letterbox.of(size, INPUT)
    coefficients = heads.coefficients[:, found[3]].T
    boxes = letterbox.boxes_to_image(found[0])
    crops = _native.mask_crops(heads.prototypes, coefficients, boxes, size, letterbox.geometry)
    return InstanceMasks(crops, size)


def letterbox_row() -> Row:
    image = draw_image(0, *PICTURE)
    ours, theirs = np.empty((3, *INPUT), np.float32), np.empty((3, *INPUT), np.float32)
    difference = np.abs(
        _native.letterbox(image, *INPUT, out=ours) - peers.letterbox_opencv(image, theirs)
    ).max() * 255  # fmt: skip
    return Row(
        "letterbox 1280x720 to 640x640",
        {"ours": lambda: _native.letterbox(image, *INPUT, out=ours)},
        {
            "opencv + numpy": lambda: peers.letterbox_opencv(image, theirs),
            "opencv blob": lambda: peers.letterbox_blob(image),
        },
        0.6,
        f"largest difference {difference:.2f} of 255",
    )


def detection_rows(
    heads: Heads, score: float, label: str, goals: Mapping[str, float], is_same_asked: bool = False
) -> list[Row]:
    """Boxes, then boxes with masks in every form that `goals` names: "boxes", "640", "tiles", "frames", "own frames".

    Raises:
        ValueError: If the same detections are asked for, and a peer finds others.
    """
    edgefirst = peers.EdgeFirst.open()
    ours = decode(heads, score)
    theirs, _ = peers.boxes_opencv(heads, score, IOU, 300)
    agreement = _same_boxes("opencv", ours, theirs)
    opencv_boxes = lambda: peers.boxes_opencv(heads, score, IOU, 300)  # noqa: E731
    works: dict[str, Work] = {"opencv + numpy": opencv_boxes}
    with_prototypes = None
    if edgefirst is not None:
        works["edgefirst"] = edgefirst.boxes(heads, score, IOU, 300, masks=False)
        with_prototypes = edgefirst.boxes(heads, score, IOU, 300, masks=True)
        boxes, scores, classes, _ = works["edgefirst"]()
        agreement += "; " + _same_boxes("edgefirst", ours, (boxes * SIZE, scores, classes))
    if is_same_asked and agreement.count(f"all {len(ours[1])} detections the same") != len(works):
        raise ValueError(f"{label}: the same detections are asked of everybody, but {agreement}")
    rows = [Row(f"{label}, boxes", {"ours": lambda: decode(heads, score)}, works, goals["boxes"], agreement)]
    canvas = MaskCanvas()
    peer_frames = np.zeros((len(ours[1]), *PICTURE), bool)
    for kind in MASK_KINDS:
        if kind not in goals:
            continue
        size = INPUT if kind == "640" else PICTURE
        content = (0, 160, 0, 160) if kind == "640" else (35, 125, 0, 160)
        out = peer_frames if kind == "frames" else None

        def opencv(size: tuple[int, int] = size, content: Any = content, out: Any = out) -> Any:
            found, cells = opencv_boxes()
            return peers.masks_opencv(heads, found, cells, size, content, out)

        def tiles(size: tuple[int, int] = size) -> InstanceMasks:
            return make_masks(heads, decode(heads, score), size)

        works = {"opencv + numpy": opencv}
        agreement = "opencv: " + _same_masks(ours, tiles().full(), theirs, opencv())
        mine: dict[str, Work] = {"ours": tiles}
        if kind == "frames":
            mine = {
                "ours": lambda: tiles(PICTURE).full(canvas),
                "ours, as bits": lambda: tiles(PICTURE).full_bits(),
            }
        elif kind == "own frames":
            mine = {"ours": lambda: tiles(PICTURE).full(), "ours, the first time": lambda: first_frames(tiles(PICTURE))}
        if edgefirst is not None and with_prototypes is not None:
            make = edgefirst.masks(with_prototypes, size)
            decoded = with_prototypes()
            found = decoded[0] * SIZE, decoded[1], decoded[2]
            framed = lambda make=make, found=found, size=size, out=out: frames_of(make(), found[0], size, out)  # noqa: E731
            agreement += "; edgefirst: " + _same_masks(ours, tiles().full(), found, framed())
            works["edgefirst"] = framed if "frames" in kind else make
        rows.append(Row(f"{label}, boxes + {MASK_KINDS[kind]}", mine, works, goals[kind], agreement))
    return rows


def first_frames(masks: InstanceMasks) -> NDArray[np.bool_]:
    """Frames in memory that the system has just given."""
    _native.drop_kept_memory()
    return masks.full()


def frames_of(
    tiles: list[NDArray[np.uint8]],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    out: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Tiles of (h, w, 1) bytes put into (n, H, W) bool frames at their boxes, which are in pixels of the input."""
    corners = Letterbox.of(size, INPUT).boxes_to_image(boxes).round().astype(int)
    frames = peers.cleared_frames(len(tiles), size, out)
    for frame, tile, (left, top, _, _) in zip(frames, tiles, corners, strict=True):
        part = frame[top : top + tile.shape[0], left : left + tile.shape[1]]
        np.greater(tile[: part.shape[0], : part.shape[1], 0], 127, out=part)
    return frames


def semantic_row(name: str, logits: NDArray[np.float32], goal: float) -> Row:
    ours = lambda: _native.semantic_argmax(logits, INPUT, (1.0, 1.0, 0, 0))  # noqa: E731
    works: dict[str, Work] = {"opencv": lambda: peers.semantic_opencv(logits)}
    edgefirst, torch = peers.EdgeFirst.open(), peers.optional("torch")
    if edgefirst is not None:
        works["edgefirst"] = edgefirst.semantic(logits)
    if torch is not None:
        torch.set_num_threads(1)
        works["torch"] = lambda: peers.semantic_torch(torch, logits)
    answer = ours()
    same = [f"{peer}: {(work() == answer).mean():.4%} of the pixels equal" for peer, work in works.items()]
    return Row(name, {"ours": ours}, works, goal, "; ".join(same))


def curves(rounds: int) -> list[dict[str, Any]]:
    """Our medians against the number of objects and the size of the image, at the level in use."""
    points = []
    canvas = MaskCanvas()
    for objects in (1, 10, 100, 300):
        heads = draw_heads(objects, objects, 8 * objects)
        found = decode(heads, 0.25)
        tiles = make_masks(heads, found, PICTURE)
        works = {
            "boxes": lambda heads=heads: decode(heads, 0.25),
            "masks 640x640": lambda heads=heads, found=found: make_masks(heads, found, INPUT),
            "masks 720x1280": lambda heads=heads, found=found: make_masks(heads, found, PICTURE),
            "masks 720x1280 to frames": lambda tiles=tiles: tiles.full(canvas),
            "masks 720x1280 to bits": lambda tiles=tiles: tiles.full_bits(),
            "masks 720x1280 to RLE": lambda tiles=tiles: tiles.rle(),
            "masks 720x1280 to polygons": lambda tiles=tiles: tiles.coco_polygons(),
        }
        row = Row(f"{objects} objects", works, {}, 0.0)
        row.measure(rounds)
        points.append({"objects": objects, "boxes_kept": len(found[1]), "median_ms": row.summary()["median_ms"]})
    logits, tensor = draw_semantic(0, 8), np.empty((3, *INPUT), np.float32)
    heads = draw_heads(4, 50, 687)
    found = decode(heads, 0.25)
    for size in ((360, 640), (720, 1280), (1080, 1920), (2160, 3840)):
        image, geometry = draw_image(0, *size), Letterbox.of(size, INPUT).geometry
        nv12, yuyv = (np.ascontiguousarray(image.ravel()[: size[0] * size[1] * k // 2]) for k in (3, 4))
        nv12, yuyv = nv12.reshape(-1, size[1]), yuyv.reshape(*size, 2)
        out = np.empty(size, np.uint8)
        works = {
            "letterbox of BGR": lambda image=image: _native.letterbox(image, *INPUT, out=tensor),
            "letterbox of NV12": lambda image=nv12: _native.letterbox(image, *INPUT, out=tensor, layout="nv12"),
            "letterbox of YUYV": lambda image=yuyv: _native.letterbox(image, *INPUT, out=tensor, layout="yuyv"),
            "semantic map": lambda size=size, geometry=geometry, out=out: _native.semantic_argmax(
                logits, size, geometry, out=out
            ),
            "64 masks": lambda size=size: make_masks(heads, found, size),
        }
        row = Row(f"{size[1]}x{size[0]}", works, {}, 0.0)
        row.measure(rounds)
        points.append({"picture": list(size), "median_ms": row.summary()["median_ms"]})
    return points


def run(rounds: int, is_sweep: bool = False) -> dict[str, Any]:
    """Compare, measure and sum up everything, or for a sweep our curves alone; `report_text` shows it."""
    cv2.setNumThreads(1)
    if is_sweep:
        state = describe_state()
        return {
            "schema": 1,
            "command": f"python -m yolor_edge.benchmarks.studies.kernels --sweep --rounds {rounds}",
            "simd_level": _native.simd_level(),
            "threads": 1,
            "absent_peers": [],
            "machine": describe_machine(),
            "state_before": state,
            "state_after": describe_state(),
            "rows": [],
            "curves": curves(rounds),
        }
    heads = draw_heads(4, 50, 687)
    weak = with_weak_candidates(heads, 1, 19454)
    rows = [
        letterbox_row(),
        *detection_rows(heads, 0.25, "687 candidates", {"boxes": 0.35, **dict.fromkeys(MASK_KINDS, 0.25)}),
        *detection_rows(weak, 0.001, "19454 candidates", {"boxes": 0.35, "640": 0.35}, is_same_asked=True),
        semantic_row("semantic (173, 80, 80) to 640x640", draw_semantic(0, 8), 0.25),
        semantic_row("the same from pure noise", draw_semantic(0, 0), 0.25),
    ]
    before = describe_state()
    for row in rows:
        row.measure(rounds)
    absent = [name for name in ("edgefirst.decoder", "edgefirst.image", "torch") if peers.optional(name) is None]
    return {
        "schema": 1,
        "command": f"python -m yolor_edge.benchmarks.studies.kernels --rounds {rounds}",
        "simd_level": _native.simd_level(),
        "threads": 1,
        "absent_peers": absent,
        "machine": describe_machine(),
        "state_before": before,
        "state_after": describe_state(),
        "rows": [row.summary() for row in rows],
        "curves": curves(max(5, rounds // 3)),
        "samples_ms": {row.name: row.samples_ms for row in rows},
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The tables of a report, in Markdown."""
    where = f"{report['machine']['cpu']['model']}, instruction set {report['simd_level']}"
    lines = [f"Kernels on one thread of {where}: median (minimum) in milliseconds of processor time."]
    if report["rows"]:
        lines[0] += " The ratio is of our median to the best peer's (of the minima)."
        lines += ["", "| work | ours | peers | ratio | wanted |", "| --- | --- | --- | --- | --- |"]
    for row in report["rows"]:
        times = {n: f"{m:.3g} ({row['minimum_ms'][n]:.3g})" for n, m in row["median_ms"].items()}
        ours = ", ".join(v if n == "ours" else f"{v} {n[6:]}" for n, v in times.items() if n.startswith("ours"))
        others = ", ".join(f"{n} {v}" for n, v in times.items() if not n.startswith("ours"))
        ratio = f"{row['ratio']:.2f} ({row['ratio_of_minima']:.2f})"
        lines.append(f"| {row['work']} | {ours} | {others} | {ratio} | {row['goal']:.2f} |")
    lines += ["", "| objects or image | milliseconds, median |", "| --- | --- |"]
    for point in report["curves"]:
        name = f"{point['objects']} objects" if "objects" in point else "{1} x {0}".format(*point["picture"])
        lines.append(f"| {name} | {', '.join(f'{n} {v:.3g}' for n, v in point['median_ms'].items())} |")
    if report["rows"]:
        lines += ["", *(f"- {row['work']}: {row['agreement']}" for row in report["rows"])]
        lines += ["", NOTE]
    if report["absent_peers"]:
        lines += ["", f"Not installed, so left out: {', '.join(report['absent_peers'])}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure and write kernels.json, kernels.md and kernels.svg."""
    parser = argparse.ArgumentParser(description="Time our kernels beside OpenCV, numpy, torch and edgefirst-decoder.")
    parser.add_argument(
        "--out", type=output_folder, default=Path("."), help="folder for kernels.json, kernels.md, kernels.svg"
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of three calls each")
    parser.add_argument(
        "--sweep", action="store_true", help="measure our own cost against objects and image size alone"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    report = run(options.rounds, options.sweep)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "kernels.json", json.dumps(report, indent=1) + "\n")
    where = f"{report['machine']['cpu']['model']}, {report['simd_level']}, one thread"
    write_atomically(options.out / "kernels.svg", plot(report["curves"], f"Cost of the kernels: {where}"))
    text = report_text(report)
    write_atomically(options.out / "kernels.md", text)
    print(text)
    return 0


def _same_boxes(peer: str, ours: tuple[NDArray[Any], ...], theirs: peers.Found) -> str:
    pairs = _matched(ours, theirs)
    if len(ours[1]) == len(theirs[1]) == len(pairs):
        return f"{peer}: all {len(pairs)} detections the same"
    return f"{peer}: {len(pairs)} detections the same of our {len(ours[1])} and its {len(theirs[1])}"


def _matched(ours: tuple[NDArray[Any], ...], theirs: peers.Found) -> list[tuple[int, int]]:
    """Pairs of detections with one class, scores within 1e-5 and corners within 0.05 pixels."""
    pairs, left = [], set(range(len(theirs[1])))
    for i in range(len(ours[1])):
        for j in sorted(left):
            is_same = int(theirs[2][j]) == ours[2][i] and abs(theirs[1][j] - ours[1][i]) < 1e-5
            if is_same and np.abs(theirs[0][j] - ours[0][i]).max() < 0.05:
                pairs.append((i, j))
                left.remove(j)
                break
    return pairs


def _same_masks(
    ours: tuple[NDArray[Any], ...], masks: NDArray[np.bool_], theirs: peers.Found, others: NDArray[np.bool_]
) -> str:
    scores = []
    for i, j in _matched(ours, theirs):
        union = np.count_nonzero(masks[i] | others[j])
        scores.append(np.count_nonzero(masks[i] & others[j]) / union if union else 1.0)
    return f"mask IoU {np.median(scores):.4f} median, {np.min(scores):.4f} least, of {len(scores)}"


if __name__ == "__main__":
    raise SystemExit(main())
