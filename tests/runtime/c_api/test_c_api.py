"""The C interface gives the bits that the Python module gives, and a status and a line for every misuse."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yolor_edge
from yolor_edge.runtime import _native
from yolor_edge.runtime.images.preprocess import Letterbox
from yolor_edge.runtime.vision.graph_outputs import map_to_image

from ..manners import strided_copy
from ..vision.test_box_codings import CODINGS, SIZE, heads_in
from ..vision.test_box_codings import STRIDES as FOUR_STRIDES
from .c_library import HEADER, ROOT, CError, CLibrary, header_text

INPUT = (96, 128)
STRIDES = [8, 16, 32]
CELLS = sum(INPUT[0] // stride * (INPUT[1] // stride) for stride in STRIDES)
IMAGE = (70, 150)


def normal(*shape: int, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def heads() -> dict[str, np.ndarray]:
    return {
        "class_logits": normal(5, CELLS) - 4,
        "box_bins": normal(4 * 16, CELLS, seed=1),
        "mask_coefficients": normal(8, CELLS, seed=2),
        "prototypes": normal(8, INPUT[0] // 4, INPUT[1] // 4, seed=3),
        "semantic_logits": normal(7, INPUT[0] // 8, INPUT[1] // 8, seed=4),
    }


def grid(c: CLibrary, **values: Any) -> Any:
    return c.made("grid", **{
        "input_height": INPUT[0], "input_width": INPUT[1], "strides": np.array(STRIDES, np.int64),
        "stride_count": len(STRIDES), **values,
    })  # fmt: skip


def found_boxes(c: CLibrary, logits: Any, bins: Any, options: Any = None, **grid_values: Any) -> list[np.ndarray]:
    detections, arrays = c.detections(300)
    c("decode_boxes", logits, bins, grid(c, **grid_values), options, detections)
    return [array[: detections.count] for array in arrays.values()]


def assert_all_equal(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_header_is_c99_and_names_what_the_library_holds(c_library: Path, tmp_path: Path) -> None:
    program = ROOT / "tests" / "native" / "c_api.c"
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wstrict-prototypes", f"-I{HEADER.parent}"]
    for compiler in (["gcc", "-std=c99"], ["gcc", "-std=c11"], ["g++", "-std=c++17", "-x", "c++-header"]):
        checked = str(HEADER if compiler[0] == "g++" else program)
        flags = [flag for flag in strict if compiler[0] == "gcc" or flag != "-Wstrict-prototypes"]
        subprocess.run([*compiler, *flags, "-fsyntax-only", checked], check=True)
    out = tmp_path / "program"
    archive = str(c_library / "libyolor_edge.a")
    linked = ["gcc", "-std=c99", str(program), f"-I{HEADER.parent}", archive, "-lstdc++", "-lm", "-lpthread"]
    subprocess.run([*linked, "-o", str(out)], check=True)
    assert subprocess.run([str(out)], capture_output=True, text=True).stdout == "c_api: all as it should be\n"
    declared = set(re.findall(r"YOLOR_EDGE_API [\w* ]*?(yolor_edge_\w+)\(", header_text()))
    for name, tool in (("libyolor_edge.so", ["nm", "-D"]), ("libyolor_edge.a", ["nm", "--extern-only"])):
        listed = subprocess.run([*tool, "--defined-only", str(c_library / name)], capture_output=True, text=True)
        symbols = set(re.findall(r"^[0-9a-f]+ \w (\S+)$", listed.stdout, re.MULTILINE))
        assert symbols == declared
    assert len(declared) > 30


def test_versions(c: CLibrary) -> None:
    assert c.text("version") == yolor_edge.__version__
    assert f'#define YOLOR_EDGE_VERSION "{yolor_edge.__version__}"' in HEADER.read_text()
    assert c.library.yolor_edge_abi_version() == 1


@pytest.fixture(params=_native.simd_levels())
def each_level(c: CLibrary, request: pytest.FixtureRequest) -> Iterator[str]:
    before = c.text("simd_level")
    c("set_simd_level", request.param)
    assert c.text("simd_level") == request.param
    yield request.param
    c("set_simd_level", before)


@pytest.mark.usefixtures("each_level")
class TestKernels:
    def letterboxed(self, c: CLibrary, image: Any, **options: Any) -> np.ndarray:
        output = np.full((3, *INPUT), -1, np.float32)
        made = c.made("letterbox_options", input_height=INPUT[0], input_width=INPUT[1], threads=2, **options)
        c("letterbox", image, made, output)
        return output

    def test_letterbox(self, c: CLibrary) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3), np.uint8)
        image = c.made("image", data=picture, height=IMAGE[0], width=IMAGE[1])
        np.testing.assert_array_equal(self.letterboxed(c, image), _native.letterbox(picture, *INPUT))
        found = self.letterboxed(c, image, pad_value=7, swap_rb=0, scale=0.3)
        np.testing.assert_array_equal(found, _native.letterbox(picture, *INPUT, 7, False, scale=0.3))
        pixels = np.zeros((*INPUT, 3), np.uint8)
        c("letterbox_u8", image, c.made("letterbox_options", input_height=INPUT[0], input_width=INPUT[1]), pixels)
        np.testing.assert_array_equal(pixels, _native.letterbox_u8(picture, *INPUT))
        turned = c.made(
            "image", data=picture[::-1, :, 1:2], height=IMAGE[0], width=IMAGE[1], channels=1,
            row_stride=-3 * IMAGE[1], pixel_stride=3,
        )  # fmt: skip
        np.testing.assert_array_equal(self.letterboxed(c, turned), _native.letterbox(picture[::-1, :, 1], *INPUT))

    def test_lengths_that_end_on_half_a_pixel(self, c: CLibrary) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (133, 256, 3), np.uint8)
        image = c.made("image", data=picture, height=133, width=256)
        for i, rounding in enumerate(("half_up", "half_even")):
            expected = _native.letterbox(picture, *INPUT, rounding=rounding)
            np.testing.assert_array_equal(self.letterboxed(c, image, rounding=i), expected)
            box = c.frame((133, 256), INPUT, rounding)
            assert round(box.scale_y * 133) == (67 if rounding == "half_up" else 66)
            pixels = np.zeros((*INPUT, 3), np.uint8)
            made = c.made("letterbox_options", input_height=INPUT[0], input_width=INPUT[1], rounding=i)
            c("letterbox_u8", image, made, pixels)
            np.testing.assert_array_equal(pixels, _native.letterbox_u8(picture, *INPUT, rounding=rounding))

    def test_letterbox_of_camera_formats(self, c: CLibrary) -> None:
        frames = np.random.default_rng(0).integers(0, 256, 105 * 150 * 2, np.uint8)
        nv12 = frames[: 105 * 150].reshape(105, 150)
        image = c.made("image", data=nv12, height=70, width=150, layout=1)
        np.testing.assert_array_equal(self.letterboxed(c, image), _native.letterbox(nv12, *INPUT, layout="nv12"))
        wide = np.zeros((105, 160), np.uint8)
        wide[:, :150] = nv12
        image = c.made("image", data=wide, height=70, width=150, layout=1, row_stride=160)
        np.testing.assert_array_equal(self.letterboxed(c, image), _native.letterbox(nv12, *INPUT, layout="nv12"))
        yuyv = frames.reshape(105, 150, 2)
        image = c.made("image", data=yuyv, height=105, width=150, layout=2)
        np.testing.assert_array_equal(self.letterboxed(c, image), _native.letterbox(yuyv, *INPUT, layout="yuyv"))
        turned = c.made("image", data=yuyv[::-1], height=105, width=150, layout=2, row_stride=-300)
        expected = _native.letterbox(np.ascontiguousarray(yuyv[::-1]), *INPUT, layout="yuyv")
        np.testing.assert_array_equal(self.letterboxed(c, turned), expected)

    def test_boxes(self, c: CLibrary) -> None:
        logits, bins = heads()["class_logits"], heads()["box_bins"]
        expected = _native.decode_boxes(logits, bins, STRIDES, INPUT)
        assert len(expected[0]) > 20
        assert_all_equal(found_boxes(c, c.head(logits), c.head(bins)), expected)
        rules = {
            "score_threshold": 0.1, "iou_threshold": 0.3, "max_detections": 40, "max_candidates": 200,
            "class_agnostic": True,
        }  # fmt: skip
        options = c.made("box_options", threads=3, **rules)
        expected = _native.decode_boxes(logits, bins, STRIDES, INPUT, **rules)
        assert_all_equal(found_boxes(c, c.head(logits), c.head(bins), options), expected)
        cells = np.sort(np.random.default_rng(0).permutation(CELLS)[:90]).astype(np.int32)
        some = logits[:, cells], bins[:, cells]
        expected = _native.decode_boxes(some[0], some[1], STRIDES, INPUT, cells=cells)
        assert_all_equal(found_boxes(c, c.head(some[0]), c.head(some[1]), None, cells=cells, cell_count=90), expected)

    @pytest.mark.parametrize(("box_coding", "score_coding"), CODINGS)
    def test_every_coding_of_boxes_and_scores(self, c: CLibrary, box_coding: str, score_coding: str) -> None:
        scores, boxes, rules = heads_in(0, box_coding, score_coding)
        values: dict[str, Any] = {
            "input_height": SIZE[0], "input_width": SIZE[1], "strides": np.array(FOUR_STRIDES, np.int64),
            "stride_count": 4, "box_coding": ["dfl", "ltrb", "xyxy"].index(box_coding),
            "score_coding": ["logits", "probabilities"].index(score_coding), "box_count": rules["box_count"] or 0,
        }  # fmt: skip
        expected = _native.decode_boxes(scores, boxes, **rules)
        assert len(expected[0]) > 20
        assert_all_equal(found_boxes(c, c.head(scores), c.head(boxes), None, **values), expected)
        cells = np.sort(np.random.default_rng(0).permutation(scores.shape[1])[:90]).astype(np.int32)
        some = scores[:, cells].astype(np.float16), boxes[:, cells].astype(np.float16)
        expected = _native.decode_boxes(*some, **rules, cells=cells)
        values.update(cells=cells, cell_count=90)
        assert_all_equal(found_boxes(c, *map(c.head, some), None, **values), expected)

    def test_heads_of_other_types_and_strides(self, c: CLibrary) -> None:
        logits, bins = heads()["class_logits"], heads()["box_bins"]
        halves = logits.astype(np.float16), bins.astype(np.float16)
        expected = _native.decode_boxes(*halves, STRIDES, INPUT)
        assert_all_equal(found_boxes(c, *map(c.head, halves)), expected)
        assert_all_equal(found_boxes(c, *(c.head(strided_copy(half)) for half in halves)), expected)
        assert_all_equal(
            found_boxes(c, c.head(strided_copy(logits)), c.head(np.asfortranarray(bins))),
            _native.decode_boxes(logits, bins, STRIDES, INPUT),
        )
        small = np.random.default_rng(0).integers(-128, 128, logits.shape).astype(np.int8)
        numbers = (small.astype(np.float32) - 90) * np.float32(0.04)
        expected = _native.decode_boxes(numbers, bins, STRIDES, INPUT)
        assert_all_equal(found_boxes(c, c.head(small, 0.04, 90), c.head(bins)), expected)
        shifted = (small.astype(np.int16) + 128).astype(np.uint8)
        assert_all_equal(found_boxes(c, c.head(shifted, 0.04, 218), c.head(bins)), expected)

    def test_boxes_in_pixels_of_the_picture(self, c: CLibrary) -> None:
        frame, letterbox = c.frame(IMAGE, INPUT), Letterbox.of(IMAGE, INPUT)
        expected = _native.decode_boxes(heads()["class_logits"], heads()["box_bins"], STRIDES, INPUT)
        boxes = expected[0].copy()
        boxes[3] = boxes[3] * [1, 0, 1, 0]  # in the padding above the image
        detections, arrays = c.detections(len(boxes))
        arrays["boxes"][:] = boxes
        for name, values in zip(("scores", "class_ids", "columns"), expected[1:], strict=True):
            arrays[name][:] = values
        detections.count = len(boxes)
        c("boxes_to_image", frame, detections)
        moved = letterbox.boxes_to_image(boxes)
        is_visible = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        assert not is_visible[3]
        for name, values in zip(arrays, (moved, *expected[1:]), strict=True):
            np.testing.assert_array_equal(arrays[name][: detections.count], values[is_visible])

    def test_nms(self, c: CLibrary) -> None:
        generator = np.random.default_rng(0)
        boxes = np.sort(generator.random((60, 2, 2)), axis=1).reshape(60, 4).astype(np.float32)
        scores = (generator.integers(0, 9, 60) / 9).astype(np.float32)
        boxes[5, 1], scores[7] = np.nan, np.nan
        class_ids = generator.integers(0, 3, 60).astype(np.int32)
        keep, count = np.zeros(60, np.int32), ctypes.c_int64()
        for rules in ({}, {"iou_threshold": 0.1, "max_detections": 9, "class_agnostic": True}):
            c("nms", boxes, scores, class_ids, 60, c.made("box_options", **rules), keep, ctypes.byref(count))
            np.testing.assert_array_equal(keep[: count.value], _native.nms(boxes, scores, class_ids, **rules))

    def test_masks(self, c: CLibrary) -> None:
        values, frame = heads(), c.frame(IMAGE, INPUT)
        columns = np.array([3, 200, 9, 9, 250], np.int32)
        boxes = np.array(
            [[0, 0, 150, 70], [10.5, 3, 90, 40], [-5, 20, 30, 90], [200, 0, 300, 9], [60, 30, 61, 31]], np.float32
        )
        n = len(boxes)
        expected_rows = np.ascontiguousarray(values["mask_coefficients"][:, columns].T)
        for coefficients in (values["mask_coefficients"], strided_copy(values["mask_coefficients"])):
            rows = np.zeros((n, 8), np.float32)
            c("mask_coefficients", c.head(coefficients), columns, n, rows)
            np.testing.assert_array_equal(rows, expected_rows)
        expected = _native.mask_crops(values["prototypes"], rows, boxes, IMAGE, Letterbox.of(IMAGE, INPUT).geometry)

        regions, size = (c.structs["region"] * n)(), ctypes.c_int64()
        c("mask_regions", frame, boxes, n, regions, ctypes.byref(size))
        crops = np.full(size.value, 7, np.uint8)
        prototypes = c.head(values["prototypes"])
        c("mask_crops", prototypes, rows, frame, regions, n, 3, crops, size.value)
        masks = np.full((n, *IMAGE), 7, np.uint8)
        c("full_masks", prototypes, rows, frame, boxes, n, 2, masks)
        codes = _native.rle_codes(expected, IMAGE)
        assert sum(int(crop.sum()) for _, _, crop in expected) > 1000
        for region, mask, code, (y0, x0, crop) in zip(regions, masks, codes, expected, strict=True):
            assert (region.y0, region.x0, region.height, region.width) == (y0, x0, *crop.shape)
            found = crops[region.offset : region.offset + crop.size].reshape(crop.shape)
            np.testing.assert_array_equal(found, crop)
            whole = np.zeros(IMAGE, np.uint8)
            whole[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
            np.testing.assert_array_equal(mask, whole)
            assert self.rle(c, found.copy(), region) == code["counts"]

    def rle(self, c: CLibrary, crop: np.ndarray, region: Any) -> str:
        length = ctypes.c_size_t()
        arguments = (crop, crop.shape[1], region, *IMAGE)
        with pytest.raises(CError, match="TOO_SMALL: capacity must be at least"):
            c("mask_rle", *arguments, None, 0, ctypes.byref(length))
        code = ctypes.create_string_buffer(length.value + 1)
        c("mask_rle", *arguments, code, length.value + 1, ctypes.byref(length))
        return code.value.decode()

    def test_semantic_map(self, c: CLibrary) -> None:
        logits, letterbox = heads()["semantic_logits"], Letterbox.of(IMAGE, INPUT)
        for values in (logits, logits.astype(np.float16), strided_copy(logits)):
            found = np.full(IMAGE, 99, np.uint8)
            c("semantic_argmax", c.head(values), c.frame(IMAGE, INPUT), 8, 3, found)
            np.testing.assert_array_equal(found, _native.semantic_argmax(values, IMAGE, letterbox.geometry))
        input_map = np.random.default_rng(0).integers(0, 9, INPUT, np.uint8)
        c("map_to_image", input_map, c.frame(IMAGE, INPUT), found)
        np.testing.assert_array_equal(found, map_to_image(input_map, letterbox))


def test_misuse(c: CLibrary) -> None:
    values = heads()
    logits, bins = c.head(values["class_logits"]), c.head(values["box_bins"])
    frame = c.frame(IMAGE, INPUT)
    detections, _ = c.detections(300)
    map_ = np.zeros(IMAGE, np.uint8)

    def refused(complaint: str, name: str, *arguments: Any) -> None:
        with pytest.raises(CError) as raised:
            c(name, *arguments)
        assert complaint in str(raised.value)

    refused("INVALID_ARGUMENT: scores must be given", "decode_boxes", None, bins, grid(c), None, detections)
    refused(
        "must be divisible by every stride", "decode_boxes", logits, bins, grid(c, input_width=100), None, detections
    )
    refused("grid.cells must lie in", "decode_boxes", logits, bins,
            grid(c, cells=np.array([-1], np.int32), cell_count=1), None, detections)  # fmt: skip
    refused("scores must have 1 row of 1 columns", "decode_boxes", logits, bins,
            grid(c, cells=np.array([0], np.int32), cell_count=1), None, detections)  # fmt: skip
    refused("boxes must have 4 * bins channels, got 5", "decode_boxes", logits, logits, grid(c), None, detections)
    for complaint, coding in (
        ("boxes must have 4 channels, got 64", {"box_coding": 1}),
        ("grid.box_coding must lie in 0..2, got 3", {"box_coding": 3}),
        ("grid.score_coding must lie in 0..1, got -1", {"score_coding": -1}),
        ("grid.box_count must be at least 1, got 0", {"box_coding": 2}),
        ("grid.box_count must lie in 0..0, got 252", {"box_count": 252}),
        ("scores must have 1 row of 7 columns", {"box_coding": 2, "box_count": 7}),
    ):
        refused(complaint, "decode_boxes", logits, bins, grid(c, **coding), None, detections)
    nan = c.made("box_options", score_threshold=float("nan"))
    refused("score_threshold must be a number, got nan", "decode_boxes", logits, bins, grid(c), nan, detections)
    wide = c.made("box_options", iou_threshold=1.5)
    refused("iou_threshold must lie in 0..1, got 1.5", "decode_boxes", logits, bins, grid(c), wide, detections)
    many = c.made("box_options", max_detections=301)
    refused("TOO_SMALL: detections.capacity must be at least max_detections, 301, got 300",
            "decode_boxes", logits, bins, grid(c), many, detections)  # fmt: skip
    refused("dtype must lie in 0..3, got 4", "semantic_argmax", set_to(c.head(values["prototypes"]), dtype=4), frame,
            8, 1, map_)  # fmt: skip
    refused("scale must be a number above 0", "semantic_argmax", set_to(c.head(np.zeros((1, 2, 2), np.int8)), scale=0),
            frame, 8, 1, map_)  # fmt: skip
    refused("logits.channels must lie in 1..256, got 257", "semantic_argmax",
            c.head(np.zeros((257, 1, 1), np.float32)), frame, 8, 1, map_)  # fmt: skip
    refused("stride must be at least 1, got 0", "semantic_argmax", c.head(values["prototypes"]), frame, 0, 1, map_)
    refused("threads must be at least 1, got 0", "semantic_argmax", c.head(values["prototypes"]), frame, 8, 0, map_)
    refused("frame must be filled by yolor_edge_frame_of first", "semantic_argmax", c.head(values["prototypes"]),
            c.structs["frame"](), 8, 1, map_)  # fmt: skip
    refused("image_width must lie in 1..1048576, got 0", "frame_of", 3, 0, 5, 5, 0, c.structs["frame"]())
    refused("rounding must lie in 0..1, got 2", "frame_of", 3, 3, 5, 5, 2, c.structs["frame"]())
    region = c.structs["region"](0, 0, 10, 151, 0)
    refused("every region must lie inside the image, got (10, 151) at (0, 0) of (70, 150)",
            "mask_crops", c.head(values["prototypes"]), map_, frame, region, 1, 1, map_, 9999)  # fmt: skip
    region = c.structs["region"](0, 0, 10, 10, 5)
    refused("TOO_SMALL: crop 0 of 100 bytes at 5 exceeds the 100 bytes of crops",
            "mask_crops", c.head(values["prototypes"]), map_, frame, region, 1, 1, map_, 100)  # fmt: skip
    refused("columns must lie in 0..251, got 252", "mask_coefficients", c.head(values["mask_coefficients"]),
            np.array([CELLS], np.int32), 1, np.zeros(8, np.float32))  # fmt: skip
    levels = ", ".join(_native.simd_levels())
    refused(f"name must be one of {levels}, got mmx", "set_simd_level", "mmx")
    image = c.made("image", data=map_, height=69, width=150, channels=1, layout=1)
    options = c.made("letterbox_options", input_height=64, input_width=64)
    output = np.zeros((3, 64, 64), np.float32)
    refused("NV12 must have even sides, got (69, 150)", "letterbox", image, options, output)
    image.height, image.row_stride = 68, -150
    refused("image.row_stride of NV12 must not be negative, got -150", "letterbox", image, options, output)
    image.height, image.row_stride = 69, 0
    image.layout, image.channels = 0, 2
    refused("image.channels must be 3 or 1, got 2", "letterbox", image, options, output)
    image.channels = 1
    refused("options.pad_value must lie in 0..255, got 256", "letterbox", image, set_to(options, pad_value=256), output)
    refused(
        "options.input_height must lie in 1..1048576, got 0", "letterbox", image, c.made("letterbox_options"), output
    )


def test_regions_without_pixels(c: CLibrary) -> None:
    prototypes, frame = c.head(heads()["prototypes"]), c.frame(IMAGE, INPUT)
    rows, crops = np.ones((1, 8), np.float32), np.full(100, 7, np.uint8)
    code, length = ctypes.create_string_buffer(100), ctypes.c_size_t()
    for height, width in ((0, 0), (10, 0), (0, 10)):
        region = c.structs["region"](0, 0, height, width, 0)
        c("mask_crops", prototypes, rows, frame, region, 1, 1, crops, 100)
        assert (crops == 7).all()
        c("mask_rle", None, 0, region, *IMAGE, code, 100, ctypes.byref(length))
        assert code.value.decode() == _native.rle_codes([(0, 0, np.zeros((0, 0), np.uint8))], IMAGE)[0]["counts"]


def test_it_stays_loaded(c_library: Path) -> None:
    # Its workers outlive the calls that they helped in.
    listed = subprocess.run(["readelf", "-d", str(c_library / "libyolor_edge.so")], capture_output=True, text=True)
    assert "NODELETE" in listed.stdout


def set_to(struct: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(struct, name, value)
    return struct


def test_structs_grow(c: CLibrary, tmp_path: Path) -> None:
    """A program built with a later header works as long as what it adds is 0; one that skips `_init` is told so."""

    class Later(ctypes.Structure):
        _fields_ = (*c.structs["letterbox_options"]._fields_, ("new", ctypes.c_int64))

    options = Later()
    options.new = 5
    c("letterbox_options_init", options, ctypes.sizeof(options))
    assert (options.size, options.new, options.pad_value) == (ctypes.sizeof(Later), 0, 114)
    options.input_height = options.input_width = 8
    picture = np.zeros((8, 8, 3), np.uint8)
    image = c.made("image", data=picture, height=8, width=8)
    output = np.full((3, 8, 8), 9, np.float32)
    c("letterbox", image, options, output)
    assert not output.any()
    options.new = 1
    with pytest.raises(CError, match=r"options sets something that library .* does not know; link a newer one"):
        c("letterbox", image, options, output)
    with pytest.raises(CError, match="options must be filled by its _init function first, got size 0"):
        c("letterbox", image, c.structs["letterbox_options"](), output)
    with pytest.raises(CError, match="options: size must be sizeof its struct, at least 64, got 63"):
        c("letterbox_options_init", options, 63)


def test_errors_are_of_their_thread(c: CLibrary) -> None:
    with pytest.raises(CError, match="got mmx"):
        c("set_simd_level", "mmx")
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(c.text("last_error")))
    thread.start()
    thread.join()
    assert seen == [""]
    assert "got mmx" in (c.text("last_error") or "")


def test_instructions_that_the_environment_asks_for_and_are_not_there(c_library: Path) -> None:
    code = f"""
import ctypes
library = ctypes.CDLL({str(c_library / "libyolor_edge.so")!r})
library.yolor_edge_last_error.restype = library.yolor_edge_simd_level.restype = ctypes.c_char_p
for name in (b"mmx", b"portable"):
    print(library.yolor_edge_image_init(None, 0), library.yolor_edge_last_error().decode())
    print(library.yolor_edge_simd_level().decode(), library.yolor_edge_set_simd_level(name))
print(library.yolor_edge_image_init(None, 0), library.yolor_edge_last_error().decode())
"""
    environment = {**os.environ, "YOLOR_EDGE_SIMD": "bogus"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    levels = _native.simd_levels()
    refusal = (
        "1 YOLOR_EDGE_SIMD=bogus: this processor has no instructions of that name; "
        f"set it to one of {', '.join(levels)}, or unset it for the best of them"
    )
    # Refused until a level is named that there is.
    assert done.stdout.splitlines() == [
        refusal, f"{levels[-1]} 1", refusal, f"{levels[-1]} 0", "1 image must be given, got NULL"
    ]  # fmt: skip
