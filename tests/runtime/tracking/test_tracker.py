"""Ids that stay with their objects: the association, its options, and that it agrees with a plain twin."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.runtime import Tracker, TrackerOptions, _native
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.results import InstanceMasks, Result
from yolor_edge.runtime.tracking.camera_motion import CameraMotionEstimator

from .sequences import moving, result_of


def ids_of(result: Result) -> list[int]:
    assert result.track_ids is not None
    assert result.track_ids.dtype == np.int64
    return result.track_ids.tolist()


def box(x: float, y: float = 100.0, side: float = 40.0) -> list[float]:
    return [x, y, x + side, y + side]


def test_the_assignment_costs_least() -> None:
    rng = np.random.default_rng(1)
    for turn in range(600):
        rows = int(rng.integers(0, 6))
        columns = int(rng.integers(rows, 7))
        costs = rng.integers(-3, 4, (rows, columns)).astype(float) if turn % 2 else rng.normal(size=(rows, columns))
        found = _native.assignment(costs)
        assert len(set(found.tolist())) == rows
        least = min(sum(costs[i, p[i]] for i in range(rows)) for p in itertools.permutations(range(columns), rows))
        assert costs[np.arange(rows), found].sum() == pytest.approx(least)


def test_large_assignments_cost_what_scipys_do() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(2)
    for rows, columns in ((60, 60), (50, 120), (1, 300)):
        for costs in (rng.random((rows, columns)), rng.integers(0, 5, (rows, columns)).astype(float)):
            found = _native.assignment(costs)
            expected = costs[optimize.linear_sum_assignment(costs)].sum()
            assert costs[np.arange(rows), found].sum() == pytest.approx(expected)


@pytest.mark.parametrize(
    "costs", [np.zeros((3, 2)), np.full((1, 1), np.nan), np.zeros(3), np.zeros((1, 2), np.float32)]
)
def test_other_costs_are_refused(costs: Any) -> None:
    with pytest.raises(ValueError, match="costs must"):
        _native.assignment(costs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_ids_are_those_of_the_twin(seed: int, class_agnostic: bool) -> None:
    pytest.importorskip("scipy.optimize")
    from ...reference.tracking import ReferenceTracker

    twin = ReferenceTracker(lost_frames=5, class_agnostic=class_agnostic)
    tracker = Tracker(lost_frames=5, class_agnostic=class_agnostic)
    for objects in moving(40, 40, seed, area=400.0):
        found = ids_of(tracker.update(result_of(*objects)))
        assert found == twin.update(*objects)


def test_everything_else_of_a_result_stays() -> None:
    given = result_of([box(10), box(200)])
    found = Tracker().update(given)
    assert ids_of(found) == [1, 2]
    assert given.track_ids is None
    assert found.boxes is given.boxes
    assert [one.track_id for one in found] == [1, 2]
    assert ids_of(found[[1]]) == [2]


def test_an_object_keeps_its_id_through_a_gap_and_a_crowd_of_others() -> None:
    tracker = Tracker()
    for frame in range(40):
        boxes = [box(600 - 6 * frame), box(10, 300)]
        if not 15 <= frame < 25:  # hidden
            boxes.append(box(5 * frame))
        found = tracker.update(result_of(boxes))
        assert ids_of(found) == [1, 2, 3][: len(boxes)]
    assert [track.id for track in tracker.tracks] == [1, 2, 3]


def test_weak_boxes_go_on_with_tracks_and_begin_none() -> None:
    tracker = Tracker()
    assert ids_of(tracker.update(result_of([box(10), box(200)], [0.9, 0.3]))) == [1, -1]
    assert ids_of(tracker.update(result_of([box(11), box(200)], [0.2, 0.3]))) == [1, -1]
    assert ids_of(tracker.update(result_of([box(12), box(200)], [0.05, 0.55]))) == [-1, -1]
    assert ids_of(tracker.update(result_of([box(13), box(200)], [0.9, 0.55]))) == [1, -1]


def test_a_track_that_begins_later_is_confirmed_first() -> None:
    tracker = Tracker(confirm_frames=3)
    tracker.update(result_of([]))
    found = [ids_of(tracker.update(result_of([box(x)])))[0] for x in (10, 12, 14, 16)]
    assert found == [-1, -1, 1, 1]
    tracker.update(result_of([box(300)]))  # once, and gone
    assert ids_of(tracker.update(result_of([box(300, 200), box(20)]))) == [-1, 1]
    assert [track.id for track in tracker.tracks] == [1]
    at_once = Tracker(confirm_frames=1)
    at_once.update(result_of([]))
    assert ids_of(at_once.update(result_of([box(10)]))) == [1]


def test_a_lost_track_waits_for_frames_or_seconds() -> None:
    for gap, expected in ((5, 1), (7, 2)):
        tracker = Tracker(lost_frames=5, confirm_frames=1)
        tracker.update(result_of([box(10)]))
        for _ in range(gap):
            tracker.update(result_of([]))
        assert ids_of(tracker.update(result_of([box(10)]))) == [expected]
        timed = Tracker(lost_seconds=1.0, confirm_frames=1)
        timed.update(result_of([box(10)]), time_s=100.0)
        timed.update(result_of([]), time_s=100.0 + gap / 6)
        assert ids_of(timed.update(result_of([box(10)]), time_s=100.0 + gap / 6)) == [expected]
        skipping = Tracker(lost_frames=5, confirm_frames=1)
        skipping.update(result_of([box(10)]))
        assert ids_of(skipping.update(result_of([box(10)]), frames=gap + 1)) == [expected]


def test_frames_left_out_are_moved_over() -> None:
    tracker = Tracker()
    for frame in range(10):
        tracker.update(result_of([box(12.0 * frame, side=20)]))
    assert ids_of(tracker.update(result_of([box(12.0 * 19, side=20)]), frames=10)) == [1]


def test_a_track_has_one_class_unless_told() -> None:
    for class_agnostic, expected in ((False, [-1]), (True, [1])):
        tracker = Tracker(class_agnostic=class_agnostic)
        tracker.update(result_of([box(10)], class_ids=[0]))
        assert ids_of(tracker.update(result_of([box(10)], class_ids=[1]))) == expected


def test_a_known_camera_motion_is_followed() -> None:
    for motion, expected in ((None, [-1]), ([[1, 0, 80], [0, 1, -50]], [1])):
        tracker = Tracker()
        tracker.update(result_of([box(100)]))
        assert ids_of(tracker.update(result_of([box(180, 50)]), motion=motion)) == expected
    turned = Tracker()  # by a quarter about the corner, and twice as large
    turned.update(result_of([[100, 20, 140, 60]]))
    motion = [[0, -2, 400], [2, 0, 0]]
    assert ids_of(turned.update(result_of([[280, 200, 360, 280]]), motion=motion)) == [1]
    np.testing.assert_allclose(turned.tracks[0].box, [280, 200, 360, 280], atol=0.5)


def test_camera_motion_is_estimated() -> None:
    rng = np.random.default_rng(3)
    wide = np.asarray(cv2.GaussianBlur(rng.integers(0, 255, (700, 1300, 3), dtype=np.uint8), (0, 0), 3), np.uint8)
    shift = np.array([23, -14])
    first = wide[100:580, 100:900]
    second = wide[100 - shift[1] : 580 - shift[1], 100 - shift[0] : 900 - shift[0]]
    estimator = CameraMotionEstimator()
    np.testing.assert_array_equal(estimator.update(first), np.eye(2, 3))
    motion = estimator.update(second)
    np.testing.assert_allclose(motion @ [400, 240, 1], np.array([400, 240]) + shift, atol=0.5)
    np.testing.assert_array_equal(estimator.update(first[:400]), np.eye(2, 3))
    flat = CameraMotionEstimator()
    flat.update(np.zeros((100, 100), np.uint8))
    np.testing.assert_array_equal(flat.update(np.zeros((100, 100), np.uint8)), np.eye(2, 3))
    tracker = Tracker(camera_motion=True)
    tracker.update(result_of([box(300, side=15)], size=(480, 800)), first)
    found = tracker.update(result_of([box(300 + shift[0], 100 + shift[1], side=15)], size=(480, 800)), second)
    assert ids_of(found) == [1]
    with pytest.raises(UsageError, match="camera_motion needs the image that was predicted, got None"):
        tracker.update(result_of([box(300)]))


def test_masks_tell_objects_apart_whose_boxes_cover_each_other() -> None:
    """Two diagonals of one square, which swap their places in the list."""
    rising = np.tri(100, 100, -20, dtype=np.uint8)
    crops = [(100, 100, rising), (100, 100, np.ascontiguousarray(rising.T))]

    def result(order: list[int], dx: int) -> Result:
        found = result_of([box(100 + dx, side=100)] * 2)
        masks = InstanceMasks([(y, x + dx, crop) for y, x, crop in (crops[i] for i in order)], (480, 640))
        return Result(**{**{name: getattr(found, name) for name in found.__dataclass_fields__}, "masks": masks})

    tracker = Tracker(by_masks=True)
    assert ids_of(tracker.update(result([0, 1], 0))) == [1, 2]
    assert ids_of(tracker.update(result([1, 0], 3))) == [2, 1]
    assert ids_of(tracker.update(result([0, 1], 6))) == [1, 2]


def test_odd_boxes_have_no_track() -> None:
    odd = [[np.nan] * 4, [0, 0, np.inf, 5], [5, 5, 5, 9], [9, 9, 2, 12], [1e30, 1e30, 2e30, 2e30], box(10)]
    tracker = Tracker()
    for _ in range(3):
        assert ids_of(tracker.update(result_of(odd))) == [-1] * 5 + [1]
    assert ids_of(tracker.update(result_of([box(10)], [np.nan]))) == [-1]
    assert ids_of(tracker.update(result_of([]))) == []


def test_the_same_results_give_the_same_ids_after_a_reset_and_in_every_tracker() -> None:
    tracker, other = Tracker(), Tracker()
    frames = list(moving(50, 20, 7, area=300.0))
    first = [ids_of(tracker.update(result_of(*objects))) for objects in frames]
    tracker.reset()
    assert tracker.tracks == []
    assert [ids_of(tracker.update(result_of(*objects))) for objects in frames] == first
    assert [ids_of(other.update(result_of(*objects))) for objects in frames] == first


def test_memory_is_bounded_where_nothing_ever_comes_back() -> None:
    tracker = Tracker(confirm_frames=1, lost_frames=1000)
    for frame in range(60):
        boxes = [[50 * i, 60 * frame, 50 * i + 40, 60 * frame + 40] for i in range(100)]
        found = tracker.update(result_of(boxes))
        assert min(ids_of(found)) == 100 * frame + 1
    assert len(tracker.tracks) == 1100  # those seen, and 1,000 lost ones
    assert min(track.id for track in tracker.tracks) == 4901


def test_threads_take_turns() -> None:
    tracker = Tracker()
    frames = list(moving(30, 30, 9))

    def work() -> None:
        for objects in frames:
            tracker.update(result_of(*objects))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [track.id for track in tracker.tracks]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"high_score": 2}, "high_score must be from 0 to 1, got 2"),
        ({"low_score": 0.7}, "low_score must be from 0 to 0.5, got 0.7"),
        ({"new_score": 0.4}, "new_score must be from 0.5 to 1, got 0.4"),
        ({"overlap": float("nan")}, "overlap must be from 0 to 1, got nan"),
        ({"confirm_frames": 0}, "confirm_frames must be from 1 to 1000000, got 0"),
        ({"lost_frames": 1.5}, r"lost_frames must be a whole number, got 1.5 \(float\)"),
        ({"lost_seconds": 0}, "lost_seconds must be above 0, at most 1000000, got 0"),
        ({"by_masks": 1}, r"by_masks must be True or False, got 1 \(int\)"),
        ({"lost_frame": 3}, "there is no option 'lost_frame' of tracking, perhaps 'lost_frames'"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Tracker(**values)


def test_options_as_text() -> None:
    assert TrackerOptions.of_text("") == TrackerOptions()
    text = "high_score=0.4, lost_seconds=2,lost_frames=7,by_masks=True"
    assert TrackerOptions.of_text(text) == TrackerOptions(0.4, lost_seconds=2.0, lost_frames=7, by_masks=True)
    for wrong, message in (
        ("highscore=1", "there is no option 'highscore' of tracking, perhaps 'high_score'"),
        ("lost_frames=1.5", "lost_frames of tracking must be a whole number, got '1.5'"),
        ("by_masks=maybe", "by_masks of tracking must be true or false, got 'maybe'"),
        ("overlap", "overlap of tracking must be a number, got ''"),
    ):
        with pytest.raises(UsageError, match=message):
            TrackerOptions.of_text(wrong)


def test_arguments_that_make_no_sense_are_refused() -> None:
    tracker = Tracker()
    with pytest.raises(UsageError, match="tracking needs boxes"):
        tracker.update(Result((10, 10)))
    with pytest.raises(UsageError, match="frames must be from 0"):
        tracker.update(result_of([]), frames=-1)
    with pytest.raises(UsageError, match="motion must be 2 x 3 finite numbers"):
        tracker.update(result_of([]), motion=np.eye(3))
    with pytest.raises(UsageError, match="lost_seconds needs the time of each frame"):
        Tracker(lost_seconds=1).update(result_of([]))
    native = _native.Tracker()
    boxes, scores, classes = np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32)
    for wrong, message in (
        ({"boxes": boxes[:1]}, r"boxes must have shape \(2, 4\)"),
        ({"scores": scores.astype(float)}, "scores must have dtype float32"),
        ({"class_ids": classes.astype(np.int64)}, "class_ids must have dtype int32"),
        ({"masks": []}, "masks must be as many as the boxes, 2, got 0"),
        ({"frames": float("nan")}, "frames must be a finite number"),
        ({"motion": np.full((2, 3), np.inf)}, "motion must hold finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            native.update(**{"boxes": boxes, "scores": scores, "class_ids": classes, **wrong})
    with pytest.raises(ValueError, match=r"low_score must lie in 0..0.5, got 0.7"):
        _native.Tracker(low_score=0.7)
