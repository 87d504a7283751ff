"""Sequences of moving scenes: the same every time, with tracks that are true of what is drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.scenes.scene_drawing import OBJECT_RGB
from yolor_edge.evaluation.scenes.scene_videos import TrackTruth, draw_video, write_videos
from yolor_edge.main import main
from yolor_edge.runtime.errors import UsageError

SIZE = (96, 128)


def is_whole(truth: TrackTruth) -> bool:
    """Whether the image's border cuts nothing off."""
    x1, y1, x2, y2 = truth.box
    return x1 > 0 and y1 > 0 and x2 < SIZE[1] and y2 < SIZE[0]


def test_tracks_move_a_little_at_a_time_come_and_go_and_hide_each_other() -> None:
    frames = list(draw_video(3, 0, 60, SIZE, 14))
    assert all(image.shape == (*SIZE, 3) and image.dtype == np.uint8 for image, _ in frames)
    tracks: dict[int, list[int]] = {}
    for number, (_, truths) in enumerate(frames):
        assert [truth.track for truth in truths] == sorted({truth.track for truth in truths})
        for truth in truths:
            x1, y1, x2, y2 = truth.box
            assert 0 <= x1 < x2 <= SIZE[1]
            assert 0 <= y1 < y2 <= SIZE[0]
            assert 0 <= truth.visibility <= 1
            tracks.setdefault(truth.track, []).append(number)
    assert any(times[0] > 0 for times in tracks.values())
    assert any(times[-1] < 59 for times in tracks.values())
    assert all(times == list(range(times[0], times[-1] + 1)) for times in tracks.values())  # they leave for good
    hidden = [truth.visibility for _, truths in frames for truth in truths]
    assert min(hidden) < 0.3 < 0.95 < max(hidden)
    for (_, before), (_, after) in pairwise(frames):
        places = {truth.track: np.array(truth.box) for truth in before if is_whole(truth)}
        for truth in after:
            if truth.track in places and is_whole(truth):
                assert np.abs(places[truth.track] - truth.box).max() < 12


def test_a_box_lies_around_its_object() -> None:
    for image, truths in draw_video(5, 1, 8, SIZE, 6, shapes=("circle",)):
        for truth in truths:
            if truth.visibility > 0.99:
                x1, y1, x2, y2 = truth.box
                middle = image[(y1 + y2) // 2, (x1 + x2) // 2, ::-1].astype(int)
                nearest = min(np.abs(middle - rgb).sum() for rgb in OBJECT_RGB.values())
                assert nearest < 120


def test_a_moving_camera_moves_all_and_the_same_seed_draws_the_same() -> None:
    first, again, other = (list(draw_video(seed, 0, 4, SIZE, 5, "moving")) for seed in (1, 1, 2))
    for (image, truths), (same, as_true), (else_, _) in zip(first, again, other, strict=True):
        assert np.array_equal(image, same)
        assert truths == as_true
        assert not np.array_equal(image, else_)


def test_files_in_the_layout_of_the_mot_challenge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scenes", str(tmp_path / "out"), "--video", "--count", "2", "--seed", "4", "--frames", "3"]
    options = ["--image-size", "96x128", "--objects", "5", "--fps", "12.5", "--camera", "moving", "--split", "val"]
    assert main([*arguments, *options]) == 0
    assert "2 sequences of seed 4 are in" in capsys.readouterr().out
    split = tmp_path / "out" / "val"
    assert sorted(path.name for path in split.iterdir()) == ["labels.txt", "scene-0001", "scene-0002"]
    assert (split / "labels.txt").read_text().split()[:2] == ["circle", "square"]
    scene = split / "scene-0002"
    assert [path.name for path in sorted((scene / "img1").iterdir())] == [f"{i:06d}.jpg" for i in (1, 2, 3)]
    assert "frameRate=12.5\nseqLength=3\nimWidth=128\nimHeight=96\n" in (scene / "seqinfo.ini").read_text()
    image = cv2.imread(str(scene / "img1" / "000001.jpg"))
    assert image is not None
    assert image.shape == (*SIZE, 3)
    expected = [
        [frame, truth.track, *truth.box[:2], truth.box[2] - truth.box[0], truth.box[3] - truth.box[1], 1]
        for frame, (_, truths) in enumerate(draw_video(4, 1, 3, SIZE, 5, "moving"), start=1)
        for truth in truths
    ]
    lines = [line.split(",") for line in (scene / "gt" / "gt.txt").read_text().splitlines()]
    assert [[int(part) for part in line[:7]] for line in lines] == expected
    assert all(len(line) == 9 and 1 <= int(line[7]) <= 8 and 0 <= float(line[8]) <= 1 for line in lines)
    assert main([*arguments, *options]) == 2
    assert 'has a split "val" already' in capsys.readouterr().err


def test_what_makes_no_sense_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for values, message in (
        ({"frames": 0}, "frames must be from 1 to 100000, got 0"),
        ({"objects": 0}, "objects must be from 1 to 100000, got 0"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"camera": "flying"}, "camera must be still or moving, got 'flying'"),
        ({"size": (10, 10)}, "size must be height and width"),
    ):
        with pytest.raises(UsageError, match=message):
            write_videos(tmp_path / "out", 1, 1, **values)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    assert main(["scenes", str(tmp_path / "out"), "--count", "1", "--seed", "1", "--frames", "3"]) == 2
    assert "--frames is for sequences; add --video" in capsys.readouterr().err
