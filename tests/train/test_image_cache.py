"""The cache gives what decoding gives, is kept whole or not at all, and belongs to the files it was made of."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from yolor_edge.evaluation.dataset.coco import CocoDataset, Truth
from yolor_edge.evaluation.dataset.truth import PackedMap
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.train import image_cache
from yolor_edge.train.batches import TrainingViews
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.network_for_data import describe_network
from yolor_edge.train.views.compose import weak_view

TRAIN = TrainConfig(epochs=30, mosaic=0.5, mixup=0.3, captions_per_image=1)


class Counting(CocoDataset):
    """Remembers which images were decoded."""

    decoded: list[str]

    def read(self, truth: Truth, reduction: int = 1) -> np.ndarray:
        self.decoded.append(truth.path.name)
        return super().read(truth, reduction)


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Counting:
    dataset = Counting.open(shutil.copytree(scenes, tmp_path / "scenes"))
    assert isinstance(dataset, Counting)
    dataset.decoded = []
    return dataset


def views_of(data: CocoDataset, cache: Any, folder: Path | None = None, **changes: Any) -> TrainingViews:
    train = replace(TRAIN, cache=cache, **changes)
    return TrainingViews(data, describe_network(data, "n", train, (64, 96), None, "tiny"), train, folder)


def assert_same_samples(a: TrainingViews, b: TrainingViews) -> None:
    for index in range(len(a)):
        one, other = a._sample(0, index), b._sample(0, index)
        for name in ("image", "boxes", "masks", "semantic", "classes_known"):
            np.testing.assert_array_equal(getattr(one.dense, name), getattr(other.dense, name))
        assert one.weak is not None and other.weak is not None
        np.testing.assert_array_equal(one.weak.image, other.weak.image)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_samples_are_the_same_with_a_cache(data: Counting, tmp_path: Path, cache: str) -> None:
    cached = views_of(data, cache, tmp_path / "cache", scale_range=0.0)
    assert sorted(data.decoded) == sorted(data[i].path.name for i in range(len(data)))
    data.decoded.clear()
    samples = [cached._sample(0, index) for index in range(len(data))]
    assert len(samples) == len(data)
    assert not data.decoded
    assert_same_samples(cached, views_of(data, "off", scale_range=0.0))


def test_a_cache_on_disk_serves_until_a_file_changes(data: Counting, tmp_path: Path) -> None:
    first = views_of(data, "disk", tmp_path / "cache")
    data.decoded.clear()
    assert_same_samples(first, views_of(data, "disk", tmp_path / "cache"))
    assert not data.decoded
    path = data[3].path
    os.utime(path, ns=(1, 1))
    views_of(data, "disk", tmp_path / "cache")
    assert path.name in data.decoded
    assert len(data.decoded) == len(data)


@pytest.mark.parametrize("damage", ["index", "images"])
def test_a_damaged_cache_is_made_anew(data: Counting, tmp_path: Path, damage: str) -> None:
    views_of(data, "disk", tmp_path / "cache")
    data.decoded.clear()
    path = tmp_path / "cache" / {"index": "images.npz", "images": "images.raw"}[damage]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_same_samples(views_of(data, "disk", tmp_path / "cache"), views_of(data, "ram"))
    assert len(data.decoded) == 2 * len(data)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_an_image_that_cannot_be_read_leaves_no_cache(data: Counting, tmp_path: Path, cache: str) -> None:
    path = data[5].path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=path.name):
        views_of(data, cache, tmp_path / "cache")
    left = [one.name for one in (tmp_path / "cache").iterdir()] if cache == "disk" else []
    assert left in ([], ["lock"])


def test_too_little_memory_is_said_before_anything_is_decoded(data: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def pretended(path: Path, *arguments: Any, **more: Any) -> str:
        if str(path) == "/proc/meminfo":
            return "MemTotal: 100 kB\nMemAvailable: 100 kB\n"
        return read_text(path, *arguments, **more)

    monkeypatch.setattr(image_cache.Path, "read_text", pretended)
    with pytest.raises(UsageError, match=r"cache ram: .* take cache=disk or cache=off"):
        views_of(data, "ram")
    assert not data.decoded


def test_too_little_room_on_the_disk_is_said_in_a_line(
    data: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache, "_write_all", full)
    with pytest.raises(UsageError, match=r"cache disk has no room"):
        views_of(data, "disk", tmp_path / "cache")
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["lock"]


def test_large_images_are_kept_as_small_as_views_need_them(data: Counting) -> None:
    """A view of 32 x 32 shows pictures of 64 x 96 at a half at most."""
    train = replace(TRAIN, cache="ram", scale_range=0.5)
    views = TrainingViews(data, describe_network(data, "n", train, (32, 32), None, "tiny"), train)
    assert views.cache is not None
    assert views.cache.reduction(0) == 2
    image = views.cache.image(0)
    assert image.shape == (32, 48, 3)
    assert not image.flags.writeable
    whole = cv2.resize(data.read(data[0]), image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - whole).mean() < 3
    sample = views._sample(0, 0)
    assert sample.weak is not None
    # The caption's view is as the runtime prepares it, from the file.
    expected = weak_view(data[0], lambda truth, _: data.read(truth), views.rule, np.random.default_rng(0), dense=False)
    np.testing.assert_array_equal(sample.weak.image, expected.image)


def test_a_packed_map_is_the_map() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 300), (50, 40)):
        semantic = np.repeat(rng.integers(0, 256, (size[0], size[1] // 4 + 1), np.uint8), 4, 1)[:, : size[1]]
        packed = PackedMap.of(np.ascontiguousarray(semantic))
        np.testing.assert_array_equal(packed.read(size), semantic)
        assert len(packed.values) == len(packed.lengths)
