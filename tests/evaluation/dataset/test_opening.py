"""The one door: a share held out, several data sets together, and what each image of them knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.check import check_dataset
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.dataset.opening import MergedDataset, open_dataset, open_validation
from yolor_edge.runtime.errors import DatasetError, UsageError

HEIGHT, WIDTH = 12, 16


def write_set(
    root: Path,
    names: list[str],
    classes: dict[int, str] | None = None,
    split: str = "train",
    caption: str | None = None,
) -> Path:
    """Images with one box each, of the first class, and a caption each where there is one."""
    classes = classes or {3: "cat", 7: "dog"}
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names, 1)]
    annotations = [
        {"id": i, "image_id": i, "category_id": next(iter(classes)), "bbox": [2, 1, 6, 5], "area": 30, "iscrowd": 0}
        for i in range(1, len(names) + 1)
    ]
    categories = [{"id": key, "name": name} for key, name in classes.items()]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    if caption:
        texts = [{"id": i, "image_id": i, "caption": caption} for i in range(1, len(names) + 1)]
        (root / "annotations" / f"captions_{split}.json").write_text(
            json.dumps({"images": images, "annotations": texts})
        )
    for i, name in enumerate(names):
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 3 * i, np.uint8))
    return root


def names_of(dataset: CocoDataset) -> set[str]:
    return {dataset[i].path.name for i in range(len(dataset))}


# --- a share held out --------------------------------------------------------------------------------------


def test_a_share_is_held_out_and_adding_images_moves_none(tmp_path: Path) -> None:
    names = [f"{i:03}.png" for i in range(60)]
    root = write_set(tmp_path / "set", names, split="all")
    train = open_dataset(root, val_share=0.2)
    val = open_validation(train)
    assert val is not None
    assert (train.split, val.split) == ("train@0.2", "val@0.2")
    assert names_of(train) | names_of(val) == set(names)
    assert not names_of(train) & names_of(val)
    assert 5 <= len(val) <= 20
    assert names_of(open_dataset(root, "val@0.2", "val")) == names_of(val)
    assert names_of(open_dataset(root, role="val", val_share=0.2)) == names_of(val)
    other = open_dataset(root, val_share=0.2, seed=7)
    assert other.split == "train@0.2@7"
    assert names_of(other) != names_of(train)
    assert names_of(open_dataset(root, "val@0.2@7")) == set(names) - names_of(other)
    write_set(root, [*names, *(f"new{i}.png" for i in range(20))], split="all")
    assert names_of(val) <= names_of(open_dataset(root, "val@0.2"))
    assert names_of(train) <= names_of(open_dataset(root, "train@0.2"))


def test_copies_of_one_image_go_to_one_side(tmp_path: Path) -> None:
    names = [f"{i:02}_jpg.rf.{copy}abc.png" for i in range(20) for copy in range(3)]
    val = open_dataset(write_set(tmp_path, names, split="all"), "val@0.3")
    stems = [name.partition(".rf.")[0] for name in names_of(val)]
    assert all(stems.count(stem) == 3 for stem in stems)


def test_each_side_has_an_image(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a.png", "b.png"], split="all")
    assert [len(open_dataset(root, split)) for split in ("train@0.01", "val@0.01", "train@0.99", "val@0.99")] == [1] * 4
    (tmp_path / "one").mkdir()
    with pytest.raises(DatasetError, match="has one image, none can be held out"):
        open_dataset(write_set(tmp_path / "one", ["a.png"]), val_share=0.5)


def test_a_share_of_what_has_a_split_for_it_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ["a.png", "b.png"])
    write_set(tmp_path, ["a.png"], split="val2017")
    with pytest.raises(DatasetError, match='has the split "val2017" to validate on; leave val_share out'):
        open_dataset(tmp_path, val_share=0.1)
    with pytest.raises(UsageError, match="val_share must lie within 0 and 1"):
        open_dataset(tmp_path, val_share=1.5)
    assert len(open_dataset(tmp_path, "train:val@0.5")) == 1


# --- several data sets -------------------------------------------------------------------------------------


def test_classes_are_united_by_name_and_each_image_knows_its_own(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", ["1.png", "2.png"], {3: "cat", 7: "dog"})
    b = write_set(tmp_path / "b", ["1.png"], {1: "bird", 2: "cat"}, caption="a bird")
    both = open_dataset([a, b])
    assert isinstance(both, MergedDataset)
    assert (both.class_names, both.category_ids) == (("cat", "dog", "bird"), (3, 7, 1))
    assert (len(both), both.tasks) == (3, {"boxes", "caption"})
    truths = [both[i] for i in range(3)]
    assert [truth.class_ids.tolist() for truth in truths] == [[0], [0], [2]]  # type: ignore[union-attr]
    assert [truth.known_classes.tolist() for truth in truths] == [  # type: ignore[union-attr]
        [True, True, False],
        [True, True, False],
        [True, False, True],
    ]
    assert [truth.image_id for truth in truths] == [1, 2, 3]
    assert truths[2].path == b / "train" / "1.png"
    assert both.read(truths[2]).shape == (HEIGHT, WIDTH, 3)
    assert (truths[0].captions, truths[2].captions) == (None, ("a bird",))


def test_equal_classes_in_another_order_are_all_known(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", ["1.png"], {1: "cat", 2: "dog"})
    b = write_set(tmp_path / "b", ["1.png"], {1: "dog", 2: "cat"})
    both = open_dataset([a, b])
    assert both.class_names == ("cat", "dog")
    assert [both[i].class_ids.tolist() for i in range(2)] == [[0], [1]]  # type: ignore[union-attr]
    assert both[0].known_classes is None


def test_a_data_set_without_boxes_leaves_them_unknown(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", ["1.png"])
    b = write_set(tmp_path / "b", ["1.png"], caption="a cat")
    (b / "annotations" / "instances_train.json").unlink()
    both = open_dataset([a, b])
    assert both[0].boxes is not None
    assert (both[1].boxes, both[1].captions) == (None, ("a cat",))


def test_semantic_classes_are_united_too(tmp_path: Path) -> None:
    roots = []
    for name, things in (("a", {7: "dog", 3: "cat"}), ("b", {3: "cat", 5: "owl"})):
        root = write_set(tmp_path / name, ["1.png"], things)
        (root / "stuffthingmaps" / "train").mkdir(parents=True)
        cv2.imwrite(str(root / "stuffthingmaps" / "train" / "1.png"), np.full((HEIGHT, WIDTH), 123, np.uint8))
        roots.append(root)
    both = open_dataset(roots)
    assert len(set(both.semantic_names)) == 3 + 91
    for i in range(2):
        semantic = both[i].semantic_map()
        assert semantic is not None
        assert both.semantic_names[semantic[0, 0]] == "grass"


def test_validation_of_several(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", [f"{i}.png" for i in range(9)], {1: "cat"})
    b = write_set(tmp_path / "b", ["1.png"], {1: "dog"})
    write_set(tmp_path / "b", ["v.png"], {1: "dog"}, split="val")
    train = open_dataset([a, b], val_share=0.3)
    assert train.split == "train@0.3 + train"
    val = open_validation(train)
    assert val is not None
    assert val.class_names == train.class_names
    assert [str(root) for root, _ in val.sources] == [str(a), str(b)]
    again = open_dataset([a, b], train.split)
    assert [again[i].path for i in range(len(again))] == [train[i].path for i in range(len(train))]
    only = open_validation(open_dataset([a, b]))
    assert only is not None
    assert only.class_names == ("cat", "dog")
    assert only[0].class_ids is not None and only[0].class_ids.tolist() == [1]


def test_names_that_are_nearly_the_same_are_told(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", ["1.png"], {1: "Traffic Light", 2: "cat"})
    b = write_set(tmp_path / "b", ["1.png"], {1: "traffic_light", 2: "cats"})
    doubts = check_dataset([a, b]).doubts
    assert any('"Traffic Light" and "traffic_light"' in text for text in doubts)
    assert any('"cat" and "cats"' in text for text in doubts)


def test_data_sets_that_cannot_be_put_together(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", ["1.png"])
    with pytest.raises(UsageError, match="twice"):
        open_dataset([a, tmp_path / "a"])
    with pytest.raises(UsageError, match="must name a folder"):
        open_dataset([])
    b = write_set(tmp_path / "b", ["1.png"], {1: "cat", 2: "cat"})
    with pytest.raises(DatasetError, match="two categories are called 'cat'"):
        open_dataset([a, b])
    with pytest.raises(UsageError, match="names 3 splits for 2 data sets"):
        open_dataset([a, b], "x + y + z")
