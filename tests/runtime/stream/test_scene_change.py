"""Another scene is told from noise, light and little movements, at the stated limits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime.images.preprocess import PixelLayout
from yolor_edge.runtime.stream.scene_change import CELL_LEVELS, CHANGED_SHARE, GRID, SceneChange, changed_share, grid_of


def scene(seed: int, size: tuple[int, int] = (480, 640)) -> NDArray[np.uint8]:
    """Soft patches of colour, none near black or white."""
    coarse = np.random.default_rng(seed).integers(60, 190, (5, 6, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def is_other(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    scenes = SceneChange()
    assert scenes.is_new(grid_of(before))
    return scenes.is_new(grid_of(after))


def test_another_scene_is_new_and_the_same_is_not() -> None:
    for seed in range(10):
        assert is_other(scene(seed), scene(seed + 1))
        assert not is_other(scene(seed), scene(seed))


def test_a_camera_s_bytes_give_the_grid_of_their_colours() -> None:
    """Both layouts, against OpenCV's conversion; means of pixels and pixels of means differ by rounding."""
    image = scene(3, (96, 128))
    y, u, v = np.split(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8), [96, 120])
    chroma = np.stack([u.reshape(48, 64), v.reshape(48, 64)], axis=2)
    nv12 = np.concatenate([y, chroma.reshape(48, 128)])
    yuyv = np.stack([y, np.repeat(chroma, 2, axis=0).reshape(96, 128)], axis=2)
    for taken, code in ((nv12, cv2.COLOR_YUV2BGR_NV12), (yuyv, cv2.COLOR_YUV2BGR_YUYV)):
        layout: PixelLayout = "nv12" if taken is nv12 else "yuyv"
        colours = np.asarray(cv2.cvtColor(taken, code), np.uint8)
        assert np.abs(grid_of(taken, layout) - grid_of(colours)).max() < 2
        assert np.abs(grid_of(taken, layout) - grid_of(image)).max() < 6


def test_noise_light_size_and_a_little_shift_are_no_other_scene() -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        image = scene(seed).astype(np.int64)
        for changed in (
            image + rng.normal(0, 15, image.shape).astype(np.int64),
            image + 40,
            image + np.array([40, 0, -40]),
            np.roll(image, (2, 2), axis=(0, 1)),
            scene(seed, (270, 480)),
        ):
            assert not is_other(scene(seed), changed.clip(0, 255).astype(np.uint8))


def test_an_object_counts_from_a_sixteenth_of_the_picture_on() -> None:
    empty = np.full((90, 120, 3), 100, np.uint8)  # cells of 10 x 10 pixels
    for cells, expected in ((6, False), (7, True)):  # of 108; a sixteenth is 6.75
        image = empty.copy()
        image[:10, : 10 * cells, 2] = 255
        assert changed_share(grid_of(empty), grid_of(image)) == pytest.approx(cells / 108)
        assert is_other(empty, image) == expected
    assert 6 / 108 <= CHANGED_SHARE < 7 / 108


def test_a_cell_counts_when_its_colour_moved_by_more_than_the_limit() -> None:
    before = np.full((*GRID, 3), 100, np.float32)
    for levels, expected in ((CELL_LEVELS, 0.0), (CELL_LEVELS + 1, 0.25), (-CELL_LEVELS - 1, 0.25)):
        after = before.copy()
        after[:, :3, 1] += levels
        assert changed_share(before, after) == expected


def test_what_moves_slowly_adds_up() -> None:
    scenes = SceneChange()
    image = np.full((90, 120, 3), 100, np.uint8)
    found = []
    for _ in range(8):
        found.append(scenes.is_new(grid_of(image)))
        image[:40] += 10
    assert found == [True, False, False, True, False, False, True, False]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 11), (1080, 1920)])
def test_pictures_of_any_size_and_grey(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (10, 20, 30), np.uint8)
    grid = grid_of(image)
    assert grid.shape == (9, 12, 3)
    assert grid.dtype == np.float32
    assert np.all(grid == (10, 20, 30))
    assert np.all(grid_of(image[:, :, 2]) == 30)
    assert grid_of(image[::-1, ::-1]).shape == (9, 12, 3)


def test_orders_of_channels_give_the_same_grid() -> None:
    image = np.random.default_rng(2).integers(0, 256, (70, 90, 3), np.uint8)
    expected = grid_of(image)
    fourth = np.zeros((70, 90, 1), np.uint8)
    for given, layout in (
        (image[:, :, ::-1], "rgb"),
        (np.concatenate([image, fourth], axis=2), "bgra"),
        (np.concatenate([image[:, :, ::-1], fourth], axis=2), "rgba"),
    ):
        assert np.array_equal(grid_of(given, layout), expected)  # type: ignore[arg-type]
