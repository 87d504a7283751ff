"""The data reader: COCO's layout in all its forms, and one clear line for everything that is not it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.dataset.segmentations import coco_mask, masks_from_rles
from yolor_edge.evaluation.dataset.truth import PanopticMap
from yolor_edge.runtime.errors import DatasetError

SQUARE = [[2.0, 1.0, 8.0, 1.0, 8.0, 6.0, 2.0, 6.0]]
HEIGHT, WIDTH = 12, 16


def image(image_id: int, name: str | None = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"id": image_id, "file_name": name or f"{image_id}.png", "height": size[0], "width": size[1]}


def box(annotation_id: int, owner: int, category: int = 3, **more: Any) -> dict[str, Any]:
    entry = {"id": annotation_id, "image_id": owner, "category_id": category, "bbox": [2.0, 1.0, 6.0, 5.0]}
    return {**entry, "area": 30.0, "iscrowd": 0, "segmentation": SQUARE, **more}


class Folder:
    """A data set under construction: two images, categories 3 and 7, every file written on `open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.split = "train"
        self.documents: dict[str, Any] = {
            "instances": {
                "images": [image(5), image(4)],
                "annotations": [box(1, 5), box(2, 5, 7)],
                "categories": [{"id": 7, "name": "star"}, {"id": 3, "name": "circle"}],
            }
        }

    def add_captions(self, captions: dict[int, list[str]]) -> None:
        annotations = [
            {"id": i, "image_id": image_id, "caption": text}
            for image_id, texts in captions.items()
            for i, text in enumerate(texts)
        ]
        self.documents["captions"] = {"images": [image(5), image(4)], "annotations": annotations}

    def add_panoptic(self) -> None:
        """Image 5: a star of segment 70000 on the left, unlabelled in the last column, grass elsewhere."""
        self.documents["panoptic"] = {
            "images": [image(5), image(4)],
            "annotations": [
                {
                    "image_id": 5,
                    "file_name": "5.png",
                    "segments_info": [{"id": 70000, "category_id": 7}, {"id": 300, "category_id": 2}],
                }
            ],
            "categories": [
                {"id": 2, "name": "grass", "isthing": 0},
                {"id": 7, "name": "star", "isthing": 1},
                {"id": 3, "name": "circle", "isthing": 1},
            ],
        }
        segments = np.full((HEIGHT, WIDTH), 300)
        segments[:, :4] = 70000
        segments[:, -1] = 0
        self.write_png("annotations/panoptic_train/5.png", segments)

    def write_png(self, name: str, segments: np.ndarray) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bgr = np.stack([segments >> 16, segments >> 8 & 255, segments & 255], -1)
        cv2.imwrite(str(path), bgr.astype(np.uint8))

    def write(self) -> None:
        images = self.root / self.split
        images.mkdir(parents=True, exist_ok=True)
        (self.root / "annotations").mkdir(exist_ok=True)
        for kind, document in self.documents.items():
            text = document if isinstance(document, str) else json.dumps(document)
            (self.root / "annotations" / f"{kind}_{self.split}.json").write_text(text)
        for name in ("4.png", "5.png"):
            if not (images / name).exists():
                cv2.imwrite(str(images / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))

    def open(self, **options: Any) -> CocoDataset:
        self.write()
        return CocoDataset.open(self.root, **options)

    def complaint(self, **options: Any) -> str:
        with pytest.raises(DatasetError) as caught:
            self.open(**options)
        message = str(caught.value)
        assert "\n" not in message
        assert str(self.root) in message
        assert caught.value.exit_code == 2
        return message


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# --- what is read ------------------------------------------------------------------------------------------


def test_reads_coco_tiny(coco_tiny: Path) -> None:
    train = CocoDataset.open(coco_tiny)
    val = CocoDataset.open(coco_tiny, role="val")
    assert (train.split, len(train), val.split, len(val)) == ("train2017", 80, "val2017", 20)
    assert (len(val.class_names), val.class_names[11], val.category_ids[11]) == (80, "stop sign", 13)
    assert (len(val.semantic_names), val.semantic_names[79:81]) == (133, ("toothbrush", "banner"))
    assert val.tasks == {"boxes", "masks", "semantic", "caption"}
    truths = [train[i] for i in range(len(train))]
    assert sum(len(truth.class_ids) for truth in truths if truth.class_ids is not None) == 553
    assert sum(int(truth.crowd.sum()) for truth in truths if truth.crowd is not None) == 5
    train.require_classes(val.class_names, val.semantic_names)


def test_masks_boxes_and_semantic_map_of_coco_tiny_agree(coco_tiny: Path) -> None:
    dataset = CocoDataset.open(coco_tiny, "val2017")
    agreeing = covered = 0
    for index in range(0, 20, 4):
        truth = dataset[index]
        masks, semantic = truth.masks(), truth.semantic_map()
        assert masks is not None
        assert semantic is not None
        assert truth.boxes is not None
        assert truth.class_ids is not None
        assert dataset.read(truth).shape == (*truth.size, 3)
        assert masks.shape == (len(truth.boxes), *truth.size)
        assert masks.dtype == bool
        assert len(truth.captions or ()) >= 5
        labelled = semantic != 255
        assert labelled.mean() > 0.5
        assert semantic[labelled].max() < 133
        for mask, (x1, y1, x2, y2), class_id in zip(masks, truth.boxes, truth.class_ids, strict=True):
            ys, xs = np.nonzero(mask)
            assert x1 - 1 <= xs.min() <= xs.max() <= x2
            assert y1 - 1 <= ys.min() <= ys.max() <= y2
            # Both annotations are of the same objects: inside a mask, the map says the object's class.
            agreeing += np.count_nonzero(semantic[mask] == class_id)
            covered += np.count_nonzero(mask)
    assert agreeing / covered > 0.95


def test_class_ids_are_contiguous_by_rising_category_id(folder: Folder) -> None:
    dataset = folder.open()
    assert (dataset.class_names, dataset.category_ids) == (("circle", "star"), (3, 7))
    assert [dataset[i].image_id for i in range(2)] == [4, 5]
    truth = dataset[1]
    assert truth.path == folder.root / "train" / "5.png"
    assert truth.class_ids is not None
    assert truth.boxes is not None
    assert truth.class_ids.tolist() == [0, 1]
    assert truth.class_ids.dtype == np.int64
    assert truth.boxes.dtype == np.float32
    assert truth.boxes[0].tolist() == [2, 1, 8, 6]
    assert dataset[-1].image_id == 5
    with pytest.raises(IndexError):
        dataset[2]


def test_an_image_without_objects_is_a_negative_and_an_unlisted_one_is_unknown(folder: Folder) -> None:
    folder.add_captions({5: ["a star ", " "], 9: ["elsewhere"]})
    folder.documents["captions"]["images"].append(image(9, "5.png"))
    dataset = folder.open()
    negative, listed, unlisted = (dataset[i] for i in range(3))
    assert negative.boxes is not None
    assert negative.boxes.shape == (0, 4)
    assert negative.masks() is not None
    assert negative.masks().shape == (0, HEIGHT, WIDTH)  # type: ignore[union-attr]
    assert (negative.captions, negative.semantic_map(), negative.has_semantic) == (None, None, False)
    assert listed.captions == ("a star",)
    assert (unlisted.boxes, unlisted.class_ids, unlisted.rles, unlisted.masks()) == (None, None, None, None)
    assert unlisted.captions == ("elsewhere",)
    assert dataset.tasks == {"boxes", "masks", "caption"}


def test_any_kind_may_be_missing(folder: Folder) -> None:
    folder.add_captions({5: ["a star"]})
    del folder.documents["instances"]
    dataset = folder.open()
    assert dataset.tasks == {"caption"}
    assert (dataset.class_names, dataset.semantic_names, dataset[0].boxes) == ((), (), None)


def test_polygons_and_both_run_length_forms_give_the_same_mask(folder: Folder) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:6, 2:8] = 1
    compressed = coco_mask.encode(np.asfortranarray(mask))
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [2]])))
    uncompressed = np.diff(np.concatenate([[0], runs])).tolist()
    folder.documents["instances"]["annotations"] = [
        box(1, 5),
        box(2, 5, segmentation={"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}),
        box(3, 5, segmentation={"size": [HEIGHT, WIDTH], "counts": uncompressed}, iscrowd=1),
        box(4, 5, segmentation=[[2, 1, 8, 1, 8, 6], [2.0, 1.0, 8.0, 6.0, 2.0, 6.0]]),
    ]
    truth = folder.open()[1]
    masks = truth.masks()
    assert masks is not None
    assert truth.crowd is not None
    for row in masks[:3]:
        np.testing.assert_array_equal(row, mask)
    assert abs(int(masks[3].sum()) - int(mask.sum())) <= 6
    assert truth.crowd.tolist() == [False, False, True, False]
    assert truth.rles is not None
    assert all(
        rle is not None and isinstance(rle["counts"], str) and rle["size"] == [HEIGHT, WIDTH] for rle in truth.rles
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(10))
def test_masks_are_decoded_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, 2).tolist()
    masks = rng.random((3, height, width)) < rng.random((3, 1, 1)) ** 3
    masks[1, height // 3 :, width // 2 :] = True
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    rles = [{"size": [height, width], "counts": rle["counts"].decode()} for rle in rles]
    np.testing.assert_array_equal(masks_from_rles(rles, (height, width)), masks)
    np.testing.assert_array_equal(coco_mask.decode(rles).transpose(2, 0, 1).astype(bool), masks)


@pytest.mark.parametrize("counts", ["", "zzz", "0" * 50, "\x00\x01", "é", "\udcff", "PPYo0" * 10, "P" * 100])
def test_malformed_run_lengths_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="run lengths must be COCO's compressed text for 10 x 10 pixels"):
        masks_from_rles([{"size": [10, 10], "counts": counts}], (10, 10))


def test_a_box_without_outline_loses_its_own_mask_alone(folder: Folder) -> None:
    folder.documents["instances"]["annotations"] = [box(1, 5), box(2, 5, segmentation=[]), box(3, 4)]
    dataset = folder.open()
    truth = dataset[1]
    assert truth.mask_known.tolist() == [True, False]
    masks, rles = truth.masks(), truth.rles
    assert masks is not None and rles is not None
    assert (masks[0].sum() > 0, masks[1].any(), rles[1]) == (True, False, None)
    assert dataset[0].mask_known.tolist() == [True]
    assert "masks" in dataset.tasks


@pytest.mark.parametrize(
    "outline",
    [[[1, 1, 4, 4]], [[1, 1, 4, 4, 2, 2]], [[]], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}],
)
def test_an_outline_without_area_is_none(folder: Folder, outline: Any) -> None:
    folder.documents["instances"]["annotations"] = [box(1, 5, segmentation=outline)]
    dataset = folder.open()
    assert dataset[1].segmentations is None
    assert dataset.tasks == {"boxes"}
    assert "5.png, annotation id 1" in dataset.untaught["masks"]


def test_crowds_alone_are_no_target(folder: Folder) -> None:
    folder.documents["instances"]["annotations"] = [box(1, 5, iscrowd=1), box(2, 5, bbox=[40, 2, 3, 3])]
    dataset = folder.open()
    assert not dataset.tasks
    assert dataset.untaught == {"boxes": "1 of 2 objects are crowds and 1 of 2 objects lie outside their images"}


def test_boxes_are_clipped_and_those_with_nothing_left_are_dropped_and_counted(folder: Folder) -> None:
    folder.documents["instances"]["annotations"] = [
        box(1, 5, bbox=[-3, 1, 6, 50]),
        box(2, 5, bbox=[2, 2, 0, 5]),
        box(3, 5, bbox=[2, 2, 5, -1]),
        box(4, 5, bbox=[WIDTH, 2, 5, 5]),
    ]
    dataset = folder.open()
    boxes, annotated = dataset[1].boxes, dataset[1].annotated_boxes
    assert boxes is not None
    assert annotated is not None
    assert boxes.tolist() == [[0, 1, 3, HEIGHT]]
    assert annotated.tolist() == [[-3, 1, 6, 50]]  # what scores are taken with
    assert dataset.dropped_boxes == 3


def test_area_and_crowd_may_be_missing_and_attributes_and_info_are_kept(folder: Folder) -> None:
    bare = {key: value for key, value in box(1, 5).items() if key not in ("area", "iscrowd", "id")}
    folder.documents["instances"]["annotations"] = [
        bare,
        box(2, 5, attributes={"shape": "star", "color": "red"}),
    ]
    folder.documents["instances"]["info"] = {"seed": 3}
    dataset = folder.open()
    truth = dataset[1]
    assert truth.areas is not None
    assert truth.crowd is not None
    assert (truth.areas.tolist(), truth.crowd.any()) == ([30, 30], False)
    assert truth.attributes == (None, {"shape": "star", "color": "red"})
    assert dataset[0].attributes is None
    assert dataset.info == {"seed": 3}


def test_panoptic_maps_have_things_first_and_unlabelled_is_255(folder: Folder) -> None:
    folder.add_panoptic()
    dataset = folder.open()
    assert dataset.semantic_names == ("circle", "star", "grass")
    assert dataset.semantic_category_ids == (3, 7, 2)
    semantic = dataset[1].semantic_map()
    assert semantic is not None
    assert semantic.dtype == np.uint8
    assert (semantic[:, :4] == 1).all()
    assert (semantic[:, 4:-1] == 2).all()
    assert (semantic[:, -1] == 255).all()
    assert dataset[0].semantic_map() is None


def test_segments_of_panoptic_maps_and_which_are_crowds(folder: Folder) -> None:
    folder.add_panoptic()
    folder.documents["panoptic"]["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    panoptic = folder.open()[1].semantic
    assert isinstance(panoptic, PanopticMap)
    assert panoptic.crowds == {70000}
    assert panoptic.classes == {70000: 1, 300: 2}
    semantic, segments = panoptic.read_segments((HEIGHT, WIDTH))
    assert (semantic == panoptic.read((HEIGHT, WIDTH))).all()
    assert (segments == np.where(semantic == 1, 1, np.where(semantic == 2, 2, 0))).all()


def test_panoptic_pngs_may_lie_beside_annotations(folder: Folder) -> None:
    folder.add_panoptic()
    (folder.root / "annotations" / "panoptic_train").rename(folder.root / "panoptic_train")
    assert folder.open()[1].semantic_map() is not None


def test_a_segment_that_the_json_does_not_list_is_an_error(folder: Folder) -> None:
    folder.add_panoptic()
    folder.write_png("annotations/panoptic_train/5.png", np.full((HEIGHT, WIDTH), 12345))
    with pytest.raises(DatasetError, match=r"5\.png: holds segment 12345"):
        folder.open()[1].semantic_map()
    folder.write_png("annotations/panoptic_train/5.png", np.zeros((3, 4), int))
    with pytest.raises(DatasetError, match=r"is 3 x 4 .* says 12 x 16"):
        folder.open()[1].semantic_map()


def test_coco_stuff_maps_use_the_published_names(folder: Folder) -> None:
    labels = np.full((HEIGHT, WIDTH), 123, np.uint8)  # grass is category 124
    labels[0] = 6  # category 7 is a thing of this set
    labels[1] = 255
    labels[2] = 11  # category 12 has no name
    path = folder.root / "stuffthingmaps" / "train" / "5.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), labels)
    dataset = folder.open()
    assert len(dataset.semantic_names) == 2 + 91
    assert dataset.semantic_names[:3] == ("circle", "star", "banner")
    semantic = dataset[1].semantic_map()
    assert semantic is not None
    assert dataset.semantic_names[semantic[5, 5]] == "grass"
    assert semantic[:3, 0].tolist() == [1, 255, 255]
    assert dataset[0].semantic_map() is None

    categories = [{"id": 124, "name": "lawn"}, {"id": 183, "name": "other"}]
    (folder.root / "annotations" / "stuff_train.json").write_text(json.dumps({"categories": categories}))
    assert folder.open().semantic_names == ("circle", "star", "lawn")


def test_without_instances_coco_stuff_maps_have_cocos_classes(folder: Folder) -> None:
    folder.add_captions({5: ["grass"]})
    del folder.documents["instances"]
    path = folder.root / "stuffthingmaps" / "train" / "5.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 181, np.uint8))
    dataset = folder.open()
    assert len(dataset.semantic_names) == 80 + 91
    semantic = dataset[1].semantic_map()
    assert semantic is not None
    assert dataset.semantic_names[semantic[0, 0]] == "wood"


def test_grey_images_and_exif_rotation_are_read_at_the_size_of_the_json(folder: Folder) -> None:
    images = folder.root / "train"
    images.mkdir()
    cv2.imwrite(str(images / "5.png"), np.full((HEIGHT, WIDTH), 77, np.uint8))
    # A JPEG stored as 12 x 16 whose EXIF orientation 6 turns it to 16 x 12.
    stored = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + tag + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (images / "turned.jpg").write_bytes(stored[:2] + segment + stored[2:])
    document = folder.documents["instances"]
    for size in ((HEIGHT, WIDTH), (WIDTH, HEIGHT), (5, 5)):
        document["images"] = [image(4, "turned.jpg", size), image(5)]
        dataset = folder.open()
        if size == (5, 5):
            with pytest.raises(DatasetError, match=r"turned\.jpg: is 16 x 12 .* say 5 x 5"):
                dataset.read(dataset[0])
        else:
            assert dataset.read(dataset[0]).shape == (*size, 3)
    assert (dataset.read(dataset[1]) == 77).all()


def test_images_may_lie_in_an_images_folder_and_in_folders_below(folder: Folder) -> None:
    folder.write()
    (folder.root / "images").mkdir()
    (folder.root / "train").rename(folder.root / "images" / "train")
    assert CocoDataset.open(folder.root)[0].path == folder.root / "images" / "train" / "4.png"


@pytest.mark.parametrize(
    ("listed", "lies"),
    [
        ("images\\5.png", "images/5.png"),
        ("upload/2/5.png", "5.png"),
        ("C:\\photos\\cam1\\5.png", "cam1/5.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("5.PNG", "5.png"),
    ],
)
def test_images_are_found_however_their_names_are_spelled(folder: Folder, listed: str, lies: str) -> None:
    folder.documents["instances"]["images"][0]["file_name"] = listed
    place = folder.root / "train" / lies
    folder.write()
    place.parent.mkdir(exist_ok=True)
    (folder.root / "train" / "5.png").rename(place)
    dataset = CocoDataset.open(folder.root)
    assert dataset[1].path == place
    assert dataset.read(dataset[1]).shape == (HEIGHT, WIDTH, 3)


def test_an_image_of_a_name_that_several_have_is_not_guessed(folder: Folder) -> None:
    folder.documents["instances"]["images"][0]["file_name"] = "far/away/7.png"
    folder.write()
    for name in ("a", "b"):
        (folder.root / "train" / name).mkdir()
        shutil.copy(folder.root / "train" / "5.png", folder.root / "train" / name / "7.png")
    assert "several images have the name that the annotations list (far/away/7.png)" in folder.complaint()


def test_maps_lie_in_the_folders_of_their_images(folder: Folder) -> None:
    names = ["cam0/1.png", "cam1/1.png"]
    folder.documents["instances"]["images"] = [image(4, names[0]), image(5, names[1])]
    folder.write()
    for value, name in enumerate(names):
        for place in ("train", "stuffthingmaps/train"):
            (folder.root / place / name).parent.mkdir(parents=True)
            cv2.imwrite(str(folder.root / place / name), np.full((HEIGHT, WIDTH), 123 + value, np.uint8))
    dataset = CocoDataset.open(folder.root)
    assert [dataset[i].semantic_map()[0, 0] for i in range(2)] == [  # type: ignore[index]
        dataset.semantic_names.index(name) for name in ("grass", "gravel")
    ]
    shutil.rmtree(folder.root / "stuffthingmaps" / "train")
    (folder.root / "stuffthingmaps" / "train").mkdir()
    cv2.imwrite(str(folder.root / "stuffthingmaps" / "train" / "1.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    message = folder.complaint()
    assert "several images share one map" in message
    assert "1.png: cam0/1.png and cam1/1.png" in message


# --- splits ------------------------------------------------------------------------------------------------


def test_the_split_is_named_or_found_by_its_role(folder: Folder) -> None:
    for split in ("val2017", "train2017", "train2014"):
        folder.split = split
        folder.write()
    assert CocoDataset.open(folder.root).split == "train2014"
    assert CocoDataset.open(folder.root, role="val").split == "val2017"
    assert CocoDataset.open(folder.root, "train2017", role="val").split == "train2017"
    with pytest.raises(DatasetError, match='no split "test"; found train2014, train2017, val2017'):
        CocoDataset.open(folder.root, "test")


def test_a_single_split_serves_every_role(folder: Folder) -> None:
    folder.split = "holiday"
    assert folder.open(role="val").split == "holiday"
    folder.split = "winter"
    assert 'starts with "val"; found holiday, winter' in folder.complaint(role="val")


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a data set, expected a folder with annotations/instances_"):
        CocoDataset.open(tmp_path)
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        CocoDataset.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="file: is a file; expected a folder"):
        CocoDataset.open(tmp_path / "file")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="holds images and no labels: yolor-edge label TEACHER"):
        CocoDataset.open(tmp_path)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", "instances_train.json: is not JSON"),
        ("", "instances_train.json: is not JSON"),
        ([1], "expected a JSON object with images, annotations, categories, got list"),
        ({"shapes": []}, "no list 'images' and no list 'annotations' and no list 'categories'"),
        ({"images": {}, "annotations": [], "categories": []}, "no list 'images'"),
        ({"images": [], "annotations": [], "categories": []}, "lists no images"),
        ({"images": [3], "annotations": [], "categories": []}, "images must be JSON objects (images[0])"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, 'images need "file_name", text'),
    ],
)
def test_a_file_of_another_schema(folder: Folder, document: Any, expected: str) -> None:
    folder.documents["instances"] = document
    assert expected in folder.complaint()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": 99}, 'an image that "images" does not list (annotation id 1, image 99)'),
        ({"category_id": 1}, 'a category that "categories" does not list (annotation id 1, category 1)'),
        ({"bbox": [1, 2, 3]}, '"bbox" must be [x, y, width, height]'),
        ({"bbox": [1, 2, 3, float("nan")]}, '"bbox" must be [x, y, width, height]'),
        ({"bbox": None}, 'annotations need "bbox", a list'),
        ({"category_id": "star"}, 'annotations need "category_id", an integer'),
        ({"area": "big"}, '"area" must be a number'),
        ({"area": True}, '"area" must be a number'),
        ({"bbox": [1, 2, "3", 4]}, '"bbox" must be [x, y, width, height]'),
        ({"bbox": [1, 2, True, 4]}, '"bbox" must be [x, y, width, height]'),
        ({"iscrowd": "0"}, "\"iscrowd\" must be 0 or 1 (annotation id 1, '0')"),
        ({"iscrowd": None}, '"iscrowd" must be 0 or 1'),
        ({"image_id": "5"}, 'annotations need "image_id", an integer'),
        ({"segmentation": "outline"}, '"segmentation" must be polygons or run lengths'),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, '"segmentation" must be polygons as lists of numbers'),
        ({"segmentation": [[1, 2, 3, "x", 5, 6]]}, '"segmentation" must be polygons as lists of numbers'),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, '"segmentation" must be polygons in pixels'),
        ({"segmentation": {"counts": [1]}}, 'run lengths with "size"'),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, "run lengths must have the size of their image"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [4]}},
            "run lengths that add up to height x width",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, 193]}}, "a list of integers"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zzz"}}, "compressed run lengths that add up"),
    ],
)
def test_an_annotation_that_does_not_hold_together(folder: Folder, change: dict[str, Any], expected: str) -> None:
    folder.documents["instances"]["annotations"] = [box(1, 5, **change)]
    assert expected in folder.complaint()


def test_all_complaints_come_at_once(folder: Folder) -> None:
    folder.add_captions({77: ["who?"]})
    folder.documents["instances"]["images"].append(image(6, "absent.png"))
    folder.documents["instances"]["annotations"] = [box(1, 50), box(2, 51), box(3, 5, 1)]
    message = folder.complaint()
    assert "(first of 2: annotation id 1, image 50)" in message
    assert "annotation id 3, category 1" in message
    assert "captions_train.json: annotations point to an image" in message
    assert "train: images are missing that the annotations list (absent.png)" in message


def test_files_that_contradict_each_other(folder: Folder) -> None:
    folder.add_captions({})
    folder.documents["captions"]["images"] = [image(5, size=(9, 9))]
    assert "gives an image another name or size than the other files" in folder.complaint()
    folder.documents["captions"]["images"] = []
    assert "captions_train.json: lists no images" in folder.complaint()
    del folder.documents["captions"]
    (folder.root / "annotations" / "captions_train.json").unlink()
    folder.documents["instances"]["images"].append(image(5))
    folder.documents["instances"]["categories"].append({"id": 3, "name": "again"})
    message = folder.complaint()
    assert "lists an image id twice (id 5)" in message
    assert "lists a category id twice" in message


def test_panoptic_files_that_are_missing_or_foreign(folder: Folder) -> None:
    folder.add_panoptic()
    (folder.root / "annotations" / "panoptic_train" / "5.png").rename(folder.root / "away.png")
    folder.documents["panoptic"]["annotations"][0]["segments_info"] = [
        {"id": 1, "category_id": 99},
        {"id": "x"},
    ]
    message = folder.complaint()
    assert "PNGs are missing that panoptic_train.json lists (5.png)" in message
    assert "category 99" in message
    assert 'segments_info need "id" and "category_id", integers' in message
    (folder.root / "annotations" / "panoptic_train").rmdir()
    assert "expected the PNGs of panoptic_train.json" in folder.complaint()


def test_missing_image_folder(folder: Folder) -> None:
    folder.write()
    (folder.root / "train").rename(folder.root / "photos")
    with pytest.raises(DatasetError, match=r"train: no such folder \(nor .*images/train\)"):
        CocoDataset.open(folder.root)


def test_require_classes_names_counts_and_the_first_that_differs(folder: Folder) -> None:
    dataset = folder.open()
    dataset.require_classes(["circle", "star"], [])
    dataset.require_classes()
    with pytest.raises(DatasetError, match=r"has 2 classes, the network 3; .* class 2: absent .*, 'moon' in the"):
        dataset.require_classes(["circle", "star", "moon"])
    with pytest.raises(DatasetError, match=r"class 0: 'circle' in the data set, 'star' in the network"):
        dataset.require_classes(["star", "circle"])
    with pytest.raises(DatasetError, match=r"has 0 semantic classes, the network 1"):
        dataset.require_classes(None, ["grass"])
