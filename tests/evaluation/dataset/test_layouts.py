"""The layouts that labels come in, each recognised by what lies there, and each with its own mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.dataset.opening import open_dataset
from yolor_edge.runtime.errors import DatasetError

HEIGHT, WIDTH = 40, 80
BOX = "0 0.5 0.5 0.25 0.5\n"
TRIANGLE = "1 0.25 0.25 0.75 0.25 0.5 0.75\n"


def write_picture(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))
    return path


def coco_document(names: list[str], categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """One box of the last category in each image."""
    categories = categories or [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    annotations = [
        {
            "id": i,
            "image_id": i,
            "category_id": categories[-1]["id"],
            "bbox": [10.0, 5.0, 20.0, 30.0],
            "area": 600.0,
            "iscrowd": 0,
            "segmentation": [],
        }
        for i in range(len(names))
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def complaint(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        CocoDataset.open(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- COCO's format in other folders ------------------------------------------------------------------------


def test_roboflow(tmp_path: Path) -> None:
    group = {"id": 0, "name": "pets", "supercategory": "none"}
    animals = [group, *({"id": i, "name": n, "supercategory": "pets"} for i, n in ((1, "cat"), (2, "dog")))]
    for split, names in (("train", ["a_jpg.rf.0123.png", "b_jpg.rf.77.png"]), ("valid", ["c_jpg.rf.5.png"])):
        write_json(tmp_path / split / "_annotations.coco.json", coco_document(names, animals))
        for name in names:
            write_picture(tmp_path / split / name)
    train, val = open_dataset(tmp_path), open_dataset(tmp_path, role="val")
    assert (train.split, len(train), val.split, len(val)) == ("train", 2, "valid", 1)
    assert (train.class_names, train.category_ids) == (("cat", "dog"), (1, 2))
    assert train.notes["category above all others left out"].example == "pets"
    assert "Roboflow" in train.layout
    assert train.read(train[0]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("folder", ["images", "images/default", "default"])
def test_cvat(tmp_path: Path, folder: str) -> None:
    write_json(tmp_path / "annotations" / "instances_default.json", coco_document(["a.png", "deep/b.png"]))
    for name in ("a.png", "deep/b.png"):
        write_picture(tmp_path / folder / name)
    dataset = open_dataset(tmp_path, role="val")
    assert (dataset.split, len(dataset)) == ("default", 2)
    assert "CVAT" in dataset.layout
    assert dataset[1].path == tmp_path / folder / "deep" / "b.png"


@pytest.mark.parametrize("name", ["images/1-a.png", "images\\1-a.png", "/data/upload/3/1-a.png", "1-a.png"])
def test_label_studio(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "result.json", coco_document([name]))
    write_picture(tmp_path / "images" / "1-a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.split == "all"
    assert "Label Studio" in dataset.layout
    assert dataset[0].path == tmp_path / "images" / "1-a.png"
    assert open_dataset(tmp_path / "result.json")[0].path == dataset[0].path


def test_several_coco_files_are_not_guessed_among(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        write_json(tmp_path / name, coco_document(["a.png"]))
    assert "several COCO files, one.json, two.json; name the one to use, such as" in complaint(tmp_path)


def test_annotations_named_by_their_split_alone(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_json(tmp_path / "annotations" / f"{split}.json", coco_document([f"{split}.png"]))
        write_picture(tmp_path / "images" / f"{split}.png")
    assert open_dataset(tmp_path)[0].path == tmp_path / "images" / "train.png"
    assert open_dataset(tmp_path, role="val").split == "val"


def test_what_is_no_data_set_is_told_with_what_is_there(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.png")
    assert "docs/data.md shows all layouts" in complaint(tmp_path)
    (tmp_path / "labels").mkdir()
    assert "there are labels/ but no data.yaml" in complaint(tmp_path)
    (tmp_path / "a.xml").write_text("<annotation/>")
    assert "XML files (Pascal VOC) are not read" in complaint(tmp_path)


# --- YOLO text labels --------------------------------------------------------------------------------------


class Yolo:
    """images/{train,val} and labels/{train,val} with a data.yaml."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.describe("train: images/train\nval: images/val\nnames: [cat, dog]\n")
        for split, names in (("train", "ab"), ("val", "c")):
            for name in names:
                write_picture(root / "images" / split / f"{name}.png")
                self.label(f"{split}/{name}", BOX)

    def describe(self, text: str) -> None:
        (self.root / "data.yaml").write_text(text, encoding="utf-8")

    def label(self, name: str, text: str) -> Path:
        path = self.root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def yolo(tmp_path: Path) -> Yolo:
    pytest.importorskip("yaml")
    return Yolo(tmp_path)


def test_boxes_and_polygons(yolo: Yolo) -> None:
    yolo.label("train/a", BOX + TRIANGLE + "\n0 0.95 0.5 0.2 0.5\n")
    dataset = open_dataset(yolo.root)
    assert (dataset.split, len(dataset), dataset.class_names) == ("train", 2, ("cat", "dog"))
    assert dataset.tasks == {"boxes", "masks"}
    truth = dataset[0]
    assert truth.size == (HEIGHT, WIDTH)
    assert truth.boxes is not None and truth.class_ids is not None and truth.areas is not None
    np.testing.assert_allclose(truth.boxes, [[30, 10, 50, 30], [20, 10, 60, 30], [68, 10, 80, 30]], atol=1e-4)
    assert truth.class_ids.tolist() == [0, 1, 0]
    np.testing.assert_allclose(truth.areas, [400, 400, 320], rtol=1e-5)
    assert truth.mask_known.tolist() == [False, True, False]
    masks = truth.masks()
    assert masks is not None
    assert abs(int(masks[1].sum()) - 400) < 60
    assert masks[1][12, 40] and not masks[1][28, 22]
    assert open_dataset(yolo.root, role="val").split == "val"


@pytest.mark.parametrize(
    "text",
    [
        "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
        "path: /content/datasets/mine\ntrain: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\n",
        "train: ../images/train\nval: ../images/val\nnames: [cat, dog]\n",
        "train: images\\train\nval: images/val\ntest:\nnames: [cat, dog]\n",
        "train: [images/train]\nval: images/val\nnames: [cat, dog]\n",
        "train: {root}/images/train\nval: {root}/images/val\nnames: [cat, dog]\n",
        "train: train.txt\nval: images/val\nnames: [cat, dog]\n",
    ],
)
def test_forms_of_data_yaml(yolo: Yolo, text: str) -> None:
    yolo.describe(text.replace("{root}", str(yolo.root)))
    (yolo.root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
    for place in (yolo.root, yolo.root / "data.yaml"):
        dataset = open_dataset(place)
        assert [truth.path.name for truth in (dataset[0], dataset[1])] == ["a.png", "b.png"]
        assert dataset.class_names == ("cat", "dog")


def test_labels_of_images_in_folders_per_split_and_beside_them(yolo: Yolo) -> None:
    write_picture(yolo.root / "other" / "train" / "images" / "x.png")
    (yolo.root / "other" / "train" / "labels").mkdir()
    (yolo.root / "other" / "train" / "labels" / "x.txt").write_text(BOX)
    write_picture(yolo.root / "flat" / "y.png")
    (yolo.root / "flat" / "y.txt").write_text(TRIANGLE)
    yolo.describe("train: [other/train/images, flat]\nnames: [cat, dog]\n")
    dataset = open_dataset(yolo.root)
    assert [dataset[i].class_ids.tolist() for i in range(2)] == [[0], [1]]  # type: ignore[union-attr]


def test_an_image_without_labels_has_no_objects_and_is_told(yolo: Yolo) -> None:
    yolo.label("train/a", "")
    write_picture(yolo.root / "images" / "train" / "z.png")
    dataset = open_dataset(yolo.root)
    assert [len(dataset[i].boxes) for i in range(3)] == [0, 1, 0]  # type: ignore[arg-type]
    assert (dataset.notes["without a label file"].count, dataset.notes["without a label file"].example) == (
        1,
        "images/train/z.png",
    )


def test_label_studio_writes_classes_txt(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    write_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(TRIANGLE)
    dataset = open_dataset(tmp_path)
    assert (dataset.split, dataset.class_names, dataset[0].class_ids.tolist()) == (  # type: ignore[union-attr]
        "all",
        ("cat", "dog"),
        [1],
    )


def test_sizes_are_those_of_the_upright_image(yolo: Yolo) -> None:
    stored = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + tag + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (yolo.root / "images" / "train" / "a.png").unlink()
    (yolo.root / "images" / "train" / "a.jpg").write_bytes(stored[:2] + segment + stored[2:])
    for suffix in (".bmp", ".webp", ".tiff"):
        write_picture(yolo.root / "images" / "train" / f"c{suffix}", (33, 57))
    dataset = open_dataset(yolo.root)
    for i in range(len(dataset)):
        assert dataset.read(dataset[i]).shape[:2] == dataset[i].size
    assert dataset[0].size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "label lines must be a class and 4 numbers, or a class and a polygon"),
        ("0 0.5 0.5 0.2 0.2 0.9", "5 numbers after the class"),
        ("0 0.1 0.1 0.2 0.2", None),
        ("cat 0.5 0.5 0.2 0.2", "label lines must be numbers"),
        ("2 0.5 0.5 0.2 0.2", "a class that is not there, names has 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.2 0.2", "a class that is not there"),
        ("0.5 0.5 0.5 0.2 0.2", "a class that is not there"),
        ("0 40 20 10 10", "shares of the image's width and height, from 0 to 1"),
        ("0 0.5 nan 0.2 0.2", "shares of the image's width and height, from 0 to 1"),
        ("0 0.5 0.5 -0.2 0.2", "shares of the image's width and height, from 0 to 1"),
        ("1 0.1 0.1 0.9 0.1 0.5 1.5", "shares of the image's width and height, from 0 to 1"),
    ],
)
def test_a_line_that_is_wrong_is_told_with_file_and_number(yolo: Yolo, line: str, expected: str | None) -> None:
    label = yolo.label("train/b", BOX + line + "\n")
    if expected is None:
        assert len(open_dataset(yolo.root)) == 2
        return
    message = complaint(yolo.root)
    assert expected in message
    assert f"{label}, line 2" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: images/train\n  names: [", "data.yaml: is not YAML"),
        ("- a\n", "expected names, train and val, got list"),
        ("train: images/train\n", "expected names: with a list of class names"),
        ("train: images/train\nnames: []\n", "expected names: with a list of class names"),
        ("train: images/train\nnames: [yes, cat]\n", "name 0 is True, expected text; put it in quotes"),
        ("train: images/train\nnames: {a: cat}\n", "names must have whole numbers before the names, got 'a'"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc is 3, but names has 2 entries"),
        ("train: pictures\nnames: [cat, dog]\n", "train: pictures is not there (looked for"),
        ("train: 7\nnames: [cat, dog]\n", "train must be a folder, a text file or a list of them, got 7"),
        ("names: [cat, dog]\n", "names no images; expected train: and val:"),
    ],
)
def test_a_data_yaml_that_is_wrong(yolo: Yolo, text: str, expected: str) -> None:
    yolo.describe(text)
    assert expected in complaint(yolo.root)


def test_folders_that_are_missing_or_hold_nothing(yolo: Yolo) -> None:
    (yolo.root / "labels").rename(yolo.root / "annotated")
    message = complaint(yolo.root)
    assert "has no label file for any of 2 images" in message
    assert f"expected {yolo.root / 'labels' / 'train' / 'a.txt'}" in message
    (yolo.root / "empty").mkdir()
    yolo.describe("train: empty\nnames: [cat, dog]\n")
    assert "empty: holds no images" in complaint(yolo.root)
    (yolo.root / "list.txt").write_text("images/train/a.png\nimages/train/gone.png\n")
    yolo.describe("train: list.txt\nnames: [cat, dog]\n")
    assert "lists images that are not there (line 2: images/train/gone.png)" in complaint(yolo.root)


def test_images_that_cannot_be_read_are_named(yolo: Yolo) -> None:
    (yolo.root / "images" / "train" / "b.png").write_bytes(b"")
    assert f"{yolo.root / 'images' / 'train' / 'b.png'}: the file is empty" in complaint(yolo.root)
