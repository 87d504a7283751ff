"""The look at a data set: what is counted, what is doubtful, what is wrong, and what is remembered of files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset import check as check_module
from yolor_edge.evaluation.dataset.check import check_dataset
from yolor_edge.main import main
from yolor_edge.runtime.errors import DatasetError
from yolor_edge.runtime.images.image_files import read_image

HEIGHT, WIDTH = 48, 64


class Pictures:
    """Four images with a box each, classes 1 cat and 2 dog; what a test changes it changes before `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, 5)]
        self.annotations = [self.box(i, i, 1 + i % 2) for i in range(1, 5)]
        self.captions: list[str] | None = None
        for i in range(1, 5):
            self.picture(f"train/{i}.png", 20 * i)

    def box(self, number: int, image: int, category: int, **changes: Any) -> dict[str, Any]:
        outline = [[4.0, 4.0, 24.0, 4.0, 24.0, 30.0]]
        entry = {"id": number, "image_id": image, "category_id": category, "bbox": [4, 4, 20, 26], "area": 260}
        return {**entry, "iscrowd": 0, "segmentation": outline, **changes}

    def picture(self, name: str, value: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
        return path

    def write(self, split: str = "train") -> Path:
        folder = self.root / "annotations"
        folder.mkdir(exist_ok=True)
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        document = {"images": self.images, "annotations": self.annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(document))
        if self.captions is not None:
            texts = [{"id": i, "image_id": i, "caption": text} for i, text in enumerate(self.captions, 1)]
            captions = {"images": self.images, "annotations": texts}
            (folder / f"captions_{split}.json").write_text(json.dumps(captions))
        return self.root


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "mine")


def test_what_is_there_is_counted(pictures: Pictures) -> None:
    pictures.annotations += [
        pictures.box(5, 1, 1, iscrowd=1, bbox=[0, 0, 9, 9]),
        pictures.box(6, 1, 2, bbox=[70, 4, 5, 5]),
        pictures.box(7, 2, 2, bbox=[1, 1, 1, 20], segmentation=[]),
    ]
    pictures.captions = ["a cat", "🙂"]
    found = check_dataset(pictures.write())
    figures = found.splits[0].figures
    assert not found.all_problems
    assert figures["images"]["read"] == 4
    assert figures["images"]["sizes"] == {"64x48": 4}
    expected = {"objects": 5, "images": 4, "crowds": 1, "outside": 1, "too_small": 1, "classes_without_object": []}
    assert {name: figures["boxes"][name] for name in expected} == expected
    assert figures["masks"] == {"objects": 4, "without_outline": 1}
    assert figures["caption"] == {"captions": 1, "images": 1, "without_words": 1, "words": 2}
    doubts = "\n".join(found.all_doubts)
    for text in (
        "boxes lie outside their images and are left out (1.png, annotation id 6, box [70, 4, 5, 5])",
        f"boxes have a side below 2 pixels of the image ({pictures.root / 'train' / '2.png'})",
        "boxes have no outline and teach no mask",
        "captions have no word and are left out (captions_train.json: 2.png, '🙂')",
    ):
        assert text in doubts
    assert len([line for line in found.table().splitlines() if line.startswith("train  ")]) == 4


def test_too_small_is_what_is_too_small_for_the_network(pictures: Pictures) -> None:
    root = pictures.write()
    assert "below 2 pixels" not in "".join(check_dataset(root).all_doubts)
    assert "below 2 pixels at input 4x4 (first of 4" in "".join(check_dataset(root, input_size=(4, 4)).all_doubts)


def test_every_file_that_cannot_be_read_is_named(pictures: Pictures) -> None:
    whole = (pictures.root / "train" / "1.png").read_bytes()
    (pictures.root / "train" / "2.png").write_bytes(whole[:-20])
    (pictures.root / "train" / "3.png").write_bytes(b"")
    pictures.picture("train/4.png", 3, (HEIGHT, WIDTH + 1))
    found = check_dataset(pictures.write())
    problems = found.all_problems
    assert len(problems) == 3
    assert "2.png: the PNG is cut short" in problems[0]
    assert "3.png: the file is empty" in problems[1]
    assert "4.png: is 48 x 65 (height x width), but the annotations say 48 x 64" in problems[2]
    with pytest.raises(DatasetError, match="yolor-edge check "):
        found.raise_if_wrong()
    assert not check_dataset(pictures.root, read_files=False).all_problems


def test_images_labelled_as_they_are_stored_are_told(pictures: Pictures) -> None:
    stored = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + tag + bytes(4)
    (pictures.root / "train" / "turned.jpg").write_bytes(
        stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:]
    )
    pictures.images[0]["file_name"] = "turned.jpg"
    found = check_dataset(pictures.write())
    assert not found.all_problems
    assert "images are labelled as they are stored, not as EXIF turns them" in "".join(found.all_doubts)


def test_the_same_image_twice(pictures: Pictures) -> None:
    shutil.copy(pictures.root / "train" / "1.png", pictures.root / "train" / "2.png")
    pictures.images[3]["file_name"] = "3.png"
    pictures.annotations.append(pictures.box(9, 1, 2))
    root = pictures.write()
    shutil.copytree(root / "train", root / "val")
    pictures.write("val")
    doubts = "\n".join(check_dataset(root).all_doubts)
    assert f"train: the same image is there under two names ({root}/train/1.png and {root}/train/2.png)" in doubts
    assert "images are listed under several ids" in doubts
    assert "train and val share images" in doubts
    assert "the same box of the same class is there twice" in doubts


def test_maps_are_read_too(pictures: Pictures) -> None:
    root = pictures.write()
    maps = root / "stuffthingmaps" / "train"
    maps.mkdir(parents=True)
    half = np.full((HEIGHT, WIDTH), 123, np.uint8)
    half[: HEIGHT // 2] = 255
    cv2.imwrite(str(maps / "1.png"), half)
    figures = check_dataset(root).splits[0].figures["semantic"]
    assert (figures["maps"], figures["ignored"]) == (1, 0.5)
    assert "grass" not in figures["classes_without_pixel"]
    assert len(figures["classes_without_pixel"]) == figures["classes"] - 1
    cv2.imwrite(str(maps / "1.png"), np.full((HEIGHT, WIDTH), 255, np.uint8))
    cv2.imwrite(str(maps / "2.png"), half[:8])
    problems = check_dataset(root).all_problems
    assert "2.png: is 8 x 64 (height x width), but the JSON says 48 x 64" in problems[0]
    assert "semantic: none of 2 maps has a pixel with a class" in problems[1]


def test_a_second_look_reads_only_what_changed(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures.write()
    read: list[str] = []
    real = check_module._image_facts
    monkeypatch.setattr(check_module, "_image_facts", lambda path: read.append(path.name) or real(path))
    told: list[tuple[int, int]] = []
    first = check_dataset(root, progress=lambda what, done, total: told.append((done, total)))
    assert sorted(read) == ["1.png", "2.png", "3.png", "4.png"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    read.clear()
    assert check_dataset(root).table() == first.table()
    assert read == []
    path = pictures.picture("train/2.png", 99)
    os.utime(path, ns=(1, 1))
    assert not check_dataset(root).all_problems
    assert read == ["2.png"]


def test_nothing_to_learn_is_a_problem(pictures: Pictures) -> None:
    pictures.annotations = [pictures.box(i, i, 1, iscrowd=1) for i in range(1, 5)]
    found = check_dataset(pictures.write(), read_files=False)
    assert "nothing can be learned; boxes: 4 of 4 objects are crowds" in found.all_problems[0]


def test_the_command_draws_and_prints(
    pictures: Pictures, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures.write()
    monkeypatch.chdir(root)
    assert main(["check", str(root)]) == 0
    printed = capsys.readouterr()
    assert f"{root}: COCO's layout" in printed.out
    assert "train  masks     4 objects with an outline, 0 without" in printed.out
    assert "labels: labels.png" in printed.err
    drawn = read_image(root / "labels.png")
    assert drawn.shape[1] == 1600
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20
    (root / "train" / "3.png").write_bytes(b"no image")
    assert main(["check", str(root), "--json", "--no-picture"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["problems"]) == 1
    assert document["splits"][0]["figures"]["images"]["unreadable"] == 1
    assert main(["check", str(root), "--fast", "--val-share", "0.5", "--no-picture"]) == 0
    assert "val@0.5  images" in capsys.readouterr().out
    assert main(["check", str(root / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_what_there_is_not_is_told_with_what_helps(pictures: Pictures) -> None:
    root = pictures.write()
    lacks = check_dataset(root, read_files=False).lacks
    assert [text.partition(":")[0] for text in lacks[:1]] == ["truth for semantic, caption"]
    assert "--val-share 0.1 holds a tenth out" in lacks[1]
    assert len(check_dataset(root, read_files=False, val_share=0.5).lacks) == 1
    shutil.copytree(root / "train", root / "val")
    pictures.write("val")
    assert len(check_dataset(root, read_files=False).lacks) == 1
