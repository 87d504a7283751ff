"""Tracking through the C interface: the ids that Python gives, and arguments that make no sense refused."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native

from ..tracking.sequences import Objects, moving
from .c_library import CError, CLibrary


class CTracker:
    def __init__(self, c: CLibrary, **options: Any):
        self._c = c
        self._tracker = ctypes.c_void_p()
        made = c.made("tracker_options", **options) if options else None
        opened = c.library.yolor_edge_tracker_open
        status = opened(None if made is None else ctypes.byref(made), ctypes.byref(self._tracker))
        if status:
            raise CError(c.text("last_error"))

    def update(self, objects: Objects, step: Any = None) -> list[int]:
        boxes, scores, class_ids = objects
        n = len(scores)
        found = self._c.structs["detections"](n, n, *map(self._c.address, (boxes, scores, class_ids)), None)
        ids = np.zeros(n, np.int64)
        self._c("tracker_update", self._tracker, found, step, ids)
        return ids.tolist()

    def close(self) -> None:
        self._c.library.yolor_edge_tracker_close(self._tracker)


def test_ids_are_those_of_python(c: CLibrary) -> None:
    for options in ({}, {"lost_frames": 4.0, "class_agnostic": 1, "confirm_frames": 3}):
        tracker, twin = CTracker(c, **options), _native.Tracker(**options)
        for objects in moving(40, 25, 5, area=400.0):
            assert tracker.update(objects) == twin.update(*objects).tolist()
        motion = np.array([[0.9, 0.1, 30], [-0.1, 0.9, -20]])
        step = c.made("tracker_step", frames=3.0, seconds=0.1, motion=motion)
        objects = next(moving(40, 1, 6, area=400.0))
        assert tracker.update(objects, step) == twin.update(*objects, frames=3, seconds=0.1, motion=motion).tolist()
        assert tracker.update((np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))) == []
        tracker.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"high_score": 1.5}, "high_score must lie in 0..1, got 1.5"),
        ({"low_score": float("nan")}, "low_score must lie in 0..0.5, got nan"),
        ({"confirm_frames": 0}, "confirm_frames must lie in 1..1e\\+09, got 0"),
        ({"size": 8}, "options must be filled by its _init function first"),
    ],
)
def test_options_that_make_no_sense_are_refused(c: CLibrary, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CError, match=message):
        CTracker(c, **values)


def test_arguments_that_make_no_sense_are_refused(c: CLibrary) -> None:
    tracker = CTracker(c)
    objects = next(moving(3, 1))
    for values, message in (
        ({"frames": -1.0}, "step.frames must lie in 0..1e9, got -1"),
        ({"seconds": float("inf")}, "step.seconds must lie in 0..1e9, got inf"),
        ({"motion": np.full((2, 3), np.nan)}, "step.motion must hold finite numbers"),
    ):
        with pytest.raises(CError, match=message):
            tracker.update(objects, c.made("tracker_step", **values))
    found = c.structs["detections"](3, 3, None, None, None, None)
    ids = np.zeros(3, np.int64)
    for arguments, message in (
        ((None, found, None, ids), "tracker must be given, got NULL"),
        ((tracker._tracker, found, None, ids), "detections.boxes must be given, got NULL"),
        ((tracker._tracker, None, None, ids), "detections must be given, got NULL"),
        ((tracker._tracker, c.structs["detections"](3, -1, None, None, None, None), None, ids), "detections.count"),
    ):
        with pytest.raises(CError, match=message):
            c("tracker_update", *arguments)
    tracker.close()
    c.library.yolor_edge_tracker_close(None)
