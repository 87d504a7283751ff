"""The drawn data set: the same from the same seed, whole or absent, and true in all four kinds of truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.scenes.scene_captions import SHAPES, caption_facts, facts_from_truth
from yolor_edge.evaluation.scenes.scene_drawing import LEAST_LEAD, LEAST_VISIBLE_AREA, STUFF, draw_scene, visible_boxes
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.runtime.bundle.tokenizer import normalise
from yolor_edge.runtime.errors import UsageError

# pycocotools 2.0.11 and older decode in a way that newer numpy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def annotations_of(folder: Path, kind: str, split: str = "train") -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"{kind}_{split}.json").read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "data", count=50, seed=5)


def test_same_seed_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "again", count=50, seed=5)
    assert files_of(again) == files_of(written)


def test_fewer_images_are_a_prefix(written: Path, tmp_path: Path) -> None:
    few = write_scenes(tmp_path / "few", count=6, seed=5)
    many = files_of(written)
    for name, content in files_of(few).items():
        if not name.endswith(".json"):
            assert content == many[name], name
    for kind in ("instances", "captions", "panoptic"):
        short, long = annotations_of(few, kind), annotations_of(written, kind)
        assert short["annotations"] == long["annotations"][: len(short["annotations"])]
        assert short["images"] == long["images"][:6]


def test_another_seed_other_pictures(tmp_path: Path) -> None:
    names = [write_scenes(tmp_path / str(seed), count=1, seed=seed) / "train/000000000001.jpg" for seed in (1, 2)]
    assert names[0].read_bytes() != names[1].read_bytes()


def test_layout_is_cocos(written: Path) -> None:
    names = set(files_of(written))
    numbers = [f"{number:012d}" for number in range(1, 51)]
    assert names == {
        *(f"train/{number}.jpg" for number in numbers),
        *(f"annotations/panoptic_train/{number}.png" for number in numbers),
        *(f"annotations/{kind}_train.json" for kind in ("instances", "captions", "panoptic")),
    }
    instances = annotations_of(written, "instances")
    assert instances["info"] == {
        "description": "yolor-edge scenes",
        "version": 1,
        "seed": 5,
        "size": [224, 288],
    }
    ids = [category["id"] for category in instances["categories"]]
    assert [category["name"] for category in instances["categories"]] == list(SHAPES)
    assert ids == sorted(ids)
    assert max(ids) > len(ids)  # with gaps
    image = cv2.imread(str(written / "train" / f"{numbers[0]}.jpg"))
    assert image is not None
    assert image.shape == (224, 288, 3)


def test_masks_boxes_areas_and_segments_agree(written: Path) -> None:
    instances, panoptic = annotations_of(written, "instances"), annotations_of(written, "panoptic")
    names = {category["id"]: category for category in panoptic["categories"]}
    for entry in panoptic["annotations"]:
        objects = [one for one in instances["annotations"] if one["image_id"] == entry["image_id"]]
        pixels = cv2.imread(str(written / "annotations/panoptic_train" / entry["file_name"]))
        assert pixels is not None
        segment_map = pixels[..., 2] + 256 * pixels[..., 1].astype(int) + 65536 * pixels[..., 0].astype(int)
        segments = {segment["id"]: segment for segment in entry["segments_info"]}
        assert len(segments) == len(entry["segments_info"])
        assert set(np.unique(segment_map)) == set(segments)  # every pixel belongs to a segment
        things = [segment for segment in segments.values() if names[segment["category_id"]]["isthing"]]
        assert len(things) == len(objects) >= 1
        for segment, one in zip(things, objects, strict=True):
            mask = coco_mask.decode(one["segmentation"]).astype(bool)
            assert np.array_equal(segment_map == segment["id"], mask)
            assert one["area"] == segment["area"] == mask.sum() >= LEAST_VISIBLE_AREA
            assert one["bbox"] == segment["bbox"] == list(coco_mask.toBbox(one["segmentation"]))
            assert one["category_id"] == segment["category_id"]
            assert names[one["category_id"]]["name"] == one["attributes"]["shape"]
            assert one["iscrowd"] == 0


def test_the_reader_finds_all_four_tasks(written: Path) -> None:
    dataset = CocoDataset.open(written)
    assert dataset.tasks == {"boxes", "masks", "semantic", "caption"}
    assert tuple(dataset.class_names) == SHAPES
    assert tuple(dataset.semantic_names) == SHAPES + STUFF
    assert len(dataset) == 50


def test_captions_are_true_and_of_a_small_language(written: Path) -> None:
    dataset = CocoDataset.open(written)
    words: set[str] = set()
    for index in range(len(dataset)):
        truth = dataset[index]
        facts = facts_from_truth(truth, dataset.class_names, dataset.semantic_names)
        if len(facts.objects) > 1:
            assert facts.objects[0].area >= LEAST_LEAD * facts.objects[1].area
        captions = truth.captions or ()
        assert len(set(captions)) == 5
        for caption in captions:
            judged = caption_facts(caption, truth, dataset.class_names, dataset.semantic_names)
            assert (caption, judged.names_largest, judged.states_true_relation) == (caption, True, True)
            assert " ".join(normalise(caption)) == caption
            words.update(caption.split())
    assert len(words) <= 60


def test_captions_of_another_picture_are_mostly_wrong(written: Path) -> None:
    dataset = CocoDataset.open(written)
    right = 0
    for index in range(len(dataset)):
        caption = (dataset[(index + 1) % len(dataset)].captions or ("",))[0]
        judged = caption_facts(caption, dataset[index], dataset.class_names, dataset.semantic_names)
        right += judged.names_largest or judged.states_true_relation
    assert right <= 5


def test_a_ring_shows_what_is_behind_it() -> None:
    for index in range(60):
        scene = draw_scene(3, index)
        count = len(scene.shapes)
        if scene.shapes[-1] == "ring":  # the foremost object, so that nothing covers it
            x1, y1, x2, y2 = visible_boxes(scene.instance_map, count)[0][-1]
            assert scene.instance_map[int((y1 + y2) / 2), int((x1 + x2) / 2)] != count
            return
    pytest.fail("no ring in sixty scenes")


def test_everything_is_drawn_sooner_or_later() -> None:
    shapes: set[str] = set()
    colors: set[str] = set()
    stuff: set[int] = set()
    counts: set[int] = set()
    for index in range(80):
        scene = draw_scene(1, index)
        shapes.update(scene.shapes)
        colors.update(scene.colors)
        stuff.update(np.unique(scene.stuff_map).tolist())
        counts.add(len(scene.shapes))
    assert (len(shapes), len(colors), len(stuff), counts) == (8, 8, len(STUFF), {1, 2, 3, 4, 5, 6})


@pytest.mark.parametrize("size", [(64, 64), (64, 640), (480, 64), (321, 333)])
def test_other_sizes(size: tuple[int, int]) -> None:
    for index in range(8):
        scene = draw_scene(2, index, size)
        assert scene.image.shape == (*size, 3)
        assert scene.instance_map.shape == scene.stuff_map.shape == size
        assert scene.instance_map.max() == len(scene.shapes) >= 1


def test_splits_stand_beside_each_other(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=2, seed=1, split="train")
    before = files_of(tmp_path)
    seen: list[tuple[int, int]] = []
    write_scenes(tmp_path, count=2, seed=2, split="val", progress=lambda _, done, total: seen.append((done, total)))
    after = files_of(tmp_path)
    assert seen == [(1, 2), (2, 2)]
    assert before.items() <= after.items()
    assert "val/000000000002.jpg" in after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"split": "a/b"}, 'got "a/b"'),
        ({"split": ""}, 'got ""'),
        ({"split": "annotations"}, 'got "annotations"'),
        ({"size": (63, 288)}, "64 to 2048 pixels each, got 63 x 288"),
        ({"size": (224, 2049)}, "got 224 x 2049"),
        ({"shapes": ("star", "blob")}, "shapes must be some of circle, .*, got star, blob"),
        ({"shapes": ()}, "got none"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_scenes(**{"out": tmp_path / "data", "count": 1, "seed": 1, **arguments})
    assert not (tmp_path / "data").exists()


def test_scenes_of_some_shapes_have_no_other_classes(tmp_path: Path) -> None:
    data = CocoDataset.open(write_scenes(tmp_path / "data", count=12, seed=1, size=(64, 96), shapes=("ring", "circle")))
    assert data.class_names == ("circle", "ring")
    assert not {"square", "star", "heart"} & set(data.semantic_names)
    seen = {data.class_names[i] for n in range(len(data)) for i in data[n].class_ids}  # type: ignore[union-attr]
    assert seen == {"circle", "ring"}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UsageError, match="data: is a file, expected a folder"):
        write_scenes(tmp_path / "data", count=1, seed=1)


def test_a_split_is_never_overwritten(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=1, seed=1)
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=r'has a split "train" already .*choose another folder'):
        write_scenes(tmp_path, count=1, seed=2)
    assert files_of(tmp_path) == before


def test_two_splits_of_one_seed_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=1, seed=1)
    with pytest.raises(UsageError, match=r'"train" was drawn from seed 1 too, .* give another seed'):
        write_scenes(tmp_path, count=1, seed=1, split="val")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "data", count=3, seed=1, progress=interrupt)
    assert not (tmp_path / "data").exists()

    def full(source: Path, target: Path) -> None:
        if target.name == "instances_train.json":
            raise OSError(28, "No space left on device")
        source.rename(target)

    write_scenes(tmp_path, count=1, seed=2, split="val")
    before = files_of(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_scenes(tmp_path, count=3, seed=1)
    assert files_of(tmp_path) == before
    assert not (tmp_path / "train").exists()
