"""Videos that are written: whole, in one size, and as long as they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from yolor_edge.runtime.drawing.lettering import PAPER
from yolor_edge.runtime.runner.video_file import VideoFile, _fitted
from yolor_edge.runtime.sources.sources import open_source


def test_a_frame_may_stand_for_dropped_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frame = np.full((64, 96, 3), 128, np.uint8)
    with VideoFile.open(path, path, 10, frame) as video:
        video.write(frame)
        video.write(frame[:32], 3)
    assert open_source(path).expected == 4
    assert len(list(open_source(path))) == 4


def test_frames_of_another_size_are_fitted_whole() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    fitted = _fitted(white, (100, 60))
    assert fitted.shape == (60, 100, 3)
    assert np.all(fitted[:, 20:80] == 255)
    assert np.all(fitted[:, :20] == PAPER)
    assert np.all(fitted[:, 80:] == PAPER)
    assert _fitted(white, (50, 50)) is white
    assert _fitted(np.zeros((1, 900, 3), np.uint8), (10, 10)).shape == (10, 10, 3)
