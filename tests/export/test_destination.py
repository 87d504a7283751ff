"""The images that a bundle is proven on: the user's own, and of those the ones that show something."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.export.destination import CANDIDATES, candidate_images, telling_images
from yolor_edge.runtime.errors import DatasetError
from yolor_edge.runtime.results import Caption, Result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("destination") / "scenes"
    write_scenes(folder, 3, 0, "train", (64, 96))
    write_scenes(folder, 30, 1, "val", (64, 96))
    return folder


def test_named_images_come_first_then_what_is_scored_then_the_run(data: Path, tmp_path: Path) -> None:
    named, scored = [tmp_path / "a.png", tmp_path / "b.png"], sorted((data / "val").iterdir())
    assert candidate_images(named, data) == named
    found = candidate_images(None, data)
    assert len(found) == CANDIDATES
    assert found == [file for file in scored[::2][:CANDIDATES]]
    assert candidate_images(None, data, "train") == sorted((data / "train").iterdir())
    (tmp_path / "run.json").write_text(json.dumps({"data": str(data)}))
    assert candidate_images(None, run=tmp_path) == found
    with pytest.raises(DatasetError, match="no such"):
        candidate_images(None, data / "nowhere")


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"data": "/nowhere"}'])
def test_a_run_whose_data_is_gone_has_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert candidate_images(None, run=tmp_path) == []
    assert candidate_images(None, run=tmp_path / "nowhere") == []


def test_images_that_show_most_are_taken(tmp_path: Path) -> None:
    """Of ten, those whose pixels say that the network finds boxes and writes a caption, in their order."""
    kinds = [0, 1, 0, 2, 1, 3, 0, 3, 3, 3]
    files = []
    for i, kind in enumerate(kinds):
        files.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(files[-1]), np.full((8, 8, 3), kind, np.uint8))
    asked: list[int] = []

    def predict(image: NDArray[np.uint8]) -> Result:
        kind = int(image[0, 0, 0])
        asked.append(kind)
        count = kind & 1
        return Result(
            image_size=(8, 8),
            boxes=np.zeros((count, 4), np.float32),
            scores=np.zeros(count, np.float32),
            class_ids=np.zeros(count, np.int32),
            caption=Caption("a" * (kind // 2), (5,) * (kind // 2), 0.0, 0.0),
        )

    assert list(telling_images(files, (64, 64), predict)) == ["5-5", "7-7", "8-8"]
    assert len(asked) == 9, "three that show all are enough"
    assert list(telling_images(files[:3], (64, 64), predict)) == ["1-1", "0-0", "2-2"]
    drawn = telling_images([], (64, 64), predict)
    assert list(drawn) == ["scene-0", "scene-1", "scene-2"]
