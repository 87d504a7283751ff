"""Streams and runs with ids: each stream its own, weak boxes used and left out, lines and zones written and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import DrawOptions, Line, PredictOptions, Result, RunOptions, TrackerOptions, Zone, draw, run
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.drawing import DrawnRegion
from yolor_edge.runtime.drawing.colours import distinct_colour
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.execution.parts import ModelParts
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.sources.sources import Frame
from yolor_edge.runtime.vision.contexts import Request
from yolor_edge.runtime.vision.head_check import HeadCheck

from ..fake_model import picture
from ..tiny_bundle import coloured_patch, tiny_spec
from .sequences import result_of


class Found:
    """A model that finds what a function says of the number of the image."""

    processing = "cpu"

    def __init__(self, found: Callable[[int], Result]):
        self._found = found
        self.asked: list[float] = []
        self.check = HeadCheck(tiny_spec(("boxes",)))
        self.model = Model.of(ModelParts(tiny_spec(("boxes",)), self, None, lambda: None))  # type: ignore[arg-type]

    def context(self) -> Any:
        owner = self

        class Context:
            def prepare(self, image: NDArray[np.uint8], layout: str = "bgr") -> None:
                self.number = int(image.flat[0])

            def infer(self, tasks: tuple[str, ...]) -> None: ...

            def finish(self, request: Request, lap: Callable[[str], None]) -> dict[str, Any]:
                owner.asked.append(request.limits.score)
                result = owner._found(self.number)
                lap("boxes")
                return {name: getattr(result, name) for name in ("boxes", "scores", "class_ids")}

            def close(self) -> None: ...

        return Context()

    def close(self) -> None: ...


def two_objects(number: int) -> Result:
    """One goes to the right and is weak in between; another is weak always."""
    x = 10 + 4 * number
    score = 0.15 if 3 <= number < 6 else 0.9
    return result_of([[x, 10, x + 30, 40], [300, 300, 330, 330]], [score, 0.2])


@pytest.fixture
def model() -> Iterator[Model]:
    with Found(two_objects).model as opened:
        yield opened


def ids_of(answers: Any) -> list[list[int]]:
    return [answer.result.track_ids.tolist() for answer in answers]


def test_weak_boxes_go_on_with_tracks_and_others_are_left_out() -> None:
    found = Found(two_objects)
    with found.model.stream([picture(i) for i in range(9)], track=True, score_threshold=0.25) as stream:
        answers = list(stream)
    assert ids_of(answers) == [[1]] * 9
    assert set(found.asked) == {0.1}
    result = answers[4].result
    assert result is not None
    assert result.scores is not None
    assert result.scores[0] == np.float32(0.15)
    assert 0 < result.timings_ms["track"] < result.timings_ms["total"]
    assert stream.statistics.stages_ms["track"] > 0
    plain = list(found.model.stream([picture(0)], score_threshold=0.25))
    assert found.asked[-1] == 0.25
    assert plain[0].result is not None
    assert plain[0].result.track_ids is None
    found.model.close()


def test_objects_above_the_threshold_stay_without_an_id(model: Model) -> None:
    with model.stream([picture(i) for i in range(3)], track=True, score_threshold=0.15) as stream:
        assert ids_of(stream) == [[1, -1]] * 3


def test_every_stream_and_clone_has_its_own_ids(model: Model) -> None:
    first = model.stream([picture(i) for i in range(4)], track=True)
    with model.clone() as clone:
        second = clone.stream([picture(i) for i in range(4)], track=TrackerOptions(lost_frames=3))
        for one, other in zip(first, second, strict=True):
            assert ids_of([one, other]) == [[1], [1]]


def test_frames_that_cannot_be_read_and_times_are_counted() -> None:
    """An object that moves on while frames fail; one that comes back after a second is another."""

    def fast(number: int) -> Result:
        return result_of([[12 * number, 10, 12 * number + 20, 30]])

    frames = [Frame("f", picture(i) if i < 8 or i > 14 else None, None, i) for i in range(18)]
    found = Found(fast)
    with found.model.stream(frames, track=True) as stream:
        answers = [answer for answer in stream if answer.error is None]
    assert ids_of(answers) == [[1]] * 11
    times = [0.0, 0.1, 0.2, 2.0, 2.1]
    late = [Frame("f", picture(0), None, i, position_s=time) for i, time in enumerate(times)]
    gone = [late[0], late[1], replace(late[2], image=picture(20)), late[3], late[4]]
    with found.model.stream(gone, track=TrackerOptions(lost_seconds=1, confirm_frames=1)) as stream:
        assert ids_of(stream) == [[1], [1], [2], [3], [3]]
    with pytest.raises(UsageError, match="lost_seconds needs the time"):
        list(found.model.stream([picture(0)], track=TrackerOptions(lost_seconds=1)))
    found.model.close()


def test_what_makes_no_sense_is_refused(model: Model) -> None:
    wrong: Any = "yes"
    with pytest.raises(UsageError, match=r"track must be True, False or TrackerOptions, got 'yes' \(str\)"):
        model.stream([picture(0)], track=wrong)


def test_a_model_without_boxes_cannot_track(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_moving(tmp_path / "a.mp4")
    options, predict = RunOptions(track=True), PredictOptions(["semantic"])
    with pytest.raises(UsageError, match='track needs boxes; ask for the task "boxes" too'):
        run(tiny_bundle, tmp_path / "a.mp4", tmp_path / "out", options, predict=predict)


def write_moving(path: Path) -> Path:
    """A red patch that goes down."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (96, 64))
    for i in range(7):
        writer.write(coloured_patch((64, 96), (4 * i, 32, 4 * i + 24, 64), "red"))
    writer.release()
    return path


def test_a_run_writes_ids_events_and_counts(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_moving(tmp_path / "a.mp4")
    regions = (Line(((0, 26), (96, 26)), "gate"), Zone(((0, 0), (96, 0), (96, 20), (0, 20))))
    summary = run(tiny_bundle, video, tmp_path / "out", RunOptions(track=True, regions=regions))
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    tracked = [[one for one in line["objects"] if "track_id" in one] for line in lines[:-1]]
    assert all(tracked)
    assert {one["track_id"] for one in tracked[0]} & {one["track_id"] for one in tracked[-1]}
    assert all("track" in line["timings_ms"] for line in lines[:-1])
    events = [event for line in lines for event in line.get("events", [])]
    assert {event["region"] for event in events} == {"gate", "zone 1"}
    assert {(event["region"], event["direction"]) for event in events} == {("gate", "in"), ("zone 1", "out")}
    gates = sum(event["region"] == "gate" for event in events)
    assert lines[-1]["counts"]["gate"] == {"in": {"red": gates}, "out": {}}
    assert summary.counts == lines[-1]["counts"] == summary.to_json()["counts"]
    assert summary.counts_text.startswith(f"gate: {gates} in, 0 out; zone 1: 0 in, ")
    assert (tmp_path / "out" / "a.mp4").stat().st_size > 0


def test_drawings_have_ids_colours_by_id_and_regions() -> None:
    image = np.full((480, 640, 3), 128, np.uint8)
    result = result_of([[100, 100, 200, 200], [300, 100, 400, 200]])
    tracked = replace(result, track_ids=np.array([7, -1], np.int64))
    plain = draw(image, result, labels=False, scores=False)
    drawn = draw(image, tracked, labels=False, scores=False)
    edge = slice(130, 170), slice(98, 103)
    assert (drawn[edge] == distinct_colour(7)).all(axis=2).any()
    assert not (plain[edge] == distinct_colour(7)).all(axis=2).any()
    assert np.array_equal(drawn[:, 250:], plain[:, 250:])  # what has no id looks as ever
    # The label is longer by the id.
    assert not np.array_equal(draw(image, tracked, scores=False)[80:99], draw(image, result, scores=False)[80:99])
    line = DrawnRegion(((0, 400), (640, 400)), False, "gate: 1 in")
    zone = DrawnRegion(((10, 10), (60, 10), (60, 60)), True, "zone 1")
    for panels in (1, 2):
        without = draw(image, tracked, panels=panels)
        with_regions = draw(image, tracked, DrawOptions(regions=(line, zone)), panels=panels)
        assert with_regions.shape == without.shape
        changed = (with_regions != without).any(axis=2).mean(axis=0)
        assert (changed > 0).mean() > 0.95  # from side to side
