"""ByteTrack's association from its paper: the Kalman filter as matrices of all eight numbers, one pair at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]
POSITION, VELOCITY = 1 / 20, 1 / 160
FORBIDDEN = 0.0  # what a pair that may not be is worth


def measured(box: Array) -> Array:
    """Centre and size of an xyxy box."""
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])


def overlap(a: Array, b: Array) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if width <= 0 or height <= 0:
        return 0.0
    return float(width * height / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height))


@dataclass
class Track:
    box: Array
    class_id: int
    frame: float
    number: int = 0
    seen: int = 1
    is_lost: bool = False
    is_over: bool = False
    obj: int | None = None
    begin: float = 0.0
    mean: Array = field(init=False)
    covariance: Array = field(init=False)

    def __post_init__(self) -> None:
        at = measured(self.box)
        sizes = np.array([at[2], at[3], at[2], at[3]])
        self.begin = self.frame
        self.mean = np.concatenate([at, np.zeros(4)])
        self.covariance = np.diag(np.concatenate([2 * POSITION * sizes, 10 * VELOCITY * sizes]) ** 2)

    def sizes(self) -> Array:
        return np.tile(self.mean[2:4], 2)

    def predict(self) -> None:
        if self.is_lost:
            self.mean[6:] = 0
        sizes = self.sizes()
        step = np.eye(8) + np.eye(8, k=4)
        noise = np.diag(np.concatenate([POSITION * sizes, VELOCITY * sizes]) ** 2)
        self.mean = step @ self.mean
        self.covariance = step @ self.covariance @ step.T + noise

    def correct(self, box: Array) -> None:
        seen = np.eye(4, 8)
        total = seen @ self.covariance @ seen.T + np.diag((POSITION * self.sizes()) ** 2)
        gain = self.covariance @ seen.T @ np.linalg.inv(total)
        self.mean = self.mean + gain @ (measured(box) - seen @ self.mean)
        self.covariance = self.covariance - gain @ total @ gain.T

    def place(self) -> Array:
        centre, size = self.mean[:2], self.mean[2:4]
        return np.concatenate([centre - size / 2, centre + size / 2])


class ReferenceTracker:
    """The defaults of `TrackerOptions`."""

    def __init__(self, lost_frames: int = 30, class_agnostic: bool = False):
        self.lost_frames, self.class_agnostic = lost_frames, class_agnostic
        self.tracks: list[Track] = []
        self.frame = self.last = 0

    def update(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32]
    ) -> list[int]:
        self.frame += 1
        for track in self.tracks:
            track.obj = None
            track.predict()
        high = [i for i in range(len(boxes)) if scores[i] >= 0.5]
        low = [i for i in range(len(boxes)) if 0.1 <= scores[i] < 0.5]

        def match(tracks: list[Track], objects: list[int], least: float, fused: bool) -> None:
            worth = np.full((len(tracks), len(objects)), FORBIDDEN)
            for row, track in enumerate(tracks):
                for column, i in enumerate(objects):
                    if self.class_agnostic or class_ids[i] == track.class_id:
                        much = overlap(track.place(), boxes[i].astype(float)) * (float(scores[i]) if fused else 1)
                        worth[row, column] = max(FORBIDDEN, much - least)
            for row, column in zip(*linear_sum_assignment(-worth), strict=True):
                if worth[row, column] > FORBIDDEN:
                    tracks[row].obj = objects[column]
            for track in tracks:
                if track.obj is not None:
                    objects.remove(track.obj)
                    track.correct(boxes[track.obj].astype(float))
                    track.class_id, track.frame, track.is_lost = int(class_ids[track.obj]), self.frame, False
                    track.seen += 1
                    if not track.number:
                        self.last += 1
                        track.number = self.last

        match([t for t in self.tracks if t.number], high, 0.2, True)
        match([t for t in self.tracks if t.number and t.obj is None], low, 0.2, False)
        match([t for t in self.tracks if not t.number], high, 0.2, True)
        match([t for t in self.tracks if not t.number and t.obj is None], low, 0.2, False)
        for track in self.tracks:
            if track.obj is None:
                track.is_lost, track.is_over = True, not track.number
        for i in high:
            if scores[i] >= 0.6:
                track = Track(boxes[i].astype(float), int(class_ids[i]), self.frame)
                track.obj = i
                if self.frame == 1:
                    self.last += 1
                    track.number = self.last
                self.tracks.append(track)
        self._join()
        for track in self.tracks:
            track.is_over |= track.is_lost and self.frame - track.frame > self.lost_frames
        self.tracks = [track for track in self.tracks if not track.is_over]
        ids = [-1] * len(boxes)
        for track in self.tracks:
            if track.obj is not None and track.number:
                ids[track.obj] = track.number
        return ids

    def _join(self) -> None:
        for lost in [t for t in self.tracks if t.is_lost and not t.is_over]:
            for track in [t for t in self.tracks if not t.is_lost and not t.is_over]:
                same = self.class_agnostic or track.class_id == lost.class_id
                if same and overlap(track.place(), lost.place()) > 0.85:
                    if track.frame - track.begin <= lost.frame - lost.begin:
                        track.number, track.begin = lost.number, lost.begin
                    lost.is_over = True
                    break
