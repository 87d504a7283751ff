"""The CUDA kernels, run on the CPU, against the CPU's kernels: equal to the bit; and against the numpy twins."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from yolor_edge.runtime import _native
from yolor_edge.runtime.cuda.kernels import launches
from yolor_edge.runtime.images.preprocess import Letterbox, PreprocessRule, preprocess
from yolor_edge.runtime.vision.graph_outputs import map_to_image

from ...reference import boxes as box_twin
from ...reference import letterbox as letterbox_twin
from ...reference import semantic as semantic_twin
from ..vision.test_simd import poisoned
from .emulated import Emulator, address
from .kernel_calls import Found, axis, found_boxes, head, letterboxed, mask_tiles, semantic_map

STRIDES = [8, 16, 32]


def random_heads(
    seed: int, size: tuple[int, int], classes: int = 5, bins: int = 16, mean: float = -3.0, odd: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(class_logits, box_bins) of objects that overlap."""
    generator = np.random.default_rng(seed)
    cells = sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
    logits = generator.normal(mean, 2, (classes, cells)).astype(np.float32)
    box_bins = generator.normal(0, 2, (4 * bins, cells)).astype(np.float32)
    return poisoned(generator, logits, odd), poisoned(generator, box_bins, odd / 20)


def assert_same_boxes(found: Found, class_logits, box_bins, placed: Letterbox, **options) -> None:
    """Equal to the CPU's answer, through the same steps as `HostVision`."""
    boxes, scores, class_ids, columns = _native.decode_boxes(
        class_logits, box_bins, strides=STRIDES, input_size=placed.input_size, **options
    )
    boxes = placed.boxes_to_image(boxes)
    is_visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert found.summary["kept"] == len(boxes)
    assert found.count == is_visible.sum()
    np.testing.assert_array_equal(found["image_boxes"], boxes[is_visible])
    np.testing.assert_array_equal(found["scores"], scores[is_visible])
    np.testing.assert_array_equal(found["class_ids"], class_ids[is_visible])
    np.testing.assert_array_equal(found.columns, columns[is_visible])


# --- letterbox


@pytest.mark.parametrize(
    ("image_size", "input_size"),
    [
        ((70, 90), (64, 96)),
        ((72, 128), (64, 64)),
        ((128, 128), (64, 64)),
        ((64, 96), (64, 96)),
        ((1, 1), (32, 32)),
        ((3, 200), (32, 64)),
        ((17, 5), (64, 64)),
        ((133, 256), (128, 128)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_letterbox_is_that_of_the_cpu(
    emulator: Emulator, image_size: tuple[int, int], input_size: tuple[int, int], channels: int
):
    height, width = input_size
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*image_size, channels), np.uint8)
    for rule in (PreprocessRule(input_size), PreprocessRule(input_size, 7, "BGR", 1.0, "half_even")):
        expected, _ = preprocess(image, rule)
        swap_rb = rule.channel_order == "RGB"
        twin = letterbox_twin.letterbox(image, height, width, rule.pad_value, swap_rb, rule.scale, rule.rounding)
        np.testing.assert_array_equal(letterboxed(emulator, image, rule), expected)
        np.testing.assert_array_equal(expected, twin)
        half = letterboxed(emulator, image, rule, half=True)
        np.testing.assert_array_equal(half, expected.astype(np.float16))


def test_letterbox_reads_what_cameras_give(emulator: Emulator):
    generator = np.random.default_rng(1)
    rule = PreprocessRule((64, 96))
    cameras: tuple[tuple[Literal["nv12", "yuyv"], tuple[int, ...]], ...] = (("nv12", (75, 60)), ("yuyv", (51, 60, 2)))
    for layout, shape in cameras:
        image = generator.integers(0, 256, shape, np.uint8)
        expected = _native.letterbox(image, 64, 96, layout=layout)
        np.testing.assert_array_equal(letterboxed(emulator, image, rule, layout=layout), expected)


def test_letterbox_reads_rows_that_are_apart(emulator: Emulator):
    wide = np.random.default_rng(2).integers(0, 256, (40, 70, 3), np.uint8)
    rule = PreprocessRule((32, 32))
    placed = Letterbox.of((40, 50), (32, 32))
    height, width = launches.resized_size(placed)
    rows, columns = np.zeros((height, 4), np.int32), np.zeros((width, 4), np.int32)
    output = np.zeros((3, 32, 32), np.float32)
    emulator.run(
        launches.fill_taps(address(rows), 40, height),
        launches.fill_taps(address(columns), 50, width),
        launches.letterbox(
            address(wide), 3, "bgr", 210, address(output), False, address(rows), address(columns), rule, placed
        ),
    )
    np.testing.assert_array_equal(output, _native.letterbox(wide[:, :50], 32, 32))


def test_halves_are_those_of_numpy(emulator: Emulator):
    values = np.concatenate(
        [
            np.random.default_rng(3).uniform(-2, 300, 500),
            [0.0, -0.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-14, 2.0**-14 - 2.0**-26, 1 / 255, 255.0, 65504.0],
            [1 + 2.0**-11, 1 + 3 * 2.0**-11, 2048.5],
        ]
    ).astype(np.float32)
    for value in values:
        assert emulator.half_of(float(value)) == int(np.float16(value).view(np.uint16)), value
    halves = np.arange(1 << 16, dtype=np.uint16)
    widened = np.array([emulator.float_of(int(half)) for half in halves[::7]], np.float32)
    np.testing.assert_array_equal(widened, halves[::7].view(np.float16).astype(np.float32))


# --- boxes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("half", [False, True])
def test_boxes_are_those_of_the_cpu(emulator: Emulator, seed: int, half: bool):
    emulator.set_order(seed)
    size = [(64, 96), (96, 64), (128, 128)][seed % 3]
    logits, bins = random_heads(seed, size, odd=0.02 if seed % 2 else 0.0)
    if half:
        with np.errstate(over="ignore"):
            logits, bins = logits.astype(np.float16), bins.astype(np.float16)
    placed = Letterbox.of([(50, 120), (300, 200), (128, 128)][seed % 3], size)
    requests: tuple[dict[str, Any], ...] = (
        {},
        {"score_threshold": 0.001, "iou_threshold": 0.5},
        {"score_threshold": 0.6, "class_agnostic": True},
        {"score_threshold": 0.0, "max_detections": 7},
        {"score_threshold": 0.01, "max_candidates": 33},
    )
    for options in requests:
        found = found_boxes(emulator, logits, bins, STRIDES, placed, **options)
        assert_same_boxes(found, logits, bins, placed, **options)


def test_boxes_agree_with_the_definition(emulator: Emulator):
    size = (64, 64)
    logits, bins = random_heads(11, size, classes=3)
    placed = Letterbox.of(size, size)
    found = found_boxes(emulator, logits, bins, STRIDES, placed, iou_threshold=0.4)
    boxes, scores, class_ids, cells = box_twin.decode_boxes(logits, bins, STRIDES, size, iou_threshold=0.4)
    boxes = placed.boxes_to_image(boxes)
    is_visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    np.testing.assert_array_equal(found["class_ids"], class_ids[is_visible])
    np.testing.assert_array_equal(found.columns, cells[is_visible])
    np.testing.assert_array_equal(found["scores"], scores[is_visible])  # rounded to the nearest float by both
    np.testing.assert_allclose(found["image_boxes"], boxes[is_visible], atol=2e-4)


def test_more_candidates_than_a_portion_are_taken_best_first(emulator: Emulator):
    """8,400 candidates and more, in few values, so that every byte of their numbers has to tell them apart."""
    size = (640, 640)
    placed = Letterbox.of((640, 640), size)
    generator = np.random.default_rng(4)
    logits = np.zeros((2, 8400), np.float32)
    bins = generator.normal(0, 3, (4 * 4, 8400)).astype(np.float32)
    for values in (logits, generator.choice(np.array([0.0, -0.0, 1.0, 2.5], np.float32), logits.shape)):
        options: dict[str, Any] = {"iou_threshold": 0.02, "max_detections": 150}
        found = found_boxes(emulator, values, bins, STRIDES, placed, **options)
        assert found.summary["candidates"] == 16800
        assert_same_boxes(found, values, bins, placed, **options)


def test_no_more_than_the_candidates_allowed_are_looked_at(emulator: Emulator):
    size = (320, 320)
    placed = Letterbox.of((320, 320), size)
    logits, bins = random_heads(5, size, classes=2, bins=4, mean=1.0)
    for max_candidates in (0, 1, 2047, 2048, 2049, 3000):
        options: dict[str, Any] = {"max_candidates": max_candidates, "iou_threshold": 0.9, "max_detections": 4000}
        found = found_boxes(emulator, logits, bins, STRIDES, placed, **options)
        assert_same_boxes(found, logits, bins, placed, **options)


@pytest.mark.parametrize("fill", [np.nan, -np.inf, -50.0, np.inf, 0.0])
@pytest.mark.parametrize("score_threshold", [0.0, 0.25, 0.5, 0.999999, 1.0])
def test_hostile_logits(emulator: Emulator, fill: float, score_threshold: float):
    size = (32, 64)
    placed = Letterbox.of((32, 64), size)
    logits, bins = random_heads(6, size, classes=2)
    logits[:] = fill
    found = found_boxes(emulator, logits, bins, STRIDES, placed, score_threshold=score_threshold)
    assert_same_boxes(found, logits, bins, placed, score_threshold=score_threshold)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 3e38, 0.0])
def test_hostile_bins(emulator: Emulator, fill: float):
    size = (64, 64)
    placed = Letterbox.of((64, 30), size)
    logits, bins = random_heads(7, size, mean=0.0)
    bins[:, ::3] = fill
    bins[5, 1::3] = fill
    found = found_boxes(emulator, logits, bins, STRIDES, placed)
    assert_same_boxes(found, logits, bins, placed)


def test_boxes_in_the_padding_are_left_out_but_suppress(emulator: Emulator):
    size = (96, 96)
    placed = Letterbox.of((10, 96), size)  # most of the input is padding
    logits, bins = random_heads(8, size, mean=0.0)
    found = found_boxes(emulator, logits, bins, STRIDES, placed)
    assert 0 < found.count < found.summary["kept"]
    assert_same_boxes(found, logits, bins, placed)


def test_a_graph_that_chose_cells(emulator: Emulator):
    """Columns in any order: ties go by the cell, and numbers that are no cell of the grid are left out."""
    size = (64, 96)
    placed = Letterbox.of((64, 96), size)
    logits, bins = random_heads(9, size, mean=0.0)
    logits = np.round(logits)  # ties
    generator = np.random.default_rng(9)
    cells = generator.permutation(logits.shape[1])[:60].astype(np.int32)
    order = np.argsort(cells)
    logits, bins = np.ascontiguousarray(logits[:, cells]), np.ascontiguousarray(bins[:, cells])
    boxes, scores, class_ids, columns = _native.decode_boxes(
        np.ascontiguousarray(logits[:, order]),
        np.ascontiguousarray(bins[:, order]),
        strides=STRIDES,
        input_size=size,
        cells=cells[order],
    )
    found = found_boxes(emulator, logits, bins, STRIDES, placed, cells=cells)
    np.testing.assert_array_equal(found["image_boxes"], placed.boxes_to_image(boxes))
    np.testing.assert_array_equal(found["scores"], scores)
    np.testing.assert_array_equal(found["class_ids"], class_ids)
    np.testing.assert_array_equal(found.columns, order[columns])
    broken = cells.copy()
    broken[:3] = [-1, 1 << 20, logits.shape[1] * 1000]
    without = found_boxes(emulator, logits, bins, STRIDES, placed, cells=broken)
    assert not np.isin(without.columns, [0, 1, 2]).any()


def test_the_order_of_threads_and_blocks_does_not_show(emulator: Emulator):
    size = (96, 96)
    placed = Letterbox.of((96, 96), size)
    logits, bins = random_heads(10, size, mean=-1.0)
    answers = []
    for seed in range(5):
        emulator.set_order(seed)
        found = found_boxes(emulator, logits, bins, STRIDES, placed, score_threshold=0.05)
        offset = found.arrays["summary"].nbytes
        answers.append((found.memory[:offset].tobytes(), found["image_boxes"].tobytes(), found.columns.tobytes()))
    assert len(set(answers)) == 1


def test_scores_are_rounded_to_the_nearest_float(emulator: Emulator):
    logits = np.concatenate([np.linspace(-110, 110, 4001), [np.inf, -np.inf, 0.0, -87.4, 88.8]]).astype(np.float32)
    size = (32, 32 * len(logits))
    bins = np.zeros((8, 21 * len(logits)), np.float32)  # boxes of half a stride around each centre
    padded = np.full((1, 21 * len(logits)), -np.inf, np.float32)
    padded[0, : len(logits)] = logits
    placed = Letterbox.of(size, size)
    found = found_boxes(
        emulator, padded, bins, STRIDES, placed, score_threshold=0.0, iou_threshold=1.0, max_detections=9000
    )
    with np.errstate(over="ignore"):
        exact = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    scores = dict(zip(found.columns.tolist(), found["scores"].tolist(), strict=True))
    assert [scores[i] for i in range(len(logits))] == exact.tolist()
    assert (np.diff(found["scores"]) <= 0).all()


# --- masks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("half", [False, True])
def test_masks_are_those_of_the_cpu(emulator: Emulator, seed: int, half: bool):
    emulator.set_order(seed)
    size = (96, 128)
    image_size = [(96, 128), (200, 260), (31, 90), (9, 7), (500, 100)][seed]
    placed = Letterbox.of(image_size, size)
    generator = np.random.default_rng(seed)
    logits, bins = random_heads(seed, size, mean=-2.0)
    prototypes = generator.normal(0, 1, (9, 24, 32)).astype(np.float32)
    if seed % 2:
        prototypes = poisoned(generator, prototypes, 0.01)
    coefficients = generator.normal(0, 1, (9, logits.shape[1])).astype(np.float32)
    if half:
        with np.errstate(over="ignore"):
            prototypes, coefficients = prototypes.astype(np.float16), coefficients.astype(np.float16)
    found = found_boxes(emulator, logits, bins, STRIDES, placed)
    assert found.count > 3
    crops = mask_tiles(emulator, found, prototypes, coefficients, placed)
    chosen = np.ascontiguousarray(coefficients[:, found.columns].T)
    expected = _native.mask_crops(prototypes, chosen, found["image_boxes"], image_size, placed.geometry, 4)
    for (y0, x0, crop), (y1, x1, other) in zip(crops, expected, strict=True):
        assert (y0, x0) == (y1, x1)
        np.testing.assert_array_equal(crop, other)


def test_prototypes_of_one_point_and_pictures_far_smaller_than_the_input(emulator: Emulator):
    for image_size, grid in (((3, 2), (160, 160)), ((40, 40), (1, 1)), ((5, 400), (1, 160))):
        placed = Letterbox.of(image_size, (640, 640))
        generator = np.random.default_rng(1)
        logits, bins = random_heads(1, (640, 640), classes=1, bins=16, mean=-6.0)
        prototypes = generator.normal(0, 1, (4, *grid)).astype(np.float32)
        coefficients = generator.normal(0, 1, (4, logits.shape[1])).astype(np.float32)
        found = found_boxes(emulator, logits, bins, STRIDES, placed)
        crops = mask_tiles(emulator, found, prototypes, coefficients, placed)
        chosen = np.ascontiguousarray(coefficients[:, found.columns].T)
        expected = _native.mask_crops(prototypes, chosen, found["image_boxes"], image_size, placed.geometry, 4)
        for ours, theirs in zip(crops, expected, strict=True):
            assert ours[:2] == theirs[:2]
            np.testing.assert_array_equal(ours[2], theirs[2])


def test_masks_that_do_not_fit_are_not_begun(emulator: Emulator):
    size = (64, 64)
    placed = Letterbox.of(size, size)
    logits, bins = random_heads(2, size, mean=0.0)
    found = found_boxes(emulator, logits, bins, STRIDES, placed)
    prototypes = np.ones((2, 16, 16), np.float32)
    coefficients = np.ones((2, logits.shape[1]), np.float32)
    total = int(found.summary["tile_bytes"])
    assert total > 1
    tiles = np.full(total, 9, np.uint8)
    rows, row_memory = axis(emulator, 64, 1.0, 0, 4, 16)
    launch = launches.fill_masks(
        found.detections, head(prototypes), head(coefficients), rows, rows, address(tiles), total - 1, 2
    )
    emulator.run(launch)
    assert len(row_memory)
    assert (tiles == 9).all()


# --- semantic map


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("half", [False, True])
def test_the_semantic_map_is_that_of_the_cpu(emulator: Emulator, seed: int, half: bool):
    emulator.set_order(seed)
    generator = np.random.default_rng(seed)
    classes = [1, 2, 19, 173, 256, 40][seed]
    grid = [(8, 10), (1, 1), (12, 7), (6, 6), (1, 9), (9, 1)][seed]
    logits = generator.normal(0, 2, (classes, *grid)).astype(np.float32)
    if seed % 2:
        logits = poisoned(generator, logits, 0.05)
    if seed == 2:
        logits = np.round(logits)  # ties
    if half:
        with np.errstate(over="ignore"):
            logits = logits.astype(np.float16)
    image_size = [(64, 80), (40, 30), (100, 33), (200, 320), (9, 100), (5, 3)][seed]
    placed = Letterbox.of(image_size, (8 * grid[0], 8 * grid[1]))
    answer = semantic_map(emulator, logits, placed)
    np.testing.assert_array_equal(answer, _native.semantic_argmax(logits, image_size, placed.geometry, 8))
    twin = semantic_twin.semantic_argmax_single(logits.astype(np.float32), image_size, placed.geometry)
    assert (answer == twin).mean() > 0.999  # the twin rounds ties along another axis first


def test_a_map_of_the_graph_is_resized_as_on_the_cpu(emulator: Emulator):
    generator = np.random.default_rng(0)
    source = generator.integers(0, 200, (64, 96), np.uint8)
    for image_size in ((64, 96), (30, 200), (7, 5), (300, 100)):
        placed = Letterbox.of(image_size, (64, 96))
        height, width = image_size
        rows, columns = np.zeros(height, np.int32), np.zeros(width, np.int32)
        answer = np.full(image_size, 255, np.uint8)
        emulator.run(
            launches.fill_nearest(address(rows), height, placed.scale_y, placed.pad_top, 64),
            launches.fill_nearest(address(columns), width, placed.scale_x, placed.pad_left, 96),
            launches.resample_map(address(source), address(rows), address(columns), address(answer), 96, image_size),
        )
        np.testing.assert_array_equal(answer, map_to_image(source, placed))
