"""Labels of a machine: what comes out is a data set that our reader opens, that says who made it, and is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.evaluation.labelling import LabelOptions, label, label_by_model
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import load
from yolor_edge.runtime.results import InstanceMasks

from ..runtime.tiny_bundle import coloured_patch, write_tiny_bundle

SMALL = (64, 96)
PATCH = (16, 32, 48, 64)
COLOURS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A coloured patch on grey each, beside a file that is no picture inside."""
    folder = tmp_path / "pictures"
    for colour in COLOURS:
        write_image(folder / f"{colour}.png", coloured_patch(SMALL, PATCH, colour))
    return folder


def annotations_of(out: Path, kind: str, split: str = "train") -> dict[str, Any]:
    return json.loads((out / "annotations" / f"{kind}_{split}.json").read_text())


def test_what_a_bundle_predicts_is_read_back(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelled"
    summary = label(bundle.path, pictures, out)
    assert (summary.images, summary.maps, summary.captions) == (3, 3, 3)
    assert summary.exit_code == 0
    data = CocoDataset.open(out)
    assert data.tasks == {"boxes", "masks", "semantic", "caption"}
    assert data.class_names == bundle.spec.class_names
    assert data.category_ids == bundle.spec.category_ids
    assert data.semantic_names == bundle.spec.semantic_names
    with load(bundle) as model:
        for i, colour in enumerate(COLOURS):
            truth = data[i]
            result = model.predict(data.read(truth))
            assert truth.path.name == f"{colour}.png"
            assert truth.path.resolve() == (pictures / f"{colour}.png").resolve()
            assert truth.boxes is not None and truth.class_ids is not None and result.boxes is not None
            assert result.class_ids is not None and isinstance(result.masks, InstanceMasks)
            np.testing.assert_allclose(truth.boxes, result.boxes, atol=0.02)
            np.testing.assert_array_equal(truth.class_ids, result.class_ids)
            has_pixels = result.masks.areas() > 0
            masks = truth.masks()
            assert masks is not None
            np.testing.assert_array_equal(masks[has_pixels], result.masks[has_pixels].full())
            np.testing.assert_array_equal(truth.semantic_map(), result.semantic_map)
            assert result.caption is not None
            assert truth.captions == (result.caption.text,)
            np.testing.assert_array_equal(truth.crowd, ~has_pixels)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_it_says_that_a_machine_made_it_and_under_what_licence(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    label(bundle.path, pictures, tmp_path / "out", LabelOptions(score_threshold=0.4))
    for kind in ("instances", "panoptic", "captions"):
        document = annotations_of(tmp_path / "out", kind)
        info = document["info"]
        assert info["description"] == "labels made by a machine (tiny), not by people"
        assert info["labelled_by"]["sha256"] == bundle.digest
        assert info["labelled_by"]["kind"] == "bundle"
        assert info["thresholds"] == {"score": 0.4, "doubtful": 0.2, "caption": 0.0}
        assert document["licenses"][0]["name"] == info["labelled_by"]["licence"] == "unknown"


def test_what_is_doubtful_is_a_crowd(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    with load(bundle) as model:
        result = model.predict(pictures / "red.png", score_threshold=0.0)
    assert result.scores is not None
    best = float(result.scores[0])
    above = LabelOptions(score_threshold=min(best + 0.001, 0.9999), doubtful_threshold=best - 0.001)
    summary = label(bundle.path, pictures / "red.png", tmp_path / "doubtful", above)
    assert summary.objects == 0
    assert summary.doubtful is not None and summary.doubtful >= 1
    crowd = CocoDataset.open(tmp_path / "doubtful")[0].crowd
    assert crowd is not None and crowd.all()


def test_tasks_and_a_threshold_of_captions(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    label(bundle.path, pictures, tmp_path / "boxes", LabelOptions(tasks=("boxes",)))
    assert CocoDataset.open(tmp_path / "boxes").tasks == {"boxes"}
    assert sorted(path.name for path in (tmp_path / "boxes" / "annotations").iterdir()) == ["instances_train.json"]
    label(bundle.path, pictures, tmp_path / "words", LabelOptions(tasks=("caption",), caption_threshold=0.9999999))
    assert annotations_of(tmp_path / "words", "captions")["annotations"] == []


def test_a_second_split_copies_and_names_in_folders(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    (pictures / "more").mkdir()
    (pictures / "more" / "red.png").write_bytes((pictures / "red.png").read_bytes())
    out = tmp_path / "out"
    label(bundle.path, pictures, out)
    label(bundle.path, str(pictures / "**" / "red.png"), out, LabelOptions(split="val", copy=True))
    data = CocoDataset.open(out, "val")
    assert sorted(data[i].path.relative_to(out / "val").as_posix() for i in range(len(data))) == [
        "more/red.png",
        "red.png",
    ]
    assert not any(data[i].path.is_symlink() for i in range(len(data)))
    assert data.read(data[0]).shape == (*SMALL, 3)
    with pytest.raises(UsageError, match='has a split "val" already'):
        label(bundle.path, pictures, out, LabelOptions(split="val"))


def test_a_bad_picture_is_named_and_left_out(
    bundle: Bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "green.png").write_bytes((pictures / "green.png").read_bytes()[:40])
    out = tmp_path / "out"
    assert main(["label", str(bundle.path), str(pictures), "--out", str(out), "--json"]) == 1
    said = capsys.readouterr()
    assert "left out: " in said.err and "green.png" in said.err
    assert [one["image"] for one in json.loads(said.out)["failed"]] == ["green.png"]
    data = CocoDataset.open(out)
    assert [data[i].path.name for i in range(len(data))] == ["blue.png", "red.png"]

    for name in ("blue.png", "red.png"):
        (pictures / name).write_bytes(b"nothing")
    assert main(["label", str(bundle.path), str(pictures), "--out", str(tmp_path / "none")]) == 2
    assert "none of its 3 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_goes_on_where_it_was(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(bundle.path, pictures, tmp_path / "whole")
    out = tmp_path / "out"

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(bundle.path, pictures, out, progress=interrupt)
    assert [path.name for path in out.iterdir()] == [".train.labels"]
    lines = out / ".train.labels" / "labels.jsonl"
    lines.write_text(lines.read_text() + '{"number": 3, "na')  # as a kill leaves it
    said: list[str] = []
    counted: list[int] = []
    label(bundle.path, pictures, out, progress=lambda what, done, total: counted.append(done), report=said.append)
    assert said == ["going on after 2 images"]
    assert counted == [3]
    for kind in ("instances", "panoptic", "captions"):
        assert annotations_of(out, kind) == annotations_of(tmp_path / "whole", kind)
    assert CocoDataset.open(out)[2].semantic_map() is not None


def test_another_setting_starts_over(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(bundle.path, pictures, tmp_path / "out", progress=interrupt)
    said: list[str] = []
    summary = label(bundle.path, pictures, tmp_path / "out", LabelOptions(tasks=("boxes",)), report=said.append)
    assert said == ["starting over: other images or settings than before"]
    assert summary.images == 3
    assert CocoDataset.open(tmp_path / "out").tasks == {"boxes"}


def test_ids_that_name_two_classes_are_made_anew(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    import dataclasses

    with load(bundle) as model:
        model.spec = dataclasses.replace(
            model.spec, category_ids=(9, 4, 1), semantic_names=("grey", *COLOURS), semantic_category_ids=(1, 4, 9, 4)
        )
        label_by_model(model, {"licence": "unknown"}, pictures, tmp_path / "out")
    data = CocoDataset.open(tmp_path / "out")
    assert data.class_names == ("red", "green", "blue")
    assert set(data.semantic_names) == {"grey", *COLOURS}


def test_an_upright_label_for_a_picture_that_lies(bundle: Bundle, tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[1] / "data" / "orientation6.jpg"
    label(bundle.path, source, tmp_path / "out")
    data = CocoDataset.open(tmp_path / "out")
    stored = cv2.imread(str(source), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    assert data.read(data[0]).shape[:2] == data[0].size == (stored.shape[1], stored.shape[0])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{bundle} nowhere --out o", "nowhere: no such file or folder"),
        ("nowhere {pictures} --out o", "nowhere: does not exist; expected the folder of a checkpoint or a bundle"),
        ("{pictures} {pictures} --out o", "is neither a checkpoint nor a bundle"),
        ("{bundle} {pictures} --out o --tasks pose", "unknown task 'pose'"),
        ("{bundle} {pictures} --out o --score-threshold 1.5", "--score-threshold must be in [0, 1), got 1.5"),
        (
            "{bundle} {pictures} --out o --doubtful-threshold 0.6",
            "--doubtful-threshold must be at most --score-threshold",
        ),
        ("{bundle} {pictures} --out o --split a/b", "--split must be a name of letters"),
        ("{bundle} {pictures} --out o --device cpu", "--device is for a checkpoint"),
    ],
)
def test_misuse_is_one_line_and_writes_nothing(
    line: str,
    said: str,
    bundle: Bundle,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["label", *line.format(bundle=bundle.path, pictures=pictures).split()]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()
