"""Whole answers from the emulated kernels, in the words of `_native`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.bundle.spec import BoxCoding, ScoreCoding
from yolor_edge.runtime.cuda.kernels import box_launches, launches
from yolor_edge.runtime.cuda.kernels.box_launches import Ranking
from yolor_edge.runtime.cuda.kernels.detections import Detections
from yolor_edge.runtime.cuda.kernels.launches import AxisTables, Head
from yolor_edge.runtime.images.preprocess import Letterbox, PreprocessRule

from .emulated import Emulator, address


def head(array: Array) -> Head:
    """A head in memory of the host."""
    assert array.dtype in (np.float32, np.float16)
    return Head(address(array), array.shape, array.dtype == np.float16)


def letterboxed(
    emulator: Emulator, image: NDArray[np.uint8], rule: PreprocessRule, half: bool = False, layout: str = "bgr"
) -> Array:
    """(3, H, W) float32 or float16."""
    height, width = image.shape[:2]
    if layout == "nv12":
        height = height * 2 // 3
    placed = rule.letterbox_of((height, width))
    new_height, new_width = launches.resized_size(placed)
    rows = np.zeros((new_height, 4), np.int32)
    columns = np.zeros((new_width, 4), np.int32)
    output = np.full((3, *rule.input_size), 77, np.float16 if half else np.float32)
    channels = image.shape[2] if image.ndim == 3 and layout == "bgr" else 1
    emulator.run(
        launches.fill_taps(address(rows), height, new_height),
        launches.fill_taps(address(columns), width, new_width),
        launches.letterbox(
            address(image),
            channels,
            layout,
            image.strides[0],
            address(output),
            half,
            address(rows),
            address(columns),
            rule,
            placed,
        ),
    )
    return output


def axis(
    emulator: Emulator, pixels: int, scale: float, pad: int, stride: int, grid: int
) -> tuple[AxisTables, NDArray[np.uint8]]:
    """The tables of one axis, and the memory they lie in."""
    memory = np.zeros(AxisTables.size(pixels, grid), np.uint8)
    tables = AxisTables.at(address(memory), pixels, grid)
    emulator.run(launches.fill_axis(tables, pixels, scale, pad, stride, grid))
    return tables, memory


class Found:
    """What `select_boxes` left: its memory, the views of it and the number of detections."""

    def __init__(self, memory: NDArray[np.uint8], capacity: int):
        self.memory = memory
        self.detections = Detections(address(memory), capacity)
        self.arrays = Detections.views(memory, capacity)
        self.summary = self.arrays["summary"][0]
        self.count = int(self.summary["detections"])
        offset = Detections.offsets(capacity)["columns"]
        self.columns = memory[offset : offset + 4 * self.count].view(np.int32)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name][: self.count]


def found_boxes(
    emulator: Emulator,
    scores: Array,
    sides: Array,
    strides: list[int],
    placed: Letterbox,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.65,
    max_detections: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    cells: NDArray[np.int32] | None = None,
    box_coding: BoxCoding = "dfl",
    score_coding: ScoreCoding = "logits",
    box_count: int | None = None,
) -> Found:
    """Boxes in pixels of the image."""
    height, width = placed.input_size
    grid_cells = box_count or sum((height // stride) * (width // stride) for stride in strides)
    classes, columns = scores.shape
    candidates = np.full(classes * columns, 3, np.uint64)
    count = np.zeros(1, np.uint32)
    is_wanted = np.zeros(columns, np.uint8)
    column_of_cell = np.full(grid_cells, -1, np.int32)
    boxes = np.full((columns, 4), np.nan, np.float32)
    kept = np.zeros(box_launches.kept_bytes(max_detections), np.uint8)
    memory = np.full(Detections.offsets(max_detections)["end"], 255, np.uint8)
    shape = (classes, columns, grid_cells, max_candidates)
    state_bytes, compacted_bytes = Ranking.sizes(*shape)
    ranks, compacted = np.zeros(state_bytes, np.uint8), np.full(compacted_bytes // 8, 5, np.uint64)
    ranking = Ranking.at(address(ranks), address(compacted), *shape)
    at_cells = 0 if cells is None else address(cells)
    of_cell = 0 if cells is None else address(column_of_cell)
    emulator.run(
        box_launches.collect_candidates(
            head(scores),
            at_cells,
            grid_cells,
            score_threshold,
            address(candidates),
            address(count),
            address(is_wanted),
            of_cell,
            score_coding,
        ),
        *(
            []
            if ranking is None
            else box_launches.rank_candidates(address(candidates), address(count), ranking, max_candidates)
        ),
        box_launches.decode_cells(
            head(sides), at_cells, address(is_wanted), address(boxes), strides, (height, width), box_coding
        ),
        box_launches.select_boxes(
            address(candidates),
            address(count),
            address(boxes),
            of_cell,
            address(kept),
            Detections(address(memory), max_detections),
            grid_cells,
            placed,
            max_detections,
            max_candidates,
            iou_threshold,
            class_agnostic,
            ranking,
            score_coding,
        ),
    )
    return Found(memory, max_detections)


def mask_tiles(
    emulator: Emulator, found: Found, prototypes: Array, coefficients: Array, placed: Letterbox, blocks: int = 7
) -> list[tuple[int, int, NDArray[np.uint8]]]:
    """A crop for each detection, as `_native.mask_crops` gives them; `coefficients` (K, columns)."""
    _, grid_height, grid_width = prototypes.shape
    (height, width) = placed.image_size
    rows, row_memory = axis(emulator, height, placed.scale_y, placed.pad_top, 4, grid_height)
    columns, column_memory = axis(emulator, width, placed.scale_x, placed.pad_left, 4, grid_width)
    total = int(found.summary["tile_bytes"])
    tiles = np.full(total + 64, 7, np.uint8)
    emulator.run(
        launches.fill_masks(
            found.detections, head(prototypes), head(coefficients), rows, columns, address(tiles), total, blocks
        )
    )
    assert len(row_memory) and len(column_memory)  # alive until here
    assert (tiles[total:] == 7).all()
    crops = []
    for (y0, x0, h, w), offset in zip(found["regions"], found["tile_offsets"], strict=True):
        crops.append((int(y0), int(x0), tiles[offset : offset + h * w].reshape(h, w)))
    return crops


def semantic_map(emulator: Emulator, logits: Array, placed: Letterbox, stride: int = 8) -> NDArray[np.uint8]:
    """(H, W) uint8."""
    _, grid_height, grid_width = logits.shape
    height, width = placed.image_size
    rows, row_memory = axis(emulator, height, placed.scale_y, placed.pad_top, stride, grid_height)
    columns, column_memory = axis(emulator, width, placed.scale_x, placed.pad_left, stride, grid_width)
    leaders = np.zeros(grid_height * grid_width, np.int32)
    answer = np.full((height, width), 255, np.uint8)
    emulator.run(*launches.fill_semantic(head(logits), address(leaders), rows, columns, address(answer), width))
    assert len(row_memory) and len(column_memory)
    return answer
